package fleet

import (
	"time"

	"holdfast/appliance"
)

// FleetStatus says what this node knows of all members.
func (n *Node) FleetStatus() appliance.FleetStatus {
	own := n.o.Report()
	n.lock()
	defer n.unlock()
	s := appliance.FleetStatus{Node: n.o.ID, GraceSeconds: int(n.o.Grace / time.Second), Nodes: []appliance.NodeStatus{}}
	now, wall := n.o.BootTime(), n.o.Now()
	for _, m := range n.members {
		st := appliance.NodeStatus{Node: m}
		if p := n.peers[m.ID]; m.ID == n.o.ID {
			own.Position, own.Hears, own.FreshSeconds = n.position, n.hears(), n.freshSeconds()
			st.Heard, st.LastHeard = true, wall
			tell(&st, own)
		} else if p.heard != never {
			st.Heard, st.LastHeard = p.heard > now-hearing*n.o.Beat, wall.Add(p.heard-now)
			tell(&st, p.report)
		}
		if st.Position.Number < n.position.Number {
			st.Behind = n.position.Number - st.Position.Number
		}
		s.Nodes = append(s.Nodes, st)
	}
	return s
}

// Knows gives the newest schema of the rows that all nodes of the fleet know; 0 as long as
// one of them does not answer. A node that is leaving does not count.
func (n *Node) Knows() int64 {
	lowest := n.o.Report().Schema
	n.lock()
	defer n.unlock()
	if n.self.ID == "" {
		return 0
	}
	since := n.o.BootTime() - hearing*n.o.Beat
	for _, m := range n.members {
		if m.ID == n.o.ID || m.State == appliance.NodeLeaving {
			continue
		}
		p := n.peers[m.ID]
		if p == nil || p.heard <= since {
			return 0
		}
		lowest = min(lowest, p.report.Schema)
	}
	return lowest
}

// freshSeconds is how long this node serves without another proof. The caller holds n.mu.
func (n *Node) freshSeconds() int {
	return int(max(0, (time.Duration(n.until.Load())-n.o.BootTime())/time.Second))
}

// tell takes what a node says of itself.
func tell(st *appliance.NodeStatus, r Report) {
	st.Position, st.Version, st.Schema, st.Health, st.Hears = r.Position, r.Version, r.Schema, r.Health, r.Hears
	st.FreshSeconds = r.FreshSeconds
	st.Serves = st.Heard && r.FreshSeconds > 0
}
