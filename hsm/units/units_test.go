package units

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// systemctl keeps what is asked of systemd; the real one is asked in the booted image.
type systemctl struct {
	calls []string
	err   error
}

func (s *systemctl) run(_ context.Context, arguments ...string) error {
	s.calls = append(s.calls, strings.Join(arguments, " "))
	return s.err
}

// served gives a launcher's question to a manager, as the socket of the image does.
func served(t *testing.T, m Manager) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			_ = m.Answer(context.Background(), c) // who asks is told
		}
	}()
	return socket
}

func member() Member {
	return Member{Number: 2, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.4.0/24"), netip.MustParsePrefix("fd00::7/128")}, Write: []string{"/run/tokens"},
		MemoryBytes: 1 << 30, Settings: json.RawMessage(`{"rules":{}}`)}
}

// TestPrepare: the units of a member have what it may do, and are read by systemd when that changes.
func TestPrepare(t *testing.T) {
	s := &systemctl{}
	m := Manager{Units: t.TempDir(), Settings: t.TempDir(), Systemctl: s.run}
	socket := served(t, m)
	if err := ask(t.Context(), socket, member()); err != nil {
		t.Fatal(err)
	}
	const start = "start holdfast-module@2-a.socket holdfast-module@2-b.socket"
	if want := []string{"daemon-reload", "stop holdfast-module@2-a.service holdfast-module@2-b.service", start}; !slices.Equal(s.calls, want) {
		t.Errorf("%q", s.calls)
	}
	for _, name := range []string{"2-a", "2-b"} {
		text, err := os.ReadFile(filepath.Join(m.Units, "holdfast-module@"+name+".service.d", "50-member.conf"))
		if want := "[Service]\nUser=holdfast-module-2\nMemoryMax=1073741824\nIPAddressAllow=10.0.4.0/24\nIPAddressAllow=fd00::7/128\nReadWritePaths=-/run/tokens\n"; err != nil || string(text) != want {
			t.Errorf("%v %s", err, text)
		}
		if text, err := os.ReadFile(filepath.Join(m.Settings, name+".json")); err != nil || string(text) != `{"rules":{}}` {
			t.Errorf("%v %s", err, text)
		}
	}
	s.calls = nil
	if err := ask(t.Context(), socket, member()); err != nil || !slices.Equal(s.calls, []string{start}) {
		t.Errorf("the same again: %v, %q", err, s.calls)
	}
	s.calls = nil
	other := member()
	other.Addresses = nil
	if err := ask(t.Context(), socket, other); err != nil || len(s.calls) != 3 {
		t.Errorf("others: %v, %q", err, s.calls)
	}
	s.err = errors.New("systemctl start: no such unit")
	if err := ask(t.Context(), socket, other); err == nil || !strings.Contains(err.Error(), "no such unit") {
		t.Errorf("systemd refuses: %v", err)
	}
}

// TestQuestions: whatever could write another line into a unit, or is without bounds, changes nothing.
func TestQuestions(t *testing.T) {
	good, err := json.Marshal(member())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"null":             "null",
		"an empty one":     "{}",
		"no JSON":          "{",
		"two":              string(good) + string(good),
		"an unknown field": strings.Replace(string(good), `{`, `{"user":"root",`, 1),
		"member 0":         strings.Replace(string(good), `"number":2`, `"number":0`, 1),
		"member -1":        strings.Replace(string(good), `"number":2`, `"number":-1`, 1),
		"member 65":        strings.Replace(string(good), `"number":2`, `"number":65`, 1),
		"no address":       strings.Replace(string(good), `"10.0.4.0/24"`, `""`, 1),
		"a name":           strings.Replace(string(good), `"10.0.4.0/24"`, `"localhost"`, 1),
		"a zone":           strings.Replace(string(good), `"10.0.4.0/24"`, `"fe80::1%eth0/64"`, 1),
		"too many":         strings.Replace(string(good), `"10.0.4.0/24"`, strings.Repeat(`"10.0.4.0/24",`, maxAddresses)+`"10.0.4.0/24"`, 1),
		"a line":           strings.Replace(string(good), `/run/tokens`, `/run/tokens\nExecStartPre=+/bin/sh`, 1),
		"a space":          strings.Replace(string(good), `/run/tokens`, `/run/to kens`, 1),
		"a specifier":      strings.Replace(string(good), `/run/tokens`, `/run/%n`, 1),
		"a relative path":  strings.Replace(string(good), `/run/tokens`, `run/tokens`, 1),
		"a way up":         strings.Replace(string(good), `/run/tokens`, `/run/../etc`, 1),
		"all files":        strings.Replace(string(good), `/run/tokens`, `/`, 1),
		"no memory":        strings.Replace(string(good), `1073741824`, `0`, 1),
		"no settings":      strings.Replace(string(good), `,"settings":{"rules":{}}`, ``, 1),
		"large":            strings.Replace(string(good), `{"rules":{}}`, `"`+strings.Repeat("x", maxQuestion)+`"`, 1),
	} {
		if text == string(good) {
			t.Fatalf("%s: the case changes nothing", name)
		}
		s := &systemctl{}
		m := Manager{Units: t.TempDir(), Settings: t.TempDir(), Systemctl: s.run}
		err := m.answer(t.Context(), strings.NewReader(text+"\n"))
		files, _ := filepath.Glob(m.Units + "/*")
		more, _ := filepath.Glob(m.Settings + "/*")
		if err == nil || len(s.calls)+len(files)+len(more) > 0 {
			t.Errorf("%s: %v, %q %q %q", name, err, s.calls, files, more)
		}
	}
}

// TestNobodyThere: without the image's units the error says what is missing; a manager that ends is told.
func TestNobodyThere(t *testing.T) {
	l := new(Pool).Launcher(member())
	l.manager = filepath.Join(t.TempDir(), "none")
	if _, err := l.Start(t.Context(), "token t", 1); err == nil || !strings.Contains(err.Error(), "is holdfast-units.socket active?") || !strings.Contains(err.Error(), "token t") {
		t.Error(err)
	}
	silent := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	l.manager = silent
	if _, err := l.Start(t.Context(), "token t", 1); err == nil {
		t.Error("a manager that ends")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(ended, silent, member()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestPool: the units of a member are the same for all who start its processes.
func TestPool(t *testing.T) {
	p, other := &Pool{}, member()
	other.Number = 3
	if a, b, c := p.Launcher(member()), p.Launcher(member()), p.Launcher(other); a.unit != b.unit || a.unit == c.unit {
		t.Error(a.unit, b.unit, c.unit)
	}
}

// FuzzQuestion: what can be read has bounds, and gives a unit of lines that the manager wrote.
func FuzzQuestion(f *testing.F) {
	good, err := json.Marshal(member())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := read(text)
		if err != nil {
			return
		}
		for i, line := range bytes.Split(bytes.TrimSuffix(unit(w), []byte("\n")), []byte("\n")) {
			key, value, _ := strings.Cut(string(line), "=")
			if i > 0 && (!slices.Contains([]string{"User", "MemoryMax", "IPAddressAllow", "ReadWritePaths"}, key) || value == "" || strings.ContainsAny(value, " \t\r%\\\"'")) {
				t.Fatalf("%q", line)
			}
		}
	})
}

// TestEnded: the words of systemd become those of the appliance, and name no other file.
func TestEnded(t *testing.T) {
	folder := t.TempDir()
	for _, c := range [][4]string{
		{"signal", "killed", "SEGV", "crashed it crashed: signal SIGSEGV"}, {"core-dump", "dumped", "ABRT", "crashed it crashed: signal SIGABRT"}, {"signal", "killed", "KILL", "killed signal SIGKILL ended it"},
		{"exit-code", "exited", "3", "exited it exited by itself, with status 3"}, {"success", "exited", "0", "exited it exited by itself, with status 0"},
		{"watchdog", "killed", "KILL", "stopped it did not answer its unit's watchdog"}, {"oom-kill", "killed", "KILL", "killed the kernel ended it, as its unit was out of memory"}, {"timeout", "killed", "KILL", "killed it did not end in time"},
		{"", "", "", "ended its unit ended with"},
	} {
		if err := Ended(folder, "1-a", c[0], c[1], c[2]); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(folder, "1-a.end"))
		if err != nil || !strings.HasPrefix(string(text), c[3]) || !strings.HasSuffix(string(text), "\n") {
			t.Errorf("%q: %v %q", c, err, text)
		}
	}
	for _, name := range []string{"", "../1-a", "1-c", "1-a.end", "0-a", "100-a", "1-a\n"} {
		if err := Ended(folder, name, "signal", "killed", "SEGV"); err == nil {
			t.Errorf("%q", name)
		}
	}
}
