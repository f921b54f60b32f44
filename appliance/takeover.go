package appliance

import (
	"context"
	"fmt"
	"strings"

	"holdfast/appliance/fault"
)

// awaitsDecision says whether an error leaves the HSM open, and nothing served with it,
// until a person decides: which copy of the installation counts, or whether there is one.
func awaitsDecision(err error) bool {
	return awaitsInstallation(err) || fault.CodeOf(err) == fault.StateSuperseded
}

// awaitsInstallation says whether an error is that of a database without an installation,
// which a person may have made.
func awaitsInstallation(err error) bool {
	code := fault.CodeOf(err)
	return code == fault.StateMissing || code == fault.AdmissionUnconfirmed
}

// own finds out which copy of the installation this is. The state is open.
func (l *Lifecycle) own(ctx context.Context, ring Keyring, starting bool) error {
	in, err := l.store.Installation(ctx)
	if err != nil {
		return err
	}
	return l.ownership.start(ctx, ring, in, starting)
}

// opened gives the keyring of an appliance that serves, or is held: of the latter it may
// have no state key. fault.Locked.
func (s *Service) opened() (Keyring, []HSM, error) {
	if h := s.held.Load(); h != nil {
		return h.ring, h.hsms, nil
	}
	v, err := s.view()
	if err != nil {
		return nil, nil, err
	}
	return v.ring, s.health.watched(), nil
}

// Installation gives which copy of its installation this appliance is.
func (l *Lifecycle) Installation() InstallationState { return l.ownership.State() }

// checkTraces refuses to begin an installation beside the traces of one:
// fault.StateMissing.
func (l *Lifecycle) checkTraces(ctx context.Context, ring Keyring) error {
	if err := l.checkNoKeyStores(ctx); err != nil {
		return err
	}
	traces, err := l.findTraces(ctx, ring)
	if err != nil || len(traces) == 0 {
		return err
	}
	detail := "there is " + strings.Join(traces, "; and ")
	l.ownership.say(InstallationState{Ownership: OwnershipMissing, Detail: detail})
	return fault.Errorf(fault.StateMissing, "the database has no installation, and %s. Put the database back, or restore a backup with holdfast restore FILE. "+
		"To begin a new installation beside what there is, on purpose, call holdfast installation begin --reason TEXT", detail)
}

func (l *Lifecycle) findTraces(ctx context.Context, ring Keyring) (traces []string, err error) {
	objects, err := ring.SealedObjects(ctx, ReachAny)
	if err != nil {
		return nil, err
	}
	if n := len(objects); n > 0 {
		traces = append(traces, fmt.Sprintf("a data object of Holdfast in the HSM (%s), of installation %.32q (%d in all)", objects[0].Purpose, objects[0].Installation, n))
	}
	keys, err := ring.KeyObjects(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(keys); n > 0 {
		traces = append(traces, fmt.Sprintf("a key of an installation in the HSM, %s (%d in all)", keys[0], n))
	}
	noted, err := l.store.MasterKeyNoted(ctx)
	if err != nil {
		return nil, err
	}
	if !noted {
		traces = append(traces, "a master key in the HSM that was not made for this database")
	}
	for _, trace := range l.traces {
		t, err := trace(ctx)
		if err != nil {
			return nil, err
		}
		if t != "" {
			traces = append(traces, t)
		}
	}
	return traces, nil
}

// NoteMasterKey notes that the HSM is about to make the master key, so that a first
// start which is interrupted after that goes on later. It does nothing if there is an
// installation.
func (l *Lifecycle) NoteMasterKey(ctx context.Context) error {
	return l.store.NoteMasterKey(ctx, l.stamp())
}

// Begin makes a new installation beside the traces of another, which it does not touch.
// Errors: fault.Conflict unless the appliance is held by fault.StateMissing.
func (l *Lifecycle) Begin(ctx context.Context) (InstallationState, error) {
	l.deciding.Lock()
	defer l.deciding.Unlock()
	h := l.service.held.Load()
	if h == nil || fault.CodeOf(h.why) != fault.StateMissing {
		return InstallationState{}, fault.Errorf(fault.Conflict, "an installation is begun only in a database that has none, beside the traces of one; holdfast status shows what this appliance is")
	}
	if err := l.checkNoKeyStores(ctx); err != nil {
		return InstallationState{}, err
	}
	if err := l.install(ctx, h.ring, true); err != nil {
		return InstallationState{}, err
	}
	return l.release(ctx, h)
}

// release unlocks what was held.
func (l *Lifecycle) release(ctx context.Context, h *heldState) (InstallationState, error) {
	l.closeState()
	if err := l.unlock(context.WithoutCancel(ctx), h.ring, h.hsms, unlocking{}); err != nil {
		return InstallationState{}, err
	}
	return l.Installation(), nil
}

// TakeOver makes this copy of the installation the owner, with a new incarnation, and
// has it serve. Every other copy is locked when it starts next, and destroys nothing
// more. Errors: fault.Conflict if it is the owner already, or nothing is kept in the HSM;
// fault.Locked.
func (l *Lifecycle) TakeOver(ctx context.Context) (InstallationState, error) {
	l.deciding.Lock()
	defer l.deciding.Unlock()
	if err := l.CheckTakeOver(ctx); err != nil {
		return InstallationState{}, err
	}
	h := l.service.held.Load()
	ring, _, err := l.service.opened()
	if err != nil {
		return InstallationState{}, err
	}
	in, err := l.store.Installation(ctx)
	if err != nil {
		return InstallationState{}, err
	}
	next, err := l.ownership.next(ctx, ring, in)
	if err != nil {
		return InstallationState{}, err
	}
	if err := l.ownership.keep(ctx, ring, in, next); err != nil {
		return InstallationState{}, err
	}
	if h != nil {
		return l.release(ctx, h)
	}
	if err := l.ownership.start(context.WithoutCancel(ctx), ring, in, true); err != nil {
		return InstallationState{}, err
	}
	return l.Installation(), nil
}

// CheckOwner says with the keyring whether this copy of the installation is the owner, by
// what the rows and the HSM say now. fault.Conflict if it is not.
func (l *Lifecycle) CheckOwner(ctx context.Context, ring Keyring) error {
	_, err := l.ownership.owns(ctx, ring)
	return err
}

// CheckTakeOver gives the error that TakeOver would, and changes nothing.
func (l *Lifecycle) CheckTakeOver(ctx context.Context) error {
	ring, _, err := l.service.opened()
	if err != nil {
		return err
	}
	if h := l.service.held.Load(); h != nil && IsHeld(h.why) {
		return fault.Errorf(fault.Conflict, "the state does not match its manifest or its anchor, and nothing takes over with it: %s", h.why)
	} else if h != nil && fault.CodeOf(h.why) == fault.AdmissionUnconfirmed {
		return fault.Errorf(fault.Conflict, "there is no installation yet that could take over: %s", h.why)
	}
	switch l.Installation().Ownership {
	case OwnershipMissing:
		return fault.Errorf(fault.Conflict, "the database has no installation that could take over; restore a backup, or begin a new installation")
	case OwnershipUnkept:
		return fault.Errorf(fault.Conflict, "hsm.no_installation_object is true in the configuration: no copy is the owner")
	case OwnershipOwner:
		if _, err := l.ownership.owns(ctx, ring); err == nil {
			return fault.Errorf(fault.Conflict, "this copy of the installation is the owner already")
		} else if code := fault.CodeOf(err); code != fault.Conflict && code != fault.Tampered {
			return err
		}
	}
	return nil
}
