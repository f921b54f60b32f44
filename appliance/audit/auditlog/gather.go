package auditlog

import "time"

// Records that come together share one write and one fsync, which costs as much of a
// processor as a request. So a batch is written as soon as half of those who call are in it:
// they wait for the disk while the other half is served, and one who calls alone waits for
// nobody. How many call is not known, so it is found out now and then: a batch waits once
// until everybody must have come.
const (
	// patience is how long a batch may wait for more records than it has. It is nothing to
	// KMS, which waits for 250 ms.
	patience = 2 * time.Millisecond
	// mostEnough is how many records never wait for more: so many share the cost of a write
	// that more of them save nothing.
	mostEnough = 32
	// crowd is how many have to call for any to wait: fewer would save less than they wait.
	crowd = 8
	// censusAt is how many records a batch waits for that finds out how many call.
	censusAt = 2 * mostEnough
	// firstCensus and lastCensus are after how many writes that is found out again, if records
	// have met: soon after the number of callers has fallen, and then ever less often.
	firstCensus, lastCensus = 16, 512
)

// gather decides when a batch is written. All but the channels is under the log's mutex.
type gather struct {
	// writing says that a batch is on its way to the disk. One is at a time.
	writing bool
	// enough is with how many records a batch is written at once.
	enough int
	// writes and met say how many batches were written since that was found out, and whether
	// two records have come together since. census is after how many it is found out again.
	writes, census int
	met            bool
	// timer ends the patience of the batch that waits for more records.
	timer *time.Timer

	// handed takes the batches that no caller writes.
	handed chan *batch
	// idle is closed when the log is closed and all its batches are written.
	idle chan struct{}
}

// start gives the pending batch if it is to be written now; nil if not. Who gets one
// writes it ([Log.lead], [Log.hand]). The caller has the mutex.
func (l *Log) start() *batch {
	g, b := &l.gather, l.pending
	switch n := len(b.ends); {
	case g.writing || n == 0:
		return nil
	case n < g.enough && !b.urgent && !b.late && !l.closed:
		if !b.waits {
			b.waits = true
			g.timer.Reset(patience)
		}
		return nil
	}
	if b.waits {
		g.timer.Stop()
	}
	g.writing = true
	l.pending = newBatch(l.free)
	l.free = nil
	return b
}

// lead has the caller write a batch itself: to wake another goroutine for it would take
// longer than to encrypt. If the disk hangs, this caller is late; those whose records come
// meanwhile are not.
func (l *Log) lead(b *batch) {
	if b == nil {
		return
	}
	l.commit(b)
	l.hand(l.goOn(b))
}

// hand has the writer's goroutine write a batch. It does not wait, as one is written at a
// time.
func (l *Log) hand(b *batch) {
	if b != nil {
		l.gather.handed <- b
	}
}

// runWriter writes the batches that no caller writes, and those behind them.
func (l *Log) runWriter() {
	defer close(l.written)
	for b := range l.gather.handed {
		for ; b != nil; b = l.goOn(b) {
			l.commit(b)
		}
	}
}

// goOn ends the write of a batch, and gives the one to be written now; nil if none is.
func (l *Log) goOn(b *batch) *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gather.writing = false
	l.learn(b)
	l.recycle(b)
	after := l.start()
	if after == nil && l.closed {
		close(l.gather.idle)
	}
	return after
}

// overdue has the batch written whose patience has ended.
func (l *Log) overdue() {
	l.mu.Lock()
	if l.pending.waits {
		l.pending.late = true
	}
	b := l.start()
	l.mu.Unlock()
	l.hand(b)
}

// learn finds how many records are enough, from a batch that was written.
func (l *Log) learn(b *batch) {
	g, n := &l.gather, len(b.ends)
	switch {
	case b.urgent: // it did not wait
	case g.enough == censusAt:
		g.enough, g.writes, g.met = 1, 0, false
		if n >= crowd {
			g.enough = min(n/2, mostEnough)
		}
		g.census = min(2*g.census, lastCensus)
	case b.late: // fewer call than did
		g.enough, g.census = max(1, min(g.enough-1, (g.enough+n)/2)), firstCensus
	default:
		g.met = g.met || n+len(l.pending.ends) > 1
		if g.writes++; g.met && g.writes >= g.census {
			g.enough = censusAt
		}
	}
}
