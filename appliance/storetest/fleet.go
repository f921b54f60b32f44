package storetest

import (
	"context"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

var (
	oneNode   = &appliance.NodeRow{Node: appliance.Node{ID: ID(7), Address: "node.example:8443", State: appliance.NodeServing, Joined: At(3)}, Seal: []byte("seal of a node")}
	oneLeader = &appliance.LeaderRow{Node: ID(7), Token: 1, Seal: []byte("seal of the leader")}
)

func lookNodes(ctx context.Context, s Engine) (any, error) { return s.Nodes(ctx) }

// testNodes: nodes are given ordered, as they were written.
func testNodes(t *testing.T, s Engine) {
	ctx := t.Context()
	second := *oneNode
	second.ID, second.State, second.Seal = ID(6), appliance.NodeJoining, []byte("another")
	Must(t, s.CreateNode(ctx, oneNode))
	Must(t, s.CreateNode(ctx, &second))
	Equal(t, Got(s.Nodes(ctx))(t), []appliance.NodeRow{second, *oneNode})
	Must(t, s.DeleteNode(ctx, second.ID, second.Seal))
	Equal(t, Got(s.Nodes(ctx))(t), []appliance.NodeRow{*oneNode})
}

// testLastNode: the last node of a fleet does not leave, also if two remove each other.
func testLastNode(t *testing.T, s Engine) {
	ctx := t.Context()
	second, gone := *oneNode, *oneNode
	second.ID, second.Seal = ID(6), []byte("another")
	gone.ID, gone.State, gone.Address, gone.Seal = ID(5), appliance.NodeRemoved, "", []byte("of before")
	for _, n := range []*appliance.NodeRow{oneNode, &second, &gone} {
		Must(t, s.CreateNode(ctx, n))
	}
	leaving := func(n appliance.NodeRow) *appliance.NodeRow {
		n.State, n.Seal = appliance.NodeLeaving, []byte("leaving")
		return &n
	}
	Must(t, s.UpdateNode(ctx, leaving(*oneNode), oneNode.Seal))
	Wants(t, s.UpdateNode(ctx, leaving(second), second.Seal), fault.Conflict, "the last node")
	Equal(t, Got(s.Nodes(ctx))(t), []appliance.NodeRow{gone, second, *leaving(*oneNode)})
}

// testFenced: no change of a node that led is made once another leads, of whatever kind it
// is; one that is not the work of a leader is.
func testFenced(t *testing.T, s Engine) {
	ctx := t.Context()
	_, err := s.Leader(ctx)
	Wants(t, err, fault.NotFound, "no node leads")
	Must(t, makeKey(ctx, s))
	first, later := appliance.Fenced(ctx, 1), appliance.Fenced(ctx, 2)
	if err := s.NoteTokenObjects(first, TokenObject("before there is a leader")); fault.CodeOf(err) != fault.FleetFenced {
		t.Errorf("%v", err)
	}
	Must(t, s.SetLeader(ctx, oneLeader, nil))
	Wants(t, s.SetLeader(ctx, oneLeader, nil), fault.Changed, "leader")
	Equal(t, Got(s.Leader(ctx))(t), oneLeader)
	Must(t, s.NoteTokenObjects(first, TokenObject("of the leader")))
	Must(t, s.SetLeader(ctx, &appliance.LeaderRow{Node: ID(8), Token: 2, Seal: []byte("another")}, oneLeader))
	for name, change := range map[string]func(context.Context) error{
		"note a token object": func(ctx context.Context) error {
			return s.NoteTokenObjects(ctx, TokenObject("too late"))
		},
		"delete a key": func(ctx context.Context) error {
			return s.DeleteKey(ctx, store.ID, oneKey.Key.ID, oneKey.Key.Seal, nil)
		},
		"a setting": func(ctx context.Context) error { return s.SetSetting(ctx, oneSetting, nil) },
		"a node":    func(ctx context.Context) error { return s.CreateNode(ctx, oneNode) },
		"lead again": func(ctx context.Context) error {
			return s.SetLeader(ctx, oneLeader, &appliance.LeaderRow{Node: ID(8), Token: 2, Seal: []byte("another")})
		},
	} {
		Wants(t, change(first), fault.FleetFenced, "another node")
		if name == "lead again" {
			continue // the leader does not give its place back
		}
		if err := change(later); err != nil {
			t.Errorf("%s, by the leader: %v", name, err)
		}
	}
}
