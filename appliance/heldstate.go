package appliance

import (
	"context"
	"errors"

	"holdfast/appliance/fault"
)

// heldState is a state that is not served, since it is not what its manifest or its anchor
// says. The keys that people need to accept it stay in the keyring.
type heldState struct {
	ring Keyring
	hsms []HSM
	why  error
}

// sharedRows is an error of the rows that the nodes of a fleet share. What one node has of them
// is not accepted.
type sharedRows struct{ error }

// Unwrap gives the error itself.
func (e sharedRows) Unwrap() error { return e.error }

// hold stops to serve: the state is not what its manifest or anchor says. Keys that
// serve are wiped; those of the keyring that open the rows stay, so that people can sign
// in and accept.
func (l *Lifecycle) hold(ring Keyring, hsms []HSM, why error) {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	l.holdNow(ring, hsms, why)
}

// holdServing holds what serves now, for good if this process cannot serve again: then the keys
// of key stores are wiped as well. It does nothing where nothing serves: somebody has locked it
// meanwhile, or it is held for another reason.
func (l *Lifecycle) holdServing(why error, forGood bool) {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	v := l.service.live.Load()
	if v == nil {
		return
	}
	l.holdNow(v.ring, l.service.health.watched(), why)
	if forGood {
		v.retire(newView(v.ring))
		for id := range v.byID {
			v.ring.DropKeyringKey(id)
		}
	}
}

// holdNow does what hold says. The caller holds reload.
func (l *Lifecycle) holdNow(ring Keyring, hsms []HSM, why error) {
	l.service.fleet.Leave()
	l.service.live.Store(nil)
	l.service.suspended.Store(nil)
	l.service.keys.purge()
	if fault.CodeOf(why) != fault.StateSuperseded { // its rows are what they should be
		l.closeState()
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
	switch {
	case !present || l.service.Locked():
	case l.replication != nil:
		l.reopen(why)
	default:
		l.holdServing(why, false)
	}
}

// openedState is one opening of the state.
type openedState struct {
	anchoring *anchoring // nil without an anchor
	// first says that the rows of this machine of a fleet were sealed by it.
	first bool
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
// match their manifest. Of a node of a fleet these are the rows of its machine alone: those
// that the fleet shares come from the log. Why is the reason for which it was not served. Errors:
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
		if awaitsDecision(h.why) || fault.CodeOf(h.why) == fault.FleetNewer || fault.CodeOf(h.why) == fault.FleetRemoved {
			return nil, false, fault.Errorf(fault.Conflict, "there is no state to accept: %s", h.why)
		}
		if _, shared := errors.AsType[sharedRows](h.why); shared {
			return nil, false, fault.Errorf(fault.Conflict, "there is nothing of this node to accept: what does not match are rows that the fleet shares, and those come from its database (%s). Put the database back to its newest state, then start this node again", h.why)
		}
		return h, false, nil
	}
	v, err := l.service.view()
	if err != nil {
		return nil, false, err
	}
	if l.replication != nil {
		return nil, false, fault.Errorf(fault.Conflict, "there is nothing of this node to accept: its own rows, in machine.db, are as they should be, and those that the fleet shares are not accepted as one node has them")
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
	if l.replication != nil {
		if err := l.openNode(ctx, h.ring, in, err, true); err != nil {
			return err
		}
		return l.serveAccepted(ctx, h)
	}
	if fault.CodeOf(err) == fault.StateChanged { // as in memory it was another
		l.store.CloseState()
		in, err = l.store.Installation(ctx)
	}
	if err != nil {
		return err
	}
	if serving {
		if err := l.openState(ctx, h.ring, in.ID, StateOptions{Seal: true}, true); err != nil {
			return err
		}
		l.service.apply(Change{})
		return nil
	}
	// Also a state of an earlier release becomes one of now: what is accepted stays so.
	if err := l.openStateKey(ctx, h.ring, in, true); err != nil {
		return err
	}
	return l.serveAccepted(ctx, h)
}

// serveAccepted serves a state that was accepted and is open.
func (l *Lifecycle) serveAccepted(ctx context.Context, h *heldState) error {
	if err := l.own(ctx, h.ring, true); err != nil {
		if awaitsDecision(err) {
			l.hold(h.ring, h.hsms, err)
		}
		return err
	}
	return l.serve(ctx, h.ring, h.hsms, l.now(), nil)
}
