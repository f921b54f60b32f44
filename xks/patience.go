package xks

import (
	"context"
	"sync"
	"time"
)

// patience is a context that ends at the deadline. Unlike one by
// [context.WithDeadline] it costs nothing until somebody waits for its end,
// which few requests do: most keys are in memory.
type patience struct {
	context.Context // the parent
	deadline        time.Time

	mu     sync.Mutex
	timed  context.Context // made when it is first waited for
	cancel context.CancelFunc
	ended  bool
}

// Deadline implements [context.Context].
func (p *patience) Deadline() (time.Time, bool) { return p.deadline, true }

// Done implements [context.Context].
func (p *patience) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timed == nil {
		p.timed, p.cancel = context.WithDeadline(p.Context, p.deadline)
		if p.ended {
			p.cancel()
		}
	}
	return p.timed.Done()
}

// Err implements [context.Context].
func (p *patience) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.timed != nil:
		return p.timed.Err()
	case p.ended:
		return context.Canceled
	case !time.Now().Before(p.deadline):
		return context.DeadlineExceeded
	}
	return p.Context.Err()
}

// end ends it, when the request is answered.
func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.cancel != nil {
		p.cancel()
	}
}
