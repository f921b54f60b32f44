package fleet

import (
	"context"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
)

// settlement is the wait for a change to be in effect everywhere.
type settlement struct {
	// at is the number of the change; reached says that this node's position has come to it.
	at      uint64
	reached bool
	began   time.Duration // when the change was in this node's rows at the latest
	of      []string      // the other nodes that may serve
	// posted is when the position was in the token; never if it was not. Relying are the
	// nodes whose reliance was there then.
	posted  time.Duration
	relying []string
	// joining says that this node does not serve yet. Others need not have heard of it, so
	// they do not stop for want of its word. They stop for want of the word of a member that
	// has acknowledged the change: vouched is when that was known; never if it is not.
	joining bool
	vouched time.Duration
}

// settle begins the wait for what the rows have now.
func (n *Node) settle() *settlement {
	n.lock()
	defer n.unlock()
	s := &settlement{at: max(n.position.Number, n.o.Rows.Written()), began: n.o.BootTime(), posted: never, vouched: never, joining: !n.self.State.Serves()}
	for id, p := range n.peers {
		if p.member {
			s.of = append(s.of, id)
		}
	}
	slices.SortFunc(s.of, strings.Compare)
	s.reached = n.position.Number >= s.at
	if n.o.Ground == nil { // nobody can rely on it
		s.posted = s.began
	}
	return s
}

// posts takes what was in the token after the position was left there.
func (n *Node) posts(s *settlement, all []appliance.Position, relying []string) {
	n.lock()
	defer n.unlock()
	s.posted, s.relying = n.o.BootTime(), relying
	if n.relateAll(all) == ahead {
		n.o.Rows.CatchUp()
	}
	n.advance()
}

// stops gives when a silent node stops to serve without the change at the latest, by this
// node's clock.
func (n *Node) stops(s *settlement, id string) time.Duration {
	if s.joining {
		return max(s.vouched, s.posted) + n.o.Grace + n.slack()
	}
	from := s.began
	if p := n.peers[id]; p != nil {
		from = min(from, p.answered) // answers after the change prove nothing to a node without it
	}
	if slices.Contains(s.relying, id) {
		from = s.posted
	}
	return from + n.o.Grace + n.slack()
}

// outcome says how far it has come, and whether it is at its end. Next is when it may be
// further without a message.
func (n *Node) outcome(s *settlement) (result appliance.Settled, done bool, next time.Duration) {
	n.lock()
	defer n.unlock()
	now, wall := n.o.BootTime(), n.o.Now()
	// A node that is not fresh may have been removed, and not know it: then others do not
	// wait for what it says.
	if !s.reached && n.position.Number >= s.at { // until now others were told the position before
		s.reached, s.began = true, now
		if n.o.Ground == nil {
			s.posted = now
		}
	}
	current := n.from+n.o.Grace > now && n.held.Load() == nil && !n.closed
	if s.joining && s.vouched == never && n.vouched(s.at) {
		s.vouched = now
	}
	bounded := s.reached && current && s.posted != never && (!s.joining || s.vouched != never)
	result = appliance.Settled{Nodes: 1, Of: 1 + len(s.of)}
	next = now + n.o.Grace
	for _, id := range s.of {
		if p := n.peers[id]; p != nil && s.reached && p.acknowledged >= s.at {
			result.Nodes++
			continue
		}
		late := appliance.LateNode{ID: id}
		if bounded {
			stops := n.stops(s, id)
			if now >= stops {
				continue
			}
			late.Until = wall.Add(stops - now)
			next = min(next, stops)
		}
		result.Late = append(result.Late, late)
	}
	if !s.reached { // this node is about to have it in effect on its own requests
		next = now + n.o.Grace/pushShare/10
	}
	return result, s.reached && len(result.Late) == 0 && (current || result.Nodes > 1), next // all that have acknowledged are of one log
}

func (n *Node) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// pushShare is the part of T in which nodes that are there acknowledge a change. After it
// the token is told.
const pushShare = 30

// Settle waits until no node serves without the changes that this node has, or ctx ends,
// and says what it has come to. Call it after a change has returned.
func (n *Node) Settle(ctx context.Context) appliance.Settled {
	return n.wait(ctx, n.settle())
}

// wait waits for a settlement.
func (n *Node) wait(ctx context.Context, s *settlement) appliance.Settled {
	n.push()
	post := s.began + n.o.Grace/pushShare
	for {
		n.mu.Lock()
		moved := n.moved
		n.mu.Unlock()
		result, done, next := n.outcome(s)
		if done || ctx.Err() != nil || n.isClosed() {
			return result
		}
		now := n.o.BootTime()
		if s.reached && s.posted == never && len(result.Late) > 0 {
			if now >= post {
				post = now + n.o.Beat
				n.post(ctx, s)
				continue
			}
			next = min(next, post)
		}
		wait := time.NewTimer(min(max(next-now, time.Millisecond), n.o.Beat))
		select {
		case <-ctx.Done():
		case <-moved:
		case <-wait.C:
		}
		wait.Stop()
	}
}

// post leaves the position in the token. What fails is tried again. A token that hangs is
// not waited for once ctx ends; nobody else uses the ground until it has answered.
func (n *Node) post(ctx context.Context, s *settlement) {
	if n.takeGround(ctx) != nil {
		return // whoever waits for the settlement sees that it is late
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer n.leaveGround()
		n.postNow(ctx, s)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (n *Node) postNow(ctx context.Context, s *settlement) {
	at := n.posting()
	all, relying, err := n.o.Ground.Post(ctx, at, n.covered(at))
	if err != nil {
		n.o.Log.Warn("the HSM could not be told of a change that a node has not acknowledged", "change", s.at, "error", err)
		return
	}
	n.hasPosted(at)
	n.posts(s, all, relying)
}

// hasPosted notes that a position is in the token.
func (n *Node) hasPosted(at appliance.Position) {
	n.lock()
	defer n.unlock()
	n.ground.posted = max(n.ground.posted, at.Number)
}

// posting gives the position to leave in the token: the newest, so that a later one is
// never replaced by an earlier one.
func (n *Node) posting() appliance.Position {
	n.lock()
	defer n.unlock()
	return n.position
}

// covered says which positions are in the past of one of this node's.
func (n *Node) covered(by appliance.Position) func(appliance.Position) bool {
	return func(p appliance.Position) bool {
		n.lock()
		defer n.unlock()
		return p.Number <= by.Number && n.relate(p) == contained
	}
}
