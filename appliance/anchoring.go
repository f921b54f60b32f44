package appliance

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/appliance/fault"
)

// anchoring keeps the anchor in step with the state: the manifest of a change says what
// the anchor will be, then the anchor is raised, then the change is answered.
type anchoring struct {
	anchor Anchor
	log    *slog.Logger
	now    func() time.Time

	mu     sync.Mutex
	known  uint64 // what the anchor says
	failed error  // why the last change is not anchored
	since  time.Time
}

// raiseWithin bounds how long a change waits for its anchor.
const raiseWithin = 5 * time.Second

// Next implements [Anchoring].
func (a *anchoring) Next() (string, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.anchor.Name(), a.known + 1
}

// Committed implements [Anchoring]. A change that cannot be anchored stands: a block must
// work though the TPM fails. The next change tries again.
func (a *anchoring) Committed(count uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), raiseWithin)
	defer cancel()
	err := a.anchor.Raise(ctx, count)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil && err != nil {
		a.since = a.now()
	}
	if a.failed = err; err == nil {
		a.known = count
		return
	}
	a.log.Error("a change is durable and not anchored: who puts back the database of before it would not be noticed", "anchor", a.anchor.Name(), "count", count, "error", err)
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
	a.known = count
}

// begin makes the anchor for the first manifest. One that is there already is of a state
// that is not in this database any more: fault.StateRolledBack, unless people accept that.
func (a *anchoring) begin(ctx context.Context, accepted bool) error {
	count, made, err := a.count(ctx)
	switch {
	case err != nil:
		return err
	case made && !accepted:
		return fault.Errorf(fault.StateRolledBack, "the anchor %s stands at %d, so this machine has had a state, and the database has none that names it: it is empty or of before", a.anchor.Name(), count)
	case made:
		return nil
	}
	if count, err = a.anchor.Make(ctx); err != nil {
		return fault.Wrapf(fault.StateAnchor, err, "the anchor of the state cannot be made")
	}
	a.know(count)
	return nil
}

// fresh says whether the state is not older than its anchor. The state may be ahead by
// one, where a change was committed and the anchor not raised; it is raised now. Again
// says that the state has no anchor yet, and gets one by the next manifest.
func (a *anchoring) fresh(ctx context.Context, h Head) (again bool, err error) {
	count, made, err := a.count(ctx)
	switch {
	case err != nil:
		return false, err
	case h.Anchor == "" && !made:
		return true, a.begin(ctx, false)
	case h.Anchor == "":
		return false, fault.Errorf(fault.StateRolledBack, "the anchor %s stands at %d, and the state of %s names none: it is of before it was anchored", a.anchor.Name(), count, BindTime(h.At))
	case h.Anchor != a.anchor.Name():
		return false, fault.Errorf(fault.StateAnchor, "the state names the anchor %s, and this machine's is %s: the volume is of another machine, or its TPM was exchanged", h.Anchor, a.anchor.Name())
	case !made:
		return false, fault.Errorf(fault.StateAnchor, "the state names the anchor %s, and it is gone: somebody has removed it from the TPM", h.Anchor)
	case h.Count < count:
		return false, fault.Errorf(fault.StateRolledBack, "the state number %d of %s says that the anchor %s stands at %d, and it stands at %d: %d changes are missing, so an earlier copy of the database was put back",
			h.Sequence, h.At.Format(time.RFC3339), h.Anchor, h.Count, count, count-h.Count)
	case h.Count > count+1:
		return false, fault.Errorf(fault.StateAnchor, "the state says that the anchor %s stands at %d, and it stands at %d: it is not the one that the state was anchored to", h.Anchor, h.Count, count)
	case h.Count == count+1:
		if err := a.anchor.Raise(ctx, h.Count); err != nil {
			return false, fault.Wrapf(fault.StateAnchor, err, "the last change cannot be anchored")
		}
		a.know(h.Count)
	}
	return false, nil
}
