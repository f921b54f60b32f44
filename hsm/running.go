package hsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"holdfast/hsm/process"
	"holdfast/hsm/wire"
)

// Launcher starts module processes.
type Launcher interface {
	// Start starts the process of that name and makes so many connections to it.
	Start(ctx context.Context, name string, connections int) (process.Process, error)
}

// running is a token that is open, in its module process.
type running struct {
	cfg *Config
	process.Process
	first *wire.Conn // on which the token was opened
	all   []*wire.Conn
	// free are the connections that are not in use, as many as there are sessions.
	free chan *wire.Conn

	// renewed is closed when another process has come in its place.
	renewed chan struct{}

	mu       sync.Mutex
	ended    error // why
	underWay sync.WaitGroup
}

// start starts a process.
func start(ctx context.Context, cfg *Config, connections int) (*running, error) {
	started, err := cfg.Launcher.Start(ctx, cfg.name(), connections)
	if err != nil {
		return nil, fmt.Errorf("%s: its module process does not start: %w", cfg.name(), err)
	}
	p := &running{cfg: cfg, Process: started, free: make(chan *wire.Conn, connections), renewed: make(chan struct{})}
	for _, stream := range started.Connections() {
		c, err := wire.NewConn(stream)
		if err != nil {
			p.kill()
			return nil, err
		}
		p.all = append(p.all, c)
	}
	p.first = p.all[0]
	return p, nil
}

// kill ends the process at once.
func (p *running) kill() {
	p.Kill()
	for _, stream := range p.Connections() {
		_ = stream.Close() // whoever still reads gets an error
	}
}

// closeTimeout is how long a process may take to end by itself.
const closeTimeout = 3 * time.Second

// close has the process log out and end.
func (p *running) close() {
	_ = p.Connections()[0].Close()
	select {
	case <-p.Done():
	case <-time.After(closeTimeout):
	}
	p.kill()
}

// release gives the memory of the connections back, once nobody uses them.
func (p *running) release() {
	p.underWay.Wait()
	for _, c := range p.all {
		_ = c.Close()
	}
}

// begin counts an operation; false if the process has ended.
func (p *running) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return false
	}
	p.underWay.Add(1)
	return true
}

// end has no more operations begin; false if somebody was faster.
func (p *running) end(why error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return false
	}
	p.ended = why
	return true
}

// opening asks on the first connection, while the token is being opened. Before, if given,
// is called when the process says that it is about to log in.
func (p *running) opening(ctx context.Context, op wire.Op, before func(), use func([][]byte) error, fields ...[]byte) error {
	until := time.Now().Add(p.cfg.OpenTimeout)
	byCaller := false
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until, byCaller = d, true
	}
	if err := p.first.SetDeadline(until); err != nil {
		return p.unopened(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Connections()[0].SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answered := false
	err := p.first.Ask(wire.Message{Kind: byte(op), Within: time.Until(until), Fields: fields}, func(fields [][]byte) error {
		if before != nil && !answered {
			answered = true
			before()
			return nil
		}
		return use(fields)
	})
	if errors.Is(err, wire.ErrFrame) {
		return p.unopened(err)
	}
	if b, ok := errors.AsType[*wire.Broken](err); ok {
		if byCaller && errors.Is(b.Err, os.ErrDeadlineExceeded) {
			<-ctx.Done() // the same moment, by another clock
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s did not end: %w", p.cfg.name(), op, ctx.Err())
		}
		return p.unopened(b.Err)
	}
	return err
}

// unopened is that the process has ended, or is of no use, before the token was open in it.
func (p *running) unopened(err error) error {
	e := p.broken(err)
	e.Opening = true
	return fmt.Errorf("%s: %w: %w", p.cfg.name(), ErrUnavailable, e)
}
