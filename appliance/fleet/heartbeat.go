package fleet

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Transport carries calls to other nodes. It need not be trusted: messages are sealed.
type Transport interface {
	// Call sends a message to a node and gives its answer, of at most [MaxMessage] bytes.
	Call(ctx context.Context, address string, message []byte) ([]byte, error)
}

// Handle answers a message of another node. fault.FleetMessage if it is not one of this
// installation's nodes that has sent it, or not to this node.
func (n *Node) Handle(message []byte) ([]byte, error) {
	m, err := n.code.open(calling, message, nil)
	if err != nil {
		return nil, err
	}
	a, err := n.answer(m)
	if err != nil {
		return nil, err
	}
	return n.code.seal(answering, a, message)
}

// Run calls the other nodes, and reads the ground where they do not answer, until ctx
// ends. It returns when all that it has begun has ended.
func (n *Node) Run(ctx context.Context) {
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { n.hints(ctx) })
	background.Go(func() { n.stand(ctx) })
	tick := time.NewTicker(n.o.Beat)
	defer tick.Stop()
	for {
		for _, to := range n.callees() {
			background.Go(func() {
				if err := n.beat(ctx, to.id, to.address); err != nil && ctx.Err() == nil {
					n.o.Log.Debug("a node did not answer", "node", to.id, "address", to.address, "error", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.pushed:
		}
	}
}

// callee is a node to be called.
type callee struct{ id, address string }

// callees gives the nodes to call now, and marks them as being called.
func (n *Node) callees() (all []callee) {
	n.lock()
	defer n.unlock()
	for _, p := range n.peers {
		if p.address != "" && !p.calling && (p.member || p.hinted || p.met) {
			p.calling = true
			all = append(all, callee{p.id, p.address})
		}
	}
	slices.SortFunc(all, func(a, b callee) int { return strings.Compare(a.id, b.id) })
	return all
}

// patience is how long a call may take, in beats.
const patience = 2

// beat calls a node once.
func (n *Node) beat(ctx context.Context, to, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience*n.o.Beat)
	defer cancel()
	call, sent := n.call(to)
	defer n.ended(call)
	message, err := n.code.seal(calling, call, nil)
	if err != nil {
		return err
	}
	text, err := n.o.Transport.Call(ctx, address, message)
	if err != nil {
		return err
	}
	m, err := n.code.open(answering, text, message)
	if err != nil {
		return err
	}
	return n.answered(call, sent, m)
}

// ended is called when a call has ended. If this node has come further meanwhile, the other
// is told at once.
func (n *Node) ended(call *Message) {
	n.lock()
	if p := n.peers[call.To]; p != nil {
		p.calling = false
	}
	further := n.position.Number > call.Report.Position.Number
	n.unlock()
	if further {
		n.push()
	}
}

// stand reads the ground as needed.
func (n *Node) stand(ctx context.Context) {
	tick := time.NewTicker(n.o.Beat)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := n.standOnce(ctx); err != nil && ctx.Err() == nil {
			n.o.Log.Warn("a node does not answer, and the database and the HSM cannot say whether this node lacks a change", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (n *Node) standOnce(ctx context.Context) error {
	if err := n.takeGround(ctx); err != nil {
		return err
	}
	defer n.leaveGround()
	work := n.groundWork()
	ctx, cancel := context.WithTimeout(ctx, n.o.Grace/4)
	defer cancel()
	switch work {
	case groundRead:
		began := n.o.BootTime()
		all, err := n.o.Ground.Read(ctx)
		if err != nil {
			return err
		}
		n.readGround(reading{began, all})
	case groundRelease:
		if err := n.o.Ground.Release(ctx); err != nil {
			return err
		}
		n.lock()
		n.ground.released = true
		n.unlock()
	case groundPost:
		at := n.posting()
		others, _, err := n.o.Ground.Post(ctx, at, n.covered(at))
		if err != nil {
			return err
		}
		n.hasPosted(at)
		n.lock()
		n.relateAll(others)
		n.unlock()
	}
	return nil
}
