package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

// tpmMachine is one with a TPM and nothing else to attest by, from its power-on
// to off.
type tpmMachine struct {
	*tpm.Device
	process      *swtpm.Process
	log          []byte
	measurements []tpm.Measurement
}

// bootTPM powers on the machine whose TPM has its state in the directory. It
// measures the program.
func bootTPM(dir, program string) (m *tpmMachine, err error) {
	m = &tpmMachine{}
	if m.process, err = swtpm.Start(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.off()
		}
	}()
	if m.Device, err = device.OpenTPM(m.process.Socket); err != nil {
		return nil, err
	}
	if m.log, err = swtpm.Boot(m.Device, swtpm.Component{Name: ".linux", Content: []byte("a kernel")}); err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(program))
	m.measurements = []tpm.Measurement{{PCR: tpm.ApplicationPCR, Name: "program", Digest: digest[:]}}
	return m, m.Measure(m.measurements[0])
}

func (m *tpmMachine) off() {
	if m.Device != nil {
		_ = m.Close()
	}
	m.process.Stop()
}

func (m *tpmMachine) cap() error {
	c, err := m.Cap()
	m.measurements = append(m.measurements, c)
	return err
}

// evidenceNonce is what the evidence of tests is made for.
var evidenceNonce = bytes.Repeat([]byte{0xab}, 32)

func (m *tpmMachine) evidence() ([]byte, error) {
	c := attest.Collector{Software: "test", TPM: m.Device, EventLog: m.log, Measurements: m.measurements}
	e, err := c.Collect(context.Background(), evidenceNonce, []byte("a public key of TLS"), nil)
	if err != nil {
		return nil, err
	}
	return e.Encode()
}

// customer is who writes policies, in a directory of their own.
type customer struct {
	t   *testing.T
	dir string
}

func (c customer) path(name string) string { return filepath.Join(c.dir, name) }

func (c customer) holdfast(args ...string) {
	c.t.Helper()
	cmd := exec.Command("holdfast", args...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "GORACE="+gorace)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("holdfast %s: %v: %s", strings.Join(args, " "), err, out)
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
	all, err := readAuthorizations(c.path(version+".authorizations"), c.path("sealer.pub"))
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
	var m *tpmMachine
	state := t.TempDir()
	boot := func(program string) {
		t.Helper()
		if m != nil {
			m.off()
		}
		var err error
		if m, err = bootTPM(state, program); err != nil {
			t.Fatal(err)
		}
	}
	boot("holdfast 1")
	t.Cleanup(func() { m.off() })

	c := customer{t, t.TempDir()}
	c.write("new.json", []byte(tpmPolicy))
	c.holdfast("policy", "key", "signer")
	c.holdfast("policy", "key", "sealer", "--seal")
	evidence, err := m.evidence()
	if err != nil {
		t.Fatal(err)
	}
	c.write("evidence.json", evidence)
	c.holdfast("policy", "reference", "new.json", "evidence.json", "--name", "release 1", "--out", "policy.json")
	first := c.authorize("1")

	key, err := readPublicKey[*ecdsa.PublicKey](c.path("sealer.pub"), sealAlgorithm)
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
		var refusal *seal.Refusal
		switch {
		case code == "" && (err != nil || string(got) != secret || name != "release 1"):
			t.Errorf("%s: got %q by %q, %v", when, got, name, err)
		case code != "" && (!errors.As(err, &refusal) || refusal.Code != code || got != nil):
			t.Errorf("%s: got %q, %v; want %s", when, got, err, code)
		}
	}
	unseal("in the boot of the evidence", first, "")
	if err := m.cap(); err != nil {
		t.Fatal(err)
	}
	unseal("after the cap", first, seal.CodePCRs)
	if evidence, err = m.evidence(); err != nil {
		t.Fatal(err)
	}
	c.write("capped.json", evidence)
	c.holdfast("verify", "capped.json", "--policy", "1.signed", "--policy-key", "signer.pub")
	boot("holdfast 1")
	unseal("after a reboot", first, "")
	boot("holdfast evil")
	unseal("with another program", first, seal.CodePCRs)

	boot("holdfast 1")
	if err := seal.Revoke(m, 2); err != nil {
		t.Fatal(err)
	}
	unseal("by a revoked policy", first, seal.CodeRevoked)
	unseal("by a newly signed policy", c.authorize("2"), "")
}

// tpmPolicy asks for nothing but a TPM.
const tpmPolicy = `{"format": "holdfast-policy/v1", "name": "TPM", "version": 1, "unproven": "a test: the TPM is software", "require": ["tpm"], "max_age_seconds": 60,
"sev_snp": {"csp_ids": ["CN=x"], "minimum_tcb": {"Milan": {}}, "minimum_report_version": 3},
"tpm": {"bank": "sha384", "required_pcrs": [4, 7, 11, 14]}, "nitrotpm": {"max_age_seconds": 300, "compare_pcrs": [4]}}
`
