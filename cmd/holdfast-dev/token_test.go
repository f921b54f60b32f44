package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/hsm/softhsm"
	"holdfast/web/operation"
)

// TestHSMSettings: what [hsm] of --config says holds, and the tokens that it names are made with one
// master key.
func TestHSMSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "dev.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`[hsm]
max_sessions = 3
lease = "7m"
[[hsm.members]]
token_label = "second"
[[hsm.members]]
token_label = "third"
max_sessions = 2
`)
	state := filepath.Join(dir, "dev")
	p := start(t, state, "--config", file)
	for _, label := range []string{"holdfast-dev", "second", "third"} {
		if want := "made the SoftHSM2 token \"" + label + "\", which [hsm] names\n"; !strings.Contains(p.printed, want) {
			t.Errorf("it does not print %q: %s", want, p.printed)
		}
	}
	var status operation.Status
	p.do(http.MethodGet, "status", nil, &status)
	if len(status.HSMs) != 3 {
		t.Fatalf("it has %d HSMs", len(status.HSMs))
	}
	if s := status.LeaseSeconds; s < 6*60 || s > 7*60 {
		t.Errorf("the lease has %d s left, and was set to 7m", s)
	}
	for i, h := range status.HSMs {
		if want := []int{3, 3, 2}[i]; h.MaxSessions != want || h.Dialect != "standard" {
			t.Errorf("%s has at most %d sessions, want %d, and dialect %q", h.Label, h.MaxSessions, want, h.Dialect)
		}
		if h.Error != "" {
			t.Errorf("%s is not well: %s", h.Label, h.Error)
		}
	}
	p.stop()

	// One more member is made from the file's key; nothing else is made.
	write(`[hsm]
[[hsm.members]]
token_label = "second"
[[hsm.members]]
token_label = "fourth"
`)
	p = start(t, state, "--config", file)
	if n := strings.Count(p.printed, "made the SoftHSM2 token"); n != 1 || !strings.Contains(p.printed, `"fourth"`) {
		t.Errorf("it made %d tokens: %s", n, p.printed)
	}
	p.stop()

	// What cannot be had is said in one line.
	module, err := softhsm.Find()
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct{ text, want string }{
		{"[hsm]\nmodule = \"/nowhere/libhsm.so\"\n", `[hsm]: token "holdfast-dev": the module /nowhere/libhsm.so cannot be used: stat /nowhere/libhsm.so: no such file`},
		{"[[hsm.members]]\nmodule = \"/nowhere/libhsm.so\"\ntoken_label = \"x\"\n", `[hsm]: token "x": the module /nowhere/libhsm.so cannot be used`},
		{"[[hsm.members]]\nmodule = \"" + module + "\"\ntoken_serial = \"17\"\n", "name it by token_label"},
		{"[hsm]\ndialect = \"cloud\"\n", "is none of standard"},
	} {
		write(c.text)
		if got := refusal(t, "--dir", state, "--config", file); !strings.Contains(got, c.want) {
			t.Errorf("%s: it printed %q, want %q", c.text, got, c.want)
		}
	}
	write("[[hsm.members]]\ntoken_label = \"second\"\n")
	if got := refusal(t, "--dir", filepath.Join(dir, "fleet"), "--nodes", "2", "--config", file); !strings.Contains(got, "[[hsm.members]] is for one machine here") {
		t.Errorf("it printed %q", got)
	}
	fresh := filepath.Join(dir, "fresh")
	start(t, fresh).stop()
	if got := refusal(t, "--dir", fresh, "--config", file); !strings.Contains(got, "[[hsm.members]]: the first token has a master key already, which cannot be copied to others") {
		t.Errorf("it printed %q", got)
	}
}

// refusal is what it prints when it does not start.
func refusal(t *testing.T, args ...string) string {
	t.Helper()
	cmd := command(t, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil {
		t.Error("it started")
	}
	return stderr.String()
}
