package main

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/sitetest"
)

// customer is who writes policies, in a directory of their own.
type customer struct {
	t   *testing.T
	dir string
}

func (c customer) path(name string) string { return filepath.Join(c.dir, name) }

func (c customer) holdfast(args ...string) {
	c.t.Helper()
	c.ends(0, args...)
}

// ends runs the command, which must end with the exit code.
func (c customer) ends(code int, args ...string) {
	c.t.Helper()
	cmd := exec.Command("holdfast", args...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "GORACE="+sitetest.GoRace)
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != code {
		c.t.Fatalf("holdfast %s: %v, want exit code %d: %s", strings.Join(args, " "), err, code, out)
	}
}

func (c customer) write(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// authorize signs the version of the policy, and gives its authorizations.
func (c customer) authorize(version string) []seal.Authorization {
	c.t.Helper()
	policy, err := os.ReadFile(c.path("policy.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(version+".json", bytes.Replace(policy, []byte(`"version": 1,`), []byte(`"version": `+version+`,`), 1))
	c.holdfast("policy", "sign", version+".json", "--key", "signer", "--out", version+".signed",
		"--seal-key", "sealer", "--authorizations", version+".authorizations")
	all, err := cli.ReadAuthorizations(c.path(version+".authorizations"), c.path("sealer.pub"))
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

// TestFromEvidenceToRelease goes the customer's way: from the first evidence to a
// policy with a reference, to authorizations, to a TPM that gives the credential
// out by them.
func TestFromEvidenceToRelease(t *testing.T) {
	const secret = "the PIN of the HSM"
	var m *sitetest.Machine
	state := t.TempDir()
	boot := func(program string) {
		t.Helper()
		if m != nil {
			m.Off()
		}
		var err error
		if m, err = sitetest.BootTPM(state, program); err != nil {
			t.Fatal(err)
		}
	}
	boot("holdfast 1")
	t.Cleanup(func() { m.Off() })

	c := customer{t, t.TempDir()}
	c.write("new.json", []byte(tpmPolicy))
	c.holdfast("policy", "key", "signer")
	c.holdfast("policy", "key", "sealer", "--seal")
	evidence, err := m.Evidence()
	if err != nil {
		t.Fatal(err)
	}
	c.write("evidence.json", evidence)
	c.holdfast("policy", "reference", "new.json", "evidence.json", "--name", "release 1", "--out", "policy.json")
	first := c.authorize("1")

	key, err := cli.ReadPublicKey[*ecdsa.PublicKey](c.path("sealer.pub"), cli.SealAlgorithm)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal.Seal(m, key, seal.Credential, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	file, err := sealed.Encode()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := seal.ParseBlob(file)
	if err != nil {
		t.Fatal(err)
	}
	unseal := func(when string, by []seal.Authorization, code string) {
		t.Helper()
		got, name, err := seal.Unseal(m, blob, by)
		var refusal *fault.Fault
		switch {
		case code == "" && (err != nil || string(got) != secret || name != "release 1"):
			t.Errorf("%s: got %q by %q, %v", when, got, name, err)
		case code != "" && (!errors.As(err, &refusal) || string(refusal.Code) != code || got != nil):
			t.Errorf("%s: got %q, %v; want %s", when, got, err, code)
		}
	}
	unseal("in the boot of the evidence", first, "")
	if err := m.RecordCap(); err != nil {
		t.Fatal(err)
	}
	unseal("after the cap", first, string(fault.SealPCRs))
	if evidence, err = m.Evidence(); err != nil {
		t.Fatal(err)
	}
	c.write("capped.json", evidence)
	c.ends(3, "verify", "capped.json", "--policy", "1.signed", "--policy-key", "signer.pub")
	boot("holdfast 1")
	unseal("after a reboot", first, "")
	boot("holdfast evil")
	unseal("with another program", first, string(fault.SealPCRs))

	boot("holdfast 1")
	if err := seal.Revoke(m, 2); err != nil {
		t.Fatal(err)
	}
	unseal("by a revoked policy", first, string(fault.SealRevoked))
	unseal("by a newly signed policy", c.authorize("2"), "")
}

// tpmPolicy asks for nothing but a TPM.
const tpmPolicy = `{"format": "holdfast-policy/v1", "name": "TPM", "version": 1, "unproven": "a test: the TPM is software", "require": ["tpm"], "max_age_seconds": 60,
"sev_snp": {"allow_vcek": false, "csp_ids": ["CN=x"], "minimum_tcb": {"Milan": {"bootloader": 4, "tee": 0, "snp": 29, "microcode": 222}}, "minimum_report_version": 3, "require_committed_firmware": false, "require_crl": false},
"tpm": {"bank": "sha384", "required_pcrs": [4, 7, 11, 14]}, "nitrotpm": {"max_age_seconds": 300, "compare_pcrs": [4]}}
`
