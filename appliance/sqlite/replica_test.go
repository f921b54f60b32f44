package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
	"holdfast/appliance/storetest"
)

// node is a node of a fleet: rows in SQLite, and changes in a log.
type node struct {
	*DB
	log *changelogtest.Memory
}

func newNode(t *testing.T, log *changelogtest.Memory) *node {
	t.Helper()
	return &node{openNew(t, filepath.Join(t.TempDir(), "fleet.db"), latest), log}
}

// empty makes an empty database of a schema.
func empty(schema int64) func(path string) error {
	return storetest.Template(func(path string) error {
		s, err := Open(context.Background(), path, Options{schema: schema})
		if err != nil {
			return err
		}
		return s.Close()
	})
}

var empties = struct {
	sync.Mutex
	bySchema map[int64]func(path string) error
}{bySchema: map[int64]func(path string) error{}}

// openNew opens a database, which a release of that schema makes if it is not there.
func openNew(t *testing.T, path string, schema int64) *DB {
	t.Helper()
	empties.Lock()
	create := empties.bySchema[schema]
	if create == nil {
		create = empty(schema)
		empties.bySchema[schema] = create
	}
	empties.Unlock()
	storetest.Must(t, create(path))
	s, err := Open(context.Background(), path, Options{schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (n *node) OpenState(ctx context.Context, o appliance.StateOptions) (*appliance.StateReport, error) {
	o.Log = n.log
	return n.DB.OpenState(ctx, o)
}

// opened opens a node, which has the log's rows then.
func (n *node) opened(t *testing.T) *node {
	t.Helper()
	if _, err := n.OpenState(context.Background(), storetest.StateOptions()); err != nil {
		t.Fatal(err)
	}
	return n
}

// founded gives the first node of a fleet.
func founded(t *testing.T) *node {
	t.Helper()
	n := newNode(t, changelogtest.NewMemory(nil))
	o := storetest.StateOptions()
	o.Seal = true
	if _, err := n.OpenState(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) peer(t *testing.T) *node { return newNode(t, n.log.Peer()) }

// head gives the head of a state that is open.
func (n *node) head() appliance.Head {
	return n.writer.live.Load().heads[appliance.ScopeInstallation].Head()
}

// alike says that two nodes have the same rows.
func alike(t *testing.T, a, b *node) {
	t.Helper()
	if a.head() != b.head() || a.Position() != b.Position() {
		t.Errorf("%+v %+v, want %+v %+v", b.head(), b.Position(), a.head(), a.Position())
	}
	for _, n := range []*node{a, b} {
		report, err := n.CheckState(context.Background())
		if err != nil || len(report.Damaged) > 0 {
			t.Errorf("%+v %v", report, err)
		}
	}
}

// sameElsewhere says that other nodes have the same rows: one that takes over all changes
// at once, and one that begins with a snapshot.
func sameElsewhere(t *testing.T, n *node) {
	t.Helper()
	if _, err := n.CheckState(context.Background()); err != nil && (fault.CodeOf(err) == fault.Locked || strings.Contains(err.Error(), "closed")) {
		return // the test has closed it
	}
	storetest.Must(t, n.CatchUp(context.Background()))
	alike(t, n, n.peer(t).opened(t))
	if _, err := n.KeepSnapshot(context.Background()); err != nil {
		t.Error(err)
	}
	alike(t, n, n.peer(t).opened(t))
}

// TestNode: what each method of the store changes comes out the same at another node.
func TestNode(t *testing.T) {
	storetest.RunOpen(t, func(t *testing.T) storetest.Engine {
		n := newNode(t, changelogtest.NewMemory(nil))
		t.Cleanup(func() { sameElsewhere(t, n) })
		return n
	})
}

func store(i int) *appliance.KeyStore { return storetest.KeyStore(i) }

// TestNodesAtOnce: several nodes change rows at once. Each change is made once, whoever is
// faster, and all come to the same.
func TestNodesAtOnce(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	nodes := []*node{a, a.peer(t).opened(t), a.peer(t).opened(t)}
	var wg sync.WaitGroup
	for i, n := range nodes {
		for j := range 4 {
			wg.Go(func() {
				for k := range 10 {
					if err := n.CreateKeys(t.Context(), storetest.NewKey(store(1), fmt.Sprintf("k-%d-%d-%d", i, j, k))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, n := range nodes {
		storetest.Must(t, n.CatchUp(t.Context()))
		alike(t, a, n)
		if count := storetest.Got(n.CountKeys(t.Context(), store(1).ID))(t); count != 120 {
			t.Errorf("%d keys", count)
		}
	}
}

// TestOneOfTwoChanges: of two changes of the same row that expect the same, one is made.
func TestOneOfTwoChanges(t *testing.T) {
	a := founded(t)
	ks := store(1)
	storetest.Must(t, a.CreateKeyStore(t.Context(), ks))
	b := a.peer(t).opened(t)
	first, second := *ks, *ks
	first.Seal, second.Seal = []byte("first"), []byte("second")
	storetest.Must(t, a.UpdateKeyStore(t.Context(), &first, ks.Seal))
	storetest.Wants(t, b.UpdateKeyStore(t.Context(), &second, ks.Seal), fault.Changed, "")
	storetest.Must(t, b.CatchUp(t.Context()))
	alike(t, a, b)
}

// TestAnnounced: a node announces the changes of the others, and its position is that of
// what it has announced.
func TestAnnounced(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	b := a.peer(t).opened(t)
	var seen []appliance.Change
	var at []uint64
	b.Subscribe(func(c appliance.Change) { seen, at = append(seen, c), append(at, b.Position().Number) })
	was, changes := b.Position().Number, b.Changes()
	storetest.Must(t, a.CreateKeys(t.Context(), storetest.NewKey(store(1), "k")))
	_ = storetest.Got(a.ReserveEncryptions(t.Context(), store(1).ID, "k", 1, 64))(t)
	storetest.Must(t, b.CatchUp(t.Context()))
	want := []appliance.Change{{KeyStore: store(1).ID, KeyID: "k"}}
	for _, c := range seen {
		if c != want[0] && c != (appliance.Change{KeyStore: store(1).ID}) {
			t.Errorf("announced %+v", c)
		}
	}
	if !slices.Contains(seen, want[0]) || at[0] != was || b.Position() != a.Position() {
		t.Errorf("announced %+v at %v, and now at %+v", seen, at, b.Position())
	}
	if b.Changes() == changes {
		t.Error("another node's change is not in the number of changes")
	}
	seen, changes = nil, b.Changes()
	_ = storetest.Got(a.ReserveEncryptions(t.Context(), store(1).ID, "k", 1, 64))(t)
	if storetest.Must(t, b.CatchUp(t.Context())); len(seen) > 0 {
		t.Errorf("a count was announced: %+v", seen)
	}
	if b.Changes() != changes {
		t.Error("a count of another node is in the number of changes")
	}
	storetest.Must(t, a.SetSetting(t.Context(), &appliance.SettingRow{Name: "s", Value: "v", Seal: []byte("seal")}, nil))
	storetest.Must(t, b.CatchUp(t.Context()))
	if want := (appliance.Change{Setting: "s"}); len(seen) != 1 || seen[0] != want {
		t.Errorf("a setting was announced as %+v", seen)
	}
}

// TestAnswerLost: a change whose answer is lost was made, and is not made twice.
func TestAnswerLost(t *testing.T) {
	a := founded(t)
	a.log.LoseAnswer()
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	sameElsewhere(t, a)
}

// TestLogAway: nothing is changed while the log is away; what is here can be read, and it
// goes on afterwards.
func TestLogAway(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	a.log.Cut()
	storetest.Wants(t, a.CreateKeyStore(t.Context(), store(2)), fault.DatabaseAway, "")
	storetest.Wants(t, a.CatchUp(t.Context()), fault.DatabaseAway, "")
	if list := storetest.Got(a.KeyStores(t.Context()))(t); len(list) != 1 {
		t.Errorf("%d key stores", len(list))
	}
	a.log.Mend()
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(2)))
	sameElsewhere(t, a)
}

// TestLogLosesChanges: a replica was promoted that had not every change. The nodes give
// them back.
func TestLogLosesChanges(t *testing.T) {
	a := founded(t)
	for i := range 5 {
		storetest.Must(t, a.CreateKeyStore(t.Context(), store(i+1)))
	}
	b := a.peer(t).opened(t)
	lose := func(from uint64) {
		a.log.Edit(func(changes map[uint64][]byte) {
			for n := range changes {
				if n >= from {
					delete(changes, n)
				}
			}
		})
	}
	lose(3)
	storetest.Must(t, b.CatchUp(t.Context()))
	lose(5) // and by who changes something
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(6)))
	storetest.Must(t, b.CatchUp(t.Context()))
	alike(t, a, b)
	sameElsewhere(t, a)
	lose(1) // a node that was not there cannot take over the first
	a.CloseState()
	b.CloseState()
	_, err := a.peer(t).OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetFounding, "no change")
}

// TestLostChangesAreTold: a log that has lost changes is told by a code, each time.
func TestLostChangesAreTold(t *testing.T) {
	var told bytes.Buffer
	log := changelogtest.NewMemory(nil)
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), Options{Logger: slog.New(slog.NewTextHandler(&told, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	n := &node{s, log}
	o := storetest.StateOptions()
	o.Seal = true
	if _, err := n.OpenState(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for times := range 3 {
		storetest.Must(t, n.CreateKeyStore(t.Context(), store(times+1)))
		log.Edit(func(changes map[uint64][]byte) { delete(changes, n.Position().Number) })
		storetest.Must(t, n.CatchUp(t.Context()))
		if got := strings.Count(told.String(), "code="+string(fault.FleetLog)); got != times+1 {
			t.Errorf("told %d times, want %d: %s", got, times+1, told.String())
		}
	}
}

// TestOpenedAfterTwoPasts: rows are opened only where the log has the change that they are
// at. Where it has another one, whoever made that goes on, and nobody else.
func TestOpenedAfterTwoPasts(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	b := a.peer(t).opened(t)
	n := a.Position().Number + 1
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(2)))
	var own []byte
	a.log.Edit(func(changes map[uint64][]byte) { own = changes[n]; delete(changes, n) })
	storetest.Must(t, b.CreateKeyStore(t.Context(), store(3))) // b has not seen it
	for what, c := range map[string]struct {
		edit func(changes map[uint64][]byte)
		code fault.Code
	}{
		"another node's": {func(map[uint64][]byte) {}, fault.FleetBranch},
		"nonsense":       {func(changes map[uint64][]byte) { changes[n] = bytes.Repeat([]byte{7}, 100) }, fault.FleetLog},
		"nothing":        {func(changes map[uint64][]byte) { changes[n] = nil }, fault.FleetLog},
		"the one before": {func(changes map[uint64][]byte) { changes[n] = changes[n-1] }, fault.FleetLog},
	} {
		var others []byte
		a.log.Edit(func(changes map[uint64][]byte) { others = changes[n]; c.edit(changes) })
		a.CloseState()
		_, err := a.OpenState(t.Context(), storetest.StateOptions())
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", what, err, c.code)
		}
		a.log.Edit(func(changes map[uint64][]byte) { changes[n] = others })
	}
	b.CloseState()
	b.opened(t)
	a.log.Edit(func(changes map[uint64][]byte) { changes[n] = own })
	a.opened(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(4)))
}

// TestForeignChange: a change that no node has made, or one that was moved, cut, put back
// or taken from another log, is taken over by nobody, and says so; it does no harm.
func TestForeignChange(t *testing.T) {
	for name, edit := range map[string]func(changes map[uint64][]byte, newest uint64){
		"nothing":       func(changes map[uint64][]byte, n uint64) { changes[n+1] = nil },
		"short":         func(changes map[uint64][]byte, n uint64) { changes[n+1] = []byte("x") },
		"random":        func(changes map[uint64][]byte, n uint64) { changes[n+1] = bytes.Repeat([]byte("x"), 1000) },
		"one of before": func(changes map[uint64][]byte, n uint64) { changes[n+1] = changes[n] },
		"one bit": func(changes map[uint64][]byte, n uint64) {
			b := bytes.Clone(changes[n])
			b[len(b)-1] ^= 1
			changes[n+1] = b
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := founded(t)
			storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
			b := a.peer(t).opened(t)
			was := b.head()
			a.log.Edit(func(changes map[uint64][]byte) { edit(changes, uint64(len(changes))) })
			storetest.Wants(t, b.CatchUp(t.Context()), fault.FleetLog, "")
			storetest.Wants(t, a.CreateKeyStore(t.Context(), store(2)), fault.FleetLog, "")
			if list := storetest.Got(b.KeyStores(t.Context()))(t); len(list) != 1 || b.head() != was {
				t.Errorf("%d key stores", len(list))
			}
			a.log.Edit(func(changes map[uint64][]byte) { delete(changes, uint64(len(changes))) })
			storetest.Must(t, a.CreateKeyStore(t.Context(), store(2)))
			storetest.Must(t, b.CatchUp(t.Context()))
			alike(t, a, b)
		})
	}
}

// TestTwoPasts: a log that shows two nodes two pasts is found by the first change that
// does not come after what a node has, and by who compares positions.
func TestTwoPasts(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	b := a.peer(t).opened(t)
	var kept []byte
	n := a.Position().Number + 1
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(2)))
	a.log.Edit(func(changes map[uint64][]byte) { kept = changes[n]; delete(changes, n) })
	// b has not seen it, and makes another one.
	storetest.Must(t, b.CreateKeyStore(t.Context(), store(3)))
	storetest.Must(t, b.CreateKeyStore(t.Context(), store(4)))
	storetest.Wants(t, a.CatchUp(t.Context()), fault.FleetBranch, "does not come after")
	if passed := storetest.Got(b.Passed(t.Context(), a.Position()))(t); passed {
		t.Error("b has passed what it was never shown")
	}
	if passed := storetest.Got(b.Passed(t.Context(), b.Position()))(t); !passed {
		t.Error("b has not passed where it is")
	}
	a.log.Edit(func(changes map[uint64][]byte) { changes[n] = kept; delete(changes, n+1) })
	storetest.Must(t, a.CatchUp(t.Context()))
	storetest.Wants(t, b.CreateKeyStore(t.Context(), store(5)), fault.FleetBranch, "")
}

// TestOwnRowsEdited: the rows of a node that somebody has changed on its disk are loaded
// again when it starts.
func TestOwnRowsEdited(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	b := a.peer(t).opened(t)
	for _, statement := range []string{
		`UPDATE key_stores SET seal = x'00'`, `DELETE FROM key_stores`, `DELETE FROM manifests`, `UPDATE manifests SET sequence = 7`,
		`UPDATE taken_changes SET number = number + 10`, `DELETE FROM taken_changes`, `UPDATE taken_changes SET digest = x'0102'`, `UPDATE taken_changes SET body = x''`,
	} {
		b.CloseState()
		if _, err := b.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		if _, err := b.OpenState(t.Context(), storetest.StateOptions()); err != nil {
			t.Errorf("%s: %v", statement, err)
			continue
		}
		alike(t, a, b)
	}
}

// TestSnapshotEdited: a snapshot that is not whole, not of this fleet or not of its number
// is refused, and leaves the rows that there were.
func TestSnapshotEdited(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	for i := range 30 { // some parts
		storetest.Must(t, a.CreateKeys(t.Context(), bigKeys(store(1), i)...))
	}
	number := storetest.Got(a.KeepSnapshot(t.Context()))(t)
	parts := a.snapshotParts(t)
	_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
	others := a.snapshotParts(t)
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	swap := slices.Clone(parts)
	swap[0], swap[1] = swap[1], swap[0]
	flip := slices.Clone(parts)
	flip[1] = bytes.Clone(flip[1])
	flip[1][100] ^= 1
	last := slices.Clone(parts[:2])
	last[1] = bytes.Clone(last[1])
	last[1][0] = lastPart
	for name, c := range map[string]struct {
		number uint64
		parts  [][]byte
	}{
		"cut": {number, parts[:len(parts)-1]}, "more": {number, append(slices.Clone(parts), parts[0])},
		"order": {number, swap}, "a bit": {number, flip}, "ends early": {number, last}, "another number": {number + 1, parts},
		"an empty part": {number, append([][]byte{{}}, parts...)},
		"a part of another snapshot of the change": {number, append([][]byte{parts[0], others[1]}, parts[2:]...)},
	} {
		storetest.Must(t, a.log.KeepSnapshot(t.Context(), c.number, changelogtest.Parts(nil, c.parts...)))
		b := a.peer(t)
		if _, err := b.OpenState(t.Context(), storetest.StateOptions()); fault.CodeOf(err) != fault.FleetLog {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// snapshotParts gives the parts of the newest snapshot.
func (n *node) snapshotParts(t *testing.T) (parts [][]byte) {
	t.Helper()
	_, stored, err := n.log.Snapshot(t.Context())
	storetest.Must(t, err)
	for part, err := range stored {
		storetest.Must(t, err)
		parts = append(parts, bytes.Clone(part))
	}
	return parts
}

// TestSnapshotOfLongChange: a snapshot of a change that is longer than a value of it can be.
func TestSnapshotOfLongChange(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	var keys []appliance.NewKey
	for i := range 60 {
		keys = append(keys, bigKeys(store(1), i)...)
	}
	storetest.Must(t, a.CreateKeys(t.Context(), keys...))
	change := storetest.Got(a.log.Changes(t.Context(), a.Position().Number, 1))(t)
	if len(change[0]) <= snapshot.MaxValue {
		t.Fatalf("the change has %d bytes", len(change[0]))
	}
	number := storetest.Got(a.KeepSnapshot(t.Context()))(t)
	storetest.Must(t, a.log.Forget(t.Context(), number))
	b := a.peer(t).opened(t)
	alike(t, a, b)
	b.CloseState()
	alike(t, a, b.opened(t))
}

// TestGivenBackWhole: changes that the log has lost are given back if all of them are as they
// were; of those that were edited here none is.
func TestGivenBackWhole(t *testing.T) {
	a := founded(t)
	for i := range 3 {
		storetest.Must(t, a.CreateKeyStore(t.Context(), store(i+1)))
	}
	b := a.peer(t).opened(t)
	lost := map[uint64][]byte{}
	a.log.Edit(func(changes map[uint64][]byte) {
		for n, body := range changes {
			if n > 1 {
				lost[n] = body
				delete(changes, n)
			}
		}
	})
	edit := func(body []byte) {
		if _, err := b.db.ExecContext(t.Context(), `UPDATE taken_changes SET body = ? WHERE number = 3`, body); err != nil {
			t.Fatal(err)
		}
	}
	edit([]byte("edited"))
	storetest.Wants(t, b.CatchUp(t.Context()), fault.FleetLog, "does not have all between")
	if n, err := a.log.Newest(t.Context()); n != 1 || err != nil {
		t.Errorf("change %d was given back: %v", n, err)
	}
	edit(lost[3])
	storetest.Must(t, b.CatchUp(t.Context()))
	alike(t, a, b)
}

// TestDoubtsWhileLogIsAway: rows that are looked at once more are read though the log of changes
// is away, and a change that waits for it fails.
func TestDoubtsWhileLogIsAway(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	a.log.Cut()
	defer a.log.Mend()
	var wg sync.WaitGroup
	begun, release := make(chan struct{}), make(chan struct{})
	wg.Go(func() { // has the writer busy until both wait
		storetest.Must(t, a.writer.doFree(context.Background(), func() error { close(begun); <-release; return nil }))
	})
	<-begun
	failed, resolved := make(chan error, 1), make(chan error, 1)
	wg.Go(func() { failed <- a.CreateKeyStore(context.Background(), store(2)) })
	wg.Go(func() { resolved <- a.resolve(context.Background(), nil) })
	for { // both are handed in
		a.writer.mu.Lock()
		n := len(a.writer.waiting)
		a.writer.mu.Unlock()
		if n == 2 {
			break
		}
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
	storetest.Wants(t, <-failed, fault.DatabaseAway, "")
	storetest.Must(t, <-resolved)
}

// bigKeys gives keys with random looking blobs.
func bigKeys(ks *appliance.KeyStore, from int) (list []appliance.NewKey) {
	for i := range 100 {
		k := storetest.NewKey(ks, fmt.Sprintf("big-%d-%d", from, i))
		k.Version.Material = bytes.Repeat([]byte{byte(i)}, 500)
		list = append(list, k)
	}
	return list
}

// TestPassedAfterSnapshot: a node that began with a snapshot knows which changes were before
// it, and says nothing of those that it cannot know.
func TestPassedAfterSnapshot(t *testing.T) {
	a := founded(t)
	var was []appliance.Position
	for i := range 5 {
		storetest.Must(t, a.CreateKeyStore(t.Context(), store(i+1)))
		was = append(was, a.Position())
	}
	_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
	b := a.peer(t).opened(t)
	for _, p := range was {
		if !storetest.Got(b.Passed(t.Context(), p))(t) {
			t.Errorf("b has not passed %+v", p)
		}
		other := appliance.Position{Number: p.Number, Digest: was[0].Digest}
		if p != was[0] && storetest.Got(b.Passed(t.Context(), other))(t) {
			t.Errorf("b has passed %+v, which is of another log", other)
		}
	}
	if _, err := b.db.ExecContext(t.Context(), `DELETE FROM taken_changes WHERE number < ?`, b.Position().Number); err != nil {
		t.Fatal(err)
	}
	if passed, err := b.Passed(t.Context(), was[0]); passed || err == nil {
		t.Errorf("of what b does not know it says %v %v", passed, err)
	}
}

// TestOrigin: all nodes of a log know its first change, however long ago that was, and no
// other log of the installation has it.
func TestOrigin(t *testing.T) {
	a, other := founded(t), founded(t)
	origin := storetest.Got(a.Origin(t.Context()))(t)
	if again := storetest.Got(other.Origin(t.Context()))(t); len(origin) != 64 || again == origin {
		t.Errorf("two logs begin with %q and %q", origin, again)
	}
	for i := range 3 {
		storetest.Must(t, a.CreateKeyStore(t.Context(), store(i+1)))
	}
	_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
	b := a.peer(t).opened(t)
	later := &taken{at: appliance.Position{Number: keptPositions + 3, Digest: origin}, body: []byte{1}}
	storetest.Must(t, b.writer.doOnce(t.Context(), func(c *conn) error { return b.writer.live.Load().replica.keep(c, later) }))
	for _, n := range []*node{a, b} {
		if got := storetest.Got(n.Origin(t.Context()))(t); got != origin {
			t.Errorf("a node of the log says that it begins with %q", got)
		}
	}
	if _, err := b.Passed(t.Context(), appliance.Position{Number: 2}); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("what is further back is kept: %v", err)
	}
	b.CloseState()
	if _, err := b.Origin(t.Context()); fault.CodeOf(err) != fault.Locked {
		t.Errorf("closed: %v", err)
	}
}

// TestGoodRowsStay: rows that match their manifest are not given up for an earlier snapshot,
// whatever the log shows.
func TestGoodRowsStay(t *testing.T) {
	a := founded(t)
	storetest.Must(t, a.CreateKeyStore(t.Context(), store(1)))
	_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
	number, stored, err := a.log.Snapshot(t.Context())
	storetest.Must(t, err)
	var parts [][]byte
	for part, err := range stored {
		storetest.Must(t, err)
		parts = append(parts, bytes.Clone(part))
	}
	for i := range 5 {
		storetest.Must(t, a.CreateKeyStore(t.Context(), store(i+2)))
	}
	b := a.peer(t).opened(t)
	at := b.Position()
	// The log ends far behind, or claims to be far ahead with that snapshot under another number.
	for name, edit := range map[string]func(){
		"behind": func() {
			a.log.Edit(func(changes map[uint64][]byte) {
				for n := range changes {
					if n > number {
						delete(changes, n)
					}
				}
				changes[number] = []byte("another")
			})
		},
		"ahead": func() {
			a.log.Edit(func(changes map[uint64][]byte) { clear(changes); changes[at.Number+1000] = []byte("later") })
			storetest.Must(t, a.log.KeepSnapshot(t.Context(), at.Number+999, changelogtest.Parts(nil, parts...)))
		},
	} {
		b.CloseState()
		edit()
		if _, err := b.OpenState(t.Context(), storetest.StateOptions()); err == nil {
			t.Errorf("%s: it is opened", name)
		}
		var rows int
		if err := b.db.QueryRowContext(t.Context(), `SELECT count(*) FROM key_stores`).Scan(&rows); err != nil || rows != 6 {
			t.Errorf("%s: %d key stores are left: %v", name, rows, err)
		}
	}
}

// TestNameMoves: a change that removes a row and gives its name to another one can be taken
// over, in whatever order the rows are.
func TestNameMoves(t *testing.T) {
	a := founded(t)
	one, two := *store(1), *store(2)
	two.Name, two.URIPathPrefix = one.Name, one.URIPathPrefix
	for _, pair := range [][2]*appliance.KeyStore{{&one, &two}, {&two, &one}} {
		storetest.Must(t, a.CreateKeyStore(t.Context(), pair[0]))
		b := a.peer(t).opened(t)
		storetest.Must(t, a.writer.do(t.Context(), func(c *conn) error {
			if _, err := c.exec(`DELETE FROM key_stores WHERE id = ?`, pair[0].ID); err != nil {
				return err
			}
			_, err := c.exec(`INSERT INTO key_stores (id, name, uri_path_prefix, requests_per_second, wrapped_key, created_at, seal) VALUES (?, ?, ?, 0, x'00', 0, x'01')`, pair[1].ID, pair[1].Name, pair[1].URIPathPrefix)
			return err
		}))
		storetest.Must(t, b.CatchUp(t.Context()))
		alike(t, a, b)
		storetest.Must(t, a.DeleteKeyStore(t.Context(), pair[1].ID, []byte{1}))
	}
}
