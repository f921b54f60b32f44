// Package balancer is a small load balancer for a fleet on one machine, for development and
// tests: what a network load balancer does in front of machines. It forwards TCP, so TLS is
// between the client and the node. Each new connection goes to another node; a node that
// says that it is not ready gets none, and keeps those that it has; those of a node that
// does not answer are closed. [Requests] is for what must not depend on which node a
// connection has: it sends each request to another node.
package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Node is an appliance behind the balancer.
type Node struct {
	Name string
	// Addresses are where the node listens, host:port: one for each listener that is
	// balanced, in the order of [Balancer.Serve].
	Addresses []string
	// Health is host:port of the administrators' listener, whose /readyz is asked.
	Health string
}

// Options say how nodes are asked for their health.
type Options struct {
	// TLS verifies the nodes.
	TLS *tls.Config
	// Every is how often; 250 ms if zero.
	Every time.Duration
	// Patience is how long a node may take to answer until it is dead; four times Every if
	// zero.
	Patience time.Duration
	// Changed, if given, is told when a node's health has changed. It must not call the
	// balancer.
	Changed func(node string, h Health)
}

// Health is what the balancer knows of a node.
type Health int

// The healths of a node. At first it is Dead.
const (
	Dead     Health = iota // it does not answer
	NotReady               // it says that it is not ready
	Ready
)

func (h Health) String() string { return [...]string{"dead", "not ready", "ready"}[h] }

// backend is a node with the connections that it has.
type backend struct {
	Node
	health Health
	conns  map[net.Conn]bool // to the node; to close one ends its client's as well
	end    context.CancelFunc
}

// Balancer forwards connections to nodes. [New] makes one.
type Balancer struct {
	o    Options
	http *http.Client

	mu     sync.Mutex
	nodes  []*backend
	next   int
	closed bool
	work   sync.WaitGroup
}

// New makes a balancer without nodes.
func New(o Options) *Balancer {
	if o.Every == 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.Patience == 0 {
		o.Patience = 4 * o.Every
	}
	return &Balancer{o: o, http: &http.Client{Timeout: o.Patience, Transport: &http.Transport{TLSClientConfig: o.TLS, ForceAttemptHTTP2: true}}}
}

// Put adds a node, or replaces that of the same name, as one whose health is not known.
func (b *Balancer) Put(n Node) {
	ctx, end := context.WithCancel(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	added := &backend{Node: n, conns: map[net.Conn]bool{}, end: end}
	if i := slices.IndexFunc(b.nodes, func(is *backend) bool { return is.Name == n.Name }); i >= 0 {
		b.nodes[i].stop()
		b.nodes[i] = added
	} else {
		b.nodes = append(b.nodes, added)
	}
	if b.closed {
		end()
		return
	}
	b.work.Go(func() { b.watch(ctx, added) })
}

// stop ends the checks and the connections of a node. The balancer is locked.
func (n *backend) stop() {
	n.end()
	n.cut()
}

func (n *backend) cut() {
	for c := range n.conns {
		_ = c.Close() // it ends what is copied; there is nothing to lose
	}
}

// watch asks for the health of a node until ctx ends.
func (b *Balancer) watch(ctx context.Context, n *backend) {
	tick := time.NewTicker(b.o.Every)
	defer tick.Stop()
	for {
		b.note(ctx, n, b.ask(ctx, n))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *Balancer) ask(ctx context.Context, n *backend) Health {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+n.Health+"/readyz", nil)
	if err != nil {
		return Dead
	}
	res, err := b.http.Do(req)
	if err != nil {
		return Dead
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection can be used again
	if res.StatusCode != http.StatusOK {
		return NotReady
	}
	return Ready
}

// note keeps the health of a node, and closes the connections of one that is dead.
func (b *Balancer) note(ctx context.Context, n *backend, h Health) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil || n.health == h {
		return
	}
	n.health = h
	if h == Dead {
		n.cut()
	}
	if b.o.Changed != nil {
		b.o.Changed(n.Name, h)
	}
}

// Health gives that of a node; Dead for one that is not known.
func (b *Balancer) Health(node string) Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		if n.Name == node {
			return n.health
		}
	}
	return Dead
}

// Serve forwards the connections of a listener to the address of that index, until the
// listener is closed.
func (b *Balancer) Serve(l net.Listener, address int) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return c.Close()
		}
		b.work.Go(func() { b.forward(c, address) })
		b.mu.Unlock()
	}
}

// turn gives the nodes in the order in which they are tried by what has that turn: those that
// are ready from the next one on, then the others, since an error of theirs says more than a
// connection that is refused.
func (b *Balancer) turn(next *int) []*backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.nodes) == 0 {
		return nil
	}
	*next = (*next + 1) % len(b.nodes)
	order := slices.Concat(b.nodes[*next:], b.nodes[:*next])
	slices.SortStableFunc(order, func(x, y *backend) int { return int(y.health) - int(x.health) })
	if len(order) > 0 && order[0].health == Ready {
		*next = slices.Index(b.nodes, order[0]) // or a dead one's successor had two turns
	}
	return order
}

// connectTime is how long a node may take to accept a connection.
const connectTime = time.Second

// forward connects a client with the first node that accepts it.
func (b *Balancer) forward(client net.Conn, address int) {
	defer client.Close()
	for _, n := range b.turn(&b.next) {
		server, err := net.DialTimeout("tcp", n.Addresses[address], connectTime)
		if err != nil {
			continue
		}
		b.join(n, client, server)
		return
	}
}

// join copies both ways until one side ends, or the node does.
func (b *Balancer) join(n *backend, client, server net.Conn) {
	b.mu.Lock()
	if b.closed || !slices.Contains(b.nodes, n) {
		b.mu.Unlock()
		_ = server.Close()
		return
	}
	n.conns[server] = true
	b.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { pass(server, client) })
	pass(client, server)
	both.Wait()
	b.mu.Lock()
	delete(n.conns, server)
	b.mu.Unlock()
}

// pass copies until from ends, and then ends both.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // what ends it, ends the connection
	_ = to.Close()
	_ = from.Close()
}

// Close ends all connections and checks. Listeners are closed by those who opened them.
func (b *Balancer) Close() {
	b.mu.Lock()
	b.closed = true
	for _, n := range b.nodes {
		n.stop()
	}
	b.mu.Unlock()
	b.work.Wait()
	b.http.CloseIdleConnections()
}
