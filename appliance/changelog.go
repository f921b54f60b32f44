package appliance

import (
	"context"
	"iter"
	"time"
)

// ChangeLog keeps the changes of one installation in their order, for the appliances of a
// fleet (docs/adr/0015-fleet.md). It is not trusted: bodies are sealed, and each is bound
// to the one before, so what a log can do is withhold. Package postgres has one.
//
// Errors, besides those that a method names: fault.DatabaseAway if the log could not be
// reached, or did not answer in time. All methods may be called at once from several
// goroutines.
type ChangeLog interface {
	// Append adds the change with that number. fault.Changed if there is one with it;
	// fault.Conflict if the one before is not there. After fault.DatabaseAway it may be
	// there, or come to be.
	Append(ctx context.Context, number uint64, body []byte) error
	// Changes gives changes from that number on, in order and without a gap, at most so
	// many; none if there is none with that number.
	Changes(ctx context.Context, from uint64, most int) ([][]byte, error)
	// Newest gives the number of the newest change; 0 if there is none.
	Newest(ctx context.Context) (uint64, error)
	// Changed holds a signal when there may be a new change. It is a hint: ask each second.
	Changed() <-chan struct{}

	// Founding gives what is known of the installation before a change can be read;
	// fault.NotFound if none was begun.
	Founding(ctx context.Context) (*Founding, error)
	// ClaimFounding says whether this node may make what an installation needs: the HSM's
	// master key, and the founding. One node may, and keeps that for as long as it asks
	// again within the lease.
	ClaimFounding(ctx context.Context, node string, lease time.Duration) (bool, error)
	// Found begins the installation; fault.Exists if one was.
	Found(ctx context.Context, f *Founding) error

	// Snapshot gives the newest snapshot: of which change, and its parts in order;
	// fault.NotFound if there is none.
	Snapshot(ctx context.Context) (number uint64, parts iter.Seq2[[]byte, error], err error)
	// KeepSnapshot keeps one, all or nothing. An error of parts comes back as it is.
	KeepSnapshot(ctx context.Context, number uint64, parts iter.Seq2[[]byte, error]) error
	// Forget removes the changes before that number, and the snapshots of before it.
	Forget(ctx context.Context, before uint64) error
}

// Founding is what the first node of a fleet leaves for the others: by it the HSM gives
// them the state key, and by that they can read the changes. The HSM's master key
// authenticates it.
type Founding struct {
	Installation    string // its ID
	WrappedStateKey []byte
}

// Position is how far a node is in the log.
type Position struct {
	// Number is that of the last change; 0 for none.
	Number uint64 `json:"number" jsonschema:"The number of the last change in the log of changes; 0 for none."`
	// Digest is of it and all before it, hexadecimal: two nodes that were shown different
	// logs have different ones for the same number.
	Digest string `json:"digest" jsonschema:"The digest of that change and all before it, in hexadecimal."`
}

// NodeHints is where nodes find each other. What it says decides nothing. Errors:
// fault.DatabaseAway.
type NodeHints interface {
	// Announce says that a node is there.
	Announce(ctx context.Context, n NodeHint) error
	// Nodes gives all nodes that were announced, ordered by ID.
	Nodes(ctx context.Context) ([]NodeHint, error)
	// RemoveNode removes one; it is no error if it is not there.
	RemoveNode(ctx context.Context, id string) error
}

// NodeHint is what a node has announced.
type NodeHint struct {
	ID      string    `json:"id"`
	Address string    `json:"address"` // host:port of its administrators' listener
	At      time.Time `json:"at"`      // by the log's clock
}

// Node is a node of the fleet, as a change of the log has put it on record. Only these
// serve, and a change is in effect when each of them has it, or has stopped.
type Node struct {
	ID      string    `json:"id" jsonschema:"The ID of the node, 32 hexadecimal digits."`                        // 32 hexadecimal digits
	Address string    `json:"address" jsonschema:"The host and port of the node's listener for administrators."` // host:port of its administrators' listener
	State   NodeState `json:"state" jsonschema:"The state of the node in the fleet."`
	Joined  time.Time `json:"joined" jsonschema:"When the node joined; of a node that was removed, when it was."` // of one that was removed, when it was
}

// NodeState says what a node may do.
type NodeState string

// The states of a node.
const (
	// NodeJoining: it does not serve yet.
	NodeJoining NodeState = "joining"
	NodeServing NodeState = "serving"
	// NodeDrained: it answers what it is still asked, and is ready for nothing new.
	NodeDrained NodeState = "drained"
	// NodeLeaving: it does not serve any more, and counts as a node until all others have
	// acknowledged that.
	NodeLeaving NodeState = "leaving"
	// NodeRemoved: it was a node and is none any more. The row stays without an address, so
	// that a machine with this ID does not join again.
	NodeRemoved NodeState = "removed"
)

// Serves says whether a node in this state answers requests for keys.
func (s NodeState) Serves() bool { return s == NodeServing || s == NodeDrained }
