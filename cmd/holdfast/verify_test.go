package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/attest/appraisal"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/sitetest"
)

// verify runs the command and gives its verdict and exit code.
func verify(t *testing.T, args ...string) (*appraisal.Verdict, int) {
	t.Helper()
	cmd := exec.Command("holdfast", append([]string{"verify", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), "GORACE="+sitetest.GoRace)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var v appraisal.Verdict
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr.String())
	}
	return &v, cmd.ProcessState.ExitCode()
}

// TestVerifyRealHardware passes the documents of an EC2 instance, with the
// default policy and at their own time, and refuses a chip's own key.
func TestVerifyRealHardware(t *testing.T) {
	dir := os.Getenv("HOLDFAST_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skip("evidence of real hardware is not here:", err)
	}
	aws := filepath.Join(dir, "aws-snp-2026")
	v, code := verify(t, "--snp-report", filepath.Join(aws, "report.bin"), "--vek", filepath.Join(aws, "vlek.der"),
		"--nitro-document", filepath.Join(aws, "nitrotpm.cose"))
	if code != 3 || v.Result != appraisal.Incomplete || v.Failed() != nil || !passed(v, "E_PARTS") {
		t.Errorf("exit code %d: %v", code, v.Err())
	}
	vcek := filepath.Join(dir, "milan-vcek")
	v, code = verify(t, "--snp-report", filepath.Join(vcek, "report.bin"), "--vek", filepath.Join(vcek, "vcek.der"), "--at", "2026-06-15T00:00:00Z")
	if code != 1 || !strings.Contains(strings.Join(v.Failed(), " "), "E_SNP_KEY_KIND") {
		t.Errorf("exit code %d: %v", code, v.Failed())
	}
	v, code = verify(t, "--snp-report", filepath.Join(vcek, "report.bin"), "--vek", filepath.Join(vcek, "vcek.der"),
		"--nitro-document", filepath.Join(aws, "nitrotpm.cose"))
	if code != 1 || !strings.Contains(strings.Join(v.Failed(), " "), "E_PARTS") {
		t.Errorf("documents of two machines: exit code %d: %v", code, v.Failed())
	}
}

// passed says whether that check passes.
func passed(v *appraisal.Verdict, code string) bool {
	return slices.ContainsFunc(v.Checks, func(c appraisal.Check) bool { return c.Code == code && c.Result == appraisal.Pass })
}

// TestSimulationIsRefused: what a simulated machine says is of no use with the
// production program, which has no way to be told of other roots.
func TestSimulationIsRefused(t *testing.T) {
	p, err := simulation.Boot(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m := tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "program", Digest: make([]byte, 32)}
	if err := p.TPM.Measure(m); err != nil {
		t.Fatal(err)
	}
	c := p.Collector()
	c.Measurements = []tpm.Measurement{m}
	e, err := c.Collect(t.Context(), bytes.Repeat([]byte{0xab}, 32), []byte("tls"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, policy := filepath.Join(dir, "evidence.json"), filepath.Join(dir, "policy.json")
	unproven := p.Policy()
	unproven.Unproven = "a test of the roots"
	policyText, err := json.Marshal(unproven)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(file, text, 0o600), os.WriteFile(policy, policyText, 0o600)); err != nil {
		t.Fatal(err)
	}
	v, code := verify(t, file, "--policy", policy, "--nonce", strings.Repeat("ab", 32))
	if got := strings.Join(v.Failed(), " "); code != 1 || got != "E_SNP_CHAIN E_NITRO_ROOT" {
		t.Errorf("exit code %d, failed: %s; want the two roots alone", code, got)
	}
	v, code = verify(t, file, "--policy", policy, "--nonce", strings.Repeat("cd", 32))
	if got := strings.Join(v.Failed(), " "); code != 1 || !strings.Contains(got, "E_NONCE") {
		t.Errorf("with another nonce: exit code %d, failed: %s", code, got)
	}
}

// TestNoSimulationInside: the production programs are built without it.
func TestNoSimulationInside(t *testing.T) {
	for _, name := range []string{"holdfast", "holdfastd"} {
		bin := filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("go", "build", "-o", bin, "../"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		program, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		noSimulation(t, name, program)
	}
}

func noSimulation(t *testing.T, name string, program []byte) {
	t.Helper()
	for _, mark := range []string{simulation.CSPID, "holdfast/attest/simulation", "holdfast/attest/nitro/nitrotest", "go-sev-guest/testing", "holdfast/appliance/identity/passkeytest", "holdfast/hsm/softhsm"} {
		if bytes.Contains(program, []byte(mark)) {
			t.Errorf("%q is in %s", mark, name)
		}
	}
	if !bytes.Contains(program, []byte("holdfast/attest/snp")) {
		t.Errorf("%s: the search finds nothing that is there", name)
	}
}
