package main

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The load generator shares the processors with what it measures, so it does
// as little as it can: requests are bytes made and signed before, one goroutine
// per connection writes one and reads the answer.

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
			c.cut()
		}
	})
	return g, nil
}

func dial(ctx context.Context, addr string, trust *tls.Config) (*connection, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: hangs}, Config: trust}
	again := func() (*tls.Conn, error) {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return c.(*tls.Conn), nil
	}
	c, err := again()
	return &connection{dial: again, tls: c, buf: make([]byte, maxAnswer)}, err
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
			err := c.setDeadline(deadline)
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
		// Each begins elsewhere, so that requests are not sent by several at once.
		next := i * len(requests) / len(g.connections)
		for sent := time.Now(); sent.Before(end); next++ {
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
// been answered, as long as a connection is free; one after the other of those given. How long one took counts from
// when it was due: a server that stalls does not hide it by holding up the
// load.
func (g *generator) openLoop(requests [][]byte, rate int, duration time.Duration) ([]time.Duration, error) {
	total := inOpenLoop(rate, duration)
	type job struct {
		due     time.Time
		request int
	}
	jobs := make(chan job, total)
	g.workers.Go(func() {
		defer close(jobs)
		begin := time.Now()
		for i := range total {
			t := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
			if !sleepUntil(g.ctx, t) {
				return
			}
			jobs <- job{t, i % len(requests)}
		}
	})
	times := make([][]time.Duration, len(g.connections))
	err := g.each(duration, func(c *connection, i int) error {
		for j := range jobs {
			if _, err := c.exchange(requests[j.request]); err != nil {
				return err
			}
			times[i] = append(times[i], time.Since(j.due))
		}
		return nil
	})
	return slices.Concat(times...), err
}

// inOpenLoop is how many requests an open loop sends.
func inOpenLoop(rate int, duration time.Duration) int {
	return max(1, int(float64(rate)*duration.Seconds()))
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
