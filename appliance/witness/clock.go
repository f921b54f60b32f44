// Package witness tells a time that irreversible things may rest on: keys that are
// destroyed, records that are removed. The wall clock alone is one reading, which a
// faulty time server, an administrator of the host or a battery may set to anything for
// a moment.
package witness

import (
	"sync"
	"time"
)

// Span is for how long the wall clock has to say a time before it counts, in time that
// the process has been running.
const Span = 24 * time.Hour

// Clock has the wall clock witnessed by the time that passes: a time counts when the
// wall clock has said that it is over, at each look, for [Span] of running time. The
// running time is of a clock that nobody sets. After a start nothing counts for that
// long. Its methods may be called by several goroutines.
type Clock struct {
	now     func() time.Time
	elapsed func() time.Duration
	span    time.Duration

	mu sync.Mutex
	// looks are those that may be the earliest of a span yet: times of the wall rise
	// along them.
	looks []look
}

type look struct {
	at   time.Duration // running time
	wall time.Time
}

// New makes a clock; now is the wall clock and elapsed the running time, those of the
// time package if nil.
func New(now func() time.Time, elapsed func() time.Duration) *Clock {
	if now == nil {
		now = time.Now
	}
	if elapsed == nil {
		began := time.Now() // its monotonic reading, which a wall clock that is set does not move
		elapsed = func() time.Duration { return time.Since(began) }
	}
	return &Clock{now: now, elapsed: elapsed, span: Span}
}

// Now looks at the wall clock and gives the latest time that counts: the earliest that
// the wall clock has said in the last [Span]; zero if it has not been looked at for so
// long. It is to be called once a minute: a jump between two looks that is taken
// back is not seen, and does nothing either.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := look{c.elapsed(), c.now().Round(0)}
	for n := len(c.looks); n > 0 && !c.looks[n-1].wall.Before(l.wall); n-- {
		// A later time is not the earliest of any span that has this look; but that the
		// span is full rests on when the first look was.
		l.at = c.looks[n-1].at
		c.looks = c.looks[:n-1]
	}
	// One a minute is enough; the earlier one stands for those after it.
	if n := len(c.looks); n == 0 || l.at-c.looks[n-1].at >= time.Minute {
		c.looks = append(c.looks, l)
	} else if l.wall.Before(c.looks[n-1].wall) {
		c.looks[n-1].wall = l.wall
	}
	begin := c.elapsed() - c.span
	for len(c.looks) > 1 && c.looks[1].at <= begin {
		c.looks = c.looks[1:]
	}
	if c.looks[0].at > begin {
		return time.Time{}
	}
	return c.looks[0].wall
}
