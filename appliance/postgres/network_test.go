package postgres_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/appliance/storetest"
)

// network forwards connections to a server, until it is cut.
type network struct {
	listener net.Listener
	server   string

	mu     sync.Mutex
	broken *atomic.Bool // for what was connected before a cut
	closed []net.Conn
}

func newNetwork(t *testing.T, server string) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	storetest.Must(t, err)
	n := &network{listener: l, server: server, broken: new(atomic.Bool)}
	go n.serve()
	t.Cleanup(func() {
		_ = l.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range n.closed {
			_ = c.Close()
		}
	})
	return n
}

// address has the host that the server's certificate names.
func (n *network) address() string {
	_, port, _ := strings.Cut(n.listener.Addr().String(), ":")
	return "localhost:" + port
}

func (n *network) serve() {
	for {
		client, err := n.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", n.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		n.mu.Lock()
		gate := n.broken
		n.closed = append(n.closed, client, server)
		n.mu.Unlock()
		go forward(server, client, gate)
		go forward(client, server, gate)
	}
}

// forward copies until the gate is set; then what comes is lost, and so is the end.
func forward(to, from net.Conn, gate *atomic.Bool) {
	buffer := make([]byte, 1<<16)
	for {
		count, err := from.Read(buffer)
		if gate.Load() {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if count > 0 {
			if _, err := to.Write(buffer[:count]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// cut loses all that is sent from now on.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken.Store(true)
}

// mend lets new connections through. Those of before stay cut.
func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken = new(atomic.Bool)
}
