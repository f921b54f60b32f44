package counter_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/appliance/fault"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/counter"
	"holdfast/attest/tpm/swtpm"
)

// machine is a TPM that can be switched off and on.
type machine struct {
	t   *testing.T
	dir string
	p   *swtpm.Process
	dev *tpm.Device
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	t.Cleanup(m.off)
	m.on()
	return m
}

func (m *machine) on() {
	m.t.Helper()
	var err error
	if m.p, err = swtpm.Start(m.dir); err != nil {
		m.t.Fatal(err)
	}
	if m.dev, err = device.OpenTPM(m.p.Socket); err != nil {
		m.t.Fatal(err)
	}
}

// off cuts the power.
func (m *machine) off() {
	if m.p != nil {
		_ = m.dev.Close()
		m.p.Stop()
		m.p = nil
	}
}

func (m *machine) do(f func(transport.TPM) error) {
	m.t.Helper()
	if err := m.dev.Do(f); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) anchor() *counter.Anchor {
	m.t.Helper()
	a, err := counter.NewAnchor(m.dev)
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

// raise raises the anchor to a count, as that many changes do.
func (m *machine) raise(a *counter.Anchor, to uint64) {
	m.t.Helper()
	at, err := a.Count(m.t.Context())
	for at = min(at+1, to); err == nil && at <= to; at++ {
		err = a.Raise(m.t.Context(), at)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) undefine(i counter.Index) {
	m.t.Helper()
	m.do(func(t transport.TPM) error {
		h := tpm2.TPMHandle(i)
		public, err := tpm2.NVReadPublic{NVIndex: h}.Execute(t)
		if err == nil {
			_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: tpm2.NamedHandle{Handle: h, Name: public.NVName}}.Execute(t)
		}
		return err
	})
}

// define makes an index at the anchor's handle.
func (m *machine) define(change func(*tpm2.TPMSNVPublic)) {
	m.t.Helper()
	public := tpm2.TPMSNVPublic{NVIndex: tpm2.TPMHandle(counter.State), NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true, NoDA: true}}
	change(&public)
	m.do(func(t transport.TPM) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(public)}.Execute(t)
		return err
	})
}

// write writes a data index at the anchor's handle.
func (m *machine) write(value uint64) {
	m.t.Helper()
	m.do(func(t transport.TPM) error {
		h := tpm2.TPMHandle(counter.State)
		public, err := tpm2.NVReadPublic{NVIndex: h}.Execute(t)
		if err != nil {
			return err
		}
		n := tpm2.NamedHandle{Handle: h, Name: public.NVName}
		_, err = tpm2.NVWrite{AuthHandle: tpm2.AuthHandle{Handle: h, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)}, NVIndex: n,
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: binary.BigEndian.AppendUint64(nil, value)}}.Execute(t)
		return err
	})
}

func wantCount(t *testing.T, a *counter.Anchor, want uint64) {
	t.Helper()
	if got, err := a.Count(t.Context()); err != nil || got != want {
		t.Errorf("the count is %d, %v; want %d", got, err, want)
	}
}

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestAnchor(t *testing.T) {
	m := newMachine(t)
	a := m.anchor()
	_, err := a.Count(t.Context())
	wantCode(t, err, fault.NotFound)
	wantCode(t, a.Raise(t.Context(), 1), fault.NotFound)
	first, err := a.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantCount(t, a, first)
	if again, err := a.Make(t.Context()); err != nil || again != first {
		t.Errorf("made twice: %d, %v; want %d", again, err, first)
	}
	m.raise(a, first+1)
	m.raise(a, first+1) // the same again is nothing
	wantCount(t, a, first+1)
	wantCode(t, a.Raise(t.Context(), first), fault.AnchorCount)
	for _, above := range []uint64{2, 3, 100, 1 << 40} { // the rules know steps of one
		wantCode(t, a.Raise(t.Context(), first+1+above), fault.AnchorCount)
	}
	wantCount(t, a, first+1)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, a.Raise(ended, first+2), fault.Anchor)
	wantCount(t, a, first+1)
}

// TestAnchorName: it names this TPM, and is the same after a restart.
func TestAnchorName(t *testing.T) {
	m := newMachine(t)
	name := m.anchor().Name()
	m.off()
	m.on()
	if again := m.anchor().Name(); again != name {
		t.Errorf("the name is %s, and after a restart %s", name, again)
	}
	if other := newMachine(t).anchor().Name(); other == name || !strings.HasPrefix(name, "tpm:") {
		t.Errorf("two TPMs: %s and %s", name, other)
	}
}

// TestAnchorTime: the time that changes take; it is in the log.
func TestAnchorTime(t *testing.T) {
	m := newMachine(t)
	a := m.anchor()
	first, err := a.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range uint64(50) {
		m.raise(a, first+i+1)
	}
	t.Logf("50 changes: %s", time.Since(began))
	wantCount(t, a, first+50)
}

// TestAnchorPowerLoss: what Raise has returned is there after the power was cut at any
// moment, with or without a shutdown of the TPM before.
func TestAnchorPowerLoss(t *testing.T) {
	m := newMachine(t)
	count, err := m.anchor().Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		a := m.anchor()
		wantCount(t, a, count)
		count++
		m.raise(a, count)
		if i%2 == 1 {
			m.do(func(t transport.TPM) error {
				_, err := tpm2.Shutdown{ShutdownType: []tpm2.TPMSU{tpm2.TPMSUClear, tpm2.TPMSUState}[i/2%2]}.Execute(t)
				return err
			})
		}
		m.off()
		m.on()
	}
	wantCount(t, m.anchor(), count)
}

// TestAnchorHalfMade: a counter that was defined and has not counted when the power
// was cut is made to the end.
func TestAnchorHalfMade(t *testing.T) {
	m := newMachine(t)
	m.define(func(*tpm2.TPMSNVPublic) {})
	m.off()
	m.on()
	a := m.anchor()
	_, err := a.Count(t.Context())
	wantCode(t, err, fault.NotFound)
	first, err := a.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantCount(t, a, first)
}

// TestAnchorMadeAgain: a counter that is undefined and made again, also across a
// restart and after TPM2_Clear, begins above all that it ever had.
func TestAnchorMadeAgain(t *testing.T) {
	for name, remove := range map[string]func(m *machine){
		"undefined": func(m *machine) { m.undefine(counter.State) },
		"undefined and restarted": func(m *machine) {
			m.undefine(counter.State)
			m.off()
			m.on()
		},
		"both undefined": func(m *machine) {
			m.undefine(counter.State)
			m.undefine(counter.Revocation)
		},
		"undefined, another index in between": func(m *machine) {
			m.undefine(counter.State)
			m.define(func(p *tpm2.TPMSNVPublic) { p.Attributes.NT = tpm2.TPMNTOrdinary })
			m.write(1)
			m.undefine(counter.State)
		},
		"cleared": func(m *machine) {
			m.do(func(t transport.TPM) error {
				_, err := tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}.Execute(t)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			count, err := m.anchor().Make(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				m.raise(m.anchor(), count+7)
				remove(m)
				a := m.anchor()
				_, err := a.Count(t.Context())
				wantCode(t, err, fault.NotFound)
				again, err := a.Make(t.Context())
				if err != nil || again <= count+7 {
					t.Fatalf("made again it begins with %d, %v; it had %d", again, err, count+7)
				}
				count = again
			}
		})
	}
}

// TestAnchorRevokesNothing: the counter of revocations stays where it is when the
// anchor is made and counts, and is not made later, above the anchor.
func TestAnchorRevokesNothing(t *testing.T) {
	m := newMachine(t)
	a := m.anchor()
	first, err := a.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.raise(a, first+50)
	m.do(func(tp transport.TPM) error {
		n, err := counter.Revocation.Make(tp)
		if err == nil && n != 1 {
			t.Errorf("the counter of revocations begins with %d; the first version is 1", n)
		}
		return err
	})
}

// TestAnchorForeign: an index with other attributes is not taken for the anchor, and
// is left as it is.
func TestAnchorForeign(t *testing.T) {
	for name, change := range map[string]func(*tpm2.TPMSNVPublic){
		"data":              func(p *tpm2.TPMSNVPublic) { p.Attributes.NT = tpm2.TPMNTOrdinary },
		"bits":              func(p *tpm2.TPMSNVPublic) { p.Attributes.NT = tpm2.TPMNTBits },
		"extended":          func(p *tpm2.TPMSNVPublic) { p.Attributes.NT, p.DataSize = tpm2.TPMNTExtend, 32 },
		"orderly":           func(p *tpm2.TPMSNVPublic) { p.Attributes.Orderly = true },
		"cleared at starts": func(p *tpm2.TPMSNVPublic) { p.Attributes.NT, p.Attributes.ClearSTClear = tpm2.TPMNTOrdinary, true },
		"SHA-384":           func(p *tpm2.TPMSNVPublic) { p.NameAlg = tpm2.TPMAlgSHA384 },
		"lockable":          func(p *tpm2.TPMSNVPublic) { p.Attributes.ReadSTClear = true },
		"only the owner's":  func(p *tpm2.TPMSNVPublic) { p.Attributes.AuthWrite = false },
		"of a policy":       func(p *tpm2.TPMSNVPublic) { p.AuthPolicy = tpm2.TPM2BDigest{Buffer: make([]byte, 32)} },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.define(change)
			if name == "data" {
				m.write(1 << 40)
			}
			a := m.anchor()
			_, err := a.Count(t.Context())
			wantCode(t, err, fault.AnchorForeign)
			_, err = a.Make(t.Context())
			wantCode(t, err, fault.AnchorForeign)
			wantCode(t, a.Raise(t.Context(), 1<<40), fault.AnchorForeign)
		})
	}
}

// TestAnchorDeviceFails: a TPM that does not answer, from any command on. The next
// start finds a count.
func TestAnchorDeviceFails(t *testing.T) {
	m := newMachine(t)
	count, err := m.anchor().Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for after := range 30 {
		f := &failing{socket: m.p.Socket, after: after}
		a, err := counter.NewAnchor(tpm.NewDevice(f))
		if err == nil {
			err = a.Raise(t.Context(), count+1)
		}
		if err == nil {
			break
		}
		if !f.failed {
			t.Fatal(err)
		}
		wantCode(t, err, fault.Anchor)
		m.off() // what could not be flushed goes with the power
		m.on()
		if now, err := m.anchor().Count(t.Context()); err != nil || now < count || now > count+1 {
			t.Fatalf("the count is %d, %v; it was %d", now, err, count)
		} else {
			count = now // the increment may have been the last that it did
		}
	}
	wantCount(t, m.anchor(), count+1)
}

// failing is a TPM that answers some commands, and then none.
type failing struct {
	socket string
	after  int
	failed bool
}

func (f *failing) Send(command []byte) ([]byte, error) {
	if f.after--; f.after < 0 {
		f.failed = true
		return nil, errors.New("no answer")
	}
	dev, err := device.OpenTPM(f.socket)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	var answer []byte
	err = dev.Do(func(t transport.TPM) (err error) {
		answer, err = t.Send(command)
		return err
	})
	return answer, err
}

func (f *failing) Close() error { return nil }

// TestNoTPM: a device that is gone.
func TestNoTPM(t *testing.T) {
	m := newMachine(t)
	a := m.anchor()
	m.p.Stop()
	if err := os.Remove(filepath.Join(m.dir, swtpm.SocketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	_, err := a.Count(t.Context())
	wantCode(t, err, fault.Anchor)
	_, err = counter.NewAnchor(m.dev)
	wantCode(t, err, fault.Anchor)
}
