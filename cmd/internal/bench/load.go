package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The load generator shares the processors with what it measures, so it does
// as little as it can: requests are bytes made and signed before, one goroutine
// per connection writes one and reads the answer, of which it looks at status
// and length.

// connection is one TLS connection that speaks HTTP/1.1.
type connection struct {
	tls *tls.Conn
	buf []byte
}

// maxAnswer is several times the longest answer of the XKS API to what is sent
// here.
const maxAnswer = 16 << 10

// exchange sends a request and gives the body of the answer, which must be 200.
// The body is valid until the next call.
func (c *connection) exchange(request []byte) ([]byte, error) {
	if _, err := c.tls.Write(request); err != nil {
		return nil, err
	}
	n, head, length := 0, -1, 0
	for head < 0 || n < head+length {
		if n == len(c.buf) {
			return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
		}
		m, err := c.tls.Read(c.buf[n:])
		if err != nil {
			return nil, err
		}
		n += m
		if head < 0 {
			if head, length, err = parseHead(c.buf[:n]); err != nil {
				return nil, err
			}
		}
	}
	if n != head+length {
		return nil, fmt.Errorf("the answer is %d bytes longer than it says", n-head-length)
	}
	return c.buf[head:n], nil
}

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	headEnd       = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
)

// parseHead gives the length of the head with the blank line, and that of the
// body; -1 as long as the head is not whole.
func parseHead(b []byte) (head, length int, err error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return -1, 0, nil
	}
	head = end + len(headEnd)
	if !bytes.HasPrefix(b, statusOK) {
		status, _, _ := bytes.Cut(b, []byte("\r\n"))
		return 0, 0, fmt.Errorf("answered %q: %.200q", status, b[head:])
	}
	i := bytes.Index(b[:end+2], contentLength)
	if i < 0 {
		return 0, 0, errors.New("the answer has no Content-Length")
	}
	value := b[i+len(contentLength) : end]
	if j := bytes.IndexByte(value, '\r'); j >= 0 {
		value = value[:j]
	}
	if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
		return 0, 0, fmt.Errorf("the answer's Content-Length is %q", value)
	}
	return head, length, nil
}

// hangs is how much longer than it should a load may last before it is ended.
const hangs = 30 * time.Second

// generator is a number of open connections to one server. The first error of
// one of them ends all of them.
type generator struct {
	connections []*connection
	workers     sync.WaitGroup
	ctx         context.Context
	fail        context.CancelCauseFunc
	release     func() bool
}

// connect opens the connections.
func connect(ctx context.Context, addr string, trust *tls.Config, connections int) (*generator, error) {
	g := &generator{}
	g.ctx, g.fail = context.WithCancelCause(ctx)
	for range connections {
		c, err := dial(g.ctx, addr, trust)
		if err != nil {
			g.close()
			return nil, err
		}
		g.connections = append(g.connections, c)
	}
	g.release = context.AfterFunc(g.ctx, func() {
		for _, c := range g.connections {
			_ = c.tls.NetConn().Close() // whoever waits on it wakes up
		}
	})
	return g, nil
}

func dial(ctx context.Context, addr string, trust *tls.Config) (*connection, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: hangs}, Config: trust}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &connection{tls: c.(*tls.Conn), buf: make([]byte, maxAnswer)}, nil
}

// close closes the connections.
func (g *generator) close() {
	if g.release != nil {
		g.release()
	}
	g.fail(nil)
	for _, c := range g.connections {
		_ = c.tls.Close() // the answers have been read
	}
}

// each runs work, which is to last so long, on every connection at once and
// waits for all.
func (g *generator) each(lasts time.Duration, work func(c *connection, i int) error) error {
	deadline := time.Now().Add(lasts + hangs)
	for i, c := range g.connections {
		g.workers.Go(func() {
			err := c.tls.SetDeadline(deadline)
			if err == nil {
				err = work(c, i)
			}
			if err != nil {
				g.fail(err)
			}
		})
	}
	g.workers.Wait()
	return context.Cause(g.ctx)
}

// once sends each request once and hands the body of its answer over, from
// several goroutines at once. It warms the server's caches, too.
func (g *generator) once(requests [][]byte, answered func(i int, body []byte) error) error {
	return g.each(0, func(c *connection, i int) error {
		for ; i < len(requests); i += len(g.connections) {
			body, err := c.exchange(requests[i])
			if err == nil {
				err = answered(i, body)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// closedLoop sends on each connection one request after the other for so long,
// and gives how long each took.
func (g *generator) closedLoop(requests [][]byte, duration time.Duration) ([]time.Duration, error) {
	times := make([][]time.Duration, len(g.connections))
	for i := range times {
		times[i] = make([]time.Duration, 0, int(duration/(100*time.Microsecond)))
	}
	end := time.Now().Add(duration)
	err := g.each(duration, func(c *connection, i int) error {
		for sent, next := time.Now(), i; sent.Before(end); next++ {
			if _, err := c.exchange(requests[next%len(requests)]); err != nil {
				return err
			}
			now := time.Now()
			times[i] = append(times[i], now.Sub(sent))
			sent = now
		}
		return nil
	})
	return slices.Concat(times...), err
}

// openLoop sends requests when they are due, whether or not earlier ones have
// been answered, as long as a connection is free. How long one took counts from
// when it was due: a server that stalls does not hide it by holding up the
// load.
func (g *generator) openLoop(requests [][]byte, rate int, duration time.Duration) ([]time.Duration, error) {
	total := max(1, int(float64(rate)*duration.Seconds()))
	due := make(chan time.Time, total)
	g.workers.Go(func() {
		defer close(due)
		begin := time.Now()
		for i := range total {
			t := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
			if !sleepUntil(g.ctx, t) {
				return
			}
			due <- t
		}
	})
	times := make([][]time.Duration, len(g.connections))
	err := g.each(duration, func(c *connection, i int) error {
		next := i
		for t := range due {
			if _, err := c.exchange(requests[next%len(requests)]); err != nil {
				return err
			}
			times[i] = append(times[i], time.Since(t))
			next += len(g.connections)
		}
		return nil
	})
	return slices.Concat(times...), err
}

// sleepUntil sleeps in the kernel: Go's timers fire up to a millisecond late,
// which would count as latency.
func sleepUntil(ctx context.Context, t time.Time) bool {
	for ctx.Err() == nil {
		left := time.Until(t)
		if left <= 0 {
			return true
		}
		ts := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // interrupted by a signal: once more
	}
	return false
}

// percentile is by the nearest-rank method; the times are sorted.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(math.Ceil(p*float64(len(sorted))))-1]
}
