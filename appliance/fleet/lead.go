package fleet

import (
	"context"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Lead says whether this node does the work for one now, and gives the context in which its
// changes are made ([appliance.Fenced]). It takes over from a node that has not answered for
// T, was removed, or is drained. Who leads is exact in the log of changes alone: a node that
// led and does not know better has its changes refused there.
func (n *Node) Lead(ctx context.Context, r Register) (context.Context, bool) {
	if n.Fresh() != nil || n.Drained() {
		return ctx, false
	}
	now, err := r.Leader(ctx)
	if err == nil && now.Node != n.o.ID {
		if n.leads(now.Node) {
			return ctx, false
		}
		now, err = r.TakeLead(ctx, n.o.ID, now)
	}
	if err != nil {
		if fault.CodeOf(err) != fault.Changed && ctx.Err() == nil {
			n.o.Log.Warn("which node does the work for the whole fleet cannot be told", "error", err)
		}
		return ctx, false
	}
	return appliance.Fenced(ctx, now.Token), true
}

// leads says whether a node that leads goes on to.
func (n *Node) leads(id string) bool {
	n.lock()
	defer n.unlock()
	for _, m := range n.members {
		if p := n.peers[id]; m.ID == id && p != nil {
			return m.State == appliance.NodeServing && n.o.BootTime()-max(p.heard, n.began) < n.o.Grace
		}
	}
	return false
}
