package fleet

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance"
)

// Store is what the rows of this node say of the log ([appliance.StateRows]).
type Store interface {
	CatchUp(ctx context.Context) error
	Position() appliance.Position
	Written() uint64
	Passed(ctx context.Context, p appliance.Position) (bool, error)
}

// Roster is what the rows say of the nodes; [appliance.Nodes] is one.
type Roster interface {
	Register
	// List gives all nodes. fault.Tampered.
	List(ctx context.Context) ([]appliance.Node, error)
}

const (
	// watchEvery is how often the store is looked at for changes that came by another way.
	watchEvery = 50 * time.Millisecond
	// rollTime bounds the reading of the nodes' rows, which are on this machine.
	rollTime = 5 * time.Second
)

// Replica is the [Rows] of a node over its store.
type Replica struct {
	store  Store
	roster Roster
	log    *slog.Logger
	wake   chan struct{}
	mu     sync.Mutex // held while the rows are read
	rolled atomic.Pointer[roll]
}

// roll is what the rows say at a position.
type roll struct {
	position appliance.Position
	members  []appliance.Node
}

// NewReplica reads the rows for the first time.
func NewReplica(ctx context.Context, store Store, roster Roster, log *slog.Logger) (*Replica, error) {
	r := &Replica{store: store, roster: roster, log: log, wake: make(chan struct{}, 1)}
	return r, r.read(ctx)
}

// read reads the rows. The position is read first: what the rows have more than it says
// makes this node ask for more, and never for less.
func (r *Replica) read(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	position := r.store.Position()
	if last := r.rolled.Load(); last != nil && last.position == position {
		return nil
	}
	members, err := r.roster.List(ctx)
	if err != nil {
		return err
	}
	r.rolled.Store(&roll{position, members})
	return nil
}

// Roll implements [Rows].
func (r *Replica) Roll() (appliance.Position, []appliance.Node) {
	last := r.rolled.Load()
	if r.store.Position() != last.position {
		ctx, cancel := context.WithTimeout(context.Background(), rollTime)
		defer cancel()
		if err := r.read(ctx); err != nil { // it stays at the position of before, and tells no other
			r.log.Error("the rows of the fleet's nodes cannot be read", "error", err)
		}
		last = r.rolled.Load()
	}
	return last.position, last.members
}

// Written implements [Rows].
func (r *Replica) Written() uint64 { return r.store.Written() }

// Passed implements [Rows].
func (r *Replica) Passed(p appliance.Position) (passed, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), rollTime)
	defer cancel()
	passed, err := r.store.Passed(ctx, p)
	return passed, err == nil
}

// CatchUp implements [Rows].
func (r *Replica) CatchUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run has the log asked when the node wants it, and tells the node how far the rows are,
// until ctx ends.
func (r *Replica) Run(ctx context.Context, n *Node) {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
				if err := r.store.CatchUp(ctx); err != nil && ctx.Err() == nil {
					r.log.Debug("the log of changes cannot be read", "error", err)
				}
			}
		}
	})
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for told := (appliance.Position{}); ; {
		if now := r.store.Position(); now != told {
			told = now
			n.Advanced()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
