package nitro_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/appraisal"
	"holdfast/attest/nitro"
	"holdfast/attest/nitro/nitrotest"
)

// simulated gives a NitroTPM that has no other commands than AWS's.
func simulated() *nitrotest.TPM {
	return &nitrotest.TPM{Authority: nitrotest.New(), Document: func() (nitro.Document, error) {
		return nitro.Document{Time: signedAt, PCRs: map[int][]byte{4: pcr(4), 7: pcr(7), 11: pcr(11), 12: pcr(12)}}, nil
	}}
}

// filter changes commands on their way to a TPM, or responses on their way back.
type filter struct {
	transport.TPM
	command  func([]byte) ([]byte, error)
	response func(command, response []byte) []byte
}

func (f filter) Send(command []byte) ([]byte, error) {
	var err error
	if f.command != nil {
		if command, err = f.command(command); err != nil {
			return nil, err
		}
	}
	response, err := f.TPM.Send(command)
	if err == nil && f.response != nil {
		response = f.response(command, response)
	}
	return response, err
}

func code(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

func TestRequest(t *testing.T) {
	tpm := simulated()
	long := func(b byte) []byte { return bytes.Repeat([]byte{b}, nitro.MaxField) }
	for _, c := range []struct{ userData, nonce, publicKey []byte }{
		{nil, nil, nil},
		{[]byte("user data"), nil, nil},
		{[]byte("user data"), []byte("nonce"), []byte("key")},
		{long(1), long(2), long(3)}, // several writes
	} {
		document, err := nitro.Request(tpm, c.userData, c.nonce, c.publicKey)
		if err != nil {
			t.Fatal(err)
		}
		d, err := nitro.Parse(document)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.PublicKey, c.publicKey) {
			t.Errorf("the public key is %x", d.PublicKey)
		}
		x := nitro.Expectation{At: signedAt, UserData: c.userData, Nonce: c.nonce, PCRs: d.PCRs, Root: tpm.Authority.Root}
		if v := appraise(document, nitro.DefaultPolicy(), x); v.Result == appraisal.Fail || (v.Result == appraisal.Incomplete) != (c.userData == nil || c.nonce == nil) {
			t.Errorf("%s: %v", v.Result, v.Err())
		}
		if tpm.Defined() {
			t.Error("the NV index was left behind")
		}
	}
	if _, err := nitro.Request(tpm, make([]byte, nitro.MaxField+1), nil, nil); err == nil || !strings.Contains(err.Error(), "user_data") {
		t.Errorf("too much user data: %v", err)
	}
}

// The command is byte for byte what AWS's tool sends with a password: header,
// the index twice, one session.
func TestCommandBytes(t *testing.T) {
	tpm := simulated()
	var secret, got []byte
	spy := filter{TPM: tpm, command: func(c []byte) ([]byte, error) {
		switch code(c) {
		case tpm2.TPMCCNVDefineSpace:
			secret = bytes.Clone(c[29:93]) // header 10, handle 4, session 4+9, size 2
		case nitro.CommandCode:
			got = bytes.Clone(c)
		}
		return c, nil
	}}
	if _, err := nitro.Request(spy, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(
		[]byte{0x80, 0x02, 0, 0, 0, 95, 0x20, 0, 0, 1}, // TPM_ST_SESSIONS, size, command
		[]byte{0x01, 0x80, 0x48, 0x47, 0x01, 0x80, 0x48, 0x47},
		[]byte{0, 0, 0, 73},    // authorization size
		[]byte{0x40, 0, 0, 9},  // TPM_RS_PW
		[]byte{0, 0, 0, 0, 64}, // no nonce, no attributes, password size
		secret,
	)
	if !bytes.Equal(got, want) {
		t.Errorf("sent %x, not %x", got, want)
	}
}

func TestRequestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*nitrotest.TPM) transport.TPM
		want  string
	}{
		"AWS refuses": {func(s *nitrotest.TPM) transport.TPM {
			s.Document = func() (nitro.Document, error) { return nitro.Document{}, errors.New("no") }
			return s
		}, "InternalError"},
		"other user data": {func(s *nitrotest.TPM) transport.TPM {
			return filter{TPM: s, command: func(c []byte) ([]byte, error) {
				return bytes.Replace(c, []byte("user data"), []byte("xser data"), 1), nil
			}}
		}, "user_data"},
		"answer is no CBOR": {func(s *nitrotest.TPM) transport.TPM {
			return filter{TPM: s, response: func(c, r []byte) []byte {
				if code(c) == tpm2.TPMCCNVRead {
					r[16] = 0xff
				}
				return r
			}}
		}, "answer"},
		"short response": {func(s *nitrotest.TPM) transport.TPM {
			return filter{TPM: s, response: func(c, r []byte) []byte {
				if code(c) == nitro.CommandCode {
					return r[:9]
				}
				return r
			}}
		}, "malformed"},
		"TPM fails": {func(s *nitrotest.TPM) transport.TPM {
			return filter{TPM: s, response: func(c, r []byte) []byte {
				if code(c) == nitro.CommandCode {
					return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x01} // TPM_RC_FAILURE
				}
				return r
			}}
		}, "TPM_RC_FAILURE"},
		"connection fails": {func(s *nitrotest.TPM) transport.TPM {
			return filter{TPM: s, command: func(c []byte) ([]byte, error) {
				if code(c) == tpm2.TPMCCNVRead {
					return nil, io.ErrUnexpectedEOF
				}
				return c, nil
			}}
		}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulated()
			_, err := nitro.Request(c.spoil(s), []byte("user data"), nil, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, nitro.ErrUnavailable) {
				t.Errorf("the error is %v, without %q", err, c.want)
			}
			if s.Defined() {
				t.Error("the NV index was left behind")
			}
		})
	}
}

// A buffer that an interrupted request left behind is no obstacle; one that is
// another's is left alone.
func TestBufferLeftBehind(t *testing.T) {
	s := simulated()
	define := func(size uint16) {
		t.Helper()
		_, err := tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: nitro.BufferIndex, NameAlg: tpm2.TPMAlgSHA512, Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true}, DataSize: size}),
		}.Execute(s)
		if err != nil {
			t.Fatal(err)
		}
	}
	interrupted := filter{TPM: s, command: func(c []byte) ([]byte, error) {
		if code(c) == nitro.CommandCode || code(c) == tpm2.TPMCCNVUndefineSpace {
			return nil, io.ErrUnexpectedEOF
		}
		return c, nil
	}}
	if _, err := nitro.Request(interrupted, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "left behind") || strings.Contains(err.Error(), "\n") || !s.Defined() {
		t.Fatalf("%v (defined: %v)", err, s.Defined())
	}
	if _, err := nitro.Request(s, nil, nil, nil); err != nil || s.Defined() {
		t.Errorf("%v (defined: %v)", err, s.Defined())
	}
	define(32)
	if _, err := nitro.Request(s, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "another program") || !s.Defined() {
		t.Errorf("%v (defined: %v)", err, s.Defined())
	}
}

// swtpm starts a TPM of software, on one end of a pair of sockets.
func swtpm(t *testing.T) transport.TPM {
	t.Helper()
	path, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed")
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "tpm"), os.NewFile(uintptr(fds[1]), "swtpm")
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+t.TempDir(), "--fd", "3", "--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{far}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	conn, err := net.FileConn(near)
	near.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close() // which ends it
		cmd.Wait()
	})
	return transport.FromReadWriter(conn)
}

func nvIndices(t *testing.T, tpm transport.TPM) []tpm2.TPMHandle {
	t.Helper()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x01000000, PropertyCount: 100}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return h.Handle
}

func TestOtherTPMs(t *testing.T) {
	tpm := swtpm(t)
	unavailable := func(t *testing.T, tpm transport.TPM) {
		t.Helper()
		_, err := nitro.Request(tpm, []byte("user data"), nil, nil)
		if !errors.Is(err, nitro.ErrUnavailable) || strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is %v", err)
		}
		t.Log(err)
		if left := nvIndices(t, tpm); len(left) != 0 {
			t.Errorf("NV indices were left behind: %x", left)
		}
	}
	// libtpms allows NV indices of 2048 bytes.
	smaller := func(c []byte) ([]byte, error) {
		if code(c) == tpm2.TPMCCNVDefineSpace {
			c = bytes.Clone(c)
			binary.BigEndian.PutUint16(c[len(c)-2:], 2048)
		}
		return c, nil
	}
	t.Run("without room", func(t *testing.T) { unavailable(t, tpm) })
	t.Run("with room, without the command", func(t *testing.T) { unavailable(t, filter{TPM: tpm, command: smaller}) })
	t.Run("resource manager", func(t *testing.T) {
		unavailable(t, filter{TPM: tpm, command: smaller, response: func(c, r []byte) []byte {
			if code(c) == nitro.CommandCode {
				r = []byte{0x80, 1, 0, 0, 0, 10, 0, 0x0b, 0x01, 0x43}
			}
			return r
		}})
	})
	t.Run("simulated NitroTPM beside its other commands", func(t *testing.T) {
		s := simulated()
		s.Inner = tpm
		if _, err := nitro.Request(s, []byte("user data"), nil, nil); err != nil {
			t.Error(err)
		}
		if left := nvIndices(t, s); len(left) != 0 {
			t.Errorf("NV indices were left behind: %x", left)
		}
	})
}
