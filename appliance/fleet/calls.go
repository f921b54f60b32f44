package fleet

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Calls are what the nodes of a fleet ask each other besides their heartbeats. Questions
// and answers are authenticated by the key of the seat's node, bound to the installation,
// both nodes, direction, kind and body; an answer is bound to its question. A node answers
// only members of the sealed rows, and each question once: one that is sent again is
// refused. A question that gets no answer may have had its effect.
//
// Nodes trust each other's key and not what they say: bodies are checked by those who ask.
type Calls struct {
	seat      *Seat
	transport Transport
	log       *slog.Logger
	answers   map[string]*answerer
	own       epochs

	mu    sync.Mutex
	known map[string]string // epochs of members, by ID
}

// Answer answers a question of a member. The body is at most [MaxAnswerBody] long.
type Answer func(ctx context.Context, from string, body []byte) ([]byte, error)

type answerer struct {
	answer Answer
	free   chan struct{} // has one for each answer that may begin
}

// The time that an answer may take.
const (
	// askTime bounds the asking, if the context does not.
	askTime = 10 * time.Second
	// answerTime bounds the work for an answer.
	answerTime = 5 * time.Second
)

// NewCalls makes calls of the node in a seat. The transport is one of its own, so that
// heartbeats wait for no answer; it carries [MaxQuestion] bytes there and [MaxAnswer] back.
func NewCalls(seat *Seat, transport Transport, log *slog.Logger) *Calls {
	return &Calls{seat: seat, transport: transport, log: log, answers: map[string]*answerer{}, known: map[string]string{}}
}

// On has a kind of questions answered, so many at once; further ones get fault.Throttled.
// Call it before anything is asked.
func (c *Calls) On(kind string, atOnce int, answer Answer) {
	free := make(chan struct{}, atOnce)
	for range atOnce {
		free <- struct{}{}
	}
	c.answers[kind] = &answerer{answer, free}
}

// Seat gives the seat whose node asks.
func (c *Calls) Seat() *Seat { return c.seat }

// Ask asks a member, and gives the body of its answer. Errors: what the member answers, as a
// fault; those of the transport; fault.FleetJoining while the appliance is locked;
// fault.NotFound; fault.FleetMessage if what answers is not that member.
func (c *Calls) Ask(ctx context.Context, to, kind string, body []byte) ([]byte, error) {
	n := c.seat.Node()
	if n == nil {
		return nil, noSeat()
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	address, err := n.member(to)
	switch {
	case err != nil:
		return nil, err
	case address == "":
		return nil, fault.Errorf(fault.Unreachable, "the address of node %s is not known yet", to)
	}
	for range 2 { // the first may name an epoch that is over
		r, answer, err := c.askOnce(ctx, n, address, to, kind, body)
		switch {
		case err != nil:
			return nil, err
		case r.Stale:
			continue
		case r.Code != "":
			return nil, fault.Errorf(r.Code, "node %s answers: %s", to, r.Reason)
		}
		return answer, nil
	}
	return nil, fault.Errorf(fault.FleetMessage, "node %s takes no question for a present one", to)
}

// askOnce sends a question, and reads the answer.
func (c *Calls) askOnce(ctx context.Context, n *Node, address, to, kind string, body []byte) (*reply, []byte, error) {
	c.mu.Lock()
	q := question{From: n.o.ID, To: to, Nonce: newNonce(), Epoch: c.known[to], Kind: kind}
	c.mu.Unlock()
	said, err := frame(q, body)
	if err != nil {
		return nil, nil, err
	}
	asked := n.code.sealFrame(calling, said, nil)
	if len(asked) > MaxQuestion {
		return nil, nil, fault.Errorf(fault.TooLarge, "a question to another node has %d bytes; %d are the most", len(asked), MaxQuestion)
	}
	text, err := c.transport.Call(ctx, address, asked)
	if err != nil {
		return nil, nil, err
	}
	if len(text) > MaxAnswer {
		return nil, nil, fault.Errorf(fault.TooLarge, "node %s has answered with more than %d bytes", to, MaxAnswer)
	}
	r := &reply{}
	answer, err := n.code.openFrame(answering, text, asked, r)
	if err != nil {
		return nil, nil, err
	}
	if r.From != to || r.To != q.From || r.Nonce != q.Nonce {
		return nil, nil, fault.Errorf(fault.FleetMessage, "node %.80s has answered a question to node %s", r.From, to)
	}
	r.Reason = clipReason(r.Reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[to] = r.Epoch
	return r, answer, nil
}

// Handle answers a question of another node. fault.Locked without a node;
// fault.FleetMessage if it is not a member that has sent it, to this node, for the first
// time.
func (c *Calls) Handle(ctx context.Context, text []byte) ([]byte, error) {
	n := c.seat.Node()
	switch {
	case n == nil:
		return nil, fault.Errorf(fault.Locked, "this node is locked")
	case len(text) > MaxQuestion:
		return nil, fault.Errorf(fault.TooLarge, "a question between nodes has at most %d bytes", MaxQuestion)
	}
	q := question{}
	body, err := n.code.openFrame(calling, text, nil, &q)
	if err != nil {
		return nil, err
	}
	if q.To != n.o.ID || len(q.Nonce) != nonceChars {
		return nil, fault.Errorf(fault.FleetMessage, "node %s was asked as %.80s", n.o.ID, q.To)
	}
	if _, err := n.member(q.From); err != nil {
		return nil, fault.Wrapf(fault.FleetMessage, err, "node %.80s asks and is not in the fleet", q.From)
	}
	r := reply{From: n.o.ID, To: q.From, Nonce: q.Nonce}
	next, how := c.own.take(q.Epoch, q.Nonce, n.o.BootTime())
	if how == replayed {
		return nil, fault.Errorf(fault.FleetMessage, "a question of node %s came twice", q.From)
	}
	var answer []byte
	r.Epoch, r.Stale = next, how == stale
	if how == fresh {
		if answer, err = c.answer(ctx, &q, body); err != nil {
			why := fault.Answer(ctx, c.log, "a node was answered", err, "node", q.From, "question", q.Kind)
			answer, r.Code, r.Reason = nil, why.Code, clipReason(why.Message)
		}
	}
	said, err := frame(r, answer)
	if err != nil {
		return nil, err
	}
	return n.code.sealFrame(answering, said, text), nil
}

// answer works out an answer.
func (c *Calls) answer(ctx context.Context, q *question, body []byte) ([]byte, error) {
	a := c.answers[q.Kind]
	if a == nil {
		return nil, fault.Errorf(fault.NotFound, "this node's release does not know the question %.80q", q.Kind)
	}
	select {
	case <-a.free:
		defer func() { a.free <- struct{}{} }()
	default:
		return nil, fault.Errorf(fault.Throttled, "this node answers %d other questions of this kind", cap(a.free))
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	answer, err := a.answer(ctx, q.From, body)
	if err == nil && len(answer) > MaxAnswerBody {
		return nil, fault.Errorf(fault.TooLarge, "the answer has %d bytes; %d are the most", len(answer), MaxAnswerBody)
	}
	return answer, err
}

// clipReason gives what of a reason is passed on.
func clipReason(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxReason)], "") }

// member gives the address of another node that is in the sealed rows and was not removed;
// empty if it is not known yet.
func (n *Node) member(id string) (address string, err error) {
	row, there := n.row(id)
	if !there || id == n.o.ID || row.State == appliance.NodeLeaving {
		return "", noNode(id)
	}
	n.lock()
	defer n.unlock()
	return n.peer(id).address, nil
}

// Members gives the nodes as this node's sealed rows have them; nil if it is not in them
// itself: then they do not say who is in the fleet now. The list must not be changed.
func (n *Node) Members() []appliance.Node {
	n.lock()
	defer n.unlock()
	if n.self.ID == "" {
		return nil
	}
	return n.members
}

// Others gives the IDs of the other nodes that answer, and that take requests or are
// drained.
func (n *Node) Others(drained bool) (ids []string) {
	n.lock()
	defer n.unlock()
	since := n.o.BootTime() - hearing*n.o.Beat
	for _, m := range n.members {
		if p := n.peers[m.ID]; p != nil && p.heard > since && (m.State == appliance.NodeServing || drained && m.State == appliance.NodeDrained) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
