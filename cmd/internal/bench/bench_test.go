package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/config"
)

// TestMain lets the test binary be the bare server, as the program itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == bareCommand {
		main()
		return
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the program that the tests measure.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// holdfastd builds the program once.
func holdfastd(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "bench-test-"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", built.dir, "holdfast/cmd/holdfastd").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "holdfastd")
}

// TestQuick measures with all real parts, and looks whether every figure is
// there; what they say of speed is for nobody.
func TestQuick(t *testing.T) {
	program, dir := holdfastd(t), t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("SOFTHSM2_CONF", "") // it is set in the run, and put back after it
	o, err := parse([]string{"--quick", "--holdfastd", program, "--out", filepath.Join(dir, "bench.json"),
		"--connections", "1,4", "--rate", "50", "--beside", program, "--markdown", filepath.Join(dir, "bench.md")})
	if err != nil {
		t.Fatal(err)
	}
	o.handled = 20
	var table, progress bytes.Buffer
	if err := run(t.Context(), o, &table, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	text, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	checkFigures(t, &r)
	markdown, err := os.ReadFile(o.markdown)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{r.Machine.Go, r.Machine.Kernel, "bare handler", "Targets"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
		if !strings.Contains(string(markdown), want) {
			t.Errorf("the Markdown lacks %q:\n%s", want, markdown)
		}
	}
	checkMarkdown(t, string(markdown))
	if left, err := filepath.Glob(filepath.Join(dir, "holdfast-bench-*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestToTouch(t *testing.T) {
	for _, c := range []struct{ used, others, unlocked, want int }{
		{100, 900, 0, 900}, {100, 900, 1000, 900}, {100, 900, 200, 300}, {100, 900, 50, 0}, {100, 900, 10, 0},
	} {
		if got := toTouch(c.used, c.others, c.unlocked); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestDifferent: what has the value of a default is not written, or a program of before a change would refuse what
// is new in it.
func TestDifferent(t *testing.T) {
	var c, defaults config.Config
	c.XKS.Address, c.Keys.MaxUnlocked = "127.0.0.1:8443", 77
	text, err := different(&c, &defaults)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), "[keys]\nmax_unlocked = 77\n\n[xks]\naddress = '127.0.0.1:8443'\n"; got != want {
		t.Errorf("got %q", got)
	}
}

// checkMarkdown: each row has as many cells as the one before it in its table.
func checkMarkdown(t *testing.T, text string) {
	t.Helper()
	cells, tables := 0, 0
	for line := range strings.SplitSeq(text, "\n") {
		n := strings.Count(line, "|")
		switch {
		case n > 0 && cells > 0 && n != cells:
			t.Errorf("a row has %d cells and the one before %d: %s", n, cells, line)
		case n > 0 && cells == 0:
			tables++
		}
		cells = n
	}
	if tables < 8 {
		t.Errorf("%d tables", tables)
	}
}

func checkFigures(t *testing.T, r *Result) {
	t.Helper()
	complete := func(what string, l Load) {
		if l.Requests == 0 || l.PerSecond <= 0 || l.P50 <= 0 || l.P99 < l.P50 || l.P999 < l.P99 || l.CPU <= 0 || l.Generator <= 0 {
			t.Errorf("%s: %+v", what, l)
		}
	}
	// The bare handler; four kinds of requests to three installations, two to that on a tmpfs, if there is one.
	if n := len(r.Series); n != 15 && n != 13 {
		t.Errorf("%d series", n)
	}
	if len(r.Handlers) != 3 || len(r.Starts) != 2 || len(r.Spreads) != 3 || len(r.Memory) < 4 || r.Random == nil || len(r.Targets) != 10 {
		t.Errorf("%d handlers, %d starts, %d spreads, %d of memory, at random %v, targets %+v", len(r.Handlers), len(r.Starts), len(r.Spreads), len(r.Memory), r.Random, r.Targets)
	}
	if d := r.Disk; d == nil || d.FileSystem == "" || d.Fdatasync.Writes == 0 || d.Fdatasync.P50 <= 0 || d.Dsync.P50 <= 0 {
		t.Errorf("disk: %+v", d)
	}
	for _, s := range r.Series {
		if s.Place != placeFar && len(s.Closed) != 2 || s.Place == placeFar && len(s.Closed) != 1 {
			t.Errorf("%s: %d numbers of connections", s.Name, len(s.Closed))
		}
		for _, c := range s.Closed {
			complete(s.Name, c.Load)
		}
		if s.Open != nil {
			complete(s.Name+" at a rate", *s.Open)
		} else if s.OpenMissing == "" {
			t.Errorf("%s: no figures at a rate and no reason", s.Name)
		}
	}
	for _, m := range r.Memory {
		if m.RSS <= 0 || m.Peak < m.RSS {
			t.Errorf("memory %+v", m)
		}
	}
	for _, h := range r.Handlers {
		if h.Allocs == 0 || h.Bytes == 0 || h.Micros <= 0 {
			t.Errorf("handler %+v", h)
		}
	}
	for _, s := range r.Starts {
		if s.Ready <= 0 || s.FirstEncrypt < s.Ready || s.RSS <= 0 || s.PeakRSS < s.RSS {
			t.Errorf("start %+v", s)
		}
	}
	for _, s := range r.Spreads {
		complete("spread", s.Load)
		if s.Ratio <= 0 {
			t.Errorf("spread %+v", s)
		}
	}
	if m := r.Random; m != nil {
		complete("first use of keys at random", m.Cold)
		complete("first use of the others", m.First)
		complete("keys at random", m.Warm)
		complete("ten keys", m.Few)
		if m.Touched != m.Keys || m.Ratio <= 0 || m.Start <= 0 || m.Peak < m.After || m.Cold.Requests+m.First.Requests != m.Keys {
			t.Errorf("at random: %+v", m)
		}
	}
	for _, target := range r.Targets {
		if target.Got == "" || target.Want == "" || target.Verdict == "" {
			t.Errorf("target %+v", target)
		}
	}
}

// listen serves the handler and gives how to connect to it.
func listen(t *testing.T, h http.HandlerFunc) (addr string, trust *tls.Config) {
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{RootCAs: roots}
}

var request = []byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")

func TestFailedRequestEndsTheLoad(t *testing.T) {
	addr, trust := listen(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no keys today", http.StatusForbidden) })
	g, err := connect(t.Context(), addr, trust, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	_, err = g.closedLoop([][]byte{request}, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "no keys today") {
		t.Errorf("got %v", err)
	}
}

// TestOpenLoopCountsFromWhenDue: while the server stalls on one request, those
// that are due meanwhile count as late.
func TestOpenLoopCountsFromWhenDue(t *testing.T) {
	const stall = 100 * time.Millisecond
	var stalled sync.Once
	addr, trust := listen(t, func(w http.ResponseWriter, _ *http.Request) {
		stalled.Do(func() { <-time.After(stall) })
		_, _ = io.WriteString(w, "ok")
	})
	g, err := connect(t.Context(), addr, trust, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	const duration = 50 * time.Millisecond
	times, err := g.openLoop([][]byte{request}, 1000, duration)
	if err != nil {
		t.Fatal(err)
	}
	if len(times) != 50 {
		t.Errorf("%d requests were sent instead of 50", len(times))
	}
	for i, took := range times {
		if took < stall-duration {
			t.Errorf("request %d took %s, though the server stalled for %s", i, took, stall)
		}
	}
}

// TestChildrenCount: what a module's process uses is the server's.
func TestChildrenCount(t *testing.T) {
	p, err := start("two shells", filepath.Join(t.TempDir(), "log"), "sh", "-c", `sh -c 'while :; do :; done' & trap 'kill $!' TERM; wait`)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	for {
		used, err := p.cpu()
		if err != nil {
			t.Fatal(err)
		}
		if used >= 10*clockTick {
			return // by the inner one: the outer one waits
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s of CPU time are counted in a minute of work", used)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{{"extra"}, {"--keys", "10,x"}, {"--keys", "5"}, {"--keys", "100,10"}, {"--rounds", "0"}, {"--rate", "-1"},
		{"--unlocked", "-1"}, {"--connections", "0"}, {"--connections", "8,1"}, {"--connections", "1,1"}, {"--connections", ""}, {"--only", "fast"}, {"--only", "cached,"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

// TestOnly: words of one kind add up, others leave alone what they are not about.
func TestOnly(t *testing.T) {
	all, some, part := mustOnly(t, ""), mustOnly(t, "Cached, encrypt,tmpfs,durable"), mustOnly(t, "keys")
	for _, c := range []struct {
		o     only
		words []string
		want  bool
	}{
		{all, []string{partKeys}, true},
		{all, []string{"hsm", "Decrypt", placeFar}, true},
		{some, []string{"cached", "Encrypt", placeDurable}, true},
		{some, []string{placeTmpfs}, true},
		{some, []string{placeFar}, false},
		{some, []string{"hsm"}, false},
		{some, []string{"cached", "Decrypt"}, false},
		{some, []string{partClosed}, true},
		{some, []string{partKeys}, false},
		{part, []string{partKeys}, true},
		{part, []string{partClosed}, false},
		{part, []string{partHandlers}, false},
	} {
		if got := c.o.has(c.words...); got != c.want {
			t.Errorf("%q has %q: %v", c.o, c.words, got)
		}
	}
}

func mustOnly(t *testing.T, text string) only {
	t.Helper()
	o, err := parseOnly(text)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
