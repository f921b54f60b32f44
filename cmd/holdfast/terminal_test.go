package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
)

// evil is what requests, files and other computers may have in their names.
const evil = "\x1b[2J\x1b]0;title\a\x7f\u009b31m\u202egnp\u2066\u200b\u2028\U000e0041 ä"

// onTerminal runs the program on a terminal, and gives what the terminal got.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	control, tty := openTerminal(t)
	cmd := program(t, args...)
	cmd.Stdout, cmd.Stderr = tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	var out bytes.Buffer
	_, _ = io.Copy(&out, control) // EIO when the program has ended
	_ = cmd.Wait()                // some of the calls fail
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

// openTerminal gives both ends of a terminal.
func openTerminal(t *testing.T) (control, tty *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return control, tty
}

// program is the tool, which this test's binary is if it is called so.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{Path: self, Args: append([]string{"holdfast"}, args...), Dir: t.TempDir()}
}

// evilLog makes an audit log whose record has, in each of its texts, what steers
// terminals.
func evilLog(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	private, _, err := note.GenerateKey(nil, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	log, err := auditlog.Open(dir, auditlog.Options{LogID: "log", Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	r := &audit.Record{}
	for i, v := 0, reflect.ValueOf(r).Elem(); i < v.NumField(); i++ {
		switch f := v.Field(i); {
		case f.Kind() == reflect.String:
			f.SetString(evil)
		case f.Type() == reflect.TypeFor[[]string]():
			f.Set(reflect.ValueOf([]string{evil}))
		}
	}
	r.Kind, r.Result = audit.KindXKS, audit.Denied
	if err := log.Append(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOnATerminal: nothing of a foreign text does something to the terminal: of records,
// proofs, files and paths, in results, errors and JSON.
func TestOnATerminal(t *testing.T) {
	dir, files := evilLog(t), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write(evil+".toml", "[xks]\naddress = \""+strings.ReplaceAll(evil, "\x1b", `\u001b`)+"\"\n'"+evil+"' = 1\n")
	named := write(evil, evil)
	for name, args := range map[string][]string{
		"tail":          {"audit", "tail", dir},
		"tail, JSON":    {"audit", "tail", dir, "--json"},
		"search":        {"audit", "search", dir},
		"export, jsonl": {"audit", "export", dir},
		"export, CSV":   {"audit", "export", dir, "--format", "csv"},
		"proof":         {"audit", "proof", "0", dir},
		"folder":        {"audit", "tail", filepath.Join(dir, evil)},
		"key":           {"audit", "verify", dir, "--key", named},
		"evidence":      {"audit", "verify", dir, "--evidence", named},
		"configuration": {"config", "check", config},
		"show":          {"config", "show", config},
		"error, JSON":   {"config", "show", config, "--json"},
		"command":       {"audit", evil},
		"flag":          {"audit", "--" + evil},
		"value":         {"audit", "search", dir, "--from", evil},
		"socket":        {"--socket", filepath.Join(dir, evil), "status"},
		"server":        {"--server", "https://" + evil, "status"},
		"help":          {"help", evil},
		"verification":  {"verify", named},
		"policy":        {"policy", "show", named},
	} {
		got := onTerminal(t, args...)
		if at := strings.IndexFunc(got, func(r rune) bool { return r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }); at >= 0 || got == "" {
			t.Errorf("%s: the terminal gets %q", name, got)
		}
	}
}

// TestExportIsExact: a pipe gets the records as they were signed.
func TestExportIsExact(t *testing.T) {
	dir := evilLog(t)
	segments, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	want, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := program(t, "audit", "export", dir).Output()
	if err != nil || !bytes.Equal(got, bytes.TrimRight(want, "\x00")) || !bytes.Contains(got, []byte("\u202e")) {
		t.Errorf("%v: %q\nwant %q", err, got, want)
	}
}
