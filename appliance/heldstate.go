package appliance

import (
	"context"
	"time"

	"holdfast/appliance/fault"
)

// heldState is a state that is not served, since it is not what its manifest or its anchor
// says. The keys that people need to accept it stay in the keyring.
type heldState struct {
	ring Keyring
	hsms []HSM
	why  error
}

// hold stops to serve: the state is not what its manifest or anchor says. Keys that
// serve are wiped; those of the keyring that open the rows stay, so that people can sign
// in and accept.
func (l *Lifecycle) hold(ring Keyring, hsms []HSM, why error) {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	l.service.live.Store(nil)
	l.service.suspended.Store(nil)
	l.service.keys.purge()
	if fault.CodeOf(why) != fault.StateSuperseded { // its rows are what they should be
		l.store.CloseState()
	}
	l.service.held.Store(&heldState{ring: ring, hsms: hsms, why: why})
	l.log.Error("the state is not served", "code", fault.CodeOf(why), "reason", why)
}

// lost is told that rows were changed by somebody else while they serve.
func (l *Lifecycle) lost(ring Keyring, opened *openedState, why error) {
	l.accepting.Lock() // not while somebody accepts just that
	defer l.accepting.Unlock()
	l.mu.Lock()
	present := l.opened == opened
	l.mu.Unlock()
	if present && !l.service.Locked() {
		l.hold(ring, l.service.health.watched(), why)
	}
}

// openedState is one opening of the state.
type openedState struct {
	anchoring *anchoring // nil without an anchor
}

// Held gives the reason for which the state is not served; nil if it is, or if the
// appliance is locked for another reason. Its code is one of the state's.
func (l *Lifecycle) Held() error {
	if h := l.service.held.Load(); h != nil {
		return h.why
	}
	return nil
}

// AcceptState has the state served as it is, whatever its manifest and anchor say: it is
// sealed anew. It is for a state that is held, and for key stores or keys whose rows do not
// match their manifest. Why is the reason for which it was not served. Errors:
// fault.Conflict if there is nothing to accept. Who may call it, and how many people it
// needs, is the caller's to see to.
func (l *Lifecycle) AcceptState(ctx context.Context, by, reason string) (why string, err error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	h, serving, err := l.unaccepted(ctx)
	if err != nil {
		return "", err
	}
	if err := l.reseal(ctx, h, serving); err != nil {
		return "", err
	}
	l.log.Warn("the state is accepted as it is", "why", h.why, "by", by, "reason", reason)
	return h.why.Error(), nil
}

// CheckAcceptState gives the error that AcceptState would, and changes nothing.
func (l *Lifecycle) CheckAcceptState(ctx context.Context) error {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	_, _, err := l.unaccepted(ctx)
	return err
}

// unaccepted gives what there is to accept, and whether the rest of it serves.
func (l *Lifecycle) unaccepted(ctx context.Context) (h *heldState, serving bool, err error) {
	if h := l.service.held.Load(); h != nil {
		if awaitsDecision(h.why) {
			return nil, false, fault.Errorf(fault.Conflict, "there is no state to accept: %s", h.why)
		}
		return h, false, nil
	}
	v, err := l.service.view()
	if err != nil {
		return nil, false, err
	}
	report, err := l.store.CheckState(ctx)
	if IsHeld(err) {
		return &heldState{ring: v.ring, hsms: l.service.health.watched(), why: err}, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	if len(report.Damaged) == 0 {
		return nil, false, fault.Errorf(fault.Conflict, "all rows match their manifests: there is nothing to accept")
	}
	why := fault.Errorf(fault.StateChanged, "rows of %d sets, each a key store's own or a part of its keys, do not match their manifests", len(report.Damaged))
	return &heldState{ring: v.ring, hsms: l.service.health.watched(), why: why}, true, nil
}

// reseal seals the state as it is, and serves it.
func (l *Lifecycle) reseal(ctx context.Context, h *heldState, serving bool) error {
	in, err := l.store.Installation(ctx)
	if fault.CodeOf(err) == fault.StateChanged { // as in memory it was another
		l.store.CloseState()
		in, err = l.store.Installation(ctx)
	}
	if err != nil {
		return err
	}
	if err := l.openState(ctx, h.ring, in.ID, StateOptions{Seal: true}, true); err != nil {
		return err
	}
	if serving {
		l.service.apply(Change{})
		return nil
	}
	if err := l.own(ctx, h.ring, true); err != nil {
		if awaitsDecision(err) {
			l.hold(h.ring, h.hsms, err)
		}
		return err
	}
	return l.serve(ctx, h.ring, h.hsms, l.now(), nil)
}

// StateStatus is what is known of the state as a whole.
type StateStatus struct {
	// Head is the present one; zero while the state is not open.
	Head Head `json:"head,omitzero"`
	// Rows is how many rows are in the sets, Damaged the sets that do not match: a key
	// store's ID, or that and a part of its keys.
	Rows    int      `json:"rows"`
	Damaged []string `json:"damaged,omitempty"`
	// Held is the reason for which nothing is served, HeldCode its code.
	Held     string     `json:"held,omitempty"`
	HeldCode fault.Code `json:"held_code,omitempty"`
	// Anchor names the anchor; empty if there is none. NotAnchored says why the last
	// change is not anchored, since NotAnchoredSince.
	Anchor           string    `json:"anchor,omitempty"`
	NotAnchored      string    `json:"not_anchored,omitempty"`
	NotAnchoredSince time.Time `json:"not_anchored_since,omitzero"`
	// Anchors are all that the head was held against.
	Anchors []AnchorStatus `json:"anchors,omitempty"`
}

// AnchorStatus is how the state stands to one anchor.
type AnchorStatus struct {
	Name string `json:"name"`
	// Agrees says that what the anchor knows is the present head or in its past; otherwise
	// Why says why not.
	Agrees bool   `json:"agrees"`
	Why    string `json:"why,omitempty"`
	// Head is the newest head that the anchor knows; of a counter, which knows none, Count is
	// what it says. Since is since when it has known that; zero if nobody knows, or if it was
	// told nothing yet.
	Head  Head      `json:"head,omitzero"`
	Count uint64    `json:"count,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// VerifyState reads all rows once more, and holds them against the sets in memory, whose
// sums the manifests have; and the anchor against the head. Errors: fault.Locked.
func (l *Lifecycle) VerifyState(ctx context.Context) (*StateStatus, error) {
	status := &StateStatus{}
	if h := l.service.held.Load(); h != nil {
		status.Held, status.HeldCode = h.why.Error(), fault.CodeOf(h.why)
		return status, nil
	}
	if _, err := l.service.view(); err != nil {
		return nil, err
	}
	report, err := l.store.CheckState(ctx)
	if IsHeld(err) {
		status.Held, status.HeldCode = err.Error(), fault.CodeOf(err)
		return status, nil
	}
	if err != nil {
		return nil, err
	}
	status.Head, status.Rows, status.Damaged = report.Head, report.Rows, report.Damaged
	l.mu.Lock()
	anchor := l.opened.anchoring
	l.mu.Unlock()
	if anchor != nil {
		status.of(ctx, anchor)
	}
	past := func(h Head) (bool, error) { return l.store.Past(ctx, h) }
	for _, a := range l.heads {
		s := standing(ctx, a, report.Head, past)
		one := AnchorStatus{Name: a.Name(), Agrees: s.err == nil, Head: s.seen.Head, Since: s.seen.Since}
		if s.err != nil {
			one.Why = s.err.Error()
		}
		status.Anchors = append(status.Anchors, one)
	}
	return status, nil
}

// of notes how the head stands to the counter.
func (s *StateStatus) of(ctx context.Context, a *anchoring) {
	one := AnchorStatus{Name: a.anchor.Name(), Agrees: true, Since: a.raisedAt()}
	s.Anchor = one.Name
	since, failed := a.status()
	if failed == nil {
		one.Count, _, failed = a.count(ctx)
	}
	if failed == nil {
		_, failed = a.check(ctx, s.Head)
	}
	if failed != nil {
		s.NotAnchored, s.NotAnchoredSince = failed.Error(), since
		one.Agrees, one.Why = false, failed.Error()
	}
	s.Anchors = append(s.Anchors, one)
}
