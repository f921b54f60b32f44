package holdfastd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/sitetest"
)

// TestCap: where holdfastd serve was killed when it had measured, holdfastd cap, which
// the image's unit then calls, leaves a TPM that releases nothing.
func TestCap(t *testing.T) {
	m, err := sitetest.BootTPM(t.TempDir(), "holdfast 1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Off)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	values, err := m.ReadPCRs("sha384", []int{4, tpm.ApplicationPCR})
	if err != nil {
		t.Fatal(err)
	}
	a := seal.Authorization{Name: "release 1", Bank: "sha384", PCRs: map[int]tpm.Hex{}, Version: 1}
	for n, value := range values {
		a.PCRs[n] = value
	}
	signed, err := seal.Authorize(key, a)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := seal.Seal(m, &key.PublicKey, seal.Credential, []byte(sitetest.PIN))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := seal.Unseal(m, blob, []seal.Authorization{*signed}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also after holdfastd serve did it
		cmd := exec.Command("holdfastd", "cap", "--tpm", m.Process.Socket)
		cmd.Env = append(os.Environ(), "GORACE="+sitetest.GoRace)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PCR 14 is capped") {
			t.Fatalf("%v: %s", err, out)
		}
		if _, _, err := seal.Unseal(m, blob, []seal.Authorization{*signed}); err == nil {
			t.Error("the TPM gives out the PIN")
		}
	}
}

// TestUnitCaps: the image's unit caps the TPM whatever has ended holdfastd serve,
// before it restarts the machine.
func TestUnitCaps(t *testing.T) {
	unit, err := os.ReadFile("../../../packer/image/root/etc/systemd/system/holdfast.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ExecStopPost=/usr/bin/holdfastd cap", "FailureAction=reboot", "SuccessAction=reboot", "DeviceAllow=/dev/tpmrm0 rw"} {
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("it has no %s", line)
		}
	}
}

// TestUnitKeepsRequestsFromTheConsole: lines about requests are on standard output,
// which goes to the journal alone.
func TestUnitKeepsRequestsFromTheConsole(t *testing.T) {
	unit, err := os.ReadFile("../../../packer/image/root/etc/systemd/system/holdfast.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"StandardOutput=journal", "StandardError=journal+console"} {
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("it has no %s", line)
		}
	}
}
