package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/cmd/internal/sitetest"
)

// wine runs programs of Windows, in a folder that stands for a computer with it.
type wine struct {
	loader, prefix string
}

// wineLoader is where Debian's package wine64 has its program, which is on no path.
const wineLoader = "/usr/lib/wine/wine64"

// newWine makes the folder. The server that Wine starts for it ends with the test.
func newWine(t *testing.T) *wine {
	t.Helper()
	if _, err := os.Stat(wineLoader); err != nil {
		if os.Getenv("HOLDFAST_TEST_PACKAGES") != "" { // make test has installed them
			t.Fatal(err)
		}
		t.Skip("Wine is not here; on Debian it is the package wine64: ", err)
	}
	prefix, err := os.MkdirTemp("", "wine")
	if err != nil {
		t.Fatal(err)
	}
	w := &wine{loader: wineLoader, prefix: filepath.Join(prefix, "prefix")}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = w.command(ctx, "/usr/lib/wine/wineserver64", "-k", "-w").Run() // an error: it had ended
		if err := os.RemoveAll(prefix); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if out, err := w.command(ctx, w.loader, "wineboot", "--init").CombinedOutput(); err != nil {
		t.Fatalf("wineboot: %v: %s", err, out)
	}
	w.addProcessPrng(t)
	return w
}

func (w *wine) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "WINEPREFIX="+w.prefix, "WINEDEBUG=-all", "WINEDLLOVERRIDES=mscoree,mshtml=", "DISPLAY=")
	cmd.WaitDelay = 10 * time.Second // Wine's server may hold the pipes
	return cmd
}

// addProcessPrng gives Wine 8 what Go takes its randomness from since 1.22, and what
// Wine has since 9: a bcryptprimitives.dll whose ProcessPrng is RtlGenRandom of
// advapi32.dll.
func (w *wine) addProcessPrng(t *testing.T) {
	t.Helper()
	dll := filepath.Join(w.prefix, "drive_c", "windows", "system32", "bcryptprimitives.dll")
	if _, err := os.Stat(dll); err == nil {
		return
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"exports.def": "LIBRARY bcryptprimitives.dll\nEXPORTS\n  ProcessPrng = advapi32.SystemFunction036\n",
		"start.s":     ".globl start\n.text\nstart: mov $1, %eax\nret\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"as", "-o", "start.o", "start.s"},
		{"objcopy", "-R", ".note.gnu.property", "start.o"},
		{"ld", "-m", "i386pep", "-shared", "-e", "start", "-o", dll, "exports.def", "start.o"},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
}

// result is what a call came to.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a program of Windows in the folder.
func (w *wine) run(t *testing.T, dir, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return runIn(t, w.command(ctx, w.loader, append([]string{program}, args...)...), dir)
}

func runIn(t *testing.T, cmd *exec.Cmd, dir string) result {
	t.Helper()
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v: %s", cmd.Args, err, stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// TestWindows runs the build for Windows under Wine, beside the one of this platform:
// both come to the same verdicts, and each takes what the other made.
func TestWindows(t *testing.T) {
	t.Parallel()
	w := newWine(t)
	build := t.TempDir()
	windows, tests := filepath.Join(build, "holdfast.exe"), filepath.Join(build, "privatefile.exe")
	for _, args := range [][]string{{"build", "-o", windows, "."}, {"test", "-c", "-o", tests, "holdfast/attest/privatefile"}} {
		if out, err := forPlatform("windows/amd64", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	here := func(t *testing.T, dir string, args ...string) result {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "holdfast", args...)
		cmd.Env = append(os.Environ(), "GORACE="+sitetest.GoRace)
		return runIn(t, cmd, dir)
	}
	// same runs both, which must end with the code and print the same.
	same := func(t *testing.T, dir string, code int, args ...string) {
		t.Helper()
		got, want := w.run(t, dir, windows, args...), here(t, dir, args...)
		if want.code != code {
			t.Fatalf("%q: exit code %d, want %d: %s", args, want.code, code, want.stderr)
		}
		if got.code != want.code || got.stdout != want.stdout {
			t.Errorf("%q: on Windows: exit code %d, here %d\n%s%s\nhere:\n%s", args, got.code, want.code, got.stdout, got.stderr, want.stdout)
		}
	}
	t.Run("verify", func(t *testing.T) { sameVerdicts(t, same) })
	t.Run("policy sign", func(t *testing.T) {
		dir := t.TempDir()
		must := func(r result) {
			t.Helper()
			if r.code != 0 {
				t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
			}
		}
		must(w.run(t, dir, windows, "policy", "key", "theirs"))
		must(here(t, dir, "policy", "key", "ours"))
		info, err := os.Stat(filepath.Join(dir, "theirs"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o007 != 0 {
			t.Errorf("others may use the key: %v", info.Mode())
		}
		for _, c := range []struct{ name, text string }{{"policy.json", here(t, dir, "policy", "new").stdout}} {
			if err := os.WriteFile(filepath.Join(dir, c.name), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		sign := []string{"policy", "sign", "policy.json", "--unproven", "a test"}
		must(w.run(t, dir, windows, append(slices.Clone(sign), "--key", "theirs", "--out", "theirs.signed")...))
		must(here(t, dir, append(slices.Clone(sign), "--key", "ours", "--out", "ours.signed")...))
		same(t, dir, 0, "policy", "show", "theirs.signed", "--policy-key", "theirs.pub")
		same(t, dir, 0, "policy", "show", "ours.signed", "--policy-key", "ours.pub")
		same(t, dir, 1, "policy", "show", "ours.signed", "--policy-key", "theirs.pub")
		if err := os.Chmod(filepath.Join(dir, "theirs"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := w.run(t, dir, windows, append(slices.Clone(sign), "--key", "theirs", "--out", "again.signed")...)
		if r.code != 1 || !strings.Contains(r.stderr, "others than its owner may read it (Everyone): icacls") {
			t.Errorf("a key that others may read: exit code %d: %s", r.code, r.stderr)
		}
	})
	t.Run("audit verify", func(t *testing.T) {
		dir := t.TempDir()
		segment := writeLog(t, dir)
		same(t, dir, 0, "audit", "verify", "log", "--key", "log.pub", "--json")
		same(t, dir, 0, "audit", "search", "log", "--json")
		same(t, dir, 0, "audit", "proof", "3", "log")
		text, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segment, bytes.Replace(text, []byte("alice"), []byte("mallo"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		same(t, dir, 1, "audit", "verify", "log", "--key", "log.pub", "--json")
	})
	t.Run("private files", func(t *testing.T) {
		if r := w.run(t, build, tests, "-test.v"); r.code != 0 || !strings.Contains(r.stdout, "--- PASS: TestDACL") {
			t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
		}
	})
}

// sameVerdicts verifies evidence that passes, that is refused and that is unusable.
func sameVerdicts(t *testing.T, same func(t *testing.T, dir string, code int, args ...string)) {
	dir := t.TempDir()
	m, err := sitetest.BootTPM(t.TempDir(), "holdfast 1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := m.Evidence()
	m.Off()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"evidence.json": string(text), "damaged.json": strings.Replace(string(text), "a", "b", 1), "none.json": "{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same(t, dir, 1, "verify", "evidence.json", "--at", "2026-11-23T12:00:00Z", "--json") // its TPM is software
	same(t, dir, 2, "verify", "none.json", "--json")
	vectors := os.Getenv("HOLDFAST_VECTORS")
	if vectors == "" {
		vectors = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	if _, err := os.Stat(vectors); err != nil {
		t.Log("evidence of real hardware is not here: ", err)
		return
	}
	if vectors, err = filepath.Abs(vectors); err != nil {
		t.Fatal(err)
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{vectors}, parts...)...) }
	same(t, dir, 3, "verify", "--json", "--snp-report", in("aws-snp-2026", "report.bin"), "--vek", in("aws-snp-2026", "vlek.der"), "--nitro-document", in("aws-snp-2026", "nitrotpm.cose"))
	same(t, dir, 1, "verify", "--json", "--snp-report", in("milan-vcek", "report.bin"), "--vek", in("milan-vcek", "vcek.der"), "--at", "2026-06-15T00:00:00Z")
}

// writeLog writes an audit log to DIR/log, whose key is DIR/log.pub, and gives a file of
// its records.
func writeLog(t *testing.T, dir string) (segment string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := audit.NewECDSASigner(auditKeyName, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := auditlog.Open(filepath.Join(dir, "log"), auditlog.Options{LogID: "test", Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		r := &audit.Record{Kind: audit.KindAdmin, Operation: fmt.Sprint("operation ", i), Result: audit.Allowed, Actor: "alice"}
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "log", "*.jsonl"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v: %v", found, err)
	}
	return found[0]
}
