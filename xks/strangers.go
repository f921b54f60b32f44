package xks

import (
	"container/list"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// strangers watches over connections on which no request has been
// authenticated yet. They may not stay long, and when there are too many
// connections the oldest stranger goes, not KMS.
type strangers struct {
	max    int
	within time.Duration
	// began is told the first bytes of each connection, and from where it comes.
	began func(head []byte, remote string)

	mu    sync.Mutex
	open  int
	queue list.List // of *watched, oldest first
}

const (
	// DefaultMaxConnections is the most that is open at once.
	DefaultMaxConnections     = 4096
	defaultAuthenticateWithin = 30 * time.Second
)

func newStrangers(maxConnections int, within time.Duration, began func(head []byte, remote string)) *strangers {
	if maxConnections <= 0 {
		maxConnections = DefaultMaxConnections
	}
	if within <= 0 {
		within = defaultAuthenticateWithin
	}
	return &strangers{max: maxConnections, within: within, began: began}
}

func (s *strangers) listen(l net.Listener) net.Listener { return &watchingListener{l, s} }

type watchingListener struct {
	net.Listener
	s *strangers
}

func (l *watchingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if w := l.s.admit(c); w != nil {
			return w, nil
		}
		_ = c.Close() // all connections are KMS's: there is no room for another
	}
}

// watched is a connection under watch.
type watched struct {
	net.Conn
	s     *strangers
	timer *time.Timer
	// trusted is set with the first request that is authenticated.
	trusted atomic.Bool
	// head is what it begins with, for the one goroutine that reads.
	head [heads]byte
	got  int

	// Under s.mu:
	place  *list.Element // nil once it has authenticated or is closed
	closed bool
}

// admit makes room for a connection and watches it; nil if there is none.
func (s *strangers) admit(c net.Conn) *watched {
	s.mu.Lock()
	var out *watched
	if s.open >= s.max {
		oldest := s.queue.Front()
		if oldest == nil {
			s.mu.Unlock()
			return nil
		}
		out = oldest.Value.(*watched)
		s.forget(out)
	}
	w := &watched{Conn: c, s: s}
	w.place = s.queue.PushBack(w)
	s.open++
	w.timer = time.AfterFunc(s.within, func() { _ = w.Close() })
	s.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close()
	}
	return w
}

// forget takes a connection out of the books, once. The caller holds s.mu.
func (s *strangers) forget(w *watched) {
	if w.closed {
		return
	}
	w.closed = true
	s.open--
	if w.place != nil {
		s.queue.Remove(w.place)
		w.place = nil
	}
	w.timer.Stop()
}

// Read looks at what the connection begins with.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.got < heads && n > 0 {
		if w.got += copy(w.head[w.got:], b[:n]); w.got == heads {
			w.s.began(w.head[:], w.Conn.RemoteAddr().String())
		}
	}
	return n, err
}

// Close closes the connection.
func (w *watched) Close() error {
	w.s.mu.Lock()
	w.s.forget(w)
	w.s.mu.Unlock()
	return w.Conn.Close()
}

// known ends the watch: a request has been authenticated.
func (w *watched) known() {
	if w.trusted.Swap(true) {
		return
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.place != nil {
		w.s.queue.Remove(w.place)
		w.place = nil
		w.timer.Stop()
	}
}

type watchedKey struct{}

// connContext lets a request find its connection.
func (s *strangers) connContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // a *tls.Conn
		c = t.NetConn()
	}
	if w, ok := c.(*watched); ok {
		ctx = context.WithValue(ctx, watchedKey{}, w)
	}
	return ctx
}

// markAuthenticated ends the watch over the request's connection.
func markAuthenticated(ctx context.Context) {
	if w, ok := ctx.Value(watchedKey{}).(*watched); ok {
		w.known()
	}
}
