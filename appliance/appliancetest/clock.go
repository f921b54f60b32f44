package appliancetest

import (
	"sync"
	"testing"
	"time"
)

// Clock is a time that passes when it is told to.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock gives a clock that shows the time of now.
func NewClock() *Clock { return &Clock{now: time.Now()} }

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Pass has time pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Eventually waits for what happens in the background, for at most 20 s.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
