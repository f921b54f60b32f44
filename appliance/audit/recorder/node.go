package recorder

import (
	"context"
	"encoding/json"

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
	return r.Record(ctx, &audit.Record{Kind: audit.KindFleet, Operation: operation, Result: audit.Allowed, Actor: by, After: after})
}
