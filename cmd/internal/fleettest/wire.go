package fleettest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Wire is a TCP connection of a network that a test can cut: what connects to its address
// is forwarded to a target.
type Wire struct {
	// Address is host:port.
	Address string

	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	moved  *sync.Cond // when one of these changes
	target string
	state  wireState
	delay  time.Duration
	conns  map[net.Conn]bool
	closed bool
}

type wireState int

const (
	whole  wireState = iota
	cut              // connections are closed, and new ones as well
	silent           // connections stay, and nothing passes
)

// NewWire makes a wire to a target, host:port. It can be set later by [Wire.To].
func NewWire(t testing.TB, target string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{Address: l.Addr().String(), listener: l, target: target, conns: map[net.Conn]bool{}}
	w.moved = sync.NewCond(&w.mu)
	w.work.Go(w.accept)
	t.Cleanup(w.close)
	return w
}

// Port is that of the address.
func (w *Wire) Port() string {
	_, port, _ := net.SplitHostPort(w.Address) // a listener's address has one
	return port
}

// To has new connections go to another target.
func (w *Wire) To(target string) { w.change(func() { w.target = target }) }

// Cut closes all connections, and all that come, until [Wire.Heal].
func (w *Wire) Cut() {
	w.change(func() {
		w.state = cut
		w.end()
	})
}

// Silence lets nothing pass until [Wire.Heal], as when packets are dropped.
func (w *Wire) Silence() { w.change(func() { w.state = silent }) }

// Heal ends what Cut or Silence began.
func (w *Wire) Heal() { w.change(func() { w.state = whole }) }

// Delay has everything arrive so much later, each way.
func (w *Wire) Delay(d time.Duration) { w.change(func() { w.delay = d }) }

func (w *Wire) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.moved.Broadcast()
}

func (w *Wire) end() {
	for c := range w.conns {
		_ = c.Close() // that is what it is for
	}
}

func (w *Wire) close() {
	_ = w.listener.Close()
	w.change(func() {
		w.closed = true
		w.end()
	})
	w.work.Wait()
}

func (w *Wire) accept() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			return // it is closed
		}
		w.work.Go(func() { w.forward(c) })
	}
}

func (w *Wire) forward(client net.Conn) {
	defer client.Close()
	target, ok := w.keep(client)
	if !ok {
		return
	}
	server, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	if _, ok := w.keep(server); !ok {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { w.pass(server, client) })
	w.pass(client, server)
	both.Wait()
	w.change(func() {
		delete(w.conns, client)
		delete(w.conns, server)
	})
}

// keep notes a connection, unless it is to be closed.
func (w *Wire) keep(c net.Conn) (target string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == cut || w.closed {
		return "", false
	}
	w.conns[c] = true
	return w.target, true
}

func (w *Wire) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !w.await() {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // io.EOF, or the connection was cut
		}
	}
}

// await waits until something may pass; it does not if the wire is cut.
func (w *Wire) await() bool {
	w.mu.Lock()
	for w.state == silent && !w.closed {
		w.moved.Wait()
	}
	delay, ok := w.delay, w.state == whole && !w.closed
	w.mu.Unlock()
	time.Sleep(delay)
	return ok
}
