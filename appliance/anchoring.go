package appliance

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/freshness"
)

// anchoring keeps the anchor in step with the state: the manifest of a change says what
// the anchor will be, then the anchor is raised, then the change is answered.
type anchoring struct {
	anchor Anchor
	log    *slog.Logger
	now    func() time.Time

	mu     sync.Mutex
	ledger freshness.Ledger
	failed error // why the last change is not anchored
	since  time.Time
	raised time.Time // when it was raised last
}

// raiseWithin bounds how long a change waits for its anchor.
const raiseWithin = 5 * time.Second

// Next implements [Anchoring]. Where the change before is not anchored, that is tried again
// first: the next change would have the same count, and could not be told from it.
func (a *anchoring) Next() (string, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if to, behind := a.ledger.Missing(); behind {
		a.raise(to)
	}
	return a.anchor.Name(), a.ledger.Next()
}

// Committed implements [Anchoring]. A change that cannot be anchored stands: a block must
// work though the TPM fails. The next change tries again.
func (a *anchoring) Committed(count uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ledger.Committed(count) {
		a.raise(count)
	}
	if a.failed != nil {
		a.log.Error("a change is durable and not anchored: who puts back the database of before it would not be noticed", "anchor", a.anchor.Name(), "count", count, "error", a.failed)
	}
}

// raise raises the anchor, and notes whether it could.
func (a *anchoring) raise(to uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), raiseWithin)
	defer cancel()
	err := a.anchor.Raise(ctx, to)
	if a.failed == nil && err != nil {
		a.since = a.now()
	}
	if a.failed = err; err == nil {
		a.ledger.Know(to)
		a.raised = a.now()
	}
}

// counted gives what the anchor said last.
func (a *anchoring) counted() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ledger.Known()
}

// raisedAt says when the anchor was raised last.
func (a *anchoring) raisedAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.raised.UTC()
}

// status says since when changes are not anchored; the zero time if they are.
func (a *anchoring) status() (since time.Time, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		return time.Time{}, nil
	}
	return a.since, a.failed
}

// count gives what the anchor says, and whether it was ever made.
func (a *anchoring) count(ctx context.Context) (count uint64, made bool, err error) {
	count, err = a.anchor.Count(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fault.Wrapf(fault.StateAnchor, err, "the anchor %s of the state cannot be read", a.anchor.Name())
	}
	a.know(count)
	return count, true, nil
}

func (a *anchoring) know(count uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ledger.Know(count)
}

// begin makes the anchor for the first manifest. One that is there already is of a state
// that is not in this database any more: fault.StateRolledBack, unless people accept that.
func (a *anchoring) begin(ctx context.Context, accepted bool) error {
	count, made, err := a.count(ctx)
	if err != nil {
		return err
	}
	switch freshness.Begin(freshness.Reading{Name: a.anchor.Name(), Count: count, Made: made}, accepted) {
	case freshness.Older:
		return fault.Errorf(fault.StateRolledBack, "the anchor %s stands at %d, so this machine has had a state, and the database has none that names it: it is empty or of before", a.anchor.Name(), count)
	case freshness.Current:
		return nil
	}
	if count, err = a.anchor.Make(ctx); err != nil {
		return fault.Wrapf(fault.StateAnchor, err, "the anchor of the state cannot be made")
	}
	a.know(count)
	return nil
}

// check holds a state against its anchor, and changes nothing. First says that neither has
// been anchored.
func (a *anchoring) check(ctx context.Context, h Head) (first bool, err error) {
	count, made, err := a.count(ctx)
	if err != nil {
		return false, err
	}
	r := freshness.Reading{Name: a.anchor.Name(), Count: count, Made: made}
	verdict := decide(h, r)
	return verdict == freshness.First, notFresh(verdict, h, r)
}

// decide holds a head against what the anchor says.
func decide(h Head, r freshness.Reading) freshness.Verdict {
	return freshness.Decide(freshness.Stated{Anchor: h.Anchor, Count: h.Count}, r)
}

// notFresh is the error of a state that is not as new as its anchor; nil of one that is.
func notFresh(verdict freshness.Verdict, h Head, r freshness.Reading) error {
	name, count := r.Name, r.Count
	switch verdict {
	case freshness.Current, freshness.First:
		return nil
	case freshness.Unnamed:
		return fault.Errorf(fault.StateRolledBack, "the anchor %s stands at %d, and the state of %s names none: it is of before it was anchored", name, count, BindTime(h.At))
	case freshness.Foreign:
		return fault.Errorf(fault.StateAnchor, "the state names the anchor %s, and this machine's is %s: the volume is of another machine, or its TPM was exchanged", h.Anchor, name)
	case freshness.Gone:
		return fault.Errorf(fault.StateAnchor, "the state names the anchor %s, and it is gone: somebody has removed it from the TPM", h.Anchor)
	case freshness.Older:
		return fault.Errorf(fault.StateRolledBack, "the state number %d of %s says that the anchor %s stands at %d, and it stands at %d: %d changes are missing, so an earlier copy of the database was put back",
			h.Sequence, h.At.Format(time.RFC3339), h.Anchor, h.Count, count, count-h.Count)
	}
	return fault.Errorf(fault.StateAnchor, "the state says that the anchor %s stands at %d, and it stands at %d: it is not the one that the state was anchored to", h.Anchor, h.Count, count)
}

// fresh says whether a state that is opened is as new as its anchor. One that has none yet
// gets it. The manifest that the opening writes is anchored as any change.
func (a *anchoring) fresh(ctx context.Context, h Head) error {
	first, err := a.check(ctx, h)
	if err == nil && first {
		err = a.begin(ctx, false)
	}
	return err
}
