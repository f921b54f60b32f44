package fleet

import (
	"context"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Hints are rows of the database that nobody has sealed: whoever can write there adds as many
// as he likes. So they add few nodes to those that are called, and what they say of members
// counts only where nothing else is known.

const (
	// maxStrangers bounds the nodes that are called for hints alone.
	maxStrangers = 8
	// hintBeats is how often hints are read, in beats.
	hintBeats = 10
	// hintKept is how long the row of a node stays that is not announced any more.
	hintKept = 24 * time.Hour
	// maxDropped bounds the rows that are removed at once.
	maxDropped = 100
)

// hints announces this node, and takes the others that are announced, until ctx ends.
func (n *Node) hints(ctx context.Context) {
	if n.o.Hints == nil {
		return
	}
	tick := time.NewTicker(hintBeats * n.o.Beat)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := n.hintsOnce(ctx); err != nil && ctx.Err() == nil {
			n.o.Log.Warn("the list of nodes in the database cannot be read", "code", fault.CodeOf(err), "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (n *Node) hintsOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hintBeats*n.o.Beat)
	defer cancel()
	if err := n.o.Hints.Announce(ctx, appliance.NodeHint{ID: n.o.ID, Address: n.o.Address}); err != nil {
		return err
	}
	all, err := n.o.Hints.Nodes(ctx)
	if err != nil {
		return err
	}
	n.takeHints(all)
	return nil
}

// takeHints takes addresses of members that are not known, and the newest few of others. It
// forgets the others of before.
func (n *Node) takeHints(all []appliance.NodeHint) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b appliance.NodeHint) int { return b.At.Compare(a.At) })
	n.lock()
	defer n.unlock()
	for _, p := range n.peers {
		p.hinted = false
	}
	strangers := 0
	for _, h := range all {
		if h.ID == n.o.ID || n.gone[h.ID] || !validID(h.ID) || !appliance.ValidNodeAddress(h.Address) {
			continue
		}
		p := n.peers[h.ID]
		if p == nil || !p.member {
			if strangers == maxStrangers {
				continue
			}
			strangers++
			p = n.peer(h.ID)
			p.hinted = true
		}
		if p.address == "" || !p.member && !p.met {
			p.address = h.Address
		}
	}
	n.dropStrangers()
}

// dropStrangers forgets nodes that are no members, nor hinted, and that have said nothing for
// so long that nothing counts which they said. The caller holds n.mu.
func (n *Node) dropStrangers() {
	old := n.o.BootTime() - 2*n.o.Grace
	for id, p := range n.peers {
		if !p.member && !p.hinted && !p.calling && (!p.met || max(p.heard, p.answered) < old) {
			delete(n.peers, id)
		}
	}
}

// maxID is the longest ID of a node; nodes have 32 hexadecimal digits.
const maxID = 64

func validID(id string) bool { return id != "" && len(id) <= maxID }

// dropHints removes from the database the rows of nodes that were removed, or that nobody
// announces any more. The leader does it.
func (n *Node) dropHints(ctx context.Context) error {
	if n.o.Hints == nil {
		return nil
	}
	all, err := n.o.Hints.Nodes(ctx)
	if err != nil {
		return err
	}
	own := slices.IndexFunc(all, func(h appliance.NodeHint) bool { return h.ID == n.o.ID })
	if own < 0 {
		return nil // without its time nothing is old
	}
	now, dropped := all[own].At, 0
	for _, h := range all {
		if dropped == maxDropped || n.wanted(h, now) {
			continue
		}
		if err := n.o.Hints.RemoveNode(ctx, h.ID); err != nil {
			return err
		}
		dropped++
	}
	return nil
}

// wanted says whether a hint is to stay; now is the time of the database.
func (n *Node) wanted(h appliance.NodeHint, now time.Time) bool {
	n.lock()
	defer n.unlock()
	if n.gone[h.ID] {
		return false
	}
	p := n.peers[h.ID]
	return h.ID == n.o.ID || p != nil && p.member || h.At.After(now.Add(-hintKept)) && h.At.Before(now.Add(hintKept))
}
