package fleet

import (
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Fresh implements [appliance.Fleet].
func (n *Node) Fresh() error {
	if int64(n.o.BootTime()) < n.until.Load() {
		return nil
	}
	return n.stale()
}

// Fading implements [appliance.Fleet]. It is so for the last third of the grace: a balancer
// needs some checks until it knows. The ground is read first after a third of it, and a reading
// takes a quarter at most: a node that the ground proves fresh never fades.
func (n *Node) Fading() bool {
	return int64(n.o.BootTime()) >= n.until.Load()-int64(n.o.Grace/3)
}

// stale says why the node does not serve.
func (n *Node) stale() error {
	if held := n.held.Load(); held != nil {
		return held
	}
	if n.isRemoved(n.o.ID) {
		return n.removed()
	}
	n.lock()
	defer n.unlock()
	switch state := n.self.State; {
	case !state.Serves():
		return fault.Errorf(fault.FleetJoining, "node %s has not joined the fleet yet", n.o.ID)
	}
	if silent := n.silent(); silent != "" {
		return fault.Errorf(fault.FleetStale, "this node has not heard for %s from node %s, nor from the database and the HSM, whether it lacks a change", n.o.Grace, silent)
	}
	return fault.Errorf(fault.FleetStale, "this node has not heard for %s from the database and the HSM whether it lacks a change", n.o.Grace)
}

// silent gives a member that nothing proves anything of; empty if there is none. The
// caller holds n.mu.
func (n *Node) silent() (id string) {
	oldest := n.o.BootTime() - n.o.Grace
	for _, p := range n.peers {
		if p.member && p.counted <= oldest && (id == "" || p.id < id) {
			id = p.id
		}
	}
	return id
}

// judge calculates how long this node serves (the package's second invariant), and whether it
// is drained. The caller holds n.mu.
func (n *Node) judge() {
	n.from = n.proven(n.ground.at)
	until := n.from + n.o.Grace
	if n.closed || n.held.Load() != nil || !n.self.State.Serves() {
		until = 0
	}
	n.until.Store(int64(max(until, 0)))
	n.drained.Store(n.self.State == appliance.NodeDrained)
}

// proven gives the moment that freshness counts from, with the ground as of a moment. The
// caller holds n.mu.
func (n *Node) proven(ground time.Duration) time.Duration {
	from, alone := time.Duration(0), true
	for _, p := range n.peers {
		if !p.member {
			continue
		}
		if counts := max(p.counted, ground); alone || counts < from {
			from = counts
		}
		alone = false
	}
	if alone {
		return ground
	}
	return from
}

// Live is how many nodes take requests, as far as this one hears, with itself.
func (n *Node) Live() int {
	n.lock()
	defer n.unlock()
	since, live := n.o.BootTime()-hearing*n.o.Beat, 1
	for _, m := range n.members {
		if p := n.peers[m.ID]; p != nil && p.heard > since && m.State == appliance.NodeServing {
			live++
		}
	}
	return live
}

// Drained implements [appliance.Fleet].
func (n *Node) Drained() bool {
	return n.drained.Load()
}
