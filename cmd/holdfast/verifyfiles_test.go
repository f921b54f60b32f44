package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"holdfast/attest"
	"holdfast/cmd/internal/sitetest"
)

// noFiles are the flags of verify whose values are no files, or files to write.
var noFiles = []string{"nonce", "at", "out", "report"}

// TestVerifyReadsEachFile: a file that a flag of verify names, whichever, is read or is
// an error: one that is not there, is empty or is a folder is never passed over.
func TestVerifyReadsEachFile(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	evidence := file("e.json", `{"format":"holdfast-evidence/v1","created":"2026-01-01T00:00:00Z","software":"1","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"AA==","nitrotpm":"AA=="}`)
	some, pcrs := file("some", "x"), file("pcrs.json", `{"sha384":{"4":"`+strings.Repeat("0", 96)+`"}}`)
	policy := attest.DefaultPolicy()
	policy.Unproven = "a test of flags"
	text, err := policy.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	unsigned := file("policy.json", string(text))
	// with is what a flag is used together with.
	quote := []string{"tpm-quote", some, "tpm-signature", some, "ak", some, "pcrs", pcrs, "event-log", some}
	with := map[string][]string{"policy-key": {"policy", unsigned}, "snp-report": {"vek", some}, "vek": {"snp-report", some}, "crl": {"snp-report", some, "vek", some},
		"nitro-document": {}, "tpm-quote": quote, "tpm-signature": quote, "ak": quote, "pcrs": quote, "event-log": quote}
	run := func(args ...string) (code int, stderr string) {
		t.Helper()
		cmd := exec.Command("holdfast", append([]string{"verify"}, args...)...)
		cmd.Env = append(os.Environ(), "GORACE="+sitetest.GoRace)
		var text strings.Builder
		cmd.Stderr = &text
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), text.String()
	}
	tried := 0
	verify, _, err := newRoot().Find([]string{"verify"})
	if err != nil {
		t.Fatal(err)
	}
	verify.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || slices.Contains(noFiles, f.Name) {
			return
		}
		for what, value := range map[string]string{"not there": filepath.Join(dir, "nobody"), "empty": file("empty", ""), "a folder": dir, "no name": ""} {
			args := []string{"--" + f.Name + "=" + value}
			others, isPart := with[f.Name]
			for i := 0; i < len(others); i += 2 {
				if others[i] != f.Name {
					args = append(args, "--"+others[i]+"="+others[i+1])
				}
			}
			if !isPart || f.Name == "policy-key" {
				args = append(args, evidence)
			}
			if code, stderr := run(args...); code != 2 || (!strings.Contains(stderr, value) && !strings.Contains(stderr, f.Name)) {
				t.Errorf("%s, %s: exit code %d: %s", f.Name, what, code, stderr)
			}
			tried++
		}
	})
	if tried < 40 {
		t.Errorf("%d were tried", tried)
	}
	// What is given and has no use is an error as well.
	for _, args := range [][]string{{evidence, "--crl", some}, {evidence, "--vek", some}, {evidence, "--pcrs", pcrs}, {"--nitro-document", some, "--nonce", "00"},
		{"--nitro-document", some, "--tls-cert", some}, {evidence, "--nonce", ""}, {evidence, "--at", ""}} {
		if code, stderr := run(args...); code != 2 {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	twice := file("twice.json", `{"sha384":{"4":"`+strings.Repeat("0", 96)+`","04":"`+strings.Repeat("1", 96)+`"}}`)
	args := []string{"--tpm-quote", some, "--tpm-signature", some, "--ak", some, "--pcrs", twice, "--event-log", some}
	if code, stderr := run(args...); code != 2 || !strings.Contains(stderr, "04") {
		t.Errorf("PCR 4 twice: exit code %d: %s", code, stderr)
	}
}
