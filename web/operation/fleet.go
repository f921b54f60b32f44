package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Fleet is what operations need of the fleet that this node is in.
type Fleet interface {
	// Settle waits until no node serves without the changes made so far, or ctx ends.
	Settle(ctx context.Context) appliance.Settled
	// FleetStatus says what this node knows of all. It never fails.
	FleetStatus() appliance.FleetStatus
	// Drain has a node take no new requests, or take them again. fault.NotFound,
	// fault.Conflict.
	Drain(ctx context.Context, node string, drained bool) error
	// Remove takes a node out of the fleet. fault.NotFound, fault.Conflict.
	Remove(ctx context.Context, node string) error
}

// NodeName names a node of the fleet by its ID.
type NodeName struct {
	Node string `path:"node" json:"-" about:"The ID of the node."`
}

// Drain says whether a node is to take no new requests.
type Drain struct {
	NodeName
	Drained bool `json:"drained" jsonschema:"true: the node takes no new requests; false: it takes them again." example:"true"`
}

// fleet gives the fleet; fault.Conflict if this appliance is in none.
func (c *Caller) fleet() (Fleet, error) {
	if c.Fleet == nil {
		return nil, fault.Errorf(fault.Conflict, "this appliance is in no fleet: its configuration names no database that others share")
	}
	return c.Fleet, nil
}

// node gives a node as this one knows it.
func (c *Caller) node(id string) (n appliance.NodeStatus, err error) {
	f, err := c.fleet()
	if err != nil {
		return n, err
	}
	for _, n := range f.FleetStatus().Nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return n, fault.Errorf(fault.NotFound, "the fleet has no node %q", id)
}

func nodeSubject(_ context.Context, c *Caller, in NodeName) any {
	if n, err := c.node(in.Node); err == nil {
		return &n.Node
	}
	return nil
}

// NodeDetail is a node as this one knows it.
type NodeDetail struct{ appliance.NodeStatus }

func (n NodeDetail) revised() any { return n.Node }

// NodePage asks for a page of nodes.
type NodePage struct {
	Paging
	Node     string                 `query:"node" longest:"253" about:"only nodes whose ID or address has it in it" json:"-"`
	Standing appliance.NodeStanding `query:"standing" enum:"serving,not_serving,silent,drained,joining,leaving" about:"only nodes that stand so: that serve, that answer and do not serve, that do not answer, that are drained, that join or that leave" json:"-"`
}

func (p NodePage) has(n appliance.NodeStatus) bool {
	return (contains(n.ID, p.Node) || contains(n.Address, p.Node)) && is(n.Standing(), p.Standing)
}

// The operations on the fleet. Removing a node takes its right to serve away, so it is as
// urgent as a block.
var (
	ShowFleet = define(Operation[Nothing, appliance.FleetStatus]{
		Route: Route{ID: "fleetStatus", Method: http.MethodGet, Path: "/fleet", Capability: identity.See,
			Words: "Show fleet", Summary: "The nodes of the fleet, as this one knows them"},
		Run: func(_ context.Context, c *Caller, _ Nothing) (appliance.FleetStatus, error) {
			if c.Fleet == nil {
				return appliance.FleetStatus{Nodes: []appliance.NodeStatus{}}, nil
			}
			return c.Fleet.FleetStatus(), nil
		},
	})
	ListNodes = defineList(Listing[NodePage, appliance.NodeStatus]{
		Route: Route{ID: "listNodes", Method: http.MethodGet, Path: "/fleet/nodes", Capability: identity.See,
			Words: "List nodes", Summary: "The nodes of the fleet, as this one knows them, page by page; none without a fleet"},
		ID: func(n appliance.NodeStatus) string { return n.ID },
		By: []Order[appliance.NodeStatus]{
			{"address", func(n appliance.NodeStatus) string { return textKey(n.Address) }},
			{"last_heard", func(n appliance.NodeStatus) string { return timeKey(n.LastHeard) }},
			{"version", func(n appliance.NodeStatus) string { return textKey(n.Version) }},
		},
		All: func(_ context.Context, c *Caller, in NodePage) ([]appliance.NodeStatus, error) {
			if c.Fleet == nil {
				return nil, nil
			}
			return keep(c.Fleet.FleetStatus().Nodes, nil, in.has)
		},
	})
	ShowNode = define(Operation[NodeName, NodeDetail]{
		Route: Route{ID: "showNode", Method: http.MethodGet, Path: "/fleet/nodes/{node}", Capability: identity.See, Conflicts: true,
			Words: "Show node", Summary: "A node of the fleet, as this one knows it"},
		Run: func(_ context.Context, c *Caller, in NodeName) (NodeDetail, error) {
			n, err := c.node(in.Node)
			return NodeDetail{n}, err
		},
	})
	DrainNode = define(Operation[Drain, Nothing]{
		Route: Route{ID: "drainNode", Method: http.MethodPut, Path: "/fleet/nodes/{node}/drained", Capability: identity.Administer, Effects: StopsService, ConfirmedIf: "if it drains", Alone: failingNode, Urgency: Ordinary,
			Words: "Drain or resume node", Variants: []string{"Drain node", "Resume node"}, Summary: "Have a node of the fleet take no new requests, or take them again"},
		Subject:   func(ctx context.Context, c *Caller, in Drain) any { return nodeSubject(ctx, c, in.NodeName) },
		Confirmed: func(_ any, in Drain) bool { return in.Drained },
		Variant: func(in Drain) string {
			if in.Drained {
				return "Drain node"
			}
			return "Resume node"
		},
		Run: func(ctx context.Context, c *Caller, in Drain) (Nothing, error) {
			f, err := c.fleet()
			if err != nil {
				return Nothing{}, err
			}
			return Nothing{}, f.Drain(ctx, in.Node, in.Drained)
		},
	})
	RemoveNode = define(Operation[NodeName, Nothing]{
		Route: Route{ID: "removeNode", Method: http.MethodDelete, Path: "/fleet/nodes/{node}", Capability: identity.Administer, Effects: StopsService | TakesAccess, Alone: failingNode, Urgency: Urgent,
			Words: "Remove node", Summary: "Take a node out of the fleet for good: it does not serve any more"},
		Subject: nodeSubject,
		Run: func(ctx context.Context, c *Caller, in NodeName) (Nothing, error) {
			f, err := c.fleet()
			if err != nil {
				return Nothing{}, err
			}
			return Nothing{}, f.Remove(ctx, in.Node)
		},
	})
)
