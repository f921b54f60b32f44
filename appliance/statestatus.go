package appliance

import (
	"context"
	"fmt"
	"time"

	"holdfast/appliance/fault"
)

// StateStatus is what is known of the state as a whole.
type StateStatus struct {
	// Head is the present one; zero while the state is not open.
	Head Head `json:"head,omitzero" jsonschema:"The head of the stored state; absent while the state is not open."`
	// Rows is how many rows are in the sets, Damaged the sets that do not match: a key
	// store's ID, or that and a part of its keys.
	Rows    int      `json:"rows,omitempty" jsonschema:"How many rows the state has."`
	Damaged []string `json:"damaged,omitempty" jsonschema:"The sets of rows that do not match: the ID of a key store, or that and a part of its keys."`
	// Held is the reason for which nothing is served, HeldCode its code.
	Held     string     `json:"held,omitempty" jsonschema:"Why nothing is served: the state is held. Absent if it is not."`
	HeldCode fault.Code `json:"held_code,omitempty" jsonschema:"The code of why the state is held."`
	// Anchor names the anchor; empty if there is none. NotAnchored says why the last
	// change is not anchored, since NotAnchoredSince.
	Anchor           string    `json:"anchor,omitempty" jsonschema:"The name of the anchor; absent if there is none."`
	NotAnchored      string    `json:"not_anchored,omitempty" jsonschema:"Why the last change is not anchored; absent if it is."`
	NotAnchoredSince time.Time `json:"not_anchored_since,omitzero" jsonschema:"Since when the last change is not anchored."`
	// Anchors are all that the head was held against.
	Anchors []AnchorStatus `json:"anchors,omitempty" jsonschema:"The anchors that the head was held against."`
}

// AnchorStatus is how the state stands to one anchor.
type AnchorStatus struct {
	Name string `json:"name" jsonschema:"The name of the anchor."`
	// Agrees says that what the anchor knows is the present head or in its past; otherwise
	// Why says why not.
	Agrees bool   `json:"agrees" jsonschema:"Whether what the anchor knows is the present head, or in its past."`
	Why    string `json:"why,omitempty" jsonschema:"Why the anchor does not agree; absent if it does."`
	// Head is the newest head that the anchor knows; of a counter, which knows none, Count is
	// what it says. Since is since when it has known that; zero if nobody knows, or if it was
	// told nothing yet.
	Head  Head      `json:"head,omitzero" jsonschema:"The newest head that the anchor knows; absent for a counter."`
	Count uint64    `json:"count,omitempty" jsonschema:"What the anchor's counter says."`
	Since time.Time `json:"since,omitzero" jsonschema:"Since when the anchor has known that; absent if nobody knows."`
}

// Words says how the state stands to the anchor.
func (a *AnchorStatus) Words() string {
	since := ""
	if !a.Since.IsZero() {
		since = ", since " + a.Since.UTC().Format(time.RFC3339)
	}
	switch {
	case !a.Agrees:
		return "does not agree: " + a.Why
	case a.Count > 0:
		return fmt.Sprintf("agrees, at the count %d%s", a.Count, since)
	case a.Head.Sequence > 0:
		return fmt.Sprintf("agrees, and knows the state number %d of %s%s", a.Head.Sequence, a.Head.At.UTC().Format(time.RFC3339), since)
	}
	return "agrees, and was told nothing yet"
}

// VerifyState reads all rows once more, and holds them against the sets in memory, whose
// sums the manifests have; and the anchors against the head. Errors: fault.Locked.
func (l *Lifecycle) VerifyState(ctx context.Context) (*StateStatus, error) {
	if h := l.service.held.Load(); h != nil {
		return heldBy(h.why), nil
	}
	if _, err := l.service.view(); err != nil {
		return nil, err
	}
	report, err := l.store.CheckState(ctx)
	if IsHeld(err) {
		return heldBy(err), nil
	}
	if err != nil {
		return nil, err
	}
	status := &StateStatus{Head: report.Head, Rows: report.Rows, Damaged: report.Damaged}
	if anchor := l.anchoring(); anchor != nil {
		status.of(ctx, anchor)
	}
	past := func(h Head) (bool, error) { return l.store.Past(ctx, h) }
	for _, a := range l.heads {
		status.add(a.Name(), relationTo(ctx, a, report.Head, past))
	}
	return status, nil
}

func heldBy(why error) *StateStatus {
	return &StateStatus{Held: why.Error(), HeldCode: fault.CodeOf(why)}
}

// anchoring gives the counter of the state that is open; nil without one.
func (l *Lifecycle) anchoring() *anchoring {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		return nil
	}
	return l.opened.anchoring
}

// State gives what is known of the state without reading rows and asking the TPM: the newest
// head that anchors were told, and what they knew of it last. Nil while it is locked and
// not held.
func (l *Lifecycle) State(ctx context.Context) *StateStatus {
	if h := l.service.held.Load(); h != nil {
		return heldBy(h.why)
	}
	head := l.present.Load()
	if _, err := l.service.view(); err != nil || head == nil {
		return nil
	}
	status := &StateStatus{Head: *head, Damaged: l.store.Damaged()}
	if a := l.anchoring(); a != nil {
		status.known(a)
	}
	// That what they know is in the past was proven at the start, and they were told the
	// rest by this process.
	past := func(h Head) (bool, error) { return h.Sequence <= head.Sequence, nil }
	for _, a := range l.heads {
		status.add(a.Name(), relationTo(ctx, a, *head, past))
	}
	return status
}

// add notes how the head stands to an anchor that knows heads.
func (s *StateStatus) add(name string, stands headRelation) {
	one := AnchorStatus{Name: name, Agrees: stands.err == nil, Head: stands.seen.Head, Since: stands.seen.Since}
	if stands.err != nil {
		one.Why = stands.err.Error()
	}
	s.Anchors = append(s.Anchors, one)
}

// known notes what was known last of the counter.
func (s *StateStatus) known(a *anchoring) {
	since, failed := a.status()
	s.counter(AnchorStatus{Name: a.anchor.Name(), Count: a.counted(), Since: a.raisedAt()}, since, failed)
}

// counter notes how the head stands to the counter.
func (s *StateStatus) counter(one AnchorStatus, since time.Time, failed error) {
	s.Anchor, one.Agrees = one.Name, failed == nil
	if failed != nil {
		s.NotAnchored, s.NotAnchoredSince, one.Why = failed.Error(), since, failed.Error()
	}
	s.Anchors = append(s.Anchors, one)
}

// of asks the counter how the head stands to it.
func (s *StateStatus) of(ctx context.Context, a *anchoring) {
	one := AnchorStatus{Name: a.anchor.Name(), Since: a.raisedAt()}
	since, failed := a.status()
	if failed == nil {
		one.Count, _, failed = a.count(ctx)
	}
	if failed == nil {
		_, failed = a.check(ctx, s.Head)
	}
	s.counter(one, since, failed)
}
