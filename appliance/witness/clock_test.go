package witness_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"holdfast/appliance/witness"
)

type clocks struct {
	wall    time.Time
	elapsed time.Duration
}

func (c *clocks) pass(d time.Duration) { c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d }

func start() (*clocks, *witness.Clock) {
	c := &clocks{wall: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
	return c, witness.New(func() time.Time { return c.wall }, func() time.Duration { return c.elapsed })
}

// TestJump: a jump of a moment, and one of less than a day, move nothing; one that lasts
// counts after a day.
func TestJump(t *testing.T) {
	c, w := start()
	began := c.wall
	pass := func(d time.Duration) (now time.Time) {
		for ; d > 0; d -= time.Minute {
			c.pass(time.Minute)
			now = w.Now()
		}
		return now
	}
	if now := w.Now(); !now.IsZero() {
		t.Errorf("at the start: %v", now)
	}
	if now := pass(23 * time.Hour); !now.IsZero() {
		t.Errorf("after 23 hours: %v", now)
	}
	if now := pass(25 * time.Hour); !now.Equal(began.Add(24 * time.Hour)) {
		t.Errorf("after 48 hours: %v", now)
	}
	const year = 365 * 24 * time.Hour
	for _, lasts := range []time.Duration{0, time.Minute, 23 * time.Hour} {
		real := c.wall
		c.wall = c.wall.Add(year)
		w.Now()
		pass(lasts)
		c.wall = real.Add(lasts)
		if now := pass(2 * time.Minute); now.After(c.wall) {
			t.Errorf("a jump of %v: %v, at %v", lasts, now, c.wall)
		}
	}
	// Backward: what counted before does not count any more.
	c.wall = c.wall.Add(-year)
	if now := pass(time.Minute); now.After(c.wall) {
		t.Errorf("backward: %v at %v", now, c.wall)
	}
	c.wall = c.wall.Add(2 * year)
	if now := pass(25 * time.Hour); now.Before(c.wall.Add(-25*time.Hour)) || now.After(c.wall) {
		t.Errorf("after it has lasted: %v at %v", now, c.wall)
	}
}

// TestEarliest compares with the plain reading of the rule, at random times.
func TestEarliest(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		c, w := start()
		type look struct {
			at   time.Duration
			wall time.Time
		}
		var all []look
		for range 200 {
			c.pass(time.Minute + time.Duration(random.Int64N(int64(3*time.Hour))))
			if random.IntN(10) == 0 {
				c.wall = c.wall.Add(time.Duration(random.Int64N(int64(2000*time.Hour))) - 1000*time.Hour)
			}
			all = append(all, look{c.elapsed, c.wall})
			// The looks of the span, and the one before it.
			var want time.Time
			for i := len(all) - 1; i >= 0; i-- {
				if want.IsZero() || all[i].wall.Before(want) {
					want = all[i].wall
				}
				if all[i].at <= c.elapsed-witness.Span {
					break
				}
				if i == 0 {
					want = time.Time{}
				}
			}
			if got := w.Now(); !got.Equal(want) {
				t.Fatalf("after %d looks: %v, want %v", len(all), got, want)
			}
		}
	}
}
