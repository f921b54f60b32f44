package fleet

import (
	"context"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Ground is what all nodes can look at without each other: the log in the database, and
// objects in the HSM's token. The database may lie, and the token does not: its objects are
// sealed under the state key. Of those there are two kinds. A *position* says how far the
// log goes at least; the newest one stays for good, so that a node that was away, or removed,
// never takes an older state for the present one. A node's *reliance* says that it may be
// serving by the ground.
//
// Its methods are called by one goroutine at a time. None may return while what it does in
// the token can still happen, also if ctx ends.
type Ground interface {
	// Read puts this node's reliance into the token, if it is not there. After that it
	// reads, afresh, the number of the newest change in the database, the installation's
	// object and all positions in the token, and gives all of them. The digest is empty
	// where only the number is known. An error, such as of an installation that another
	// copy has taken over, proves nothing.
	Read(ctx context.Context) ([]appliance.Position, error)
	// Release removes this node's reliance; it is no error if it is not there.
	Release(ctx context.Context) error
	// Post puts a position into the token. After that it reads all positions and reliances
	// there, and gives the other positions and the IDs of the nodes that rely. Then it
	// removes those positions of which covered says that the new one is after them.
	Post(ctx context.Context, at appliance.Position, covered func(appliance.Position) bool) (others []appliance.Position, relying []string, err error)
	// Forget removes the reliances of nodes that were removed.
	Forget(ctx context.Context, ids ...string) error
}

// ground is what this node has from the ground.
type ground struct {
	// at is when the newest reading began that proves that this node lacks nothing; never
	// if it does not rely on one.
	at      time.Duration
	waiting []reading
	// released says that the token has no reliance of this node. A process before this one
	// may have left one.
	released bool
	// asked is when the last reading began.
	asked time.Duration
	// posted is the highest number that is known to be in the token; 0 for none.
	posted uint64
}

// reading is what a reading of the ground has found.
type reading struct {
	began time.Duration
	all   []appliance.Position
}

// groundWork is what is to be done at the ground.
type groundWork int

const (
	groundRest groundWork = iota
	groundRead
	groundRelease
	groundPost
)

// maxPosted is by how many changes the newest position in the token may be behind. Nodes
// must know the digests of that many changes, and more ([Rows]).
const maxPosted = 256

// groundWork says what is to be done at the ground now. It is read before anything runs
// out, and released when all members are heard, and for good when this node knows that it
// was removed: it serves no more, and others would wait for it.
func (n *Node) groundWork() groundWork {
	n.lock()
	defer n.unlock()
	g, now := &n.ground, n.o.BootTime()
	words := n.proven(never)
	again := n.o.Beat
	if g.at > now-n.o.Grace/4 {
		again = n.o.Grace / 4
	}
	switch {
	case n.o.Ground == nil || n.closed:
	case n.removedLocked(n.o.ID):
		if !g.released {
			g.at, g.waiting = never, nil
			return groundRelease
		}
	case words <= now-n.o.Grace/3 && g.asked <= now-again:
		g.asked, g.released = now, false
		return groundRead
	case words > now-n.o.Grace/4 && !g.released:
		g.at, g.waiting = never, nil
		n.judge()
		return groundRelease
	case g.posted > 0 && n.position.Number > g.posted+maxPosted && n.until.Load() > int64(now):
		return groundPost
	}
	return groundRest
}

// readGround takes what a reading of the ground has found. What this node has been told to
// lack counts as if it had been found there: the token has not all changes.
func (n *Node) readGround(r reading) {
	n.lock()
	defer n.unlock()
	for _, p := range r.all {
		if p.Digest != "" {
			n.ground.posted = max(n.ground.posted, p.Number)
		}
	}
	for _, p := range n.peers {
		for _, w := range p.waiting {
			r.all = append(r.all, w.at)
		}
	}
	n.ground.take(n, r)
	n.advance()
}

// take takes a reading for what it is worth: this node lacks nothing if all positions are
// in its past.
func (g *ground) take(n *Node, r reading) {
	switch n.relateAll(r.all) {
	case contained:
		g.at = max(g.at, r.began)
	case ahead:
		if len(g.waiting) == maxWaiting {
			g.waiting = g.waiting[:maxWaiting-1]
		}
		g.waiting = append(g.waiting, r)
		n.o.Rows.CatchUp()
	}
}

// takeGround waits for its turn to use the ground. The error is that of ctx.
func (n *Node) takeGround(ctx context.Context) error {
	select {
	case n.grounding <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.Wrapf(fault.Timeout, ctx.Err(), "the HSM's token is in use: a call before has not ended")
	}
}

func (n *Node) leaveGround() { <-n.grounding }

// relateAll says how positions at the ground are to this node's: that of the one that
// allows least. The caller holds n.mu.
func (n *Node) relateAll(all []appliance.Position) relation {
	least := contained
	for _, p := range all {
		how := n.relate(p)
		switch {
		case p.Digest == "" && p.Number <= n.position.Number: // a number alone
		case how == branch:
			n.branch("the HSM's token", p)
			return branch
		case how == unknown, how == ahead && least == contained:
			least = how
		}
	}
	return least
}

func (g *ground) reconsider(n *Node) {
	waited := g.waiting
	g.waiting = nil
	for _, r := range waited {
		g.take(n, r)
	}
}
