// Package witness tells a time that irreversible things may rest on: keys that are
// destroyed, records that are removed. The wall clock alone is one reading, which a
// faulty time server, an administrator of the host or a battery may set to anything.
//
// A [Clock] follows the wall clock, and moves by at most [Rate] times what has passed by
// all other sources: this process's running time, and the TPM's. So a clock that jumps,
// and is wrong for an hour or for a week, moves it by two hours or two weeks at most; what
// was to wait for 30 days waits for at least 15 days of time that has really passed. Time
// in which the machine was off has no witness: the clock makes up for it while it runs, a
// day for each day. What it has come to is kept over a restart by the caller.
package witness

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// Rate is by how much more than the time that passes the witnessed time may move.
const Rate = 2

// Source is a clock that nobody sets: its time passes, from any beginning.
type Source struct {
	Name string
	// Elapsed gives its time. One that goes back has begun again.
	Elapsed func() (time.Duration, error)
}

// Running is the running time of this process, which a wall clock that is set does not
// move.
func Running() Source {
	began := time.Now() // its monotonic reading
	return Source{"this process", func() (time.Duration, error) { return time.Since(began), nil }}
}

// Clock tells the witnessed time. Its methods may be called by several goroutines.
type Clock struct {
	now func() time.Time // the wall clock

	looking sync.Mutex // one look at a time; held while sources are asked
	sources []*reading

	mu     sync.Mutex
	at     time.Time     // the witnessed time; zero before Begin
	passed time.Duration // before Begin: what all sources agree on
	failed error         // why no time passes
}

// reading is a source, and what it said at the last look.
type reading struct {
	Source
	at   time.Duration
	read bool
}

// New makes a clock of the wall clock, time.Now if nil, and of sources that tell the time
// that passes. At least one is needed.
func New(now func() time.Time, sources ...Source) *Clock {
	if now == nil {
		now = time.Now
	}
	c := &Clock{now: now}
	for _, s := range sources {
		c.Add(s)
	}
	return c
}

// Add adds a source, which has to agree from now on. One of the same name is replaced.
func (c *Clock) Add(s Source) {
	c.look()
	c.looking.Lock()
	defer c.looking.Unlock()
	r := &reading{Source: s}
	if at, err := s.Elapsed(); err == nil {
		r.at, r.read = at, true
	}
	for i := range c.sources {
		if c.sources[i].Name == s.Name {
			c.sources[i] = r
			return
		}
	}
	c.sources = append(c.sources, r)
}

// Begin begins at a time that was witnessed before this process; it moves from there by
// what has passed since the process began. It does nothing if the clock has begun.
func (c *Clock) Begin(at time.Time) {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		c.at = at.Round(0)
		c.move(c.passed)
	}
}

// Confirm has the clock go on from a time that a person says has passed, if it is later
// than what is witnessed.
func (c *Clock) Confirm(at time.Time) {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && at.After(c.at) {
		c.at = at.Round(0)
	}
}

// Look reads all clocks. It may wait for a source, and is to be called once a minute.
func (c *Clock) Look() { c.look() }

// Now gives the witnessed time as of the last look; zero before Begin.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Waits says by how much the witnessed time is behind the wall clock, and why it does not
// move; nil if it does. It is not behind before Begin.
func (c *Clock) Waits() (behind time.Duration, why error) {
	wall := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return 0, c.failed
	}
	return wall.Sub(c.at), c.failed
}

func (c *Clock) look() {
	c.looking.Lock()
	defer c.looking.Unlock()
	passed, err := c.agreed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed = err; err != nil {
		return
	}
	if c.at.IsZero() {
		c.passed += passed
		return
	}
	c.move(passed)
}

// agreed gives what has passed since the last look by the source that says least. If one
// cannot be read nothing has; the next look that can read all gives it.
func (c *Clock) agreed() (time.Duration, error) {
	now := make([]time.Duration, len(c.sources))
	var failed error
	for i, s := range c.sources {
		var err error
		if now[i], err = s.Elapsed(); err != nil {
			failed = errors.Join(failed, fmt.Errorf("the time of %s cannot be read: %w", s.Name, err))
		}
	}
	if failed != nil || len(now) == 0 {
		return 0, failed
	}
	passed := time.Duration(math.MaxInt64)
	for i, s := range c.sources {
		since := time.Duration(0)
		if s.read {
			since = max(0, now[i]-s.at)
		}
		passed = min(passed, since)
		s.at, s.read = now[i], true
	}
	return passed, nil
}

// move moves the witnessed time towards the wall clock. The caller holds c.mu.
func (c *Clock) move(passed time.Duration) {
	most := time.Duration(math.MaxInt64)
	if passed < most/Rate {
		most = passed * Rate
	}
	c.at = c.at.Add(min(max(c.now().Round(0).Sub(c.at), -most), most))
}
