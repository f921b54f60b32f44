package appliance

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"time"

	"holdfast/appliance/fault"
)

// SeenHeadRows keeps the newest head of the fleet's state that this machine has taken over,
// among the rows of this machine.
type SeenHeadRows interface {
	// SeenHead gives it; fault.NotFound if there was none yet.
	SeenHead(ctx context.Context) (*SeenHead, error)
	// KeepSeenHead replaces it, and raises the machine's anchor. fault.Locked while the
	// state of the machine's rows is not open.
	KeepSeenHead(ctx context.Context, s SeenHead) error
}

// MachineRows are the rows of one machine of a fleet, in a database of their own, which has
// a manifest and an anchor of its own. Those of a single machine are with all others.
type MachineRows interface {
	SeenHeadRows
	OpenState(ctx context.Context, o StateOptions) (*StateReport, error)
	CloseState()
}

// replication is what makes the appliance a node of a fleet: the log of changes, and the
// rows that this machine alone has.
type replication struct {
	ground
	log     ChangeLog
	machine MachineRows
	store   StateRows
	heads   *seenHeads

	mu      sync.Mutex
	failed  error // why the log is not followed
	failing time.Time
	// reopened says when rows that were opened again may be opened once more.
	reopened backoff
}

// reopening gives when the rows may be opened again: at once, or after a pause that grows if
// that was done shortly before.
func (r *replication) reopening() backoff {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if !now.Before(r.reopened.at.Add(reopenedLong)) {
		r.reopened = backoff{at: now}
		return r.reopened
	}
	r.reopened = r.reopened.failed(now)
	return r.reopened.jittered()
}

// reopenedLong is after how long an opening of the rows counts as one that lasted.
const reopenedLong = 10 * time.Minute

// newReplication gives that of a node; nil for a single appliance.
func newReplication(on ground, o *Options) *replication {
	if o.ChangeLog == nil {
		return nil
	}
	return &replication{ground: on, log: o.ChangeLog, machine: o.Machine, store: o.Store, heads: &seenHeads{ground: on, rows: o.Machine, wake: make(chan struct{}, 1)}}
}

// founding gives what is known of the fleet's installation: nil if none was begun. Changed
// says whether there is a change to take over.
func (r *replication) founding(ctx context.Context) (f *Founding, changed bool, err error) {
	if f, err = r.log.Founding(ctx); fault.CodeOf(err) == fault.NotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	newest, err := r.log.Newest(ctx)
	return f, newest > 0, err
}

// found begins the installation that this node has; it is no error if it was begun already.
func (r *replication) found(ctx context.Context, f *Founding) error {
	err := r.log.Found(ctx, f)
	if fault.CodeOf(err) != fault.Exists {
		return err
	}
	there, failed := r.log.Founding(ctx)
	if failed != nil {
		return failed
	}
	if there.Installation == f.Installation && bytes.Equal(there.WrappedStateKey, f.WrappedStateKey) {
		return nil
	}
	return err
}

// unbegun says that the database, in which no installation was begun, has no change either:
// fault.FleetFounding.
func (r *replication) unbegun(ctx context.Context) error {
	newest, err := r.log.Newest(ctx)
	if err == nil && newest > 0 {
		err = UnfinishedMove()
	}
	return err
}

// UnfinishedMove is the error of a fleet's database that has changes, and no installation was
// begun: fault.FleetFounding.
func UnfinishedMove() error {
	return fault.Errorf(fault.FleetFounding, "the fleet's database has rows that holdfastd state move has not finished to move there: this node joins when that is done; if it does not run any more, run it again on the machine that it ran on")
}

// check says whether the database is that of the installation whose rows are here.
func (r *replication) check(ctx context.Context, installation string) error {
	f, _, err := r.founding(ctx)
	switch {
	case err != nil:
		return err
	case f == nil:
		return fault.Errorf(fault.FleetLog, "this node is of the installation %s, and the fleet's database has none: it is empty, or another one", installation)
	case f.Installation != installation:
		return fault.Errorf(fault.FleetLog, "this node is of the installation %s, and the fleet's database has the installation %.32q", installation, f.Installation)
	}
	return nil
}

// follow takes over what the log has more, until ctx ends: when the log says so, and each
// second. Each time it is told what came of it.
func (l *Lifecycle) follow(ctx context.Context) {
	r := l.replication
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := r.store.CatchUp(ctx)
		r.caughtUp(err)
		if fault.CodeOf(err) == fault.FleetBehind {
			l.reopen(err)
		}
		if fault.CodeOf(err) == fault.FleetNewer {
			l.outdated(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.log.Changed():
		case <-tick.C:
		}
	}
}

// Unfit is told that this node must not serve with what it has. If another node has another
// log, it opens its rows again, by what the fleet's database has now. If it was removed from
// the fleet, it wipes the keys of all key stores, and waits to be switched off: people can
// sign in, and nothing is encrypted or decrypted any more.
func (l *Lifecycle) Unfit(why error) {
	if fault.CodeOf(why) == fault.FleetRemoved {
		l.outdated(why)
		return
	}
	l.reopen(why)
}

// raiseSchema has the fleet use the newest schema that all its nodes know. The leader does it.
func (l *Lifecycle) raiseSchema(ctx context.Context) {
	if l.replication == nil || l.service.Locked() {
		return
	}
	s, to := l.store.Schemas(), l.service.fleet.Knows()
	if to = min(to, s.Known); s.Used == 0 || to <= s.Used {
		return
	}
	switch err := l.store.RaiseSchema(ctx, to); fault.CodeOf(err) {
	case "":
		l.log.Info("all nodes of the fleet are updated: it uses the new schema of the rows", "from", s.Used, "to", to)
	case fault.Locked, fault.DatabaseAway, fault.FleetFenced, fault.Changed:
		l.log.Info("the new schema of the rows is used later", "to", to, "code", fault.CodeOf(err))
	default:
		l.log.Error("the fleet cannot use the new schema of the rows", "to", to, "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
	}
}

// outdated stops to serve: the fleet uses a schema that this version does not know, or goes on
// without this node. This process serves no more, so the keys of key stores are wiped; the
// state key stays, for people who sign in. It is tried again when the appliance is started, as
// after an update.
func (l *Lifecycle) outdated(why error) { l.holdServing(why, true) }

// reopen has the rows of a node opened once more, which loads what does not match from the
// fleet's database. It does not serve meanwhile.
func (l *Lifecycle) reopen(why error) {
	v := l.service.live.Load()
	if v == nil {
		return
	}
	if l.suspend(v, why, l.replication.reopening()) {
		l.log.Error("the rows of this node are opened again", "code", fault.CodeOf(why), "reason", fault.ReasonOf(why))
	}
}

// snapshotAfter is after how many changes there is a new snapshot for nodes that begin; and
// so many changes of before it are kept for nodes that were away.
const snapshotAfter = 10000

// leaderlessSnapshots is how many snapshots the leader must have left out until another node
// writes one.
const leaderlessSnapshots = 3

// snapshot writes one if it is time. The leader does it; another node only if none did for
// long.
func (l *Lifecycle) snapshot(ctx context.Context) {
	if l.service.Locked() {
		return
	}
	after := uint64(snapshotAfter)
	if _, leads := l.service.fleet.Lead(ctx); !leads {
		after *= leaderlessSnapshots
	}
	err := l.replication.snapshot(ctx, after)
	if code := fault.CodeOf(err); err != nil && code != fault.Locked && code != fault.DatabaseAway {
		l.log.Error("a snapshot of the rows could not be written to the fleet's database", "code", code, "reason", fault.ReasonOf(err))
	}
}

// snapshot writes one if the newest is of so many changes ago.
func (r *replication) snapshot(ctx context.Context, after uint64) error {
	newest, _, err := r.log.Snapshot(ctx)
	if code := fault.CodeOf(err); err != nil && code != fault.NotFound {
		return err
	}
	at := r.store.Position().Number
	if first := newest == 0 && after == snapshotAfter; !first && at < newest+after {
		return nil
	}
	made, err := r.store.KeepSnapshot(ctx)
	if err != nil {
		return err
	}
	r.ground.log.Info("a snapshot of the rows is in the fleet's database", "change", made)
	if made <= snapshotAfter {
		return nil
	}
	return r.log.Forget(ctx, made-snapshotAfter)
}

// caughtUp notes whether the log can be followed.
func (r *replication) caughtUp(err error) {
	r.mu.Lock()
	was := r.failed
	if r.failed = err; was == nil {
		r.failing = r.now()
	}
	r.mu.Unlock()
	switch {
	case err != nil && (was == nil || fault.CodeOf(was) != fault.CodeOf(err)):
		r.ground.log.Error("the fleet's database is not followed", "code", fault.CodeOf(err), "reason", fault.ReasonOf(err))
	case err == nil && was != nil:
		r.ground.log.Info("the fleet's database is followed again")
	}
}

// ReplicationState is how a node stands to the log of changes.
type ReplicationState struct {
	Position Position `json:"position" jsonschema:"How far this node is in the log of changes."`
	// Failed is why the log is not followed, and Since when; empty if it is.
	Failed string     `json:"failed,omitempty" jsonschema:"Why the log of changes is not followed; absent if it is."`
	Code   fault.Code `json:"code,omitempty" jsonschema:"The code of why the log of changes is not followed."`
	Since  time.Time  `json:"since,omitzero" jsonschema:"Since when the log of changes is not followed."`
	// Stale is why this node does not serve: it may lack a change; empty if it does.
	Stale string `json:"stale,omitempty" jsonschema:"Why this node does not serve: it may lack a change. Absent if it does."`
}

// Replication says how this node stands to the log of changes; nil for a single appliance.
func (l *Lifecycle) Replication() *ReplicationState {
	r := l.replication
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &ReplicationState{Position: r.store.Position()}
	if r.failed != nil {
		s.Failed, s.Code, s.Since = fault.ReasonOf(r.failed), fault.CodeOf(r.failed), r.failing.UTC()
	}
	if err := l.service.fleet.Fresh(); err != nil {
		s.Stale = fault.ReasonOf(err)
	}
	return s
}

// openNode opens the state key and the rows of a node: those of the installation that the
// fleet's database has, or the first ones. Mine is the row of the installation that is here,
// or err that there is none. Accepted says that people have accepted the rows of this machine
// as they are.
func (l *Lifecycle) openNode(ctx context.Context, ring Keyring, mine *Installation, err error, accepted bool) error {
	if err == nil {
		if accepted {
			return l.openAccepted(ctx, ring, mine)
		}
		return l.openKnown(ctx, ring, mine)
	}
	if fault.CodeOf(err) != fault.NotFound {
		return err
	}
	f, changed, err := l.replication.founding(ctx)
	if err != nil {
		return err
	}
	if f == nil {
		if err := l.replication.unbegun(ctx); err != nil {
			return err
		}
		missing := l.checkTraces(ctx, ring)
		if missing == nil {
			return l.install(ctx, ring, false)
		}
		if f, changed, err = l.replication.awaitFounding(ctx); err != nil || f == nil {
			return cmp.Or(err, missing)
		}
	}
	if err := ring.OpenStateKey(ctx, f.Installation, f.WrappedStateKey); err != nil {
		return fault.Wrapf(fault.Tampered, err, "the state key of the installation %.32q, which the fleet's database names, does not open", f.Installation)
	}
	if changed {
		l.log.Info("this node joins the installation that the fleet's database has; users who were added here before are not of it", "installation", f.Installation)
		return l.openState(ctx, ring, f.Installation, StateOptions{}, accepted)
	}
	// Whoever began it has not come to the first change.
	in := &Installation{ID: f.Installation, WrappedStateKey: f.WrappedStateKey, CreatedAt: l.stamp()}
	return foundedMeanwhile(l.installAs(ctx, ring, in, false))
}

// openKnown opens a node that has the row of its installation. If that is not what the fleet's
// database names, it was edited here, or the database is another one: the rows of this machine
// say which, as their manifest is of the one installation.
func (l *Lifecycle) openKnown(ctx context.Context, ring Keyring, mine *Installation) error {
	why := l.replication.check(ctx, mine.ID)
	if why == nil {
		if why = l.openStateKey(ctx, ring, mine, false); why == nil {
			return nil
		}
	}
	f, _, err := l.replication.founding(ctx)
	if err != nil || f == nil || f.Installation == mine.ID && bytes.Equal(f.WrappedStateKey, mine.WrappedStateKey) {
		return why
	}
	if err := ring.OpenStateKey(ctx, f.Installation, f.WrappedStateKey); err != nil {
		return why
	}
	l.store.CloseState()
	if err := l.openState(ctx, ring, f.Installation, StateOptions{}, false); err != nil {
		if IsHeld(err) {
			return why
		}
		return err
	}
	l.log.Error("the row of the installation on this machine was edited; it was loaded again from the fleet's database", "reason", fault.ReasonOf(why))
	return nil
}

const (
	// foundsWithin is how long a node that finds traces in the HSM, and no installation in the
	// fleet's database, waits for one: a node that began at the same moment has made its
	// master key, and is about to begin it.
	foundsWithin = 5 * time.Second
	foundsEvery  = 20 * time.Millisecond
)

// awaitFounding gives the installation that another node begins meanwhile, and whether it has
// a change; nil if none does.
func (r *replication) awaitFounding(ctx context.Context) (f *Founding, changed bool, err error) {
	within, stop := context.WithTimeout(ctx, foundsWithin)
	defer stop()
	tick := time.NewTicker(foundsEvery)
	defer tick.Stop()
	for {
		if f, changed, err = r.founding(ctx); err != nil || f != nil {
			return f, changed, err
		}
		select {
		case <-within.Done():
			return nil, false, ctx.Err()
		case <-tick.C:
		}
	}
}

// openAccepted opens a node whose rows of this machine people have accepted.
func (l *Lifecycle) openAccepted(ctx context.Context, ring Keyring, mine *Installation) error {
	if err := l.replication.check(ctx, mine.ID); err != nil {
		return err
	}
	if early, err := openStateKey(ctx, ring, mine); err != nil || early != nil {
		return cmp.Or(err, error(fault.Errorf(fault.Conflict, "the state key of this node is of an earlier release: move its fleet.db away, and start it")))
	}
	return l.openState(ctx, ring, mine.ID, StateOptions{}, true)
}

// foundedMeanwhile makes an error of two nodes that begin at once one that is tried again.
func foundedMeanwhile(err error) error {
	if code := fault.CodeOf(err); code == fault.Exists || code == fault.Changed || code == fault.Conflict {
		return fault.Wrapf(fault.FleetFounding, err, "another node has made the installation meanwhile")
	}
	return err
}

// openFleetState opens the rows of this machine, then those of the fleet, which must be as
// new as what the anchors have known.
func (l *Lifecycle) openFleetState(ctx context.Context, ring Keyring, installation string, o StateOptions, accepted bool) (err error) {
	defer func() {
		if err != nil {
			l.store.CloseState()
			l.replication.machine.CloseState()
		}
	}()
	l.present.Store(nil)
	opened := &openedState{}
	m := StateOptions{Now: l.now, Lost: func(why error) { l.lost(ring, opened, why) }, AuditHead: l.auditHead.written(ring, installation)}
	if m.Key, err = ring.ManifestKey(installation + "/machine"); err != nil {
		return err
	}
	l.auditHead.proven.Store(false)
	anchor := l.newAnchoring()
	opened.anchoring = anchor
	if anchor != nil {
		m.Anchoring = anchor
		m.Fresh = func(own Head, _ Past) ([]Head, error) { return nil, anchor.fresh(ctx, own) }
	}
	report, err := l.replication.machine.OpenState(ctx, m)
	if code := fault.CodeOf(err); code == fault.StateUnsealed || IsHeld(err) && accepted {
		opened.first = true
		report, err = l.beginMachine(ctx, m, anchor, accepted)
	}
	if err != nil {
		return err
	}
	if err := anchored(anchor, report.Head); err != nil {
		return err
	}
	if !opened.first {
		if err := l.auditHead.prove(ctx, ring, installation); err != nil {
			return err
		}
	}
	if err = l.openShared(ctx, ring, installation, o, opened, accepted); IsHeld(err) {
		err = sharedRows{err}
	}
	return err
}

// newAnchoring gives the use of this machine's anchor; nil if it has none.
func (l *Lifecycle) newAnchoring() *anchoring {
	if l.anchor == nil {
		return nil
	}
	a := l.anchor()
	if a == nil {
		return nil
	}
	return &anchoring{anchor: a, log: l.log, now: l.now}
}

// beginMachine seals the rows of this machine as they are: at its first start in a fleet,
// or where people accept. A machine that has known a head has a manifest.
func (l *Lifecycle) beginMachine(ctx context.Context, m StateOptions, anchor *anchoring, accepted bool) (report *StateReport, err error) {
	for _, a := range l.heads {
		if accepted {
			break
		}
		if _, err := a.Seen(ctx); err == nil {
			return nil, fault.Errorf(fault.StateUnsealed, "the rows of this machine have no manifest, and the %s has known a state of this fleet: the file machine.db was removed, or put back to before", a.Name())
		} else if code := fault.CodeOf(err); code != fault.NotFound && code != fault.AnchorAway {
			return nil, err
		}
	}
	if err := l.auditHead.found(); err != nil {
		return nil, err
	}
	if anchor != nil {
		if err := anchor.begin(ctx, accepted); err != nil {
			return nil, err
		}
	}
	if m.Key, err = m.Key.Again(); err != nil {
		return nil, err
	}
	m.Seal, m.Fresh = true, nil
	return l.replication.machine.OpenState(ctx, m)
}

// openShared opens the rows that the fleet shares. Where they are sealed as they are, the anchors
// must not know later ones, unless people accept that.
func (l *Lifecycle) openShared(ctx context.Context, ring Keyring, installation string, o StateOptions, opened *openedState, accepted bool) (err error) {
	if o.Key, err = ring.ManifestKey(installation); err != nil {
		return err
	}
	o.Log, o.Now, o.Told = l.replication.log, l.now, l.told
	o.Lost = func(why error) { l.lost(ring, opened, why) }
	o.Fresh = func(own Head, past Past) ([]Head, error) { return nil, l.heads.fresh(ctx, own, past) }
	if o.Seal {
		o.Fresh = func(own Head, past Past) ([]Head, error) { return l.heads.after(ctx, own, past, accepted) }
	}
	report, err := l.store.OpenState(ctx, o)
	if err != nil {
		return err
	}
	l.told(report.Head)
	if err := l.time.begin(ctx, ring, installation, opened.first); err != nil {
		return err
	}
	l.mu.Lock()
	l.opened = opened
	l.mu.Unlock()
	l.log.Info("the fleet's state was verified", "rows", report.Rows, "sequence", report.Head.Sequence, "change", l.store.Position().Number)
	return nil
}

// seenHeads keeps heads among the rows of this machine: what the fleet's database was
// known to have. It is the anchor that is there without a TPM, a broker and peers.
type seenHeads struct {
	ground
	rows SeenHeadRows
	wake chan struct{}

	mu     sync.Mutex
	newest *SeenHead // that is not kept yet
}

// Name implements [HeadAnchor].
func (s *seenHeads) Name() string { return "rows of this machine" }

// Seen implements [HeadAnchor].
func (s *seenHeads) Seen(ctx context.Context) (SeenHead, error) {
	seen, err := s.rows.SeenHead(ctx)
	if err != nil {
		return SeenHead{}, err
	}
	return *seen, nil
}

// Tell implements [HeadAnchor].
func (s *seenHeads) Tell(h Head) {
	s.mu.Lock()
	s.newest = &SeenHead{Head: h, Since: s.stamp()}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run keeps what it was told, until ctx ends: the newest, at most once a second.
func (s *seenHeads) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.keepLogged(context.WithoutCancel(ctx))
			return
		case <-s.wake:
			s.keepLogged(ctx)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// KeepSeenHead has a node of a fleet keep the newest head of the state that it has taken
// over. Run does it beside what it does. It does nothing where there is no fleet.
func (l *Lifecycle) KeepSeenHead(ctx context.Context) error {
	if l.replication == nil {
		return nil
	}
	return l.replication.heads.keep(ctx)
}

func (s *seenHeads) keep(ctx context.Context) error {
	s.mu.Lock()
	newest := s.newest
	s.newest = nil
	s.mu.Unlock()
	if newest == nil {
		return nil
	}
	err := s.rows.KeepSeenHead(ctx, *newest)
	if err != nil {
		s.mu.Lock()
		if s.newest == nil {
			s.newest = newest
		}
		s.mu.Unlock()
	}
	return err
}

// keepLogged is keep for work in the background.
func (s *seenHeads) keepLogged(ctx context.Context) {
	if err := s.keep(ctx); err != nil && fault.CodeOf(err) != fault.Locked {
		s.ground.log.Error("the head of the fleet's state could not be kept on this machine", "error", err)
	}
}
