package fleet

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Register changes the sealed rows of nodes. Each change is one of the log.
type Register interface {
	// PutNode makes a row, or changes it; was is what is there, nil for none.
	// fault.Changed if there is something else.
	PutNode(ctx context.Context, node appliance.Node, was *appliance.Node) error
	// DeleteNode removes a row; fault.Changed if there is something else.
	DeleteNode(ctx context.Context, was appliance.Node) error
	// Leader gives the node that leads, and its token; zeros if none does yet.
	Leader(ctx context.Context) (appliance.LeaderRow, error)
	// TakeLead has a node lead in the place of was, with the next token. fault.Changed if
	// another was faster.
	TakeLead(ctx context.Context, node string, was appliance.LeaderRow) (appliance.LeaderRow, error)
}

// Enter makes this node a member that serves, and returns when it is one and fresh. Call it
// when the rows are open and [Node.Run] runs. It may wait for long: a node joins only when
// another member has acknowledged it, and is fresh only when all have answered it, or the
// ground has. fault.FleetRemoved if this node was removed, also long ago; fault.FleetBranch.
func (n *Node) Enter(ctx context.Context, r Register) error {
	for {
		if n.isRemoved(n.o.ID) {
			return n.removed()
		}
		self, there := n.row(n.o.ID)
		switch {
		case there && self.State.Serves() && self.Address == n.o.Address:
			return n.awaitFresh(ctx)
		case there && self.State.Serves():
			moved := self
			moved.Address = n.o.Address
			if err := r.PutNode(ctx, moved, &self); again(ctx, err) != nil {
				return err
			}
		case !there:
			joining := appliance.Node{ID: n.o.ID, Address: n.o.Address, State: appliance.NodeJoining, Joined: n.o.Now().UTC()}
			if err := r.PutNode(ctx, joining, nil); again(ctx, err) != nil {
				return err
			}
		default:
			if err := n.join(ctx, r, self); again(ctx, err) != nil {
				return err
			}
		}
	}
}

// awaitFresh waits until this node is fresh. That another member has acknowledged its row is
// no proof of that: this node must have heard from each member what that one has.
func (n *Node) awaitFresh(ctx context.Context) error {
	tick := time.NewTicker(n.o.Beat)
	defer tick.Stop()
	for {
		n.mu.Lock()
		moved := n.moved
		n.mu.Unlock()
		err := n.Fresh()
		if fault.CodeOf(err) != fault.FleetStale || ctx.Err() != nil || n.isClosed() {
			return err
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-tick.C:
		}
	}
}

// again gives nil if an operation is to be tried again, as another was faster.
func again(ctx context.Context, err error) error {
	if fault.CodeOf(err) == fault.Changed && ctx.Err() == nil {
		return nil
	}
	return err
}

// join waits until the row by which this node joins is in effect in the fleet, and changes
// it to one that serves.
func (n *Node) join(ctx context.Context, r Register, row appliance.Node) error {
	s := n.settle()
	if result := n.wait(ctx, s); len(result.Late) > 0 {
		return fault.Wrapf(fault.FleetJoining, context.Cause(ctx), "node %s could not join the fleet: %d of %d nodes have acknowledged it", n.o.ID, result.Nodes, result.Of)
	}
	serving := row
	serving.State, serving.Address = appliance.NodeServing, n.o.Address
	return r.PutNode(ctx, serving, &row)
}

// vouched says whether a member that serves has acknowledged a change, or there is no
// other. Without that a node must not join: two members that hear each other would never
// learn of it if the database kept it from them. The caller holds n.mu.
func (n *Node) vouched(number uint64) bool {
	alone := true
	for _, m := range n.members {
		if m.ID == n.o.ID || !m.State.Serves() {
			continue
		}
		if p := n.peers[m.ID]; p.acknowledged >= number {
			return true
		}
		alone = false
	}
	return alone
}

// row gives a node's row.
func (n *Node) row(id string) (appliance.Node, bool) {
	n.lock()
	defer n.unlock()
	for _, m := range n.members {
		if m.ID == id {
			return m, true
		}
	}
	return appliance.Node{}, false
}

// isRemoved says whether a node was removed, or is about to be.
func (n *Node) isRemoved(id string) bool {
	n.lock()
	defer n.unlock()
	return n.removedLocked(id)
}

func (n *Node) removedLocked(id string) bool {
	return n.gone[id] || slices.ContainsFunc(n.members, func(m appliance.Node) bool { return m.ID == id && m.State == appliance.NodeLeaving })
}

// removed is the error of this node once it was removed.
func (n *Node) removed() error {
	return fault.Errorf(fault.FleetRemoved, "node %s was removed from the fleet and does not serve: switch the machine off, or start it with an empty state folder, by which it joins as a new node; the machine's TPM remembers the state of before, so if it then says E_STATE_ROLLED_BACK, run holdfast state accept there", n.o.ID)
}

// Drain has a node take no new requests, or take them again. fault.NotFound;
// fault.Conflict if the node does not serve; fault.FleetRemoved at a node that was removed.
func (n *Node) Drain(ctx context.Context, r Register, id string, drained bool) error {
	if n.isRemoved(n.o.ID) {
		return n.removed()
	}
	row, there := n.row(id)
	switch {
	case !there:
		return noNode(id)
	case !row.State.Serves():
		return fault.Errorf(fault.Conflict, "node %s is %s: it takes no requests", id, row.State)
	}
	changed := row
	changed.State = appliance.NodeServing
	if drained {
		changed.State = appliance.NodeDrained
	}
	if changed.State == row.State {
		return nil
	}
	return r.PutNode(ctx, changed, &row)
}

// Remove begins to take a node out of the fleet: when it returns, the node may serve for a
// time that [Node.Settle] tells. [Node.Clear] ends it. fault.NotFound; fault.Conflict if
// it is this node, or the last one that is not being removed; fault.FleetRemoved at a node
// that was removed.
func (n *Node) Remove(ctx context.Context, r Register, id string) error {
	if n.isRemoved(n.o.ID) {
		return n.removed()
	}
	row, there := n.row(id)
	switch {
	case !there:
		return noNode(id)
	case id == n.o.ID:
		return fault.Errorf(fault.Conflict, "a node cannot remove itself: remove it on another one")
	case row.State == appliance.NodeLeaving:
		return nil
	}
	leaving := row
	leaving.State = appliance.NodeLeaving
	return r.PutNode(ctx, leaving, &row)
}

// maxRemoved bounds the rows of nodes that were removed, so that the list does not grow over
// years. Those that were removed first are dropped first.
const maxRemoved = 1000

// Clear ends the removal of nodes once it is in effect everywhere: only that they were removed
// stays. It waits for that until ctx ends. Where no node leaves, it looks at times whether one
// that was removed has left something at the ground.
func (n *Node) Clear(ctx context.Context, r Register) error {
	var leaving []appliance.Node
	n.lock()
	for _, m := range n.members {
		if m.State == appliance.NodeLeaving && m.ID != n.o.ID {
			leaving = append(leaving, m)
		}
	}
	n.unlock()
	if len(leaving) == 0 {
		return n.sweep(ctx)
	}
	if result := n.wait(ctx, n.settle()); len(result.Late) > 0 { // settled after they were listed
		return nil
	}
	for _, m := range leaving {
		if err := n.forget(ctx, m.ID); err != nil {
			return err
		}
		removed := m
		removed.State, removed.Address, removed.Joined = appliance.NodeRemoved, "", n.o.Now().UTC()
		if err := r.PutNode(ctx, removed, &m); err != nil {
			return err
		}
	}
	return n.dropRemoved(ctx, r)
}

// dropRemoved deletes rows of removed nodes that are too many.
func (n *Node) dropRemoved(ctx context.Context, r Register) error {
	_, all := n.o.Rows.Roll()
	all = slices.DeleteFunc(slices.Clone(all), func(m appliance.Node) bool { return m.State != appliance.NodeRemoved })
	slices.SortFunc(all, func(a, b appliance.Node) int { return cmp.Or(a.Joined.Compare(b.Joined), strings.Compare(a.ID, b.ID)) })
	for _, m := range all[:max(0, len(all)-maxRemoved)] {
		if err := r.DeleteNode(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// sweepEvery is how often the ground is cleared of nodes that were removed.
const sweepEvery = 10 * time.Minute

// sweep clears the ground of nodes that were removed. One that was cut off then, and did not
// know of it, may have left a reliance after it was forgotten.
func (n *Node) sweep(ctx context.Context) error {
	n.lock()
	now := n.o.BootTime()
	if n.swept > now-sweepEvery {
		n.unlock()
		return nil
	}
	gone := slices.Collect(maps.Keys(n.gone))
	n.unlock()
	if len(gone) > 0 {
		if err := n.forget(ctx, gone...); err != nil {
			return err
		}
	}
	n.lock()
	n.swept = now
	n.unlock()
	return nil
}

// forget clears the ground of nodes that are removed.
func (n *Node) forget(ctx context.Context, ids ...string) error {
	if n.o.Ground == nil {
		return nil
	}
	if err := n.takeGround(ctx); err != nil {
		return err
	}
	defer n.leaveGround()
	return n.o.Ground.Forget(ctx, ids...)
}

func noNode(id string) error {
	return fault.Errorf(fault.NotFound, "the fleet has no node %q", id)
}
