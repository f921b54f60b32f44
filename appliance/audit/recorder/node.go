package recorder

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"holdfast/appliance"
	"holdfast/appliance/audit"
)

// Node is a node of the fleet, as its coming and going is recorded.
type Node struct {
	ID      string `json:"node"`
	Address string `json:"address,omitempty"`
	// LogID is the ID of its audit log, by which others verify that it is not missing.
	LogID string `json:"log"`
}

// NodeJoined records that a node has joined the fleet. Each node records it, of itself and of
// others. By is who did it; the node itself if empty.
func (r *Recorder) NodeJoined(ctx context.Context, n Node, by string) error {
	return r.node(ctx, audit.NodeJoined, n, by)
}

// NodeDrained records that a node takes no new requests.
func (r *Recorder) NodeDrained(ctx context.Context, n Node, by string) error {
	return r.node(ctx, audit.NodeDrained, n, by)
}

// NodeResumed records that a node that was drained takes new requests again.
func (r *Recorder) NodeResumed(ctx context.Context, n Node, by string) error {
	return r.node(ctx, audit.NodeResumed, n, by)
}

// NodeLeft records that a node is no longer of the fleet.
func (r *Recorder) NodeLeft(ctx context.Context, n Node, by string) error {
	r.peers.left(n.LogID)
	return r.node(ctx, audit.NodeLeft, n, by)
}

func (r *Recorder) node(ctx context.Context, operation string, n Node, by string) error {
	after, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if by == "" {
		by = "node " + n.ID
	}
	if err := r.Record(ctx, &audit.Record{Kind: audit.KindFleet, Operation: operation, Result: audit.Allowed, Actor: by, After: after}); err != nil {
		return err
	}
	r.peers.change(func() {
		if r.peers.of == nil { // what is on record is read at the first use
			return
		}
		p := r.peers.of[n.LogID]
		if p == nil {
			p = &peer{}
			r.peers.of[n.LogID] = p
		}
		p.member, p.left = operation, operation == audit.NodeLeft
	})
	return nil
}

// byRows is who has drained or removed a node, as far as the rows of the nodes tell. The
// operation's own record names the administrator.
const byRows = "rows of the fleet"

// Members records what is other with the nodes than what the log has on record: which have
// joined, are drained, take requests again or are not there any more. A node's ID is that of
// its log. It records nothing twice, over restarts too, as long as retention keeps the
// records. The list must be whole.
func (r *Recorder) Members(ctx context.Context, now []appliance.Node) error {
	r.membership.Lock()
	defer r.membership.Unlock()
	known, err := r.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range now {
		n, was := Node{ID: m.ID, Address: m.Address, LogID: m.ID}, known[m.ID]
		delete(known, m.ID)
		if m.State.Serves() && (was == "" || was == audit.NodeLeft) {
			if err := r.NodeJoined(ctx, n, ""); err != nil {
				return err
			}
			was = audit.NodeJoined
		}
		switch {
		case m.State == appliance.NodeDrained && was != audit.NodeDrained:
			err = r.NodeDrained(ctx, n, byRows)
		case m.State == appliance.NodeServing && was == audit.NodeDrained:
			err = r.NodeResumed(ctx, n, byRows)
		}
		if err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if was := known[id]; was == "" || was == audit.NodeLeft {
			continue
		}
		if err := r.NodeLeft(ctx, Node{ID: id, LogID: id}, byRows); err != nil {
			return err
		}
	}
	return nil
}

// members gives what is on record of each node's membership, by ID: an operation, or "".
func (r *Recorder) members(ctx context.Context) (map[string]string, error) {
	if r.current() == nil {
		return nil, errNotOpen
	}
	if _, err := r.peer(ctx, r.LogID()); err != nil { // this reads the heads on record
		return nil, err
	}
	known := map[string]string{}
	r.peers.change(func() {
		for id, p := range r.peers.of {
			known[id] = p.member
		}
	})
	return known, nil
}
