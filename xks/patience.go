package xks

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long requests may wait for the HSM, the database or the log. A timer
// for each request would cost as much as its encryption, and most are over long before:
// so requests that come shortly after each other share one.
type patience struct {
	timeout time.Duration
	last    atomic.Pointer[moment]
}

// sharing is the part of the timeout within which requests share its end: the deadline of
// one is so much earlier at most, and never later.
const sharing = 16

// moment is when the time of some requests is over.
type moment struct {
	at   time.Time
	over chan struct{} // closed then
	arm  sync.Once
}

// until gives the moment for a request that begins to wait now.
func (p *patience) until(now time.Time) *moment {
	for {
		m := p.last.Load()
		if m != nil {
			if early := now.Add(p.timeout).Sub(m.at); early >= 0 && early < p.timeout/sharing {
				return m
			}
		}
		next := &moment{at: now.Add(p.timeout), over: make(chan struct{})}
		if p.last.CompareAndSwap(m, next) {
			return next
		}
	}
}

// waiting is the context of a request, which ends with its moment. That the caller is gone
// is seen by who asks Err, and wakes nobody: the moment is near.
type waiting struct {
	context.Context // of the request
	*moment
	ended atomic.Bool
}

// Deadline implements [context.Context].
func (w *waiting) Deadline() (time.Time, bool) { return w.at, true }

// Done implements [context.Context].
func (w *waiting) Done() <-chan struct{} {
	w.arm.Do(func() { time.AfterFunc(time.Until(w.at), func() { close(w.over) }) })
	return w.over
}

// Err implements [context.Context].
func (w *waiting) Err() error {
	switch {
	case w.ended.Load():
		return context.Canceled
	case !time.Now().Before(w.at):
		return context.DeadlineExceeded
	}
	return w.Context.Err()
}

// end ends it, when the request is answered.
func (w *waiting) end() { w.ended.Store(true) }
