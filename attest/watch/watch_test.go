package watch_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/attest/appraisal"
	"holdfast/attest/watch"
)

// clock stands still until the test moves it. Waits are told to the test, which ends them.
type clock struct {
	now   time.Time
	waits chan time.Duration
	wake  chan time.Time
}

func newClock() *clock {
	return &clock{now: time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC), waits: make(chan time.Duration), wake: make(chan time.Time)}
}

func (c *clock) Now() time.Time { return c.now }
func (c *clock) After(d time.Duration) <-chan time.Time {
	c.waits <- d
	return c.wake
}

// bench is a watcher of one machine, which shows what the test says.
type bench struct {
	*watch.Watcher
	t     *testing.T
	clock *clock
	shows watch.Seen
	err   error
	// refuse is the error of the one who is told.
	refuse error
	told   []watch.Alarm
	last   watch.Look
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store, err := watch.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, clock: newClock(), shows: good()}
	b.Watcher = &watch.Watcher{Machines: []watch.Machine{{Name: "eu-1", Address: "https://eu-1.example:9443"}}, Store: store, Every: 10 * time.Minute, Patience: time.Hour, Clock: b.clock,
		Ask: func(context.Context, watch.Machine) (*watch.Seen, error) {
			shows := b.shows
			return &shows, b.err
		},
		Looked: func(l watch.Look) error {
			b.last = l
			return nil
		},
		Tell: func(_ context.Context, a watch.Alarm) error {
			if b.refuse == nil {
				b.told = append(b.told, a)
			}
			return b.refuse
		}}
	return b
}

func good() watch.Seen {
	return watch.Seen{Verdict: appraisal.Pass, Reference: "release 1", Software: "1.0.0", TLSKey: "aa", TPMKey: "bb", Instance: "i-1", Volume: "vv", Policy: "cc", Launch: "dd", Owner: "ee", Appraised: "ff", State: &watch.State{Number: 7, Digest: "77"}}
}

// look has the watcher look, a while later.
func (b *bench) look(want watch.Outcome, told int) {
	b.t.Helper()
	b.clock.now = b.clock.now.Add(10 * time.Minute)
	got, err := b.Once(b.t.Context())
	if err != nil || got != want || len(b.told) != told {
		b.t.Fatalf("outcome %d, %d told, %v; want outcome %d, %d told; the look: %+v", got, len(b.told), err, want, told, b.last)
	}
}

// TestEveryChangeAlarms changes each member of what was seen, alone: each is an alarm, once,
// until a person accepts it.
func TestEveryChangeAlarms(t *testing.T) {
	of := reflect.TypeFor[watch.Seen]()
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		if name == "checks" || name == "verdict" || name == "state" {
			continue // of the verdict; the others have tests of their own
		}
		for _, is := range []string{"other", ""} {
			t.Run(name+"="+is, func(t *testing.T) {
				b := newBench(t)
				b.look(watch.Unchanged, 0)
				if !b.last.First {
					t.Error("it is not said that this was the first look")
				}
				b.look(watch.Unchanged, 0)
				reflect.ValueOf(&b.shows).Elem().Field(i).SetString(is)
				b.look(watch.Alarming, 1)
				if c := b.told[0].Changes; len(c) != 1 || c[0].What != name || c[0].Is != is || c[0].Was == "" {
					t.Errorf("what is told: %+v", c)
				}
				b.look(watch.Alarming, 1) // it stands, and is told once
				if _, _, err := b.Store.Accept("eu-1", "alice", "the release of November", "0000", b.clock.now); err == nil {
					t.Error("another digest was accepted")
				}
				if _, list, err := b.Store.Accept("eu-1", "alice", "the release of November", b.last.Digest, b.clock.now); err != nil || len(list) != 1 {
					t.Fatalf("%v: %+v", err, list)
				}
				b.look(watch.Unchanged, 2)
				if !b.told[1].Over || b.told[1].ID == b.told[0].ID {
					t.Errorf("the end of it: %+v", b.told[1])
				}
				b.shows = good()
				b.look(watch.Alarming, 3) // what was known before is no longer
				if all, err := b.Store.Accepted(); err != nil || len(all) != 1 || all[0].By != "alice" || all[0].Reason != "the release of November" {
					t.Errorf("on record: %+v %v", all, err)
				}
			})
		}
	}
}

func TestVerdicts(t *testing.T) {
	b := newBench(t)
	fails := watch.Seen{Verdict: appraisal.Fail, Checks: []string{"E_TLS_KEY"}}
	b.shows = fails
	b.look(watch.Alarming, 1) // nothing was known, and nothing is now
	b.shows = good()
	b.look(watch.Unchanged, 2)
	if !b.last.First {
		t.Error("evidence that failed was taken for known")
	}
	b.shows = fails
	b.look(watch.Alarming, 3)
	if c := b.told[2].Changes; len(c) != 1 || c[0].What != "verdict" || c[0].Was != "pass" {
		t.Errorf("%+v", c)
	}
	if _, _, err := b.Store.Accept("eu-1", "alice", "it must go on", "", b.clock.now); err == nil || !strings.Contains(err.Error(), "E_TLS_KEY") {
		t.Errorf("evidence that fails is accepted: %v", err)
	}
	b.shows.Checks = []string{"E_TLS_KEY", "E_NONCE"}
	b.look(watch.Alarming, 4) // another failure is another alarm
}

// TestState: the number of the state is held against the highest, also after a machine that
// shows none, and after evidence that says more than is known.
func TestState(t *testing.T) {
	b := newBench(t)
	state := func(number uint64, digest string) { b.shows.State = &watch.State{Number: number, Digest: digest} }
	b.look(watch.Unchanged, 0)
	state(9, "99")
	b.look(watch.Unchanged, 0)
	state(8, "88")
	b.look(watch.Alarming, 1)
	if c := b.told[0].Changes; len(c) != 1 || c[0].What != "state" || !strings.Contains(c[0].Text, "gone back to 8") {
		t.Errorf("%+v", c)
	}
	state(9, "98")
	b.look(watch.Alarming, 2) // the same number, and another history
	b.shows.State = nil
	b.look(watch.Alarming, 3)
	state(9, "99")
	b.look(watch.Unchanged, 4)
	if !b.told[3].Over {
		t.Error("the end is not told")
	}
}

func TestUnreachable(t *testing.T) {
	b := newBench(t)
	b.look(watch.Unchanged, 0)
	b.err = errors.New("there was no answer in time")
	for range 6 {
		b.look(watch.Incomplete, 0)
	}
	b.look(watch.Alarming, 1) // an hour after the first that was not answered
	if c := b.told[0].Changes; c[0].What != watch.Unreachable || !strings.Contains(c[0].Text, "no answer in time") {
		t.Errorf("%+v", c)
	}
	b.look(watch.Alarming, 1)
	b.err = nil
	b.look(watch.Unchanged, 2)
	b.err = errors.New("there was no answer in time")
	b.look(watch.Incomplete, 2)
}

// TestToldUntilTaken: an alarm that was not taken is told again, with the same ID; one that is
// over before anybody has heard of it is not.
func TestToldUntilTaken(t *testing.T) {
	b := newBench(t)
	b.look(watch.Unchanged, 0)
	b.refuse, b.shows.Instance = errors.New("the webhook answers 500"), "i-2"
	b.look(watch.Alarming, 0)
	if b.last.NotTold == "" {
		t.Error("the line does not say that nobody has heard of it")
	}
	b.refuse, b.err = nil, errors.New("there was no answer in time")
	b.look(watch.Incomplete, 0) // it does not say that the instance is as it was, nor that it is not
	b.err = nil
	b.look(watch.Alarming, 1)
	b.look(watch.Alarming, 1)
	b.refuse, b.shows.Instance = errors.New("the webhook answers 500"), "i-1"
	b.look(watch.Unchanged, 1)
	b.refuse = nil
	b.look(watch.Unchanged, 2)
	if !b.told[1].Over {
		t.Error("the end was not told")
	}
	b.refuse, b.shows.Instance = errors.New("the webhook answers 500"), "i-2"
	b.look(watch.Alarming, 2)
	b.refuse, b.shows.Instance = nil, "i-1"
	b.look(watch.Unchanged, 2)
}

// TestRun looks on the schedule, and ends with its context.
func TestRun(t *testing.T) {
	b := newBench(t)
	looks := 0
	b.Looked = func(watch.Look) error {
		looks++
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	for n := 1; n <= 3; n++ {
		if d := <-b.clock.waits; d != b.Every || looks != n {
			t.Errorf("after %d looks it waits %s", looks, d)
		}
		if n < 3 {
			b.clock.wake <- b.clock.now
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestDamagedStore: what is known is never taken for nothing, and what is not the file of a
// store is refused.
func TestDamagedStore(t *testing.T) {
	for _, file := range []string{"seen.json", "accepted.json"} {
		for what, content := range map[string]string{"empty": "", "cut": `{"format":"holdfast-watch/v1","mach`, "null": "null", "another format": `{"format":"holdfast-watch/v2"}`,
			"more": `{"format":"holdfast-watch/v1","more":1}`, "trailing": `{"format":"holdfast-watch/v1"}{}`, "a null machine": `{"format":"holdfast-watch/v1","machines":{"eu-1":null},"accepted":[{"machine":"eu-1"}]}`,
			"a null acceptance": `{"format":"holdfast-watch/v1","accepted":[{"machine":"eu-1","seen":null}]}`} {
			b := newBench(t)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			if b.Store, err = watch.NewStore(dir); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Once(t.Context()); err == nil || got != watch.Alarming {
				t.Errorf("%s, %s: outcome %d, %v", file, what, got, err)
			}
		}
	}
	b := newBench(t)
	b.look(watch.Unchanged, 0)
	if _, _, err := b.Store.Accept("eu-1", "alice", "why", "", b.clock.now); err == nil {
		t.Error("what has not changed was accepted")
	}
	for _, bad := range [][3]string{{"eu-2", "alice", "why"}, {"eu-1", "", "why"}, {"eu-1", "alice", ""}, {"eu-1", "alice", "two\nlines"}, {"eu-1", strings.Repeat("x", 201), "why"}} {
		if _, _, err := b.Store.Accept(bad[0], bad[1], bad[2], "", b.clock.now); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestLineIsStable: programs read these names.
func TestLineIsStable(t *testing.T) {
	b := newBench(t)
	b.look(watch.Unchanged, 0)
	b.shows.Instance = "i-2"
	b.look(watch.Alarming, 1)
	text, err := json.Marshal(b.told[0])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"since", "over", "machine", "address", "at", "verdict", "changes", "seen", "seen_digest"} {
		if _, ok := got[name]; !ok {
			t.Errorf("there is no %q in %s", name, text)
		}
	}
	if slices.Contains([]any{got["over"]}, true) {
		t.Error("it is over")
	}
}
