package appliance

import (
	"context"
	"runtime"
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
	}
	service        *Service
	settings       *Settings
	administration *Administration
	auditHead      *auditHead
}

// Unlock opens the key hierarchy with the keyring and begins to serve. In an
// empty database it makes the installation. It costs one HSM operation per key
// store, however many keys there are. A key store that does not open is
// reported in the log and refuses its requests; the others serve.
func (l *Lifecycle) Unlock(ctx context.Context, ring Keyring, hsms []HSM) error {
	return l.unlock(ctx, ring, hsms, nil)
}

// unlock does what Unlock says; after a lease that ran out, unless somebody has
// called Lock since.
func (l *Lifecycle) unlock(ctx context.Context, ring Keyring, hsms []HSM, after *suspended) error {
	asked := l.now()
	in, err := l.store.Installation(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		in, err = l.install(ctx, ring)
	}
	if err != nil {
		return err
	}
	if err := l.openStateKey(ctx, ring, in); err != nil {
		return err
	}
	if err := l.auditHead.prove(ctx, ring, in.ID); err != nil {
		ring.Lock()
		return err
	}
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	v, err := l.service.read(ctx, newView(ring), Change{})
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
	l.service.live.Store(v)
	l.service.health.watch(hsms)
	return nil
}

// Lock wipes all keys. Requests are refused until the next Unlock.
func (l *Lifecycle) Lock() {
	l.service.suspended.Store(nil)
	l.lock()
}

func (l *Lifecycle) lock() {
	l.service.reload.Lock()
	defer l.service.reload.Unlock()
	v := l.service.live.Swap(nil)
	l.service.keys.purge()
	if v != nil {
		v.ring.Lock()
		// Has what was derived from keys erased now (package scrub). A sync.Pool, as
		// the keyring has them, lets go of its content at the second collection.
		runtime.GC()
		runtime.GC()
	}
}

// The intervals of the background work in Run.
const (
	probeEvery    = 15 * time.Second
	leaseEvery    = time.Second
	lastUsedEvery = time.Minute
	deletionEvery = time.Minute
)

// Run does the work that comes with time until ctx ends: it probes the HSMs,
// stores when credentials were last used, and destroys the keys whose deletion
// is due. Before it returns, it stores the last uses once more.
func (l *Lifecycle) Run(ctx context.Context) {
	probe := time.NewTicker(min(probeEvery, l.service.lease.length/4))
	defer probe.Stop()
	minute := time.NewTicker(lastUsedEvery)
	defer minute.Stop()
	deletion := time.NewTicker(deletionEvery)
	defer deletion.Stop()
	leases := make(chan struct{})
	go func() { // apart: the rest may wait for the HSM
		defer close(leases)
		every := time.NewTicker(leaseEvery)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
				l.KeepLease(ctx)
			}
		}
	}()
	defer func() { <-leases }()

	l.administration.DestroyLeftovers(ctx)
	l.administration.DeleteDueKeys(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			l.service.storeLastUsed(last)
			l.auditHead.keepLogged(last)
			return
		case <-probe.C:
			if !l.service.Locked() {
				l.service.health.probe(ctx, l.log)
			}
		case <-minute.C:
			l.service.storeLastUsed(ctx)
			l.auditHead.keepLogged(ctx)
		case <-deletion.C:
			l.administration.DeleteDueKeys(ctx)
		}
	}
}
