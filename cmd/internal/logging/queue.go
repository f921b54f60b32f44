package logging

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/cmd/internal/terminal"
)

const (
	// maxDelay is how late a line may be that is not urgent: one write for each
	// request would cost as much as its encryption.
	maxDelay = 100 * time.Millisecond
	// maxHeld bounds the lines that wait, in bytes; urgent ones have as much again.
	maxHeld = 1 << 20
	// maxClose bounds how long the last lines are waited for.
	maxClose = 2 * time.Second
)

// queue is what stands between those who log and who reads. One goroutine writes;
// it alone waits for the reader.
type queue struct {
	w io.Writer
	// told gives the line about dropped ones.
	told func(dropped uint64) []byte
	lost atomic.Uint64 // since the start

	mu      sync.Mutex
	held    []byte
	dropped uint64 // since it was told
	closed  bool

	some, now chan struct{} // there is a line; there is one that must not wait
	ended     chan struct{}
}

func newQueue(w io.Writer, told func(uint64) []byte) *queue {
	q := &queue{w: w, told: told, some: make(chan struct{}, 1), now: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

// lineWriter takes one line with each Write.
type lineWriter struct {
	q      *queue
	urgent bool
}

func (q *queue) writer(urgent bool) io.Writer { return lineWriter{q, urgent} }

// Write implements [io.Writer]; it never waits for the reader and never fails.
//
// A log is read on terminals. What slog writes as JSON has no control character below
// U+0020, and may have others.
func (l lineWriter) Write(line []byte) (int, error) {
	size := len(line)
	line = terminal.Bytes(line)
	q, limit, signal := l.q, maxHeld, l.q.some
	if l.urgent {
		limit, signal = 2*maxHeld, l.q.now
	}
	q.mu.Lock()
	if len(q.held)+len(line) > limit || q.closed {
		q.dropped++
		q.lost.Add(1)
	} else {
		q.held = append(q.held, line...)
	}
	q.mu.Unlock()
	wake(signal)
	return size, nil
}

func wake(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default: // it is set already
	}
}

// run writes until the queue is closed and empty.
func (q *queue) run() {
	defer close(q.ended)
	var spare []byte
	for {
		select {
		case <-q.now:
		case <-q.some:
			late := time.NewTimer(maxDelay)
			select {
			case <-q.now:
			case <-late.C:
			}
			late.Stop()
		}
		q.mu.Lock()
		lines, dropped, closed := q.held, q.dropped, q.closed
		q.held, q.dropped = spare[:0], 0
		q.mu.Unlock()
		if dropped > 0 {
			lines = append(lines, q.told(dropped)...)
		}
		if len(lines) > 0 {
			_, _ = q.w.Write(lines) // there is nowhere to tell of a log that cannot be written
		}
		if closed {
			return
		}
		spare = lines
	}
}

// close has the last lines written, and waits for that as long as a reader may take.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	wake(q.now)
	late := time.NewTimer(maxClose)
	defer late.Stop()
	select {
	case <-q.ended:
	case <-late.C:
	}
}
