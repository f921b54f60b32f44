package appliance

import (
	"context"
	"time"
)

// Fleet is what the other nodes of a fleet mean to this one. Package fleet has one; an
// appliance on its own has none.
type Fleet interface {
	// Fresh says whether this node may serve now; fault.FleetStale, fault.FleetBranch,
	// fault.FleetRemoved. It is asked twice for each request, and costs next to nothing.
	Fresh() error
	// Lead says whether this node does the work for one now, and gives the context in which
	// it is to be done ([Fenced]).
	Lead(ctx context.Context) (context.Context, bool)
	// Drained says that this node is to get no new requests. It answers those it gets.
	Drained() bool
	// Fading says that this node stops to serve soon, unless it hears before that it lacks no
	// change. It answers those it gets, and is to get no new requests.
	Fading() bool
	// Knows gives the newest schema of the rows that all nodes of the fleet know; 0 as long
	// as one of them does not answer.
	Knows() int64
	// Join begins to speak to the others, when the appliance is unlocked, and Leave ends it,
	// before it is locked.
	Join(ring Keyring, installation string) error
	Leave()
}

// noFleet is that of an appliance on its own.
type noFleet struct{}

func (noFleet) Fresh() error  { return nil }
func (noFleet) Drained() bool { return false }
func (noFleet) Fading() bool  { return false }
func (noFleet) Knows() int64  { return 0 }
func (noFleet) Leave()        {}

func (noFleet) Join(Keyring, string) error { return nil }

func (noFleet) Lead(ctx context.Context) (context.Context, bool) { return ctx, true }

// Settled is how far the newest change of this node is in effect in its fleet.
type Settled struct {
	// Nodes is how many nodes have it, with this one; Of is how many there are.
	Nodes, Of int
	// Late are the nodes that may still serve without it, ordered by ID.
	Late []LateNode
}

// LateNode is a node that may still serve without a change.
type LateNode struct {
	ID string
	// Until is when it stops at the latest; zero if that is not known, as the HSM could
	// not be told of the change.
	Until time.Time
}

// FleetStatus is what a node knows of its fleet.
type FleetStatus struct {
	// Node is the ID of the node that says it; empty for an appliance on its own.
	Node string `json:"node,omitempty" jsonschema:"The ID of the node that answers; absent for an appliance on its own."`
	// GraceSeconds is T: how long a node serves without proof that it lacks no change.
	GraceSeconds int          `json:"grace_seconds" jsonschema:"For how many seconds a node serves without proof that it lacks no change."`
	Nodes        []NodeStatus `json:"nodes" jsonschema:"The nodes of the fleet; empty for an appliance on its own."`
}

// NodeStatus is what a node knows of one node, itself among them.
type NodeStatus struct {
	Node
	// Heard says that it answers.
	Heard bool `json:"heard" jsonschema:"Whether the node answers."`
	// LastHeard is when it answered last; missing if never since the start.
	LastHeard time.Time `json:"last_heard,omitzero" jsonschema:"When the node last answered; absent if never since the start."`
	// Serves says that it may serve now, as it says itself. FreshSeconds is for how long
	// without another proof; this node's own is missing if it does not serve.
	Serves       bool `json:"serves" jsonschema:"Whether the node may serve now, as it says itself."`
	FreshSeconds int  `json:"fresh_seconds" jsonschema:"For how many seconds the node may serve without another proof."`
	// Position is what it was heard to have. Behind is how many changes it lacks of those
	// that this node has.
	Position Position     `json:"position" jsonschema:"How far the node is in the log of changes."`
	Behind   uint64       `json:"behind" jsonschema:"How many changes the node lacks of those that the answering node has."`
	Version  string       `json:"version,omitempty" jsonschema:"The release of Holdfast that the node runs."`
	Schema   int64        `json:"schema,omitempty" jsonschema:"The version of the node's database schema."`
	Health   HealthStatus `json:"health,omitempty" jsonschema:"The health of the node, as GetHealthStatus tells it."`
	// Hears are the IDs of the nodes that answer it.
	Hears []string `json:"hears,omitempty" jsonschema:"The IDs of the nodes that answer this node."`
}

// NodeStanding is in one word how a node stands in the fleet, as far as another one knows.
type NodeStanding string

// How a node stands: on its way in or out; else it is silent, or answers and does not serve, or
// serves, which a drained one does for old connections.
const (
	NodeStandsJoining    NodeStanding = "joining"
	NodeStandsLeaving    NodeStanding = "leaving"
	NodeStandsSilent     NodeStanding = "silent"
	NodeStandsNotServing NodeStanding = "not_serving"
	NodeStandsDrained    NodeStanding = "drained"
	NodeStandsServing    NodeStanding = "serving"
)

// Standing says how the node stands.
func (n *NodeStatus) Standing() NodeStanding {
	switch {
	case n.State == NodeLeaving:
		return NodeStandsLeaving
	case n.State == NodeJoining:
		return NodeStandsJoining
	case !n.Heard:
		return NodeStandsSilent
	case !n.Serves:
		return NodeStandsNotServing
	case n.State == NodeDrained:
		return NodeStandsDrained
	}
	return NodeStandsServing
}

// PeerKey authenticates what nodes of a fleet say to each other. It is derived from the
// state key, so there is one only while the appliance is unlocked. Its methods may be
// called at once from several goroutines.
type PeerKey interface {
	// MAC gives HMAC-SHA256 of a message; after Wipe, what matches nothing.
	MAC(message []byte) []byte
	Wipe()
}
