package auditlog_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// state gives a head of the appliance's state.
func state(n uint64) audit.StateHead {
	d := sha256.Sum256(fmt.Append(nil, n))
	return audit.StateHead{Sequence: n, Digest: hex.EncodeToString(d[:]), At: time.Date(2026, 11, 1, 0, 0, int(n), 5000, time.UTC)}
}

// TestTold: the next checkpoint names the head that the log was told, also if no record comes;
// later ones name it again, and so does the log when it is opened anew.
func TestTold(t *testing.T) {
	c, dir := newClock(), t.TempDir()
	o := c.options()
	l := open(t, dir, o)
	told := func(want uint64, notes int64) {
		t.Helper()
		h, since := l.Told()
		if s := l.Status(); h.Sequence != want || s.Checkpoint.State != h || s.Checkpoint.Number != notes || want > 0 && since.IsZero() {
			t.Errorf("it knows %+v since %s: %+v", h, since, s.Checkpoint)
		}
	}
	told(0, 0)
	must(t, l.Append(t.Context(), record(0)))
	l.Tell(state(3))
	told(0, 0)
	until(t, "the checkpoint", func() bool { c.advance(time.Second); return l.Status().Checkpoint.Number > 0 })
	told(3, 1)
	l.Tell(state(3))
	l.Tell(state(4))
	l.Tell(state(5))
	until(t, "a checkpoint without a record", func() bool { c.advance(time.Second); return l.Status().Checkpoint.Number > 1 })
	told(5, 2)
	must(t, l.Append(t.Context(), record(1)))
	got(l.Checkpoint())(t)
	told(5, 3)
	l.Tell(state(6))
	got(l.Checkpoint())(t)
	told(6, 4)
	l.Tell(state(7))
	must(t, l.Close())
	l = open(t, dir, o)
	told(7, 5)
	must(t, l.Append(t.Context(), record(2)))
	got(l.Checkpoint())(t)
	told(7, 6)
	must(t, l.Close())
	r, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.Newest.State != state(7) || r.Checkpoints != 7 {
		t.Errorf("%+v", r)
	}
}

// TestToldIsTorn: a checkpoint that was not written whole is as if the log was not told.
func TestToldIsTorn(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, options())
	for n := range uint64(3) {
		l.Tell(state(n + 1))
		got(l.Checkpoint())(t)
	}
	must(t, l.Close())
	file := filepath.Join(dir, audit.CheckpointsName)
	whole := read(t, file)
	last := strings.LastIndex(string(whole), "holdfast-audit/")
	for cut := last; cut < len(whole)-1; cut += 7 {
		write(t, file, whole[:cut])
		l := open(t, dir, options())
		if h, _ := l.Told(); h.Sequence != 2 {
			t.Errorf("cut at %d of %d: %+v", cut-last, len(whole)-last, h)
		}
		must(t, l.Close())
		_, err := verify(dir, audit.VerifyOptions{})
		must(t, err)
	}
}

// TestStatesGoOn: a log whose signed checkpoints go back to an earlier state, to none, or to
// another one of the same number is not whole.
func TestStatesGoOn(t *testing.T) {
	other := state(3)
	other.Digest = state(9).Digest
	for name, c := range map[string]struct {
		then audit.StateHead
		code fault.Code
	}{
		"later": {state(4), ""}, "the same": {state(3), fault.AuditOrder}, "earlier": {state(2), fault.AuditState},
		"none": {audit.StateHead{}, fault.AuditState}, "another of the number": {other, fault.AuditState},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, options())
			l.Tell(state(3))
			must(t, l.Close())
			n := &audit.Checkpoint{LogID: "test", Number: 2, Time: time.Now().UTC().Truncate(time.Microsecond), Root: got(tlog.TreeHash(0, nil))(t), State: c.then}
			signed := got(audit.SignCheckpoint(n, signer()))(t)
			f := got(os.OpenFile(filepath.Join(dir, audit.CheckpointsName), os.O_APPEND|os.O_WRONLY, 0))(t)
			got(f.Write(append(signed, '\n')))(t)
			must(t, f.Close())
			if _, err := verify(dir, audit.VerifyOptions{}); code(err) != c.code {
				t.Errorf("%v, want %q", err, c.code)
			}
		})
	}
}

// TestStateLines: a checkpoint has one form only.
func TestStateLines(t *testing.T) {
	d := state(1).Digest
	for name, line := range map[string]string{
		"a word too many": "state 1 " + d + " 2026-11-01T00:00:00.000000Z x", "no time": "state 1 " + d, "another word": "stat 1 " + d + " 2026-11-01T00:00:00.000000Z",
		"number 0": "state 0 " + d + " 2026-11-01T00:00:00.000000Z", "a zero before": "state 01 " + d + " 2026-11-01T00:00:00.000000Z",
		"too high": "state 9223372036854775807 " + d + " 2026-11-01T00:00:00.000000Z", "negative": "state -1 " + d + " 2026-11-01T00:00:00.000000Z",
		"a short digest": "state 1 " + d[2:] + " 2026-11-01T00:00:00.000000Z", "capitals": "state 1 " + strings.ToUpper(d) + " 2026-11-01T00:00:00.000000Z",
		"a short time": "state 1 " + d + " 2026-11-01T00:00:00Z", "two": "state 1 " + d + " 2026-11-01T00:00:00.000000Z\nstate 1 " + d + " 2026-11-01T00:00:00.000000Z",
	} {
		c := audit.Checkpoint{LogID: "test", Time: time.Now().UTC()}
		text := string(got(audit.SignCheckpoint(&c, signer()))(t))
		text, _, _ = strings.Cut(text, "\n\n")
		if _, err := audit.UnverifiedCheckpoint([]byte(text + "\n" + line + "\n\n— x y\n")); code(err) != fault.AuditCheckpointForged {
			t.Errorf("%s: %v", name, err)
		}
	}
}
