package witness_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/witness"
)

const day = 24 * time.Hour

type clocks struct {
	wall    time.Time
	elapsed time.Duration
	tpm     time.Duration
	err     error // of the TPM
}

func newClocks() *clocks {
	return &clocks{wall: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC), elapsed: time.Second, tpm: time.Hour}
}

func (c *clocks) running() witness.Source {
	return witness.Source{Name: "running", Elapsed: func() (time.Duration, error) { return c.elapsed, nil }}
}

func (c *clocks) ofTPM() witness.Source {
	return witness.Source{Name: "TPM", Elapsed: func() (time.Duration, error) { return c.tpm, c.err }}
}

func (c *clocks) now() time.Time { return c.wall }

// pass has time pass by all clocks, with a look each minute.
func (c *clocks) pass(w *witness.Clock, d time.Duration) time.Time {
	for ; d > 0; d -= time.Minute {
		c.wall, c.elapsed, c.tpm = c.wall.Add(time.Minute), c.elapsed+time.Minute, c.tpm+time.Minute
		w.Look()
	}
	return w.Now()
}

// TestJump: a jump moves the witnessed time by at most as much again as has passed, however
// long it lasts; back in the same way.
func TestJump(t *testing.T) {
	c := newClocks()
	w := witness.New(c.now, c.running())
	if now := c.pass(w, day); !now.IsZero() {
		t.Fatalf("before it has begun: %v", now)
	}
	w.Begin(c.wall)
	if now := c.pass(w, day); !now.Equal(c.wall) {
		t.Fatalf("with a wall clock that is right: %v at %v", now, c.wall)
	}
	for _, jump := range []time.Duration{31 * day, 365 * day, -365 * day} {
		for _, lasts := range []time.Duration{0, time.Minute, day, 3 * day} {
			before := w.Now()
			real := c.wall
			c.wall = c.wall.Add(jump)
			w.Look()
			c.pass(w, lasts)
			if moved := w.Now().Sub(before).Abs(); moved > 2*lasts {
				t.Errorf("a jump by %v for %v moves it by %v", jump, lasts, moved)
			}
			if behind, _ := w.Waits(); behind.Abs() < jump.Abs()-3*lasts {
				t.Errorf("a jump by %v for %v: %v behind", jump, lasts, behind)
			}
			c.wall = real.Add(lasts)
			if now := c.pass(w, 10*day); !now.Equal(c.wall) {
				t.Errorf("when it is right again: %v at %v", now, c.wall)
			}
		}
	}
	// A clock that stays there is followed in the end.
	c.wall = c.wall.Add(31 * day)
	if now := c.pass(w, 30*day); now.Equal(c.wall) {
		t.Error("followed after 30 days")
	}
	if now := c.pass(w, 2*day); !now.Equal(c.wall) {
		t.Errorf("not followed after 32 days: %v at %v", now, c.wall)
	}
}

// TestRestart: what was witnessed before a restart counts, and the time until the first
// unlock; the time in which the machine was off is made up for.
func TestRestart(t *testing.T) {
	c := newClocks()
	kept := c.wall.Add(-5 * day) // when it was switched off
	w := witness.New(c.now, c.running())
	c.pass(w, time.Hour) // locked
	w.Begin(kept)
	if now := w.Now(); !now.Equal(kept.Add(2 * time.Hour)) {
		t.Errorf("it begins at %v", now.Sub(kept))
	}
	w.Begin(c.wall) // an unlock later on
	if now := w.Now(); !now.Equal(kept.Add(2 * time.Hour)) {
		t.Errorf("it begins again at %v", now.Sub(kept))
	}
	if now := c.pass(w, 5*day); !now.Equal(c.wall) {
		t.Errorf("%v at %v", now, c.wall)
	}
}

// TestSourcesAgree: the source that says least counts. One that cannot be read stops the
// witnessed time, and what passed meanwhile counts when it can.
func TestSourcesAgree(t *testing.T) {
	c := newClocks()
	w := witness.New(c.now, c.running())
	began := c.wall
	w.Begin(began)
	c.pass(w, time.Hour)
	w.Add(c.ofTPM())
	c.pass(w, time.Hour)
	c.wall = c.wall.Add(365 * day)
	step := func(name string, running, tpm, want time.Duration) {
		t.Helper()
		before := w.Now()
		c.elapsed, c.tpm = c.elapsed+running, c.tpm+tpm
		w.Look()
		if moved := w.Now().Sub(before); moved != want {
			t.Errorf("%s: moved by %v, want %v", name, moved, want)
		}
	}
	step("both", day, day, 2*day)
	step("the running time is stretched", 100*day, day, 2*day)
	step("the TPM's time is stretched", day, 100*day, 2*day)
	step("the TPM stands", day, 0, 0)
	step("the TPM was reset", day, -50*day, 0)
	step("after that", day, day, 2*day)
	c.err = errors.New("away")
	step("the TPM fails", day, day, 0)
	if _, why := w.Waits(); why == nil || !strings.Contains(why.Error(), "TPM") {
		t.Errorf("%v", why)
	}
	c.err = nil
	step("it answers again", day, day, 4*day)
	if _, why := w.Waits(); why != nil {
		t.Error(why)
	}
}

// TestBound: whatever the wall clock says at random moments, and whenever it is restarted
// with what was kept, the witnessed time never moves by more than the rate.
func TestBound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		c := newClocks()
		began := c.wall
		w := witness.New(c.now, c.running(), c.ofTPM())
		w.Begin(began)
		var passed time.Duration
		for range 200 {
			d := time.Duration(random.Int64N(int64(3 * time.Hour)))
			passed += d
			c.elapsed, c.tpm, c.wall = c.elapsed+d, c.tpm+d, c.wall.Add(d)
			switch random.IntN(5) {
			case 0:
				c.wall = began.Add(time.Duration(random.Int64N(int64(2000*day)) - int64(1000*day)))
			case 1:
				kept := w.Now()
				w = witness.New(c.now, c.running(), c.ofTPM())
				w.Begin(kept)
			}
			w.Look()
			if moved := w.Now().Sub(began).Abs(); moved > witness.Rate*passed {
				t.Fatalf("%v have passed, and it has moved by %v", passed, moved)
			}
		}
	}
}
