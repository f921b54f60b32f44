package appliancetest

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// Options change what Start does by default.
type Options struct {
	// Token is the token to use; a fresh one in memory if nil.
	Token Device
	// Dir is the folder of the database; a fresh one if empty.
	Dir string
	// Appliance is passed on; what the bed itself sets is overridden.
	Appliance appliance.Options
	// Beside begins a new installation in an empty database beside the traces of others,
	// as a person does ([appliance.Lifecycle.Begin]).
	Beside bool
	// Locked is the code with which the appliance stays locked; the test fails if it
	// comes to serve.
	Locked fault.Code
	// Again is the code of an unlock that is tried again, as a boot does.
	Again fault.Code
	// Accept has the state accepted as it is where it does not match its manifest, so that
	// what a row's own seal does can be seen.
	Accept bool
	// MayHold has Start give a bed whose state is not served ([Bed.Held]).
	MayHold bool
	// Store wraps what the appliance keeps its rows in.
	Store func(appliance.Store) appliance.Store
	// Made, if given, is called once the bed is there, before it is unlocked.
	Made func(b *Bed)
	// Keyring wraps what the appliance is unlocked with.
	Keyring func(appliance.Keyring) appliance.Keyring
}

// Bed is an unlocked appliance.
type Bed struct {
	Appliance *appliance.Appliance
	Store     *sqlite.DB
	// Token is open. Device is what it was opened from.
	Token  Token
	Device Device
	// Dir is the folder of the database, DB the file.
	Dir, DB string
	// Held is why the state is not served, with MayHold or Accept.
	Held error
	// Log is what was logged, at every level; Logger writes to it.
	Log    *Log
	Logger *slog.Logger

	own   *sqlite.DB // the rows of the machine of a node
	stop  func()
	later atomic.Int64 // how much later than its clock says the appliance believes it is
}

// KeepSeen has a node keep the newest head that it has taken over, which it otherwise does
// beside what it does.
func (b *Bed) KeepSeen(t testing.TB) {
	t.Helper()
	if err := b.Appliance.KeepSeenHead(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// DestroyLeftovers has the appliance destroy what is left over in the token, with the
// wait that comes before.
func (b *Bed) DestroyLeftovers(ctx context.Context) {
	b.Appliance.DestroyLeftovers(ctx)
	b.later.Store(int64(appliance.DestroyWait))
	b.Appliance.DestroyLeftovers(ctx)
	b.later.Store(0)
}

// empty makes an empty database.
var empty = storetest.Template(func(path string) error {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		return err
	}
	return s.Close()
})

// OpenRows opens a database; a new one is a copy of one that was made before, which takes a part of
// the time of the migrations. Whoever opens it closes it.
func OpenRows(ctx context.Context, path string, log *slog.Logger) (*sqlite.DB, error) {
	if err := empty(path); err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, path, sqlite.Options{Logger: log})
}

// Start unlocks an appliance, which is stopped when the test ends.
func Start(t testing.TB, o Options) *Bed {
	t.Helper()
	b := &Bed{Device: o.Token, Dir: o.Dir, Log: &Log{}}
	if b.Device == nil {
		b.Device = NewMemory()
	}
	if b.Dir == "" {
		b.Dir = t.TempDir()
	}
	b.DB = filepath.Join(b.Dir, "holdfast.db")
	if o.Appliance.ChangeLog != nil {
		b.DB = filepath.Join(b.Dir, "fleet.db")
	}
	b.Logger = slog.New(slog.NewTextHandler(b.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx := context.Background()
	var err error
	if b.Store, err = OpenRows(ctx, b.DB, b.Logger); err != nil {
		t.Fatal(err)
	}
	machine := b.Store
	if o.Appliance.ChangeLog != nil {
		if machine, err = OpenRows(ctx, filepath.Join(b.Dir, "machine.db"), b.Logger); err != nil {
			t.Fatal(err)
		}
		b.own, o.Appliance.Machine = machine, machine.Machine()
	}
	b.stop = sync.OnceFunc(func() { b.close(t) })
	t.Cleanup(b.Stop)
	o.Appliance.Store, o.Appliance.Log, o.Appliance.Dir = b.Store, b.Logger, b.Dir
	if o.Store != nil {
		o.Appliance.Store = o.Store(b.Store)
	}
	if o.Appliance.AuditHeads == nil {
		o.Appliance.AuditHeads = machine.Machine()
	}
	o.Appliance.OpenCopy = func(ctx context.Context, path string) (appliance.Copy, error) {
		if err := empty(path); err != nil {
			return nil, err
		}
		return sqlite.Open(ctx, path, sqlite.Options{Logger: b.Logger, Copy: true})
	}
	now := o.Appliance.Now
	if now == nil {
		now = time.Now
	}
	o.Appliance.Now = func() time.Time { return now().Add(time.Duration(b.later.Load())) }
	b.Appliance = appliance.New(o.Appliance)
	if o.Made != nil {
		o.Made(b)
	}
	if o.Appliance.MachineKey != nil {
		if err := b.Appliance.Found(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if b.Token, err = b.Device.Open(ctx, Opening{Log: b.Logger, MakingMasterKey: func() error { return b.Appliance.NoteMasterKey(ctx) }}); err != nil {
		t.Fatal(err)
	}
	var ring appliance.Keyring = keyring.New(b.Token)
	if o.Keyring != nil {
		ring = o.Keyring(ring)
	}
	unlock := func() error { return b.Appliance.Unlock(ctx, ring, []appliance.HSM{keyring.Watched(b.Token)}) }
	for err = unlock(); o.Again != "" && fault.CodeOf(err) == o.Again; err = unlock() {
	}
	if o.Beside && fault.CodeOf(err) == fault.StateMissing {
		_, err = b.Appliance.Begin(ctx)
	}
	if (o.Accept || o.MayHold) && appliance.IsHeld(err) {
		b.Held, err = err, nil
	}
	if o.Accept && err == nil {
		err = b.accept(ctx)
	}
	if got := fault.CodeOf(err); got != o.Locked {
		t.Fatalf("the start gave %q, want %q: %v", got, o.Locked, err)
	}
	return b
}

// Accept has the state served as it is; it is no error if all of it matches.
func (b *Bed) Accept(t testing.TB) {
	t.Helper()
	if err := b.accept(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// accept does that; it is no error if there is nothing to accept.
func (b *Bed) accept(ctx context.Context) error {
	_, err := b.Appliance.AcceptState(ctx, "a test", "the test has edited it")
	if fault.CodeOf(err) == fault.Conflict {
		return nil
	}
	return err
}

// close closes what is open: all, or less if the start failed.
func (b *Bed) close(t testing.TB) {
	if b.Appliance != nil {
		b.Appliance.Lock()
	}
	if b.Token != nil {
		if err := b.Token.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := b.Store.Close(); err != nil {
		t.Error(err)
	}
	if b.own == nil {
		return
	}
	if err := b.own.Close(); err != nil {
		t.Error(err)
	}
}

// Stop ends the appliance cleanly. Its state remains for another Start.
func (b *Bed) Stop() { b.stop() }

// Restart stops a bed and starts one over its state, with the options but for token
// and folder.
func Restart(t testing.TB, b *Bed, o Options) *Bed {
	t.Helper()
	b.Stop()
	o.Dir, o.Token = b.Dir, b.Device
	return Start(t, o)
}

// NewKeyStore makes a key store with a credential and, unless it is "", a grant of
// everything to the principal, and gives a client of it.
func (b *Bed) NewKeyStore(t testing.TB, name, prefix, principal string) *Client {
	t.Helper()
	ctx := context.Background()
	if _, err := b.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: name, URIPathPrefix: prefix}); err != nil {
		t.Fatal(err)
	}
	c, secret, err := b.Appliance.CreateCredential(ctx, name, appliance.NewCredential{})
	if err != nil {
		t.Fatal(err)
	}
	if principal != "" {
		g := appliance.Grant{Principal: principal, Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}}
		if _, err := b.Appliance.AddGrant(ctx, name, g); err != nil {
			t.Fatal(err)
		}
	}
	return &Client{T: t, Appliance: b.Appliance, URIPathPrefix: prefix, AccessKeyID: c.AccessKeyID, SecretAccessKey: secret}
}

// NewKey makes a key of the usage, such as "encrypt,decrypt".
func (b *Bed) NewKey(t testing.TB, keyStore, id, usage string, custody appliance.Custody) {
	t.Helper()
	u, err := appliance.ParseUsage(usage)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Appliance.CreateKey(context.Background(), keyStore, appliance.NewExternalKey{ID: id, Usage: u, Custody: custody}); err != nil {
		t.Fatal(err)
	}
}
