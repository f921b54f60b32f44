package tpm_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"holdfast/attest/device"
	"holdfast/attest/tpm"
)

// bus is what lies between a machine and its TPM: it sees what passes, and may
// change it.
type bus struct {
	mu      sync.Mutex
	seen    []byte
	before  func(command tpm2.TPMCC)        // may be nil
	respond func(tpm2.TPMCC, []byte) []byte // may be nil
}

// tap gives a device whose TPM is reached over the bus.
func (b *bus) tap(t *testing.T, socket string) *tpm.Device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus.sock")
	l := must(net.Listen("unix", path))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.pass(conn, socket)
		}
	}()
	dev := must(device.OpenTPM(path))
	t.Cleanup(func() { dev.Close() })
	return dev
}

// pass passes one command, as the transport makes a connection for each.
func (b *bus) pass(conn net.Conn, socket string) {
	defer conn.Close()
	message := make([]byte, 4096)
	n, err := conn.Read(message)
	if err != nil || n < 10 {
		return
	}
	code := tpm2.TPMCC(binary.BigEndian.Uint32(message[6:]))
	if b.before != nil {
		b.before(code)
	}
	far, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer far.Close()
	response := make([]byte, 4096)
	far.Write(message[:n])
	m, err := far.Read(response)
	if err != nil {
		return
	}
	b.mu.Lock()
	b.seen = append(append(b.seen, message[:n]...), response[:m]...)
	b.mu.Unlock()
	response = response[:m]
	if b.respond != nil {
		response = b.respond(code, response)
	}
	conn.Write(response)
}

func TestBusShowsNothing(t *testing.T) {
	_, p := start(t, t.TempDir())
	var b bus
	dev := b.tap(t, p.Socket)
	data, event := bytes.Repeat([]byte("nonce"), 4), bytes.Repeat([]byte("event"), 4)
	ak := must(dev.CreateAK())
	q := must(dev.Quote(ak, data, tpm.Selection{Bank: "sha256", PCRs: []int{0}}))
	if err := dev.Extend(tpm.ApplicationPCR, event); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"qualifying data": data, "event": event, "quote": q.Attest, "attestation key": ak.Public} {
		if bytes.Contains(b.seen, value) {
			t.Errorf("the %s passes over the bus in clear", name)
		}
	}
}

func TestBusCannotChange(t *testing.T) {
	_, p := start(t, t.TempDir())
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCQuote, tpm2.TPMCCPCREvent} {
		b := bus{respond: func(c tpm2.TPMCC, r []byte) []byte {
			if c == code {
				flip(r, -1)
			}
			return r
		}}
		dev := b.tap(t, p.Socket)
		ak := must(dev.CreateAK())
		if _, err := dev.Quote(ak, nonce, tpm.Selection{Bank: "sha256", PCRs: []int{0}}); (err == nil) != (code != tpm2.TPMCCQuote) {
			t.Errorf("quote: %v", err)
		}
		if err := dev.Extend(tpm.ApplicationPCR, []byte("event")); (err == nil) != (code != tpm2.TPMCCPCREvent) {
			t.Errorf("extend: %v", err)
		}
		wantNothingLoaded(t, dev)
	}
}

// PCRs that change between reading and quoting are read again, as long as they
// stop.
func TestQuoteReadsAgain(t *testing.T) {
	direct, p := start(t, t.TempDir())
	times := 2
	b := bus{before: func(c tpm2.TPMCC) {
		if c == tpm2.TPMCCQuote && times > 0 {
			times--
			if err := direct.Extend(tpm.ApplicationPCR, []byte("meanwhile")); err != nil {
				t.Error(err)
			}
		}
	}}
	dev := b.tap(t, p.Socket)
	ak := must(dev.CreateAK())
	q := must(dev.Quote(ak, nonce, tpm.Selection{Bank: "sha256", PCRs: []int{tpm.ApplicationPCR}}))
	now := must(dev.ReadPCRs("sha256", []int{tpm.ApplicationPCR}))
	if times != 0 || !slices.Equal(now[tpm.ApplicationPCR], q.PCRs["sha256"][tpm.ApplicationPCR]) {
		t.Errorf("%d left; quoted %s, is %x", times, q.PCRs["sha256"][tpm.ApplicationPCR], now[tpm.ApplicationPCR])
	}
	times = 1000
	if _, err := dev.Quote(ak, nonce, tpm.Selection{Bank: "sha256", PCRs: []int{tpm.ApplicationPCR}}); err == nil || !strings.Contains(err.Error(), "keep extending") {
		t.Errorf("PCRs that never stop: %v", err)
	}
}
