package appliance

import (
	"context"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// Keys are in memory on a lease: each time the HSM shows that it is there, they
// may stay for so much longer. When it has been away for longer than that, they
// are wiped and requests refused, as if the HSM had been asked; when it is back,
// the appliance unlocks again by itself. So whoever takes the HSM away takes the
// keys away, within the lease.

// lease is a span of time that is renewed. It reckons by the monotonic clock.
type lease struct {
	length time.Duration
	now    func() time.Time
	begin  time.Time
	until  atomic.Int64 // nanoseconds after begin
}

// renew lets the lease run from the time at.
func (l *lease) renew(at time.Time) {
	until := int64(at.Add(l.length).Sub(l.begin))
	for {
		old := l.until.Load()
		if until <= old || l.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// remaining is how long the lease runs; negative once it has run out.
func (l *lease) remaining() time.Duration {
	return time.Duration(l.until.Load()) - l.now().Sub(l.begin)
}

// suspended is what a lease that ran out leaves behind, or rows that are opened again.
type suspended struct {
	ring Keyring
	hsms []HSM
	// why the rows are opened again; nil after the lease ran out.
	why error
	// trying is held by the attempt to unlock again.
	trying atomic.Bool
	// again says when the next attempt is: each may raise the TPM's counter, which wears.
	// Whoever has trying has it; the zero value is at once.
	again backoff
}

// KeepLease wipes the keys if the lease has run out; and if that has happened
// and the HSM is back, it unlocks again. Run calls it every second.
func (l *Lifecycle) KeepLease(ctx context.Context) {
	if s := l.service.suspended.Load(); s != nil {
		l.resume(ctx, s)
		return
	}
	v := l.service.live.Load()
	if v == nil || l.service.lease.remaining() > 0 {
		return
	}
	if !l.suspend(v, nil, backoff{}) {
		return
	}
	l.log.Error("the HSM has been away for longer than the lease: all keys are wiped and requests refused until it is back", "lease", l.service.lease.length)
}

// resume unlocks again if the HSM works. There is one attempt at a time.
func (l *Lifecycle) resume(ctx context.Context, s *suspended) {
	if !s.trying.CompareAndSwap(false, true) {
		return
	}
	defer s.trying.Store(false)
	if s.again.pause > 0 && !s.again.due(l.now()) {
		return
	}
	l.service.health.probe(ctx, l.log) // renews the lease if an HSM answers
	if l.service.lease.remaining() <= 0 {
		return
	}
	if err := l.unlock(ctx, s.ring, s.hsms, unlocking{after: s}); err != nil {
		s.again = s.again.failed(l.now()).jittered()
		in := s.again.at.Sub(l.now()).Round(time.Millisecond)
		if s.why != nil {
			l.log.Error("the rows of this node could not be opened again; it is tried again", "in", in, "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
		} else {
			l.log.Warn("the HSM is back, but the appliance could not unlock; it is tried again", "in", in, "error", err)
		}
		return
	}
	if s.why != nil {
		l.log.Info("the rows of this node are open again: unlocked again")
		return
	}
	l.log.Info("the HSM is back: unlocked again")
}
