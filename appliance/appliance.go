package appliance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
	"holdfast/hsm"
)

// HSM is what the appliance needs of a token besides what its keyring does
// with it; [*hsm.Token] is one.
type HSM interface {
	// Probe encrypts and decrypts with a test key inside of the token.
	Probe(ctx context.Context) error
	// Info gives the token's facts.
	Info(ctx context.Context) (hsm.Info, error)
}

// Options are the settings of an [Appliance]. Store is needed, the rest has
// defaults.
type Options struct {
	Store Store
	Log   *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// MaxUnlockedKeys bounds how many external keys are kept unlocked at once;
	// the least recently used is wiped first. Default 65,536.
	MaxUnlockedKeys int
	// Lease is how long keys stay in memory while no HSM answers. Default 15
	// minutes.
	Lease time.Duration
	// Dir is where copies of the database are made for a moment, as for a backup;
	// the system's default for temporary files if empty.
	Dir string
	// SealAll, if given, seals the rows that other packages keep, with [Appliance.Seals].
	// The first unlock calls it, before the installation is written. Set changes a
	// setting then.
	SealAll func(ctx context.Context, set func(name, value string) error) error
	// Deleting, if given, is told of a key whose waiting period is over, before it is
	// deleted for good. An error keeps the key; it is tried again.
	Deleting func(ctx context.Context, keyStore, keyID string) error
	// OpenStore opens another database, of a backup. Without it there is no restore.
	OpenStore func(ctx context.Context, path string) (Store, error)
	// WhyLocked, if given, says in a word why the appliance was not unlocked, such
	// as E_SEAL_PCRS. Callers are told.
	WhyLocked func() string
	// RotateAfter is how many encryptions a key version does before the key is
	// rotated. Default 2^31: half of what SP 800-38D section 8.3 allows for random
	// 96-bit IVs, 2^32, which is the most that is accepted here.
	RotateAfter uint64
}

const (
	defaultMaxUnlockedKeys = 65536
	defaultRotateAfter     = 1 << 31
	// maxEncryptions is where a version stops to encrypt, should rotation fail
	// again and again (SP 800-38D section 8.3).
	maxEncryptions = 1 << 32
)

// Appliance is the domain: all operations of all faces go through it. It
// starts locked: [Appliance.Unlock] gives it a keyring. Its methods may be
// called at once from several goroutines.
type Appliance struct {
	store       Store
	log         *slog.Logger
	now         func() time.Time
	rotateAfter uint64

	// admin serializes administrative operations, which read a row, change it and
	// write it back. Requests of KMS never take it, but for a rotation.
	admin sync.Mutex

	// blocking serializes changes of the block of everything. It is apart from
	// admin, which may wait for the HSM.
	blocking sync.Mutex

	// reload serializes changes to live.
	reload sync.Mutex
	live   atomic.Pointer[view] // nil while locked
	keys   *keyCache
	used   lastUsed
	health healthMonitor

	seals    Seals
	sealRows func(ctx context.Context, set func(name, value string) error) error

	lease     lease
	why       func() string // why it is locked
	dir       string
	openStore func(ctx context.Context, path string) (Store, error)
	deleting  func(ctx context.Context, keyStore, keyID string) error
	suspended atomic.Pointer[suspended] // nil but after the lease ran out
}

// New makes a locked appliance over the store.
func New(o Options) *Appliance {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxUnlockedKeys <= 0 {
		o.MaxUnlockedKeys = defaultMaxUnlockedKeys
	}
	if o.RotateAfter == 0 || o.RotateAfter > maxEncryptions {
		o.RotateAfter = defaultRotateAfter
	}
	if o.WhyLocked == nil {
		o.WhyLocked = func() string { return "" }
	}
	if o.SealAll == nil {
		o.SealAll = func(context.Context, func(name, value string) error) error { return nil }
	}
	if o.Deleting == nil {
		o.Deleting = func(context.Context, string, string) error { return nil }
	}
	if o.OpenStore == nil {
		o.OpenStore = func(context.Context, string) (Store, error) {
			return nil, fault.Errorf(fault.Internal, "this appliance cannot open backups")
		}
	}
	a := &Appliance{
		store:       o.Store,
		log:         o.Log,
		now:         o.Now,
		rotateAfter: o.RotateAfter,
		keys:        newKeyCache(o.MaxUnlockedKeys),
		why:         o.WhyLocked,
		dir:         o.Dir,
		openStore:   o.OpenStore,
		sealRows:    o.SealAll,
		deleting:    o.Deleting,
	}
	a.seals.appliance = a
	if o.Lease <= 0 {
		o.Lease = defaultLease
	}
	a.lease.length, a.lease.now, a.lease.begin = o.Lease, o.Now, o.Now()
	a.health.now, a.health.answered = o.Now, a.lease.renew
	a.store.Subscribe(a.apply)
	return a
}

// Unlock opens the key hierarchy with the keyring and begins to serve. In an
// empty database it makes the installation. It costs one HSM operation per key
// store, however many keys there are. A key store that does not open is
// reported in the log and refuses its requests; the others serve.
func (a *Appliance) Unlock(ctx context.Context, ring Keyring, hsms []HSM) error {
	return a.unlock(ctx, ring, hsms, nil)
}

// unlock does what Unlock says; after a lease that ran out, unless somebody has
// called Lock since.
func (a *Appliance) unlock(ctx context.Context, ring Keyring, hsms []HSM, after *suspended) error {
	asked := a.now()
	in, err := a.store.Installation(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		in, err = a.install(ctx, ring)
	}
	if err != nil {
		return err
	}
	if err := a.openStateKey(ctx, ring, in); err != nil {
		return err
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	v, err := a.read(ctx, newView(ring), Change{})
	if err != nil {
		ring.Lock()
		return err
	}
	if after != nil && !a.suspended.CompareAndSwap(after, nil) {
		ring.Lock()
		return fault.Errorf(fault.Locked, "the appliance was locked meanwhile")
	}
	a.lease.renew(asked)
	a.suspended.Store(nil)
	a.live.Store(v)
	a.health.watch(hsms)
	return nil
}

// install makes the installation in an empty database, and seals the rows of
// those who came before it.
func (a *Appliance) install(ctx context.Context, ring Keyring) (*Installation, error) {
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	if len(stores) > 0 {
		return nil, fault.Errorf(fault.Tampered, "the database has key stores and lacks the row of its installation: it was changed by hand or is damaged; restore it from a backup")
	}
	in := &Installation{ID: newID(), CreatedAt: a.stamp()}
	if in.WrappedStateKey, err = ring.NewStateKey(ctx, in.ID); err != nil {
		return nil, err
	}
	if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
		return nil, err
	}
	err = a.seals.sealAll(ctx, ring, func() error { return a.store.CreateInstallation(ctx, in) })
	if err != nil {
		return nil, err
	}
	return in, nil
}

// openStateKey opens the state key. One that was wrapped before all rows had
// seals is wrapped in the present form once all have: from then on a row without a
// seal is not valid.
func (a *Appliance) openStateKey(ctx context.Context, ring Keyring, in *Installation) error {
	wrapped, err := openStateKey(ctx, ring, in)
	if err != nil || wrapped == nil {
		return err
	}
	a.log.Warn("the database was made before all rows had seals; they get them now, as they are. Look through the users and API tokens", "installation", in.ID)
	in.WrappedStateKey = wrapped
	if in.Blocked.IsZero() && in.BlockSeal == nil {
		if in.BlockSeal, err = ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
			return err
		}
	}
	return a.seals.sealAll(ctx, ring, func() error {
		if err := a.setSetting(ctx, SettingBootstrap, SettingDone); err != nil {
			return err
		}
		return a.store.UpgradeInstallation(ctx, in)
	})
}

// openStateKey opens the state key of an installation. One that was wrapped before
// all rows had seals it gives in the present form; nil for any other.
func openStateKey(ctx context.Context, ring Keyring, in *Installation) (again []byte, err error) {
	err = ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey)
	if fault.CodeOf(err) != fault.Tampered {
		return nil, err
	}
	again, early := ring.OpenEarlyStateKey(ctx, in.ID, in.WrappedStateKey)
	if early != nil {
		return nil, err
	}
	return again, nil
}

// Lock wipes all keys. Requests are refused until the next Unlock.
func (a *Appliance) Lock() {
	a.suspended.Store(nil)
	a.lock()
}

func (a *Appliance) lock() {
	a.reload.Lock()
	defer a.reload.Unlock()
	v := a.live.Swap(nil)
	a.keys.purge()
	if v != nil {
		v.ring.Lock()
		// Has what was derived from keys erased now (package scrub). A sync.Pool, as
		// the keyring has them, lets go of its content at the second collection.
		runtime.GC()
		runtime.GC()
	}
}

// Locked says whether no key can be used.
func (a *Appliance) Locked() bool { return a.live.Load() == nil }

// view gives the live view, or fault.Locked. A lease that has run out counts
// though nobody has wiped the keys yet.
func (a *Appliance) view() (*view, error) {
	v := a.live.Load()
	switch {
	case a.suspended.Load() != nil, v != nil && a.lease.remaining() <= 0:
		return nil, fault.Errorf(fault.Locked, "the appliance is locked: the HSM has been away for longer than the lease of %s", a.lease.length)
	case v == nil:
		if code := a.why(); code != "" {
			return nil, fault.Errorf(fault.Locked, "the appliance is locked: %s", code)
		}
		return nil, fault.Errorf(fault.Locked, "the appliance is locked")
	}
	return v, nil
}

// stamp gives the time at the precision of the store.
func (a *Appliance) stamp() time.Time { return a.now().UTC().Truncate(time.Millisecond) }

// newID gives 32 random hexadecimal digits.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
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
func (a *Appliance) Run(ctx context.Context) {
	probe := time.NewTicker(min(probeEvery, a.lease.length/4))
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
				a.KeepLease(ctx)
			}
		}
	}()
	defer func() { <-leases }()

	a.DestroyLeftovers(ctx)
	a.DeleteDueKeys(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			a.storeLastUsed(last)
			return
		case <-probe.C:
			if !a.Locked() {
				a.health.probe(ctx, a.log)
			}
		case <-minute.C:
			a.storeLastUsed(ctx)
		case <-deletion.C:
			a.DeleteDueKeys(ctx)
		}
	}
}
