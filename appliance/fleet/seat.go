package fleet

import (
	"context"
	"sync/atomic"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Seat is the place of an appliance in its fleet: it has a [Node] while the appliance is
// unlocked. It implements [appliance.Fleet], and what administrators do with the fleet.
type Seat struct {
	taken atomic.Pointer[taken]
}

type taken struct {
	node     *Node
	register Register
}

// Take has the node sit there. The one before must have been closed.
func (s *Seat) Take(n *Node, r Register) { s.taken.Store(&taken{n, r}) }

// Leave leaves the seat empty, and closes the node, as when the appliance is locked.
func (s *Seat) Leave() {
	if t := s.taken.Swap(nil); t != nil {
		t.node.Close()
	}
}

// Node gives the node; nil while there is none.
func (s *Seat) Node() *Node {
	if t := s.taken.Load(); t != nil {
		return t.node
	}
	return nil
}

func noSeat() error {
	return fault.Errorf(fault.FleetJoining, "this node has not joined the fleet yet: the appliance is not unlocked")
}

// Fresh implements [appliance.Fleet].
func (s *Seat) Fresh() error {
	if t := s.taken.Load(); t != nil {
		return t.node.Fresh()
	}
	return noSeat()
}

const (
	// seatEvery is how often an empty seat is looked at.
	seatEvery = 20 * time.Millisecond
	// seatTime is how long a change waits that was made while nobody sits there. An appliance
	// that joins, or opens its rows again, does so sooner; one that is locked does not, and who
	// changes something there is not to wait for it.
	seatTime = 3 * time.Second
)

// Settle waits until no node serves without the changes that this node has, or ctx ends,
// and says what it has come to: see [Node.Settle]. While nobody sits there, it
// waits for a moment; what it says then is that other nodes may not have the changes.
func (s *Seat) Settle(ctx context.Context) appliance.Settled {
	tick := time.NewTicker(seatEvery)
	defer tick.Stop()
	empty, stop := context.WithTimeout(ctx, seatTime)
	defer stop()
	for { // the appliance may be about to join, or to open its rows again
		if t := s.taken.Load(); t != nil {
			return t.node.Settle(ctx)
		}
		select {
		case <-empty.Done():
			return appliance.Settled{Nodes: 1, Of: 2, Late: []appliance.LateNode{{ID: "unknown"}}}
		case <-tick.C:
		}
	}
}

// Live is how many nodes take requests, as far as this one hears, with itself.
func (s *Seat) Live() int {
	if t := s.taken.Load(); t != nil {
		return t.node.Live()
	}
	return 1
}

// Drained implements [appliance.Fleet].
func (s *Seat) Drained() bool {
	t := s.taken.Load()
	return t != nil && t.node.Drained()
}

// Fading implements [appliance.Fleet].
func (s *Seat) Fading() bool {
	t := s.taken.Load()
	return t != nil && t.node.Fading()
}

// Knows implements [appliance.Fleet].
func (s *Seat) Knows() int64 {
	if t := s.taken.Load(); t != nil {
		return t.node.Knows()
	}
	return 0
}

// FleetStatus says what this node knows of all.
func (s *Seat) FleetStatus() appliance.FleetStatus {
	if t := s.taken.Load(); t != nil {
		return t.node.FleetStatus()
	}
	return appliance.FleetStatus{Nodes: []appliance.NodeStatus{}}
}

// Drain has a node take no new requests, or take them again: see [Node.Drain].
func (s *Seat) Drain(ctx context.Context, node string, drained bool) error {
	t := s.taken.Load()
	if t == nil {
		return noSeat()
	}
	return t.node.Drain(ctx, t.register, node, drained)
}

// Remove takes a node out of the fleet: see [Node.Remove].
func (s *Seat) Remove(ctx context.Context, node string) error {
	t := s.taken.Load()
	if t == nil {
		return noSeat()
	}
	return t.node.Remove(ctx, t.register, node)
}

// Lead implements [appliance.Fleet].
func (s *Seat) Lead(ctx context.Context) (context.Context, bool) {
	if t := s.taken.Load(); t != nil {
		return t.node.Lead(ctx, t.register)
	}
	return ctx, false
}

// clearEvery is how often nodes that leave are looked for.
const clearEvery = 15 * time.Second

// Run does the work of a leader on the rows of nodes, until ctx ends: those that were
// removed go once their removal is in effect, and then from the database's list of nodes.
func (s *Seat) Run(ctx context.Context) {
	tick := time.NewTicker(clearEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t := s.taken.Load()
		if t == nil {
			continue
		}
		work, leads := t.node.Lead(ctx, t.register)
		if !leads {
			continue
		}
		work, stop := context.WithTimeout(work, 2*t.node.o.Grace)
		if err := t.node.Clear(work, t.register); err != nil && ctx.Err() == nil {
			t.node.o.Log.Warn("a node that was removed is still in the rows; it is tried again", "error", err)
		}
		if err := t.node.dropHints(work); err != nil && ctx.Err() == nil {
			t.node.o.Log.Warn("nodes that are gone are still in the database's list of nodes; it is tried again", "error", err)
		}
		stop()
	}
}
