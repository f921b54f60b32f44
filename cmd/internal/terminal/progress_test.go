package terminal

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// TestProgress: elsewhere than at a terminal a line comes every five seconds, and none for what
// is short; at a terminal one line changes, and is gone in the end.
func TestProgress(t *testing.T) {
	t.Setenv("TERM", "xterm")
	now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	run := func(w io.Writer, unit Unit) {
		p := newProgress(w, "making \x1b[2Jgrants", unit, clock)
		for _, done := range []int64{0, 1000, 2000, 4000} {
			p.At(done, 4000)
			p.tell()
			p.tell() // too soon
			now = now.Add(4 * time.Second)
		}
		p.tell()
		p.End()
	}
	var plain bytes.Buffer
	run(&plain, Items)
	want := "making \\u001b[2Jgrants: 2000 of 4000 (50 %), 8s left\nmaking \\u001b[2Jgrants: 4000 of 4000 (100 %)\n"
	if plain.String() != want {
		t.Errorf("elsewhere it says\n%swant\n%s", plain.String(), want)
	}
	var device bytes.Buffer
	run(&lines{w: &device}, Items)
	shown := device.String()
	if strings.Contains(shown, "\n") || strings.Contains(shown, "\x1b") || !strings.Contains(shown, "\rmaking \\u001b[2Jgrants: 1000 of 4000 (25 %), 12s left") {
		t.Errorf("at a terminal it says %q", shown)
	}
	if last := shown[strings.LastIndex(shown[:len(shown)-1], "\r"):]; strings.Trim(last, " \r") != "" {
		t.Errorf("in the end the line still says %q", last)
	}

	t.Run("short", func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, "a backup", Octets)
		_, _ = p.Writer(io.Discard).Write(make([]byte, 100))
		p.End()
		p.End() // does no harm
		if out.Len() > 0 {
			t.Errorf("short work says %q", out.String())
		}
	})
	t.Run("unknown", func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, "a backup", Octets, clock)
		now = now.Add(6 * time.Second)
		p.tell()
		_, _ = io.Copy(io.Discard, p.Reader(bytes.NewReader(make([]byte, 3<<20)), 0))
		now = now.Add(6 * time.Second)
		p.tell()
		if want := "a backup: 6s so far\na backup: 3.0 MiB, 12s so far\n"; out.String() != want {
			t.Errorf("it says %q, want %q", out.String(), want)
		}
		(*Progress)(nil).At(1, 2)
		(*Progress)(nil).Add(1)
		(*Progress)(nil).End()
	})
}
