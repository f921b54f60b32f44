package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

// start powers a machine on whose TPM keeps its state in the directory.
func start(t testing.TB, dir string) (*tpm.Device, *swtpm.Process) {
	t.Helper()
	p, err := swtpm.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	dev, err := device.OpenTPM(p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev, p
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// wantNothingLoaded fails the test if a method left something in the TPM, which
// has three slots for objects.
func wantNothingLoaded(t *testing.T, dev *tpm.Device) {
	t.Helper()
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // objects, HMAC and policy sessions
		err := dev.Do(func(tt transport.TPM) error {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(tt)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.Handles()
			if err == nil && len(list.Handle) > 0 {
				err = fmt.Errorf("left in the TPM: %x", list.Handle)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestIdentityOutlivesReboot(t *testing.T) {
	dir := t.TempDir()
	dev, p := start(t, dir)
	before := must(dev.CreateAK())
	if err := dev.Extend(tpm.ApplicationPCR, []byte("something")); err != nil {
		t.Fatal(err)
	}
	wantNothingLoaded(t, dev)
	p.Stop()
	p.Stop() // twice is harmless

	dev, _ = start(t, dir)
	after := must(dev.CreateAK())
	if !bytes.Equal(before.Public, after.Public) {
		t.Error("the attestation key is another one after a reboot")
	}
	values := must(dev.ReadPCRs("sha256", []int{tpm.ApplicationPCR}))
	if !bytes.Equal(values[tpm.ApplicationPCR], make([]byte, 32)) {
		t.Errorf("PCR %d is %x after a reboot", tpm.ApplicationPCR, values[tpm.ApplicationPCR])
	}
	other, _ := start(t, t.TempDir())
	if ak := must(other.CreateAK()); bytes.Equal(ak.Public, before.Public) {
		t.Error("another machine has the same attestation key")
	}
	if _, err := other.Quote(before, nil, tpm.Selection{Bank: "sha256", PCRs: []int{0}}); err == nil {
		t.Error("a TPM quoted with the key of another")
	}
}

func TestQuote(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	ak := must(dev.CreateAK())
	data := bytes.Repeat([]byte{7}, 32)
	all := make([]int, 24)
	for i := range all {
		all[i] = i
	}
	q := must(dev.Quote(ak, data, tpm.Selection{Bank: "sha256", PCRs: all}, tpm.Selection{Bank: "sha384", PCRs: all}))
	if len(q.PCRs["sha256"]) != 24 || len(q.PCRs["sha384"]) != 24 {
		t.Errorf("%d and %d PCRs were read", len(q.PCRs["sha256"]), len(q.PCRs["sha384"]))
	}
	if got := must(dev.Banks()); !slices.Equal(got, []string{"sha256", "sha384"}) {
		t.Errorf("banks: %v", got)
	}
	wantNothingLoaded(t, dev)

	for _, bad := range [][]tpm.Selection{
		nil,
		{{Bank: "sha1", PCRs: []int{0}}},
		{{Bank: "sha256"}},
		{{Bank: "sha256", PCRs: []int{24}}},
		{{Bank: "sha256", PCRs: []int{-1}}},
		{{Bank: "sha256", PCRs: []int{0}}, {Bank: "sha256", PCRs: []int{1}}},
	} {
		if _, err := dev.Quote(ak, data, bad...); err == nil {
			t.Errorf("%v was quoted", bad)
		}
	}
}

func TestExtendReachesAllBanks(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	event := []byte("event")
	if err := dev.Extend(tpm.ApplicationPCR, event); err != nil {
		t.Fatal(err)
	}
	d256, d384 := sha256.Sum256(event), sha512.Sum384(event)
	w256 := sha256.Sum256(append(make([]byte, 32), d256[:]...))
	w384 := sha512.Sum384(append(make([]byte, 48), d384[:]...))
	for bank, want := range map[string][]byte{"sha256": w256[:], "sha384": w384[:]} {
		if got := must(dev.ReadPCRs(bank, []int{tpm.ApplicationPCR}))[tpm.ApplicationPCR]; !bytes.Equal(got, want) {
			t.Errorf("%s: %x, not %x", bank, got, want)
		}
	}
	if err := dev.Extend(tpm.ApplicationPCR, make([]byte, 1025)); err == nil {
		t.Error("an event of 1025 bytes was taken")
	}
	if err := dev.Measure(tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "Not a name", Digest: make([]byte, 32)}); err == nil {
		t.Error("a measurement with a bad name was taken")
	}
	wantNothingLoaded(t, dev)
}

func TestCapChangesThePCR(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	read := func() []byte {
		return must(dev.ReadPCRs("sha384", []int{tpm.ApplicationPCR}))[tpm.ApplicationPCR]
	}
	before := read()
	m := must(dev.Cap())
	if bytes.Equal(before, read()) {
		t.Error("the PCR has the value that it had before")
	}
	if m.PCR != tpm.ApplicationPCR || m.Name != "cap" {
		t.Errorf("%+v", m)
	}
}

func TestConcurrentUse(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	ak := must(dev.CreateAK())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = dev.Quote(ak, []byte{byte(i)}, tpm.Selection{Bank: "sha256", PCRs: []int{0, tpm.ApplicationPCR}})
			} else {
				err = dev.Extend(tpm.ApplicationPCR, []byte{byte(i)})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantNothingLoaded(t, dev)
}

func TestEKCertificate(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	if der := must(dev.EKCertificate()); der != nil {
		t.Errorf("a certificate where there is none: %x", der)
	}
	// One of 1000 bytes in an index of 1100, as makers do.
	want := append([]byte{0x30, 0x82, 0, 0}, make([]byte, 996)...)
	binary.BigEndian.PutUint16(want[2:], 996)
	writeNV(t, dev, 0x01c00002, append(slices.Clone(want), bytes.Repeat([]byte{0xff}, 100)...))
	if der := must(dev.EKCertificate()); !bytes.Equal(der, want) {
		t.Errorf("got %d bytes, not %d", len(der), len(want))
	}
	wantNothingLoaded(t, dev)
}

func writeNV(t *testing.T, dev *tpm.Device, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	public := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true}}
	err := dev.Do(func(tt transport.TPM) error {
		if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(public)}).Execute(tt); err != nil {
			return err
		}
		for offset := 0; offset < len(data); offset += 512 {
			name, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tt) // it changes with the first write
			if err != nil {
				return err
			}
			_, err = tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: tpm2.NamedHandle{Handle: index, Name: name.NVName},
				Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+512, len(data))]}, Offset: uint16(offset)}.Execute(tt)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStartExplainsItself(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	for name, err := range map[string]error{
		"107":               second(swtpm.Start(long)),
		"the directory for": second(swtpm.Start(filepath.Join(t.TempDir(), "none"))),
	} {
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", name, err)
		}
	}
	t.Setenv("PATH", "")
	if _, err := swtpm.Start(t.TempDir()); err == nil || !strings.Contains(err.Error(), "apt-get install swtpm") {
		t.Errorf("without swtpm: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestDoGivesErrorsBack(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	want := errors.New("mine")
	if err := dev.Do(func(transport.TPM) error { return want }); err != want {
		t.Errorf("%v", err)
	}
}
