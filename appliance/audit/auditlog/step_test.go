package auditlog_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// stepsOf gives the records of a log that say that the clock was set, the oldest first.
func stepsOf(t *testing.T, dir string) (steps []*audit.Record) {
	t.Helper()
	all, _, err := audit.NewReader(dir).Search(t.Context(), audit.Query{Kind: audit.KindAudit, Limit: 1000})
	must(t, err)
	for _, r := range slices.Backward(all) {
		if r.Operation == audit.ClockStepped {
			steps = append(steps, r)
		}
	}
	return steps
}

func timeIn(t *testing.T, text json.RawMessage) time.Time {
	t.Helper()
	var v struct{ Time time.Time }
	must(t, json.Unmarshal(text, &v))
	return v.Time
}

// TestClockSetBack: a record has the time of the wall clock, also when that was set back;
// a record before it says so. Within a second the time of the record before stands.
func TestClockSetBack(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	l := open(t, dir, c.options())
	r := record(0)
	must(t, l.Append(t.Context(), r))
	first := r.Time
	c.advance(-time.Second)
	must(t, l.Append(t.Context(), r))
	if !r.Time.Equal(first) || r.Seq != 1 {
		t.Errorf("a second back: record %d of %v", r.Seq, r.Time)
	}
	c.advance(-time.Hour)
	must(t, l.Append(t.Context(), r))
	if want := first.Add(-time.Hour - time.Second); !r.Time.Equal(want) || r.Seq != 3 {
		t.Errorf("an hour back: record %d of %v, want 3 of %v", r.Seq, r.Time, want)
	}
	c.advance(time.Minute)
	must(t, l.Append(t.Context(), r))
	must(t, l.Close())
	c.advance(-time.Hour)
	l = open(t, dir, c.options())
	must(t, l.Append(t.Context(), r))
	if want := first.Add(-2*time.Hour + time.Minute - time.Second); !r.Time.Equal(want) || r.Seq != 6 {
		t.Errorf("back over a restart: record %d of %v, want 6 of %v", r.Seq, r.Time, want)
	}
	must(t, l.Close())
	report, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if !strings.Contains(strings.Join(report.Notes, " "), "The clock was set 2 times") {
		t.Errorf("%q", report.Notes)
	}
	steps := stepsOf(t, dir)
	if len(steps) != 2 || steps[0].Seq != 2 || !timeIn(t, steps[0].Before).Equal(first) || !timeIn(t, steps[0].After).Equal(steps[0].Time) || steps[1].Seq != 5 {
		t.Errorf("%+v", steps)
	}
}

// TestClockSetForward: a clock that is a year ahead for a while leaves that time in the
// records of that while alone.
func TestClockSetForward(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := c.options()
	var elapsed time.Duration
	o.Elapsed = func() time.Duration { return elapsed }
	o.MaxUnsignedTime = 10 * 365 * 24 * time.Hour // by the clock of the test; the real one has a monotonic reading
	l := open(t, dir, o)
	pass := func(d time.Duration) {
		elapsed += d
		c.advance(d)
	}
	r := record(0)
	write := func() time.Time {
		t.Helper()
		must(t, l.Append(t.Context(), r))
		return r.Time
	}
	const year = 365 * 24 * time.Hour
	began := write()
	pass(48 * time.Hour) // nothing for two days is no step
	write()
	c.advance(59 * time.Second) // nor is what adjusts a clock
	c.advance(-59 * time.Second)
	c.advance(year)
	pass(time.Minute)
	if ahead := write(); !ahead.Equal(began.Add(year + 48*time.Hour + time.Minute)) {
		t.Errorf("%v", ahead)
	}
	pass(time.Minute)
	write()
	c.advance(-year)
	pass(time.Minute)
	if now := write(); !now.Equal(began.Add(48*time.Hour + 3*time.Minute)) {
		t.Errorf("the time of the future stays: %v", now)
	}
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	steps := stepsOf(t, dir)
	if len(steps) != 2 || !timeIn(t, steps[0].Before).Equal(began.Add(48*time.Hour+time.Minute)) || !strings.Contains(steps[0].Detail, "forward by 8760h") || !strings.Contains(steps[1].Detail, "back by 8760h") {
		t.Errorf("%+v", steps)
	}
}

// TestClockStepIsNotLost: the record that says that the clock was set is written with the
// record after it, or again with the next one.
func TestClockStepIsNotLost(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	l := open(t, dir, c.options())
	must(t, l.Append(t.Context(), record(0)))
	must(t, l.Close())
	o := c.options()
	o.ReserveBytes = 1 << 60 // so that only what is urgent is written
	c.advance(-time.Hour)
	l = open(t, dir, o)
	for range 2 {
		if err := l.Append(t.Context(), record(1)); code(err) != fault.AuditNoSpace {
			t.Fatal(err)
		}
	}
	long := record(2)
	long.Detail = strings.Repeat("x", audit.MaxLine)
	if err := l.AppendUrgent(t.Context(), long); code(err) != fault.Invalid {
		t.Fatal(err)
	}
	must(t, l.AppendUrgent(t.Context(), record(2)))
	must(t, l.AppendUrgent(t.Context(), record(3)))
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if steps := stepsOf(t, dir); len(steps) != 1 || steps[0].Seq != 1 {
		t.Errorf("%+v", steps)
	}
	l = open(t, dir, c.options())
	if err := l.Append(t.Context(), steps()); code(err) != fault.Invalid {
		t.Errorf("somebody else says that the clock was set: %v", err)
	}
}

func steps() *audit.Record {
	return &audit.Record{Kind: audit.KindAudit, Operation: audit.ClockStepped, Result: audit.Allowed}
}

// TestSearchAmongSteps: searches by time find all records, also where times do not rise,
// with indexes and without.
func TestSearchAmongSteps(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	l := open(t, dir, c.options())
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		c.advance(time.Second)
		if i%20 == 19 {
			c.advance(time.Duration(random.IntN(200)-100) * time.Second)
		}
		must(t, l.Append(t.Context(), record(i)))
	}
	all, _, err := l.Search(t.Context(), audit.Query{Limit: 1000})
	must(t, err)
	if len(stepsOf(t, dir)) < 3 || len(segments(t, dir)) < 10 {
		t.Fatalf("%d steps, %d segments", len(stepsOf(t, dir)), len(segments(t, dir)))
	}
	start := newClock().now
	for pass, prepare := range []func(){
		func() {},
		func() {
			for _, x := range got(filepath.Glob(filepath.Join(dir, "*.index")))(t) {
				must(t, os.Remove(x))
			}
		},
		func() { must(t, l.Close()) },
	} {
		prepare()
		for at := -200; at < 600; at += 37 {
			from := start.Add(time.Duration(at) * time.Second)
			for _, q := range []audit.Query{{From: from}, {To: from}, {From: from, To: from.Add(50 * time.Second)}, {From: from, Principal: "principal-1"}, {To: from, Key: "key-3", KeyStore: "demo"}, {From: from, Kind: audit.KindAudit}} {
				var want []int64
				for _, r := range all {
					if (q.Principal == "" || q.Principal == r.Principal) && (q.Key == "" || q.Key == r.Key && q.KeyStore == r.KeyStore) && (q.Kind == "" || q.Kind == r.Kind) &&
						!r.Time.Before(q.From) && (q.To.IsZero() || r.Time.Before(q.To)) {
						want = append(want, r.Seq)
					}
				}
				for _, limit := range []int{0, 3} {
					q.Limit = limit
					if found := everything(t, audit.NewReader(dir), q); !slices.Equal(found, want) {
						t.Errorf("pass %d: %+v found\n%v\nwant\n%v", pass, q, found, want)
					}
				}
			}
		}
	}
}

// TestRetentionAfterAStep: records are not taken for old since a later segment was begun
// while the clock was behind.
func TestRetentionAfterAStep(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := c.options()
	o.SegmentBytes, o.SegmentAge, o.RetainAge, o.CheckpointRecords = 1<<20, time.Hour, 30*24*time.Hour, 1
	l := open(t, dir, o)
	fill := func() {
		for i := range 20 {
			c.advance(time.Second)
			must(t, l.Append(t.Context(), record(i)))
		}
		got(l.Checkpoint())(t)
	}
	fill()
	c.advance(-365 * 24 * time.Hour)
	fill()
	c.advance(365 * 24 * time.Hour)
	fill()
	// Retention runs before the keeper signs again.
	must(t, l.Append(t.Context(), record(0)))
	until(t, "the next checkpoint", func() bool { return l.Status().Lag == 0 })
	must(t, l.Append(t.Context(), record(0)))
	until(t, "the next checkpoint", func() bool { return l.Status().Lag == 0 })
	if first := l.Status().First; first != 0 {
		t.Fatalf("the records before %d are removed", first)
	}
	if n := len(segments(t, dir)); n != 3 {
		t.Fatalf("%d segments", n)
	}
	c.advance(31 * 24 * time.Hour)
	fill()
	must(t, l.Append(t.Context(), record(0)))
	until(t, "retention", func() bool { return l.Status().First >= 40 })
	must(t, l.Close())
	_, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
}
