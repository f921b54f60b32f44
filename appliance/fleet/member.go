package fleet

import (
	"holdfast/appliance"
)

// Rows are this node's rows, as far as the fleet is concerned. Its methods are called at
// once from several goroutines, wait for nothing and must not call the [Node].
type Rows interface {
	// Roll gives how far the rows are, and the nodes as the rows of that position have
	// them. All of it is durable and in effect on the requests that begin or are answered
	// from now on. The list is not changed by anybody.
	Roll() (appliance.Position, []appliance.Node)
	// Written gives the number of the last change that is durable in the rows, which may not
	// be in effect on requests yet: at least that of each change of this node that has returned.
	Written() uint64
	// Passed says whether these rows have been at an earlier position; known is false if it
	// is further back than they can tell. They know the last 1,024 at least.
	Passed(p appliance.Position) (passed, known bool)
	// CatchUp has the log asked at once. It returns at once.
	CatchUp()
}

// relation is how another's position is to this node's.
type relation int

const (
	// unknown: it is further back than this node can tell.
	unknown relation = iota
	// contained: it is this node's, or in its past.
	contained
	// ahead: it may have a change that this node lacks.
	ahead
	// branch: its log is another one.
	branch
)

// relate says how a position is to this node's. The caller holds n.mu.
func (n *Node) relate(p appliance.Position) relation {
	passed, known := p == n.position, true
	switch {
	case p.Number > n.position.Number:
		return ahead
	case p.Number == 0:
		return contained
	case p.Number < n.position.Number:
		passed, known = n.o.Rows.Passed(p)
	}
	switch {
	case !known:
		return unknown
	case !passed:
		return branch
	}
	return contained
}
