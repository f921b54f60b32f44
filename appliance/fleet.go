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
	// Settle waits until no node serves without the changes that this node has, or ctx
	// ends, and says what it has come to. Call it after a change has returned.
	Settle(ctx context.Context) Settled
	// Live is how many nodes serve, as far as this one hears, with itself.
	Live() int
}

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

// PeerKey authenticates what nodes of a fleet say to each other. It is derived from the
// state key, so there is one only while the appliance is unlocked. Its methods may be
// called at once from several goroutines.
type PeerKey interface {
	// MAC gives HMAC-SHA256 of a message; after Wipe, what matches nothing.
	MAC(message []byte) []byte
	Wipe()
}
