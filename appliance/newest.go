package appliance

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// lookWithin bounds how long a request waits for changes of other nodes: KMS gives up
	// after 250 ms. A look itself may take lookTime.
	lookWithin = 150 * time.Millisecond
	lookTime   = time.Second
	// looksPerSecond bounds how often strangers can have the fleet's database asked.
	looksPerSecond = 10
	// lookPause is for how long the log is not asked after it did not answer.
	lookPause = time.Second
)

// newest asks the log of a fleet for changes that this node may lack: before a request is
// refused since the node does not know its key store, credential, key or a grant, which another
// node may just have made. There is one look at a time, and requests share it.
type newest struct {
	rows   StateRows // nil for an appliance on its own
	within time.Duration
	rate   *rate.Limiter
	turn   chan struct{} // has room while there is no look

	mu      sync.Mutex
	next    *look // that has not begun; nil if there is none
	resumes time.Time
}

type look struct{ done chan struct{} }

func newNewest(rows StateRows) *newest {
	return &newest{rows: rows, within: lookWithin, rate: rate.NewLimiter(looksPerSecond, looksPerSecond), turn: make(chan struct{}, 1)}
}

// look says whether it is worth while to look into the rows again: the log was asked
// after the call began. It waits for that no longer than a request may.
func (n *newest) look() bool {
	if n.rows == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.within)
	defer cancel()
	l := n.begin()
	if l == nil {
		return false
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return false
	}
	written := n.rows.Written()
	return await(ctx, func() bool { return n.rows.Position().Number >= written })
}

// begin gives a look that has not begun; nil if there must be none now.
func (n *newest) begin() *look {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		return n.next
	}
	if now := time.Now(); now.Before(n.resumes) || !n.rate.AllowN(now, 1) {
		return nil
	}
	l := &look{done: make(chan struct{})}
	n.next = l
	go func() {
		n.turn <- struct{}{}
		defer func() { <-n.turn }()
		n.mu.Lock()
		n.next = nil
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), lookTime)
		defer cancel()
		if err := n.rows.CatchUp(ctx); err != nil {
			n.mu.Lock()
			n.resumes = time.Now().Add(lookPause)
			n.mu.Unlock()
			return // who waits gives up in a moment
		}
		close(l.done)
	}()
	return l
}

// await waits until something is so, or ctx ends, and says whether it is.
func await(ctx context.Context, so func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
