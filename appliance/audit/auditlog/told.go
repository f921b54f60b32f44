package auditlog

import (
	"time"

	"holdfast/appliance/audit"
)

// Tell tells the log the newest head of the appliance's state, which is durable. The next
// checkpoint names it, at the latest after [Options.CheckpointAfter], also if there is no
// record meanwhile. It waits for nothing.
func (l *Log) Tell(h audit.StateHead) {
	h.At = h.At.UTC().Truncate(time.Microsecond)
	l.state.Lock()
	if !l.untold() {
		l.state.toldAt = l.opts.Now()
	}
	l.state.told = h
	l.state.Unlock()
	signal(l.keeperWake)
}

// untold says whether the newest checkpoint does not name the head that the log was told.
// The caller holds the lock of the state.
func (l *Log) untold() bool {
	return l.state.told != (audit.StateHead{}) && l.state.told != l.state.covered.State
}

// Told gives the head of the appliance's state that the newest checkpoint names, and since
// when it is known that one does; the zero head if none does.
func (l *Log) Told() (h audit.StateHead, since time.Time) {
	l.state.Lock()
	defer l.state.Unlock()
	return l.state.covered.State, l.state.knownAt
}
