package appliance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"time"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
	"holdfast/appliance/quota"
)

// HSM is what the appliance needs of a token besides what its keyring does
// with it. Package keyring makes one of a PKCS#11 token.
type HSM interface {
	// Probe encrypts and decrypts with a test key inside of the token.
	Probe(ctx context.Context) error
	// Info gives the token's facts.
	Info(ctx context.Context) (TokenInfo, error)
}

// Options are the settings of an [Appliance]. Store is needed, the rest has
// defaults.
type Options struct {
	Store Store
	Log   *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// MaxUnlockedKeys bounds how many external keys are kept unlocked at once;
	// the least recently used is wiped first. Default [DefaultMaxUnlockedKeys].
	MaxUnlockedKeys int
	// Lease is how long keys stay in memory while no HSM answers. Default
	// [DefaultLease].
	Lease time.Duration
	// Dir is where copies of the database are made for a moment, as for a backup;
	// the system's default for temporary files if empty.
	Dir string
	// Recorder, if given, records each request that is authenticated and within its
	// quota, before it is answered. What cannot be recorded is not answered.
	Recorder Recorder
	// AuditLog, if given, must contain the head that AuditHeads has of it, or the
	// appliance is not unlocked.
	AuditLog   AuditLog
	AuditHeads AuditHeadRows
	// Identities, if given, are the rows that other packages keep, which the first unlock
	// seals.
	Identities Identities
	// MachineKey gives rows their second seal ([Seals]). Without it nothing is valid while
	// the appliance is locked.
	MachineKey MachineKey
	// Deleting, if given, is told of a key whose waiting period is over, before it is
	// deleted for good. An error keeps the key; it is tried again.
	Deleting func(ctx context.Context, keyStore, keyID string) error
	// Destroying, if given, is told of a key object that no key needs, before it is
	// destroyed in the HSM's token, with the name of its key store, or the ID if that is
	// gone. An error keeps the object; it is tried again.
	Destroying func(ctx context.Context, keyStore string, o *TokenObject) error
	// Witness, if given, tells the latest time that may be relied on: a key is destroyed
	// when it is due by Now and by this. WitnessedTime, if given, keeps it over a restart.
	Witness       Witness
	WitnessedTime WitnessedTimeRows
	// Rotating, if given, is told of a key that is due for rotation by itself, with the
	// new version, before it is rotated. An error keeps the present version; it is tried
	// again.
	Rotating func(ctx context.Context, keyStore, keyID string, version uint32) error
	// OpenCopy opens a store of its own at path: a new one, or the SQLite database that is
	// there, as backups of before had. Without it there is neither backup nor restore.
	OpenCopy func(ctx context.Context, path string) (Copy, error)
	// WhyLocked, if given, says in a word why the appliance was not unlocked, such
	// as E_SEAL_PCRS. Callers are told.
	WhyLocked func() string
	// Anchor, if given, gives the anchor outside of the database that tells an older
	// copy of it from the present one; nil where there is none.
	Anchor func() Anchor
	// HeadAnchors know the newest head of the state that they were told, outside of the
	// database.
	HeadAnchors []HeadAnchor
	// ChangeLog makes the appliance a node of a fleet: changes of the store go through it,
	// and come from it. Machine has the rows of this machine then.
	ChangeLog ChangeLog
	Machine   MachineRows
	// Peers, if given, are the other nodes of the fleet, which share the quotas of key stores
	// with this one.
	Peers quota.Peers
	// RotateAfter is how many encryptions a key version does before the key is
	// rotated. Default [DefaultRotateAfter]: half of what SP 800-38D section 8.3 allows for random
	// 96-bit IVs, 2^32, which is the most that is accepted here.
	RotateAfter uint64
	// Fleet, if given, says whether this node of a fleet may serve, and when a change is in
	// effect in all nodes. An appliance on its own has none.
	Fleet Fleet
	// NoInstallationObject keeps no installation object in the HSM, for those that take
	// none. Then nothing in the HSM is ever destroyed.
	NoInstallationObject bool
	// Traces say of what they know whether it is a trace of an installation: what it is,
	// or "". They are asked when the database has none.
	Traces []func(ctx context.Context) (string, error)
}

// KeyMemory is what a key with one version takes in memory at most while it is ready for use, in
// bytes, without grants of its own. A test measures it.
const KeyMemory = 1536

// The defaults of [Options].
const (
	DefaultMaxUnlockedKeys = 65536
	DefaultRotateAfter     = 1 << 31
	// DefaultLease outlasts the restart of an HSM and the failover of a cluster.
	DefaultLease = 15 * time.Minute
)

const (
	// maxEncryptions is where a version stops to encrypt, should rotation fail
	// again and again (SP 800-38D section 8.3).
	maxEncryptions = 1 << 32
)

// Appliance is the domain: all operations of all front ends go through one of its
// parts, over the same store. It starts locked: [Lifecycle.Unlock] gives it a
// keyring. The methods of all parts may be called at once from several goroutines.
type Appliance struct {
	*Service
	*Administration
	*Lifecycle
	*Settings
	*Backups
	// Nodes keeps the sealed rows of the fleet.
	Nodes *Nodes
}

// ground is what every part stands on.
type ground struct {
	log *slog.Logger
	now func() time.Time
}

// stamp gives the time at the precision of the store.
func (g *ground) stamp() time.Time { return g.now().UTC().Truncate(time.Millisecond) }

// New makes a locked appliance over the store.
func New(o Options) *Appliance {
	o.setDefaults()
	on := ground{log: o.Log, now: o.Now}
	service := &Service{ground: on, store: o.Store, rotateAfter: o.RotateAfter, recorder: o.Recorder, fleet: o.Fleet, keys: newKeyCache(o.MaxUnlockedKeys), decider: authz.NewDecider(), why: o.WhyLocked, newest: newNewest(nil), arrival: make(chan struct{}, 1), used: lastUsed{news: make(chan struct{}, 1)}}
	if service.firstBlock = firstBlock; o.ChangeLog != nil {
		service.firstBlock, service.newest = nodeBlock, newNewest(o.Store)
	}
	settings := &Settings{ground: on, store: o.Store, seals: Seals{service: service, machine: o.MachineKey, identities: o.Identities}}
	settings.seals.settings = settings
	if o.ChangeLog != nil {
		settings.seals.founded = func(ctx context.Context) (bool, error) {
			_, err := o.ChangeLog.Founding(ctx)
			if fault.CodeOf(err) == fault.NotFound {
				return false, nil
			}
			return err == nil, err
		}
	}
	owner := &ownership{ground: on, store: o.Store, unkept: o.NoInstallationObject, shared: o.ChangeLog != nil}
	replica := newReplication(on, &o)
	if replica != nil {
		o.HeadAnchors = append([]HeadAnchor{replica.heads}, o.HeadAnchors...)
	}
	service.installation = owner.State
	kept := &witnessedTime{ground: on, witness: o.Witness, rows: o.WitnessedTime, service: service}
	service.clock, service.damaged = kept.state, o.Store.Damaged
	administration := &Administration{ground: on, store: o.Store, service: service, settings: settings, deleting: o.Deleting, destroying: o.Destroying, rotating: o.Rotating, time: kept, ownership: owner}
	head := &auditHead{ground: on, log: o.AuditLog, rows: o.AuditHeads, service: service}
	lifecycle := &Lifecycle{ground: on, store: o.Store, service: service, settings: settings, administration: administration, anchor: o.Anchor, heads: o.HeadAnchors, auditHead: head, time: kept, ownership: owner, traces: o.Traces, replication: replica}
	service.state, service.replication = lifecycle.State, lifecycle.Replication
	if o.Peers != nil {
		service.quotas = quota.New(o.Peers)
	}
	service.rotateExhausted = administration.rotateExhausted
	service.lease.length, service.lease.now, service.lease.begin = o.Lease, o.Now, o.Now()
	service.health.now, service.health.answered = o.Now, service.lease.renew
	o.Store.Subscribe(service.apply)
	return &Appliance{Service: service, Administration: administration, Lifecycle: lifecycle, Settings: settings, Nodes: &Nodes{o.Store, &settings.seals},
		Backups: &Backups{ground: on, store: o.Store, service: service, settings: settings, administration: administration, lifecycle: lifecycle, dir: o.Dir, openCopy: o.OpenCopy}}
}

// setDefaults fills in what was left out.
func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxUnlockedKeys <= 0 {
		o.MaxUnlockedKeys = DefaultMaxUnlockedKeys
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.RotateAfter == 0 || o.RotateAfter > maxEncryptions {
		o.RotateAfter = DefaultRotateAfter
	}
	if o.WhyLocked == nil {
		o.WhyLocked = func() string { return "" }
	}
	if o.MachineKey == nil {
		o.MachineKey = noMachineKey{}
	}
	if o.Identities == nil {
		o.Identities = noIdentities{}
	}
	if o.Deleting == nil {
		o.Deleting = func(context.Context, string, string) error { return nil }
	}
	if o.Destroying == nil {
		o.Destroying = func(context.Context, string, *TokenObject) error { return nil }
	}
	if o.Witness == nil {
		o.Witness = wallClock{o.Now}
	}
	if o.Fleet == nil {
		o.Fleet = noFleet{}
	}
	if o.Rotating == nil {
		o.Rotating = func(context.Context, string, string, uint32) error { return nil }
	}
	if o.OpenCopy == nil {
		o.OpenCopy = func(context.Context, string) (Copy, error) {
			return nil, fault.Errorf(fault.Internal, "this appliance cannot open backups")
		}
	}
}

// newID gives 32 random hexadecimal digits.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}
