package fleet

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Options are what a [Node] works with. All but Hints, Ground, Report and Hold are needed.
type Options struct {
	// ID is this node's, Address where others call it.
	ID, Address  string
	Installation string
	// Key authenticates messages; Close wipes it.
	Key       appliance.PeerKey
	Rows      Rows
	Transport Transport
	// Hints, if given, say of further nodes to call.
	Hints appliance.NodeHints
	// Ground, if given, stands for nodes that do not answer.
	Ground Ground
	// Grace is T: how long a node serves without proof that it lacks no change.
	Grace time.Duration
	// Beat is how often each node is called; a second if zero.
	Beat time.Duration
	// BootTime is the clock; [BootTime] if nil. Now is the wall clock, which decides
	// nothing; time.Now if nil.
	BootTime func() time.Duration
	Now      func() time.Time
	// Report tells of this node; position, drained and hears are filled in.
	Report func() Report
	// Hold is called once if this node must not serve the state: another node has another log
	// (fault.FleetBranch), or this one was removed (fault.FleetRemoved).
	Hold func(error)
	Log  *slog.Logger
}

// never is before all times.
const never = time.Duration(-1 << 62)

// slackShare is the part of T by which two clocks may differ while T passes.
const slackShare = 60

// Node is this node among the others of its fleet. Its methods may be called at once from
// several goroutines.
type Node struct {
	o     Options
	code  code
	began time.Duration
	// until is when this node stops to serve, by the boot clock.
	until atomic.Int64
	// drained is that of self: each answer to KMS asks for it.
	drained atomic.Bool
	held    atomic.Pointer[fault.Fault]
	// pushed holds a signal when others are to be told something at once.
	pushed chan struct{}
	// grounding holds one of whoever uses the ground.
	grounding chan struct{}

	mu       sync.Mutex
	position appliance.Position
	members  []appliance.Node // of position
	gone     map[string]bool  // nodes that were removed, of position
	read     bool             // that the rows were, once
	self     appliance.Node   // of members; zero if this node is not among them
	peers    map[string]*peer
	// from is the moment that freshness counts from, were this node a member; never if
	// there is none.
	from   time.Duration
	ground ground
	// swept is when reliances of removed nodes were last removed; never if not yet.
	swept time.Duration
	hold  error // to be told when mu is free
	// moved is closed, and made again, when a settlement may have come further.
	moved  chan struct{}
	closed bool
}

// peer is another node. Zero times are never, so that [newPeer] makes one.
type peer struct {
	id, address string
	row         string // the address in the row
	member      bool
	// counted is the sending time of the newest call whose answer proves that this node
	// lacks nothing of the peer.
	counted time.Duration
	// waiting are words about positions that this node has not come to yet.
	waiting []word
	// acknowledged is the number up to which the peer has this node's log.
	acknowledged uint64
	// answered is when this node last answered a call of the peer.
	answered time.Duration
	// heard is when the peer last answered; report is what it said then.
	heard  time.Duration
	report Report
	// calling says that a call is under way.
	calling bool
	// met says that it has authenticated itself; hinted that the database says it is there.
	met, hinted bool
}

// word says that a node is at a position. Sent is when it was asked for; never if it was
// not asked, so that it acknowledges and proves nothing more.
type word struct {
	sent time.Duration
	at   appliance.Position
}

// New makes a node that has heard nothing yet, and so does not serve.
func New(o Options) *Node {
	if o.Beat <= 0 {
		o.Beat = time.Second
	}
	if o.BootTime == nil {
		o.BootTime = BootTime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Report == nil {
		o.Report = func() Report { return Report{} }
	}
	if o.Hold == nil {
		o.Hold = func(error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{o: o, code: code{o.Key, o.Installation}, began: o.BootTime(), pushed: make(chan struct{}, 1), grounding: make(chan struct{}, 1), peers: map[string]*peer{}, from: never, swept: never, moved: make(chan struct{})}
	n.ground.at, n.ground.asked = never, never
	n.lock()
	n.unlock()
	return n
}

// Close ends it: it does not serve any more, and no message of it is good.
func (n *Node) Close() {
	n.lock()
	n.closed = true
	n.judge()
	n.hold = nil // who closes it has stopped to serve
	n.unlock()
	n.o.Key.Wipe()
}

// Advanced is to be called when the rows have come further: others are told at once.
func (n *Node) Advanced() {
	n.lock()
	n.unlock()
	n.push()
}

func (n *Node) push() {
	select {
	case n.pushed <- struct{}{}:
	default:
	}
}

// slack is by how much another's clock may be late when T has passed here.
func (n *Node) slack() time.Duration { return n.o.Grace / slackShare }

// StopsWithin is how long a node may serve, by the clock of another, once nothing proves any more
// that it lacks no change: T and the slack.
func StopsWithin(grace time.Duration) time.Duration { return grace + grace/slackShare }

// lock takes the mutex, with the rows as they are now.
func (n *Node) lock() {
	position, members := n.o.Rows.Roll()
	n.mu.Lock()
	if position.Number > n.position.Number || !n.read {
		n.position, n.read = position, true
		n.enroll(members)
		n.reconsider()
	}
}

// unlock gives it back, and tells what came up meanwhile.
func (n *Node) unlock() {
	why := n.hold
	n.hold = nil
	n.mu.Unlock()
	if why != nil {
		go n.o.Hold(why) // it may wait for who waits for this node
	}
}

// enroll takes the members from the rows. To a node that serves, one that is new counts
// from where its freshness counts from: the new one could make no change while this node
// was fresh without it (docs/adr/0015-membership.md). What the ground said before this node
// was a member does not count: it asked for less then.
func (n *Node) enroll(rows []appliance.Node) {
	served, was, stayed := n.self.State.Serves(), n.self.ID != "", !n.gone[n.o.ID]
	n.self, n.members, n.gone = appliance.Node{}, make([]appliance.Node, 0, len(rows)), map[string]bool{}
	in := map[string]bool{}
	for _, m := range rows {
		if m.State == appliance.NodeRemoved {
			n.gone[m.ID] = true
			continue
		}
		n.members = append(n.members, m)
		if m.ID == n.o.ID {
			n.self = m
			continue
		}
		in[m.ID] = true
		p := n.peer(m.ID)
		if !p.member {
			p.member = true
			if served {
				p.counted = max(p.counted, n.from)
			}
		}
		if p.row != m.Address {
			p.row, p.address = m.Address, m.Address
		}
	}
	if stayed && n.gone[n.o.ID] {
		n.hold = n.removed()
	}
	if !was {
		n.ground.at, n.ground.waiting = never, nil
	}
	for id, p := range n.peers {
		if !served && n.self.State.Serves() { // until now others did not need this node's word
			p.answered = n.o.BootTime()
		}
		if p.member && !in[id] {
			p.member, p.row, p.address = false, "", ""
		}
	}
}

// peer gives what is known of a node.
func (n *Node) peer(id string) *peer {
	p := n.peers[id]
	if p == nil {
		p = &peer{id: id, counted: never, answered: n.began, heard: never}
		n.peers[id] = p
	}
	return p
}

// moved takes the address that a node has given of itself.
func (p *peer) moved(address string) {
	p.met = true
	if appliance.ValidNodeAddress(address) {
		p.address = address
	}
}

// maxWaiting bounds the words that wait. The first ones count first, so that a node that
// is always a little behind is fresh nevertheless; the last one is the newest.
const maxWaiting = 16

// take takes a word of a peer for what it is worth. The caller holds n.mu.
func (n *Node) take(p *peer, w word) {
	switch n.relate(w.at) {
	case contained:
		p.counted = max(p.counted, w.sent)
		p.acknowledged = max(p.acknowledged, w.at.Number)
	case ahead:
		if len(p.waiting) == maxWaiting {
			p.waiting = p.waiting[:maxWaiting-1]
		}
		p.waiting = append(p.waiting, w)
		n.o.Rows.CatchUp()
	case branch:
		n.branch("node "+p.id, w.at)
	}
}

// reconsider takes the words again that have waited, and judges. The caller holds n.mu.
func (n *Node) reconsider() {
	for _, p := range n.peers {
		waited := p.waiting
		p.waiting = nil
		for _, w := range waited {
			n.take(p, w)
		}
	}
	n.ground.reconsider(n)
	n.judge()
}

// branch holds the state: another has another log. The caller holds n.mu.
func (n *Node) branch(who string, at appliance.Position) {
	if n.held.Load() != nil {
		return
	}
	why := fault.Errorf(fault.FleetBranch, "%s has another log than this node: of change %d it has the digest %.16s", who, at.Number, at.Digest)
	n.held.Store(why)
	n.hold = why
	n.judge()
}

// call makes a call to a node; the time is when it counts as sent.
func (n *Node) call(to string) (*Message, time.Duration) {
	sent := n.o.BootTime()
	return n.message(to, newNonce()), sent
}

// answer takes a call of another node, and answers it; fault.FleetMessage if it is for
// another node, fault.FleetRemoved if the other was removed.
func (n *Node) answer(m *Message) (*Message, error) {
	if m.To != n.o.ID || m.From == n.o.ID || !validID(m.From) {
		return nil, fault.Errorf(fault.FleetMessage, "node %s was called as %s", n.o.ID, m.To)
	}
	n.lock()
	if n.gone[m.From] {
		n.unlock()
		return nil, fault.Errorf(fault.FleetRemoved, "node %s was removed from the fleet", m.From)
	}
	p := n.peer(m.From)
	p.answered = n.o.BootTime()
	p.moved(m.Address)
	n.take(p, word{never, m.Report.Position})
	n.advance()
	n.unlock()
	return n.message(m.From, m.Nonce), nil
}

// answered takes the answer to a call that was sent then; fault.FleetMessage if it is
// another call's.
func (n *Node) answered(call *Message, sent time.Duration, m *Message) error {
	if m.From != call.To || m.To != call.From || m.Nonce != call.Nonce {
		return fault.Errorf(fault.FleetMessage, "node %s has answered a call to node %s", m.From, call.To)
	}
	n.lock()
	defer n.unlock()
	p := n.peer(m.From)
	p.heard, p.report = n.o.BootTime(), m.Report
	p.moved(m.Address)
	n.take(p, word{sent, m.Report.Position})
	n.advance()
	return nil
}

// advance judges, and wakes those who wait for a settlement. The caller holds n.mu.
func (n *Node) advance() {
	n.judge()
	close(n.moved)
	n.moved = make(chan struct{})
}

// message makes a message of this node.
func (n *Node) message(to, nonce string) *Message {
	r := n.o.Report()
	n.lock()
	defer n.unlock()
	r.FreshSeconds = n.freshSeconds()
	r.Position, r.Drained, r.Hears = n.position, n.self.State == appliance.NodeDrained, n.hears()
	return &Message{From: n.o.ID, To: to, Nonce: nonce, Address: n.o.Address, Report: r}
}

// hearing is how long a node that has answered counts as heard, in beats.
const hearing = 5

// hears gives the IDs of the nodes that answer. The caller holds n.mu.
func (n *Node) hears() []string {
	since := n.o.BootTime() - hearing*n.o.Beat
	ids := []string{}
	for id, p := range n.peers {
		if p.heard > since {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, strings.Compare)
	return ids
}
