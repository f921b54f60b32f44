package appliance_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
)

// fleetBed is what the nodes of a fleet share: a token, and a log of changes.
type fleetBed struct {
	token appliancetest.Device
	log   *changelogtest.Memory
}

func newFleetBed() *fleetBed {
	return &fleetBed{appliancetest.NewMemory(), changelogtest.NewMemory(nil)}
}

// start starts a node; in a fresh folder if dir is empty.
func (f *fleetBed) start(t *testing.T, o appliancetest.Options) *appliancetest.Bed {
	t.Helper()
	o.Token, o.Appliance.ChangeLog = f.token, f.log.Peer()
	return appliancetest.Start(t, o)
}

// caughtUp has nodes take over what there is.
func caughtUp(t *testing.T, nodes ...*appliancetest.Bed) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Store.CatchUp(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// at gives a client of another node.
func at(c *appliancetest.Client, n *appliancetest.Bed) *appliancetest.Client {
	other := *c
	other.Appliance = n.Appliance
	return &other
}

// served starts a node that founds the installation, with a key.
func (f *fleetBed) served(t *testing.T) (*appliancetest.Bed, *appliancetest.Client) {
	t.Helper()
	a := f.start(t, appliancetest.Options{})
	client := a.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
	a.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
	return a, client
}

// TestNodesServeOneInstallation: what is made at one node serves at the others, also what
// it encrypted; a block at one is one at all; and a node that begins later has it.
func TestNodesServeOneInstallation(t *testing.T) {
	f := newFleetBed()
	a, client := f.served(t)
	a.NewKey(t, "prod", "in-hsm", "encrypt,decrypt", appliance.CustodyHSM)
	b := f.start(t, appliancetest.Options{})
	c := f.start(t, appliancetest.Options{})
	nodes := []*appliancetest.Bed{a, b, c}
	for _, key := range []string{"k", "in-hsm"} {
		sealed := at(client, a).OK(appliancetest.Encrypt(key, "plain")).Ciphertext
		for _, n := range nodes {
			if got := at(client, n).OK(appliancetest.Decrypt(key, sealed)).Plaintext; got != "plain" {
				t.Errorf("%s: %q", key, got)
			}
		}
	}
	if _, err := b.Appliance.Block(t.Context(), appliance.BlockTarget{KeyStore: "prod", KeyID: "k"}, "a test", "alice"); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, nodes...)
	nodes = append(nodes, f.start(t, appliancetest.Options{}))
	for _, n := range nodes {
		at(client, n).Fails(appliancetest.Encrypt("k", "plain"), fault.Conflict)
		at(client, n).OK(appliancetest.Encrypt("in-hsm", "plain"))
	}
}

// TestNodesOfMachinesWithKeys: a node whose machine has a key, as every real one has, begins
// the installation; others join it, each with its own.
func TestNodesOfMachinesWithKeys(t *testing.T) {
	f := newFleetBed()
	withKey := func() *appliancetest.Bed {
		return f.start(t, appliancetest.Options{Appliance: appliance.Options{MachineKey: appliancetest.NewMachineKey(t)}})
	}
	a := withKey()
	client := a.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
	a.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
	at(client, withKey()).OK(appliancetest.Encrypt("k", "plain"))
}

// TestTwoFirstNodes: of nodes that begin at once, one makes the installation, and the
// others join it.
func TestTwoFirstNodes(t *testing.T) {
	f := newFleetBed()
	const nodes = 4
	beds := make(chan *appliancetest.Bed, nodes)
	var wg sync.WaitGroup
	for range nodes {
		wg.Go(func() { beds <- f.start(t, appliancetest.Options{Again: fault.FleetFounding}) })
	}
	wg.Wait()
	close(beds)
	ids := map[string]bool{}
	for b := range beds {
		in, err := b.Store.Installation(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids[in.ID] = true
	}
	if len(ids) != 1 {
		t.Errorf("%d installations", len(ids))
	}
}

// TestNodePutBack: whatever of a node's files is put back or removed, it serves the newest
// state, or says why not.
func TestNodePutBack(t *testing.T) {
	for name, c := range map[string]struct {
		files []string // put back
		gone  []string // removed
		lost  bool     // the log is put back as well
		want  fault.Code
	}{
		"nothing":                       {},
		"the fleet's rows":              {files: []string{"fleet.db"}},
		"this machine's rows":           {files: []string{"machine.db"}},
		"both":                          {files: []string{"fleet.db", "machine.db"}},
		"no rows of the fleet":          {gone: []string{"fleet.db"}},
		"the log":                       {lost: true}, // the node gives back what it lost
		"the log and the fleet's rows":  {files: []string{"fleet.db"}, lost: true, want: fault.StateRolledBack},
		"the log, no rows of the fleet": {gone: []string{"fleet.db"}, lost: true, want: fault.StateRolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleetBed()
			a, client := f.served(t)
			dir := t.TempDir()
			b := f.start(t, appliancetest.Options{Dir: dir})
			b.Stop()
			before := map[string][]byte{}
			for _, file := range []string{"fleet.db", "machine.db"} {
				data, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				before[file] = data
			}
			was := a.Store.Position().Number
			if _, err := a.Appliance.Block(t.Context(), appliance.BlockTarget{KeyStore: "prod", KeyID: "k"}, "a test", "alice"); err != nil {
				t.Fatal(err)
			}
			b = f.start(t, appliancetest.Options{Dir: dir})
			b.KeepSeen(t)
			b.Stop()
			a.Stop()
			for _, file := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), before[file], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range c.gone {
				if err := os.Remove(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			if c.lost {
				f.log.Edit(func(changes map[uint64][]byte) {
					for n := range changes {
						if n > was {
							delete(changes, n)
						}
					}
				})
			}
			b = f.start(t, appliancetest.Options{Dir: dir, Locked: c.want})
			if err := b.Appliance.CheckAcceptState(t.Context()); fault.CodeOf(err) != fault.Conflict {
				t.Errorf("rows that the fleet shares can be accepted: %v", err)
			}
			if c.want == "" {
				at(client, b).Fails(appliancetest.Encrypt("k", "plain"), fault.Conflict)
			}
		})
	}
}

// countedLog counts the questions to a log of changes.
type countedLog struct {
	appliance.ChangeLog
	asked atomic.Int64
	fails atomic.Bool // it does not answer
}

func (l *countedLog) Append(ctx context.Context, number uint64, body []byte) error {
	l.asked.Add(1)
	return l.ChangeLog.Append(ctx, number, body)
}

func (l *countedLog) Changes(ctx context.Context, from uint64, most int) ([][]byte, error) {
	l.asked.Add(1)
	if l.fails.Load() {
		<-ctx.Done()
		return nil, fault.Wrapf(fault.DatabaseAway, ctx.Err(), "the test has it away")
	}
	return l.ChangeLog.Changes(ctx, from, most)
}

func (l *countedLog) Newest(ctx context.Context) (uint64, error) {
	l.asked.Add(1)
	return l.ChangeLog.Newest(ctx)
}

// TestRequestsAskNoDatabase: a request of KMS asks nothing of the fleet's database, whether
// its key is in memory or not; and it is answered while that is away.
func TestRequestsAskNoDatabase(t *testing.T) {
	f := newFleetBed()
	a, client := f.served(t)
	for i := range 50 {
		a.NewKey(t, "prod", fmt.Sprintf("k-%d", i), "encrypt,decrypt", appliance.CustodyCached)
	}
	sealed := client.OK(appliancetest.Encrypt("k", "plain")).Ciphertext
	log := &countedLog{ChangeLog: f.log.Peer()}
	b := appliancetest.Start(t, appliancetest.Options{Token: f.token, Appliance: appliance.Options{ChangeLog: log}})
	before := log.asked.Load()
	for range 200 {
		at(client, b).OK(appliancetest.Decrypt("k", sealed))
	}
	for i := range 50 { // not in memory
		at(client, b).OK(appliancetest.Attributes(fmt.Sprintf("k-%d", i)))
	}
	if asked := log.asked.Load() - before; asked != 0 {
		t.Errorf("%d questions for 250 requests", asked)
	}
	for range 500 {
		at(client, b).OK(appliancetest.Encrypt("k", "plain"))
	}
	// Encryptions are reserved in blocks: a change for each, here of at least 64.
	if asked := log.asked.Load() - before; asked > 40 {
		t.Errorf("%d questions for 750 requests", asked)
	}
}

// TestReopenedNodeSaysWhy: while a node opens its rows again it serves nothing, and says the
// reason for that, which is not that its HSM is away; then it serves as before.
func TestReopenedNodeSaysWhy(t *testing.T) {
	for name, why := range map[string]error{
		"two logs":          fault.Errorf(fault.FleetBranch, "another node has another log"),
		"forgotten changes": fault.Errorf(fault.FleetBehind, "the database has forgotten change 7"),
		"changed rows":      fault.Errorf(fault.StateChanged, "somebody else writes the rows"),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleetBed()
			a, client := f.served(t)
			a.Appliance.Unfit(why)
			if _, err := client.Call(appliancetest.Encrypt("k", "plain")); fault.CodeOf(err) != fault.Locked || !strings.Contains(err.Error(), string(fault.CodeOf(why))) || strings.Contains(err.Error(), "HSM") {
				t.Errorf("%v", err)
			}
			if status, told := a.Appliance.Condition(); status != appliance.HealthUnavailable || fault.CodeOf(told) != fault.CodeOf(why) {
				t.Errorf("%v %v", status, told)
			}
			a.Appliance.KeepLease(t.Context())
			client.OK(appliancetest.Encrypt("k", "plain"))
		})
	}
}

// TestInstallationRowEdited: a node whose row of the installation was edited loads its rows from
// the fleet's database; one whose database is another fleet's does not.
func TestInstallationRowEdited(t *testing.T) {
	for name, statement := range map[string]string{
		"ID":            `UPDATE installation SET id = 'ffffffffffffffffffffffffffffffff'`,
		"state key":     `UPDATE installation SET wrapped_state_key = x'0102'`,
		"other columns": `UPDATE installation SET created_at = 1`,
		"gone":          `DELETE FROM installation`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleetBed()
			_, client := f.served(t)
			dir := t.TempDir()
			f.start(t, appliancetest.Options{Dir: dir}).Stop()
			db, err := sql.Open("sqlite", filepath.Join(dir, "fleet.db"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = db.Exec(statement)
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			at(client, f.start(t, appliancetest.Options{Dir: dir})).OK(appliancetest.Encrypt("k", "plain"))
		})
	}
	t.Run("another fleet", func(t *testing.T) {
		f := newFleetBed()
		f.served(t)
		dir := t.TempDir()
		f.start(t, appliancetest.Options{Dir: dir}).Stop()
		other := &fleetBed{f.token, changelogtest.NewMemory(nil)}
		other.start(t, appliancetest.Options{Beside: true})
		other.start(t, appliancetest.Options{Dir: dir, Locked: fault.FleetLog})
	})
}

// TestNothingToAcceptWhileLocked: a node that is locked says so, and not that its rows are as
// they should be.
func TestNothingToAcceptWhileLocked(t *testing.T) {
	a, _ := newFleetBed().served(t)
	a.Appliance.Lock()
	_, err := a.Appliance.AcceptState(t.Context(), "a test", "a test")
	for what, err := range map[string]error{"asked": a.Appliance.CheckAcceptState(t.Context()), "done": err} {
		if fault.CodeOf(err) != fault.Locked {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRemovedNodeHasNoKeys: a node that was removed has the keys of no key store any more. The
// state key stays, for people who sign in.
func TestRemovedNodeHasNoKeys(t *testing.T) {
	f := newFleetBed()
	var ring appliance.Keyring
	a := f.start(t, appliancetest.Options{Keyring: func(k appliance.Keyring) appliance.Keyring { ring = k; return k }})
	for _, name := range []string{"one", "two"} {
		a.NewKeyStore(t, name, "/"+name, appliancetest.Principal)
	}
	stores, err := a.Store.KeyStores(t.Context())
	if err != nil || len(stores) != 2 {
		t.Fatalf("%d key stores: %v", len(stores), err)
	}
	in, err := a.Store.Installation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.Appliance.Unfit(fault.Errorf(fault.FleetRemoved, "this node was removed"))
	if fault.CodeOf(a.Appliance.Held()) != fault.FleetRemoved {
		t.Errorf("held: %v", a.Appliance.Held())
	}
	for _, ks := range stores {
		if ring.HasKeyringKey(ks.ID) {
			t.Errorf("it has the key of key store %s", ks.Name)
		}
	}
	if _, err := ring.ManifestKey(in.ID); err != nil {
		t.Errorf("the state key: %v", err)
	}
}

// leavingFleet calls a function when a node leaves.
type leavingFleet struct {
	staleFleet
	leave func()
}

func (f *leavingFleet) Leave() { f.leave() }

// TestLockedNodeIsNotHeld: a node that is being locked when it hears that it was removed is
// locked, and no state of it is held with a keyring that was wiped.
func TestLockedNodeIsNotHeld(t *testing.T) {
	leaves, goOn := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(leaves) })
	a := newFleetBed().start(t, appliancetest.Options{Appliance: appliance.Options{Fleet: &leavingFleet{leave: func() { once(); <-goOn }}}})
	var work sync.WaitGroup
	work.Go(a.Appliance.Lock)
	<-leaves
	work.Go(func() { a.Appliance.Unfit(fault.Errorf(fault.FleetRemoved, "this node was removed")) })
	for range 10000 { // it comes as far as it can
		runtime.Gosched()
	}
	close(goOn)
	work.Wait()
	if err := a.Appliance.Held(); err != nil {
		t.Errorf("held: %v", err)
	}
}
