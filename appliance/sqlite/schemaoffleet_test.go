package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/storetest"
)

// The releases of these tests: N is this binary's, and later ones add to its schema. The one
// after next drops what the next one stopped to use.
var (
	ofN     = latest
	ofNext  = latest + 1000
	ofAfter = latest + 2000
)

// later are the migrations of releases that do not exist.
var later = map[int64]string{
	ofNext: `
ALTER TABLE key_stores ADD COLUMN colour TEXT NOT NULL DEFAULT 'none';
ALTER TABLE external_keys ADD COLUMN weight INTEGER NOT NULL DEFAULT 7;
ALTER TABLE settings ADD COLUMN remark TEXT;
ALTER TABLE credentials ADD COLUMN mask BLOB NOT NULL DEFAULT x'0102';
CREATE TABLE labels (name TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL) STRICT;`,
	ofAfter: `
ALTER TABLE key_stores DROP COLUMN colour;
ALTER TABLE key_stores ADD COLUMN shape TEXT NOT NULL DEFAULT 'round';
DROP TABLE labels;`,
}

func init() {
	all := fstest.MapFS{}
	names, err := fs.Glob(migrations, "*.sql")
	for _, name := range names {
		text, failed := fs.ReadFile(migrations, name)
		err = errors.Join(err, failed)
		all[name] = &fstest.MapFile{Data: text}
	}
	if err != nil {
		panic(err)
	}
	for version, text := range later {
		all[fmt.Sprintf("%05d_later.sql", version)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + text)}
	}
	migrations = all
}

// release is a node of a release, whose file stays when it is updated.
type release struct {
	*node
	path   string
	before func() // each change that it appends to the log; nil for nothing
}

// overtaken is a log that others use before each change of a node.
type overtaken struct {
	*changelogtest.Memory
	r *release
}

func (o overtaken) Append(ctx context.Context, number uint64, body []byte) error {
	if o.r.before != nil {
		o.r.before()
	}
	return o.Memory.Append(ctx, number, body)
}

func (r *release) OpenState(ctx context.Context, o appliance.StateOptions) (*appliance.StateReport, error) {
	o.Log = overtaken{r.log, r}
	return r.DB.OpenState(ctx, o)
}

// startRelease starts a node of a release on a file.
func startRelease(t *testing.T, log *changelogtest.Memory, path string, schema int64) *release {
	t.Helper()
	return &release{node: &node{openNew(t, path, schema), log}, path: path}
}

func newRelease(t *testing.T, log *changelogtest.Memory, schema int64) *release {
	t.Helper()
	return startRelease(t, log, filepath.Join(t.TempDir(), "fleet.db"), schema)
}

// again starts the node once more, in another release.
func (r *release) again(t *testing.T, schema int64) *release {
	t.Helper()
	storetest.Must(t, r.Close())
	return startRelease(t, r.log, r.path, schema)
}

func (r *release) opened(t *testing.T) *release {
	t.Helper()
	_ = storetest.Got(r.OpenState(context.Background(), storetest.StateOptions()))(t)
	return r
}

// foundedIn gives the first node of a fleet, of a release.
func foundedIn(t *testing.T, schema int64) *release {
	t.Helper()
	r := newRelease(t, changelogtest.NewMemory(nil), schema)
	o := storetest.StateOptions()
	o.Seal = true
	if _, err := r.OpenState(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *release) schema(t *testing.T, used int64) {
	t.Helper()
	if s := r.Schemas(); s.Used != used {
		t.Errorf("schema %+v, want %d", s, used)
	}
}

// edit changes the node's file as another program does.
func (r *release) edit(t *testing.T, statement string) {
	t.Helper()
	if _, err := r.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// fill makes rows of each kind that the later releases change.
func (r *release) fill(t *testing.T, i int) {
	t.Helper()
	ctx := t.Context()
	ks := store(i)
	storetest.Must(t, r.CreateKeyStore(ctx, ks))
	storetest.Must(t, r.CreateKeys(ctx, storetest.NewKey(ks, "k"), storetest.NewKey(ks, "gone")))
	storetest.Must(t, r.CreateCredential(ctx, storetest.Credential(ks, i)))
	storetest.Must(t, r.SetSetting(ctx, &appliance.SettingRow{Name: fmt.Sprint("s", i), Value: "v", Seal: []byte{1}}, nil))
}

// rework changes rows that fill has made, at whatever node.
func (r *release) rework(t *testing.T, i int) {
	t.Helper()
	ctx := t.Context()
	storetest.Must(t, r.CatchUp(ctx))
	k := storetest.Got(r.Key(ctx, store(i).ID, "k"))(t)
	if k.Unmatched {
		t.Error("a row does not match")
	}
	_ = storetest.Got(r.ReserveEncryptions(ctx, store(i).ID, "k", 1, 64))(t)
	gone := storetest.Got(r.Key(ctx, store(i).ID, "gone"))(t)
	storetest.Must(t, r.DeleteKey(ctx, store(i).ID, "gone", gone.Seal, nil))
	was := storetest.Got(r.Setting(ctx, fmt.Sprint("s", i)))(t)
	storetest.Must(t, r.SetSetting(ctx, &appliance.SettingRow{Name: was.Name, Value: "w", Seal: []byte{2}}, was))
	ks := storetest.Got(r.KeyStores(ctx))(t)
	at := slices.IndexFunc(ks, func(s *appliance.KeyStore) bool { return s.ID == store(i).ID })
	changed := *ks[at]
	changed.RequestsPerSecond, changed.Seal = 77, []byte{7}
	storetest.Must(t, r.UpdateKeyStore(ctx, &changed, ks[at].Seal))
}

// same says that nodes of the releases have the same rows and manifests.
func same(t *testing.T, nodes ...*release) {
	t.Helper()
	for _, n := range nodes {
		storetest.Must(t, n.CatchUp(t.Context()))
	}
	for _, n := range nodes[1:] {
		alike(t, nodes[0].node, n.node)
	}
}

// TestTwoReleases: a node of this release and one of the next change rows in turns, whichever
// of them founds the fleet and whether the other joins by changes or by a snapshot; each
// starts again, and the older one is updated in place.
func TestTwoReleases(t *testing.T) {
	for _, first := range []int64{ofN, ofNext} {
		for _, how := range []string{"changes", "snapshot"} {
			t.Run(fmt.Sprintf("founded by %d, %s", first, how), func(t *testing.T) {
				a := foundedIn(t, ofN)
				second := ofNext
				if first == ofNext { // it has updated before the other is there
					a = a.again(t, ofNext).opened(t)
					second = ofN
				}
				a.fill(t, 1)
				if how == "snapshot" {
					_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
				}
				b := newRelease(t, a.log.Peer(), second).opened(t)
				same(t, a, b)
				b.fill(t, 2)
				a.rework(t, 2)
				b.rework(t, 1)
				same(t, a, b)
				a = a.again(t, first).opened(t)
				b = b.again(t, second).opened(t)
				same(t, a, b)
				a.fill(t, 3)
				b.rework(t, 3)
				_ = storetest.Got(b.KeepSnapshot(t.Context()))(t)
				c, d := newRelease(t, a.log.Peer(), ofN).opened(t), newRelease(t, a.log.Peer(), ofNext).opened(t)
				same(t, a, b, c, d)
				for _, n := range []*release{a, b, c, d} {
					n.schema(t, ofN)
				}
				a, b, c = a.again(t, ofNext).opened(t), b.again(t, ofNext).opened(t), c.again(t, ofNext).opened(t)
				same(t, a, b, c, d)
				storetest.Must(t, b.RaiseSchema(t.Context(), ofNext))
				same(t, a, b, c, d)
				for _, n := range []*release{a, b, c, d} {
					n.schema(t, ofNext)
				}
				d.fill(t, 4)
				a.rework(t, 4)
				a = a.again(t, ofNext).opened(t)
				e := newRelease(t, a.log.Peer(), ofNext).opened(t) // by the snapshot, over the raise
				_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
				same(t, a, b, c, d, e, newRelease(t, a.log.Peer(), ofNext).opened(t))
			})
		}
	}
}

// TestKeepsAnswers: that idempotency keys are kept is said once all nodes of the fleet have the table
// for them, at each node.
func TestKeepsAnswers(t *testing.T) {
	const without = 28
	a := foundedIn(t, without)
	b := newRelease(t, a.log.Peer(), ofN).opened(t)
	if b.KeepsAnswers() {
		t.Error("a node of the fleet has no table for answers")
	}
	a = a.again(t, ofN).opened(t)
	same(t, a, b)
	storetest.Must(t, b.RaiseSchema(t.Context(), ofN))
	same(t, a, b)
	if !a.KeepsAnswers() || !b.KeepsAnswers() {
		t.Errorf("all nodes have the table: %t, %t", a.KeepsAnswers(), b.KeepsAnswers())
	}
}

// TestRaiseLeavesOldNodeBehind: the node that does not know the new schema stops with a clear
// line, loses nothing, and goes on after it is updated in place. One that joins is refused.
func TestRaiseLeavesOldNodeBehind(t *testing.T) {
	a := foundedIn(t, ofN)
	b := newRelease(t, a.log.Peer(), ofNext).opened(t)
	a.fill(t, 1)
	storetest.Wants(t, a.RaiseSchema(t.Context(), ofNext), fault.FleetNewer, "update this node")
	storetest.Must(t, b.RaiseSchema(t.Context(), ofNext))
	before := a.Position()
	storetest.Wants(t, a.CatchUp(t.Context()), fault.FleetNewer, "update this node")
	storetest.Wants(t, a.CreateKeyStore(t.Context(), store(2)), fault.FleetNewer, "update this node")
	if a.Position() != before {
		t.Error("it has taken over something")
	}
	a = a.again(t, ofN)
	_, err := a.OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetNewer, fmt.Sprintf("the fleet has schema %d", ofNext))
	_, err = newRelease(t, a.log.Peer(), ofN).OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetNewer, "update this node")
	_ = storetest.Got(b.KeepSnapshot(t.Context()))(t)
	_, err = newRelease(t, a.log.Peer(), ofN).OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetNewer, "update this node")
	a = a.again(t, ofNext).opened(t)
	same(t, a, b)
	a.schema(t, ofNext)
	if list := storetest.Got(a.KeyStores(t.Context()))(t); len(list) != 1 {
		t.Errorf("%d key stores", len(list))
	}
}

// TestFoundedByNextRelease: a fleet that the next release has founded is not for this one.
func TestFoundedByNextRelease(t *testing.T) {
	a := foundedIn(t, ofNext)
	a.fill(t, 1)
	_, err := newRelease(t, a.log.Peer(), ofN).OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetNewer, "update this node")
	same(t, a, newRelease(t, a.log.Peer(), ofNext).opened(t))
}

// write makes a change with a statement of a later release.
func (r *release) write(t *testing.T, statement string) error {
	t.Helper()
	return r.DB.write(t.Context(), func(c *conn) error {
		_, err := c.exec(statement)
		return err
	})
}

// TestNotYet: what the fleet's schema lacks is not written before it is raised, alone or in
// a transaction with others; afterwards it is.
func TestNotYet(t *testing.T) {
	a := foundedIn(t, ofN)
	b := newRelease(t, a.log.Peer(), ofNext).opened(t)
	b.fill(t, 1)
	statements := []string{
		`UPDATE key_stores SET colour = 'red'`, `UPDATE external_keys SET weight = 8`, `UPDATE settings SET remark = 'x'`,
		`UPDATE credentials SET mask = x'01'`, `INSERT INTO labels VALUES ('a', 'b')`,
		`INSERT INTO settings (name, value, seal, remark) VALUES ('n', 'v', x'01', '')`,
	}
	if b.Schemas().Has(ofNext) || !b.Schemas().Has(ofN) {
		t.Errorf("%+v", b.Schemas())
	}
	for _, statement := range statements {
		storetest.Wants(t, b.write(t, statement), fault.FleetUpdating, "update all nodes")
	}
	results := make([]error, 2)
	w := b.writer
	batch := []*change{
		{apply: func(c *conn) error { _, err := c.exec(statements[0]); return err }},
		{apply: func(c *conn) error { _, err := c.exec(`UPDATE settings SET value = 'z'`); return err }},
	}
	storetest.Must(t, w.doFree(t.Context(), func() error { return w.transact(batch, results) }))
	for _, c := range batch {
		w.progress.done(c.open)
	}
	storetest.Wants(t, results[0], fault.FleetUpdating, "colour")
	storetest.Must(t, results[1])
	same(t, a, b)
	a = a.again(t, ofNext).opened(t)
	storetest.Must(t, a.RaiseSchema(t.Context(), ofNext))
	storetest.Must(t, b.CatchUp(t.Context()))
	for _, statement := range statements {
		storetest.Must(t, b.write(t, statement))
		same(t, a, b)
	}
	same(t, a, b, newRelease(t, a.log.Peer(), ofNext).opened(t))
}

// tampering is what another program may do to what the fleet's schema lacks.
var tampering = []string{
	`UPDATE key_stores SET colour = 'red'`, `UPDATE external_keys SET weight = 8 WHERE id = 'k'`, `UPDATE settings SET remark = ''`,
	`UPDATE credentials SET mask = x''`, `INSERT INTO labels VALUES ('a', 'b')`,
}

// TestNewColumnsTampered: what the fleet's schema lacks is found if another program writes
// it: when the node starts, which loads the rows again; by a check; and by the raise itself.
func TestNewColumnsTampered(t *testing.T) {
	for _, statement := range tampering {
		t.Run(statement, func(t *testing.T) {
			a := foundedIn(t, ofN).again(t, ofNext).opened(t)
			a.fill(t, 1)
			b := newRelease(t, a.log.Peer(), ofNext).opened(t)
			b.CloseState()
			b.edit(t, statement)
			b.opened(t)
			same(t, a, b)

			b.edit(t, statement)
			report, err := b.CheckState(t.Context())
			if err == nil && len(report.Damaged) == 0 {
				t.Error("a check has not found it")
			}
			b.CloseState()
			b.opened(t)
			same(t, a, b)

			b.edit(t, statement)
			storetest.Wants(t, b.RaiseSchema(t.Context(), ofNext), fault.StateChanged, "")
			a.schema(t, ofN)
			storetest.Must(t, a.RaiseSchema(t.Context(), ofNext))
			storetest.Wants(t, b.CatchUp(t.Context()), fault.StateChanged, "")
			b.CloseState()
			b.opened(t)
			same(t, a, b)
			b.schema(t, ofNext)
		})
	}
}

// TestRaisedManifestEdited: a manifest with another number of the schema than the rows have
// matches nothing.
func TestRaisedManifestEdited(t *testing.T) {
	a := foundedIn(t, ofN)
	a.fill(t, 1)
	b := newRelease(t, a.log.Peer(), ofNext).opened(t)
	for _, schema := range []int64{ofNext, ofAfter, ofAfter + 1, ofN - 1, 1, 0} {
		b.CloseState()
		b.edit(t, fmt.Sprintf(`UPDATE manifests SET schema = %d`, schema))
		b.opened(t)
		same(t, a, b)
		b.schema(t, ofN)
	}
}

// TestRaiseAmongChanges: other nodes change rows while one counts them to raise the schema.
// It counts them in, and does not count all once more.
func TestRaiseAmongChanges(t *testing.T) {
	a := foundedIn(t, ofN).again(t, ofNext).opened(t)
	b := newRelease(t, a.log.Peer(), ofNext).opened(t)
	a.fill(t, 1)
	b.fill(t, 2)
	storetest.Must(t, a.CatchUp(t.Context()))
	n := 2
	a.before = func() {
		if n++; n < 8 {
			b.fill(t, n)
			b.rework(t, n-1)
		}
	}
	storetest.Must(t, a.RaiseSchema(t.Context(), ofNext))
	if n < 8 {
		t.Fatalf("overtaken %d times", n)
	}
	a.before = nil
	a.schema(t, ofNext)
	same(t, a, b, newRelease(t, a.log.Peer(), ofNext).opened(t))
	b.fill(t, 20)
	same(t, a, b)
	storetest.Must(t, a.RaiseSchema(t.Context(), ofNext)) // nothing more
	same(t, a, b)
}

// TestRaiseIsFenced: a node that led, and does not any more, does not raise the schema.
func TestRaiseIsFenced(t *testing.T) {
	a := foundedIn(t, ofN).again(t, ofNext).opened(t)
	storetest.Must(t, a.SetLeader(t.Context(), &appliance.LeaderRow{Node: "a", Token: 3, Seal: []byte{1}}, nil))
	storetest.Wants(t, a.RaiseSchema(appliance.Fenced(t.Context(), 2), ofNext), fault.FleetFenced, "")
	a.schema(t, ofN)
	storetest.Must(t, a.RaiseSchema(appliance.Fenced(t.Context(), 3), ofNext))
	a.schema(t, ofNext)
	same(t, a, newRelease(t, a.log.Peer(), ofNext).opened(t))
}

// TestRaiseLocked: without the key nothing is raised.
func TestRaiseLocked(t *testing.T) {
	a := foundedIn(t, ofN).again(t, ofNext)
	storetest.Wants(t, a.RaiseSchema(t.Context(), ofNext), fault.Locked, "")
}

// TestContract: the release after next drops a column and a table that the next one has left
// empty. It works with the next one, and the schema is raised over it.
func TestContract(t *testing.T) {
	a := foundedIn(t, ofNext)
	a.fill(t, 1)
	b := newRelease(t, a.log.Peer(), ofAfter).opened(t)
	b.fill(t, 2)
	a.rework(t, 2)
	b.rework(t, 1)
	_ = storetest.Got(b.KeepSnapshot(t.Context()))(t)
	c := newRelease(t, a.log.Peer(), ofNext).opened(t)
	d := newRelease(t, a.log.Peer(), ofAfter).opened(t)
	same(t, a, b, c, d)

	// One that is still used is refused, and nothing of it is lost.
	storetest.Must(t, c.write(t, `UPDATE key_stores SET colour = 'red'`))
	storetest.Wants(t, b.CatchUp(t.Context()), fault.FleetUpdating, "the column colour of the table key_stores")
	_, err := newRelease(t, a.log.Peer(), ofAfter).OpenState(t.Context(), storetest.StateOptions())
	storetest.Wants(t, err, fault.FleetUpdating, "before this one first")
	storetest.Must(t, c.write(t, `UPDATE key_stores SET colour = 'none'`))
	same(t, a, c)
	_ = storetest.Got(a.KeepSnapshot(t.Context()))(t)
	b.opened(t)
	d.opened(t)
	same(t, a, b, c, d)

	a, c = a.again(t, ofAfter).opened(t), c.again(t, ofAfter).opened(t)
	storetest.Must(t, d.RaiseSchema(t.Context(), ofAfter))
	same(t, a, b, c, d, newRelease(t, a.log.Peer(), ofAfter).opened(t))
	b.fill(t, 5)
	same(t, a, b, c, d)
}

// TestNodeOfNextRelease: all that the store can do, a node of the next release does in the
// schema of this one. What it changes comes out the same at nodes of both.
func TestNodeOfNextRelease(t *testing.T) {
	storetest.RunOpen(t, func(t *testing.T) storetest.Engine {
		r := newRelease(t, changelogtest.NewMemory(nil), ofNext)
		r.founds = ofN
		t.Cleanup(func() {
			if _, err := r.CheckState(context.Background()); err != nil && (fault.CodeOf(err) == fault.Locked || strings.Contains(err.Error(), "closed")) {
				return // the test has closed it
			}
			storetest.Must(t, r.CatchUp(context.Background()))
			r.schema(t, ofN)
			for _, schema := range []int64{ofN, ofNext} {
				alike(t, r.node, newRelease(t, r.log.Peer(), schema).opened(t).node)
			}
			if _, err := r.KeepSnapshot(context.Background()); err != nil {
				t.Error(err)
			}
			alike(t, r.node, newRelease(t, r.log.Peer(), ofN).opened(t).node)
		})
		return r
	})
}
