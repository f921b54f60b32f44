package appliance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// Lifecycle is the part that unlocks and locks the appliance, keeps the lease, and
// does the work that comes with time.
type Lifecycle struct {
	ground
	store interface {
		InstallationRows
		KeyStoreRows
		StateRows
	}
	anchor func() Anchor // nil, or gives nil, where there is none
	heads  headAnchors

	mu     sync.Mutex
	opened *openedState // nil before the first
	// confirmed is what a person has confirmed before the first unlock.
	confirmed Confirmation
	// present is the newest head that anchors were told of the state that is open.
	present atomic.Pointer[Head]

	accepting      sync.Mutex
	service        *Service
	settings       *Settings
	administration *Administration
	ownership      *ownership
	traces         []func(ctx context.Context) (string, error)
	// deciding serializes what a person decides about a copy of the installation.
	deciding  sync.Mutex
	auditHead *auditHead
	time      *witnessedTime
	// replication is that of a node of a fleet; nil for a single appliance.
	replication *replication
}

// Unlock opens the key hierarchy with the keyring and begins to serve. In an
// empty database it makes the installation. It costs one HSM operation per key
// store, however many keys there are. A key store that does not open is
// reported in the log and refuses its requests, and is tried again; the others serve.
//
// Three errors leave it with the keyring, until a person decides: fault.StateMissing, for
// an empty database beside the traces of an installation ([Lifecycle.Begin],
// [Backups.Restore]), fault.StateSuperseded ([Lifecycle.TakeOver]), and
// fault.AdmissionUnconfirmed ([Lifecycle.ConfirmAdmission]).
func (l *Lifecycle) Unlock(ctx context.Context, ring Keyring, hsms []HSM) error {
	return l.unlock(ctx, ring, hsms, unlocking{})
}

// unlocking is what is special of an unlock.
type unlocking struct {
	// after is set after a lease that ran out: unless somebody has called Lock since.
	after *suspended
	// restored says that the rows were just restored from a backup, which has no
	// manifests: they are sealed as they are.
	restored bool
}

// unlock does what Unlock says.
func (l *Lifecycle) unlock(ctx context.Context, ring Keyring, hsms []HSM, u unlocking) error {
	asked := l.now()
	err := l.openAll(ctx, ring, u.restored)
	if err == nil {
		err = l.own(ctx, ring, u.after == nil)
	}
	if l.replication != nil && fault.CodeOf(err) == fault.Changed { // two nodes start at once
		err = foundedMeanwhile(err)
	}
	if err != nil {
		if IsHeld(err) || awaitsDecision(err) {
			l.hold(ring, hsms, err)
		}
		return err
	}
	return l.serve(ctx, ring, hsms, asked, u.after)
}

// openAll opens the state key and the state.
func (l *Lifecycle) openAll(ctx context.Context, ring Keyring, restored bool) error {
	in, err := l.store.Installation(ctx)
	if l.replication != nil {
		return l.openNode(ctx, ring, in, err, false)
	}
	if fault.CodeOf(err) == fault.NotFound {
		if err := l.checkTraces(ctx, ring); err != nil {
			return err
		}
		return l.install(ctx, ring, false)
	}
	if err != nil {
		return err
	}
	return l.openStateKey(ctx, ring, in, restored)
}

// openState opens the rows as the sets that they are, and holds them against the anchor.
// Accepted says that people have, so that an anchor of before is no error.
func (l *Lifecycle) openState(ctx context.Context, ring Keyring, installation string, o StateOptions, accepted bool) (err error) {
	if l.replication != nil {
		return l.openFleetState(ctx, ring, installation, o, accepted)
	}
	if o.Key, err = ring.ManifestKey(installation); err != nil {
		return err
	}
	l.auditHead.proven.Store(false)
	if o.Seal { // from then on a head that is missing is an error
		if err := l.auditHead.found(); err != nil {
			return err
		}
	}
	l.present.Store(nil)
	o.AuditHead = l.auditHead.written(ring, installation)
	opened := &openedState{}
	o.Now, o.Lost = l.now, func(why error) { l.lost(ring, opened, why) }
	anchor := l.newAnchoring()
	if anchor != nil {
		o.Anchoring = anchor
	}
	if anchor != nil && o.Seal {
		if err := anchor.begin(ctx, accepted); err != nil {
			return err
		}
	}
	fresh := func(own Head, past Past) ([]Head, error) { return nil, l.fresh(ctx, anchor, own, past) }
	if anchor != nil || len(l.heads) > 0 {
		o.Fresh = fresh
	}
	o.Told = l.told
	if o.Seal && len(l.heads) > 0 {
		o.Fresh = func(own Head, past Past) ([]Head, error) { return l.heads.after(ctx, own, past, accepted) }
	} else if o.Seal {
		o.Fresh = nil
	}
	report, err := l.store.OpenState(ctx, o)
	if err == nil && accepted && anchor != nil {
		o.Fresh = fresh
		report, err = l.openAgain(ctx, o)
	}
	if err == nil {
		err = anchored(anchor, report.Head)
	}
	if err == nil && !o.Seal {
		err = l.auditHead.prove(ctx, ring, installation)
	}
	if err == nil {
		err = l.time.begin(ctx, ring, installation, o.Installed != nil && o.Was == nil)
	}
	if err != nil {
		l.store.CloseState()
		return err
	}
	l.present.CompareAndSwap(nil, &report.Head)
	opened.anchoring = anchor
	l.mu.Lock()
	l.opened = opened
	l.mu.Unlock()
	for _, scope := range report.Damaged {
		l.log.Error("rows do not match their manifest and are refused: keys of a key store, or all of it", "scope", scope)
	}
	l.log.Info("the state was verified", "rows", report.Rows, "sequence", report.Head.Sequence, "anchor", report.Head.Anchor, "count", report.Head.Count)
	return nil
}

// told takes note of a head that is durable, and tells the anchors.
func (l *Lifecycle) told(h Head) {
	l.present.Store(&h)
	l.heads.tell(h)
}

// fresh says whether a state is as new as its anchors.
func (l *Lifecycle) fresh(ctx context.Context, anchor *anchoring, own Head, past Past) error {
	if anchor != nil {
		if err := anchor.fresh(ctx, own); err != nil {
			return err
		}
	} else if err := anchored(nil, own); err != nil {
		return err
	}
	return l.heads.fresh(ctx, own, past)
}

// anchored says whether the manifest of an opening is anchored, as it must be before there
// is a change.
func anchored(anchor *anchoring, h Head) error {
	if anchor == nil {
		if h.Anchor != "" {
			return fault.Errorf(fault.StateAnchor, "the state names the anchor %s, and this machine has none", h.Anchor)
		}
		return nil
	}
	if _, err := anchor.status(); err != nil {
		return fault.Wrapf(fault.StateAnchor, err, "the state cannot be anchored")
	}
	return nil
}

// openAgain opens the state once more after people have accepted it, so that it has a
// count that no copy of before has.
func (l *Lifecycle) openAgain(ctx context.Context, o StateOptions) (report *StateReport, err error) {
	if o.Key, err = o.Key.Again(); err != nil {
		return nil, err
	}
	o.Seal, o.Installed, o.Was = false, nil, nil
	return l.store.OpenState(ctx, o)
}

// IsHeld says whether an error is about the state as a whole, which people may accept.
func IsHeld(err error) bool {
	switch fault.CodeOf(err) {
	case fault.StateChanged, fault.StateUnsealed, fault.StateRolledBack, fault.StateAnchor, fault.StateLoss:
		return true
	}
	return false
}

// serve begins to serve the state that is open.
func (l *Lifecycle) serve(ctx context.Context, ring Keyring, hsms []HSM, asked time.Time, after *suspended) error {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	v, err := l.service.open(ctx, ring)
	if err != nil {
		ring.Lock()
		return err
	}
	if after != nil && !l.service.suspended.CompareAndSwap(after, nil) {
		ring.Lock()
		return fault.Errorf(fault.Locked, "the appliance was locked meanwhile")
	}
	l.service.lease.renew(asked)
	l.service.suspended.Store(nil)
	l.service.held.Store(nil)
	l.service.live.Store(v)
	l.service.health.watch(hsms)
	if err := l.join(ctx, ring); err != nil { // as if it had not been unlocked
		l.service.fleet.Leave()
		l.service.live.Store(nil)
		l.service.keys.purge()
		l.service.suspended.Store(after)
		ring.Lock()
		l.closeState()
		return err
	}
	return nil
}

// join has a node speak to the others of its fleet.
func (l *Lifecycle) join(ctx context.Context, ring Keyring) error {
	if l.replication == nil {
		return nil
	}
	in, err := l.store.Installation(ctx)
	if err != nil {
		return err
	}
	return l.service.fleet.Join(ring, in.ID)
}

// Lock wipes all keys. Requests are refused until the next Unlock.
func (l *Lifecycle) Lock() {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	l.service.suspended.Store(nil)
	l.lock()
}

// suspend locks what is unlocked now, until KeepLease can unlock it again, at a time at the
// earliest. Why is nil if the lease has run out.
func (l *Lifecycle) suspend(v *view, why error, again backoff) bool {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	if l.service.live.Load() != v {
		return false // somebody has locked it meanwhile, or opened it again
	}
	l.service.suspended.Store(&suspended{ring: v.ring, hsms: l.service.health.watched(), why: why, again: again})
	l.lock()
	return true
}

// lock does what Lock says. The caller holds reload.
func (l *Lifecycle) lock() {
	l.service.fleet.Leave()
	v := l.service.live.Swap(nil)
	l.service.keys.purge()
	if h := l.service.held.Swap(nil); h != nil {
		h.ring.Lock()
	}
	defer l.closeState()
	if v != nil {
		v.ring.Lock()
	}
}

// closeState ends the use of the rows.
func (l *Lifecycle) closeState() {
	l.store.CloseState()
	if l.replication != nil {
		l.replication.machine.CloseState()
	}
}

// The intervals of the background work in Run.
const (
	probeEvery     = 15 * time.Second
	lastUsedEvery  = time.Minute
	deletionEvery  = time.Minute
	timeEvery      = 10 * time.Minute
	auditHeadEvery = time.Minute
	snapshotEvery  = time.Minute
	anchorEvery    = time.Hour // the anchor, which is a TPM's counter that wears
	lookEvery      = time.Minute
)

// Run does the work that comes with time until ctx ends: it probes the HSMs,
// tries again what is out of service, stores when credentials were last used, and destroys the keys whose deletion
// is due. Before it returns, it stores the last uses once more.
func (l *Lifecycle) Run(ctx context.Context) {
	probe := time.NewTicker(min(probeEvery, l.service.lease.length/4))
	defer probe.Stop()
	deletion := time.NewTicker(deletionEvery)
	defer deletion.Stop()
	l.time.look()
	var apart sync.WaitGroup // apart from each other: some may wait for the HSM or the TPM
	for _, w := range []struct {
		interval time.Duration
		do       func(context.Context)
	}{
		{time.Second, l.KeepLease},
		{auditHeadEvery, func(ctx context.Context) { l.auditHead.keepLogged(ctx, false) }},
		{anchorEvery, func(ctx context.Context) { l.auditHead.keepLogged(ctx, true) }},
		{lookEvery, func(context.Context) { l.time.look() }},
		{timeEvery, l.time.keep},
	} {
		apart.Go(func() { every(ctx, w.interval, w.do) })
	}
	apart.Go(func() { l.service.recovery(ctx) })
	apart.Go(func() { l.service.keepLastUsed(ctx) })
	if r := l.replication; r != nil {
		apart.Go(func() { l.follow(ctx) })
		apart.Go(func() { every(ctx, snapshotEvery, l.snapshot) })
		apart.Go(func() { r.heads.run(ctx) })
	}
	defer apart.Wait()

	l.lead(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			l.service.storeLastUsed(last)
			l.time.keep(last)
			l.auditHead.keepLogged(last, true)
			return
		case <-probe.C:
			if !l.service.Locked() {
				l.service.health.probe(ctx, l.log)
			}
		case <-deletion.C:
			l.lead(ctx)
		}
	}
}

// lead does the work that one node of a fleet does for all.
func (l *Lifecycle) lead(ctx context.Context) {
	if ctx, leads := l.service.fleet.Lead(ctx); leads {
		l.administration.DeleteDueKeys(ctx)
		l.administration.DestroyLeftovers(ctx)
		l.raiseSchema(ctx)
	}
}

// every calls f at intervals until ctx ends.
func every(ctx context.Context, interval time.Duration, f func(context.Context)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f(ctx)
		}
	}
}
