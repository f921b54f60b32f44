package auditlog_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
	"holdfast/appliance/witness"
)

// until waits for what another goroutine brings about. The log tells nobody when
// it has done its housekeeping, so there is no event to wait for.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// signed waits until each record has a checkpoint. Time passes meanwhile: a checkpoint that
// is due in a moment would never come by a clock that stands.
func signed(t testing.TB, l *auditlog.Log, c *clock) {
	t.Helper()
	until(t, "checkpoints", func() bool {
		select {
		case <-c.asked:
			c.advance(time.Second)
		default:
		}
		return l.Status().Lag == 0
	})
}

// TestCheckpointTimes: a second after the first record without one, and not
// before.
func TestCheckpointTimes(t *testing.T) {
	c := newClock()
	o := c.options()
	o.CheckpointRecords, o.SegmentBytes = 1000, 1<<20
	var signed atomic.Int64
	o.OnCheckpoint = func([]byte) { signed.Add(1) }
	l := open(t, t.TempDir(), o)
	must(t, l.Append(t.Context(), record(0)))
	<-c.asked
	c.advance(999 * time.Millisecond)
	must(t, l.Append(t.Context(), record(1)))
	if s := l.Status(); s.Lag != 2 || s.LagTime != 999*time.Millisecond || signed.Load() != 1 {
		t.Fatalf("%+v", s)
	}
	c.advance(time.Millisecond)
	until(t, "the checkpoint after a second", func() bool { return l.Status().Checkpoint.Size == 2 })
	for i := range 1000 {
		must(t, l.Append(t.Context(), record(i)))
	}
	until(t, "the checkpoint after 1000 records", func() bool { return l.Status().Checkpoint.Size >= 1002 })
	if s := l.Status(); s.Checkpoint.Number != 2 || signed.Load() != 3 {
		t.Fatalf("%+v", s)
	}
}

// TestSegmentAge begins a segment when the last one is old, and signs at its
// end.
func TestSegmentAge(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := c.options()
	o.SegmentBytes, o.SegmentAge, o.CheckpointRecords, o.CheckpointAfter = 1<<20, time.Hour, 1000, 100*time.Hour
	l := open(t, dir, o)
	for range 3 {
		must(t, l.Append(t.Context(), record(0)))
		must(t, l.Append(t.Context(), record(0)))
		c.advance(time.Hour)
	}
	if n := len(segments(t, dir)); n != 3 {
		t.Fatalf("%d segments", n)
	}
	until(t, "the checkpoint at the end of the second segment", func() bool { return l.Status().Checkpoint.Size == 4 })
}

// TestRetention removes old segments; the log verifies still, and a removal by
// somebody else does not.
func TestRetention(t *testing.T) {
	for name, set := range map[string]func(*auditlog.Options){
		"bytes": func(o *auditlog.Options) { o.RetainBytes = 12_000 },
		"age":   func(o *auditlog.Options) { o.RetainAge = 30 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			o := c.options()
			set(&o)
			l := open(t, dir, o)
			must(t, l.Append(t.Context(), record(0)))
			early := got(l.Checkpoint())(t)
			mixed(t, l, c, 200)
			signed(t, l, c)
			if s := l.Status(); s.First <= 100 {
				t.Fatalf("what is old is not removed: %+v", s)
			}
			must(t, l.Close())
			r, err := verify(dir, audit.VerifyOptions{Checkpoint: early})
			must(t, err)
			if r.First == 0 || r.Unsigned != 0 || r.Records <= 201 || !strings.Contains(strings.Join(r.Notes, ""), "were removed by retention") {
				t.Fatalf("%+v", r)
			}
			if n := len(got(filepath.Glob(filepath.Join(dir, "*.index")))(t)); n >= len(segments(t, dir)) {
				t.Errorf("%d indexes of %d segments", n, len(segments(t, dir)))
			}
			found, _, err := audit.NewReader(dir).Search(t.Context(), audit.Query{Kind: audit.KindAudit})
			must(t, err)
			if len(found) == 0 || found[0].Operation != "RemoveSegments" {
				t.Fatalf("%+v", found)
			}
			if _, err := audit.InclusionProof(dir, 0); code(err) != fault.NotFound {
				t.Error(err)
			}
			in := got(audit.CheckInclusion(got(audit.InclusionProof(dir, r.First))(t), verifiers()))(t)
			if in.Record.Seq != r.First {
				t.Error(in)
			}
			l = open(t, dir, c.options()) // which retains nothing more
			must(t, l.Append(t.Context(), record(0)))
			must(t, l.Close())
			_, err = verify(dir, audit.VerifyOptions{})
			must(t, err)

			tree := filepath.Join(dir, "tree")
			whole := read(t, tree)
			for i := 0; i < 32*2*int(r.First); i += 16 { // of the removed records
				b := append([]byte{}, whole...)
				b[i] ^= 1
				write(t, tree, b)
				// Most of these hashes are needed no more; those that are give no root.
				if r, err := verify(dir, audit.VerifyOptions{}); err != nil &&
					!slices.Contains([]fault.Code{fault.AuditEdited, fault.AuditTree, fault.AuditCheckpointMismatch}, r.Broken.Code) {
					t.Fatal(err)
				}
			}
			write(t, tree, whole)
			must(t, os.Remove(segments(t, dir)[0]))
			if _, err := verify(dir, audit.VerifyOptions{}); code(err) != fault.AuditSegmentMissing {
				t.Errorf("one more segment is gone: %v", err)
			}
		})
	}
}

// TestRetentionFails: a segment that cannot be removed is tried again, and is
// not logged again.
func TestRetentionFails(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := c.options()
	o.RetainBytes = 12_000
	l := open(t, dir, o)
	for i := range 8 {
		must(t, l.Append(t.Context(), record(i)))
	}
	// A directory with something in it cannot be removed as a file is.
	index := segments(t, dir)[0] + ".index"
	must(t, os.MkdirAll(index+"/x", 0o700))
	mixed(t, l, c, 60)
	signed(t, l, c)
	if l.Status().First != 0 {
		t.Fatalf("%+v", l.Status())
	}
	must(t, os.RemoveAll(index))
	mixed(t, l, c, 10)
	until(t, "retention", func() bool { return l.Status().First > 0 })
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if found := everything(t, audit.NewReader(dir), audit.Query{Kind: audit.KindAudit}); len(found) > 20 {
		t.Errorf("%d records of retention", len(found))
	}
}

// slowSigner signs when it is let, or fails.
type slowSigner struct {
	*audit.ECDSASigner
	entered chan struct{}
	let     chan error
}

func (s slowSigner) Sign(msg []byte) ([]byte, error) {
	s.entered <- struct{}{}
	if err := <-s.let; err != nil {
		return nil, err
	}
	return s.ECDSASigner.Sign(msg)
}

// TestSignerDoesNotHoldUp: while a signature is made, and after one failed,
// records are logged.
func TestSignerDoesNotHoldUp(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := slowSigner{signer(), make(chan struct{}, 100), make(chan error, 100)}
	o := c.options()
	o.Signer = s
	s.let <- nil
	l := open(t, dir, o)
	<-s.entered
	for i := range 5 {
		must(t, l.Append(t.Context(), record(i)))
	}
	<-s.entered // a signature has begun
	for i := range 20 {
		must(t, l.Append(t.Context(), record(i)))
	}
	if st := l.Status(); st.Lag != 25 {
		t.Fatalf("%+v", st)
	}
	s.let <- errors.New("the TPM is busy")
	until(t, "the failure in the status", func() bool { return strings.Contains(l.Status().Signer, "the TPM is busy") })
	must(t, l.Append(t.Context(), record(0)))
	for range 90 {
		s.let <- nil
	}
	c.advance(time.Second)
	until(t, "the checkpoint after the failure", func() bool { st := l.Status(); return st.Signer == "" && st.Lag == 0 })
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
}

// TestRetentionIsWitnessed: a wall clock that is a year ahead removes no segment before
// the witness says so as well.
func TestRetentionIsWitnessed(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := c.options()
	o.SegmentBytes, o.RetainAge, o.CheckpointRecords = 4000, 24*time.Hour, 1
	var ahead atomic.Bool
	began := o.Now()
	o.Witnessed = func() time.Time {
		if ahead.Load() {
			return began.Add(1000 * 24 * time.Hour)
		}
		return began
	}
	l := open(t, dir, o)
	for i := range 40 {
		must(t, l.Append(t.Context(), record(i)))
	}
	n := len(segments(t, dir))
	c.advance(365 * 24 * time.Hour)
	must(t, l.Append(t.Context(), record(0)))
	got(l.Checkpoint())(t)
	must(t, l.Append(t.Context(), record(0)))
	until(t, "the next checkpoint", func() bool { return l.Status().Lag == 0 })
	if left := len(segments(t, dir)); n < 3 || left < n {
		t.Fatalf("%d segments are left of %d", left, n)
	}
	ahead.Store(true)
	must(t, l.Append(t.Context(), record(0)))
	until(t, "retention", func() bool { return len(segments(t, dir)) < n })
}

// TestRetentionAfterAJump: a clock that is a year ahead for three days has no more than the
// records of six days removed, not all that there are; the first look at the wrong clock
// removes nothing.
func TestRetentionAfterAJump(t *testing.T) {
	const day = 24 * time.Hour
	dir, c := t.TempDir(), newClock()
	var elapsed time.Duration
	w := witness.New(c.Now, witness.Source{Name: "running", Elapsed: func() (time.Duration, error) { return elapsed, nil }})
	w.Begin(c.Now())
	o := c.options()
	o.SegmentBytes, o.SegmentAge, o.RetainAge, o.CheckpointRecords = 1<<20, day, 30*day, 1
	o.Witnessed = w.Now
	l := open(t, dir, o)
	pass := func(days int) {
		for range 2 * days {
			elapsed += day / 2
			c.advance(day / 2)
			w.Look()
			must(t, l.Append(t.Context(), record(0)))
			got(l.Checkpoint())(t)
		}
	}
	settled := func() time.Time { // retention runs before the keeper signs again
		for range 3 {
			must(t, l.Append(t.Context(), record(0)))
			until(t, "the next checkpoint", func() bool { return l.Status().Lag == 0 })
		}
		for cursor := ""; ; {
			page, next, err := audit.NewReader(dir).Search(t.Context(), audit.Query{Limit: 1000, Cursor: cursor})
			must(t, err)
			if cursor = next; next == "" {
				return page[len(page)-1].Time
			}
		}
	}
	pass(60)
	kept := settled()
	if age := c.Now().Sub(kept); age < 30*day || age > 33*day {
		t.Fatalf("records of %v are kept", age)
	}
	c.advance(365 * day)
	w.Look()
	if now := settled(); !now.Equal(kept) {
		t.Errorf("the first look removes what is before %v, and the oldest was of %v", now, kept)
	}
	pass(3)
	if now := settled(); now.Sub(kept) > 7*day {
		t.Errorf("the clock was ahead for 3 days, and the records of %v are removed", now.Sub(kept))
	}
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
}
