package sqlite_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
	"holdfast/attest"
)

// tablesIn gives the names of the tables in a stream.
func tablesIn(t *testing.T, stream []byte) (names []string) {
	t.Helper()
	r := storetest.Got(snapshot.NewReader(bytes.NewReader(stream)))(t)
	for {
		tab := storetest.Got(r.Table())(t)
		if tab == nil {
			return names
		}
		names = append(names, tab.Name)
		for row := storetest.Got(r.Row())(t); row != nil; row = storetest.Got(r.Row())(t) {
		}
	}
}

// TestReach: each table of the schema is either shared by a fleet, and in a snapshot, or
// about this machine. A new one has to be put here.
func TestReach(t *testing.T) {
	shared := []string{"answers", "approvals", "api_tokens", "credentials", "external_keys", "grants", "installation", "invitations", "key_stores", "key_versions", "leader", "nodes", "sessions", "settings", "spent", "token_objects", "users"}
	machine := []string{"audit_head", "boot_steps", "policy_version", "master_key_making", "seen_head", "taken_changes", "witnessed_time", "goose_db_version", "manifests", "manifest_history"}
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	var out bytes.Buffer
	storetest.Must(t, s.Snapshot(t.Context(), &out))
	storetest.Equal(t, slices.Sorted(slices.Values(tablesIn(t, out.Bytes()))), slices.Sorted(slices.Values(shared)))
	db := storetest.Got(sql.Open("sqlite", path))(t)
	defer db.Close()
	rows := storetest.Got(db.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`))(t)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var name string
		storetest.Must(t, rows.Scan(&name))
		all = append(all, name)
	}
	storetest.Equal(t, slices.Sorted(slices.Values(all)), slices.Sorted(slices.Values(append(shared, machine...))))
}

// TestMachineRowsStay: what is about this machine neither leaves it nor is replaced.
func TestMachineRowsStay(t *testing.T) {
	ctx := t.Context()
	from, to := openSQLite(t, filepath.Join(t.TempDir(), "a.db")), openSQLite(t, filepath.Join(t.TempDir(), "b.db"))
	storetest.Got(from.Machine().RaisePolicyVersion(ctx, attest.SignedID{Version: 9}))(t)
	storetest.Got(to.Machine().RaisePolicyVersion(ctx, attest.SignedID{Version: 3}))(t)
	var out bytes.Buffer
	storetest.Must(t, from.Snapshot(ctx, &out))
	storetest.Must(t, to.Restore(ctx, &out))
	storetest.Equal(t, storetest.Got(to.Machine().RaisePolicyVersion(ctx, attest.SignedID{Version: 1}))(t), attest.SignedID{Version: 3})
}

// TestEarlierSchema: a stream of an earlier schema is brought up to date, as a database
// is: here the choice of operations for four eyes, which had a table of its own.
func TestEarlierSchema(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "earlier.db")
	db := storetest.Got(sql.Open("sqlite", path))(t)
	defer db.Close()
	p := storetest.Got(goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true)))(t)
	var before int64 // the one that has four_eyes still
	for _, m := range p.ListSources() {
		text := storetest.Got(os.ReadFile(filepath.Join("migrations", filepath.Base(m.Path))))(t)
		if strings.Contains(string(text), "DROP TABLE four_eyes") {
			before = m.Version - 1
		}
	}
	storetest.Got(p.UpTo(ctx, before))(t)
	for _, st := range []string{
		`INSERT INTO installation (one, id, wrapped_state_key, created_at) VALUES (1, 'i', x'01', 1)`,
		`INSERT INTO key_stores (id, name, uri_path_prefix, requests_per_second, created_at, wrapped_key, seal, key_count) VALUES ('s', 'p', '/p', 0, 1, x'02', x'03', 7)`,
		`INSERT INTO four_eyes (operation) VALUES ('deleteUser')`,
	} {
		storetest.Got(db.ExecContext(ctx, st))(t)
	}
	stream := exported(t, db, uint32(before))
	s := openSQLite(t, filepath.Join(t.TempDir(), "holdfast.db"))
	storetest.Must(t, s.Restore(ctx, bytes.NewReader(stream)))
	storetest.Equal(t, storetest.Got(s.Setting(ctx, "four_eyes"))(t).Value, `{"operations":["deleteUser"]}`)
	storetest.Equal(t, storetest.Got(s.KeyStores(ctx))(t)[0].Name, "p")
	storetest.Equal(t, storetest.Got(s.CountKeys(ctx, "s"))(t), 0)
	storetest.Wants(t, s.Restore(ctx, bytes.NewReader(stream)), fault.Conflict, "restore into a fresh one")

	other := openSQLite(t, filepath.Join(t.TempDir(), "other.db"))
	storetest.Wants(t, other.Restore(ctx, bytes.NewReader(stream[:len(stream)-1])), fault.Invalid, "cut off")
	if left := storetest.Got(filepath.Glob(filepath.Join(filepath.Dir(path), "restore-*")))(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// exported writes the tables of a database of any schema.
func exported(t *testing.T, db *sql.DB, schema uint32) []byte {
	t.Helper()
	var out bytes.Buffer
	w := snapshot.NewWriter(&out, schema)
	for _, table := range []string{"installation", "key_stores", "external_keys", "key_versions", "credentials", "grants", "token_objects", "approvals", "four_eyes", "users", "invitations", "sessions", "api_tokens"} {
		func() {
			rows := storetest.Got(db.QueryContext(t.Context(), fmt.Sprintf(`SELECT * FROM %q`, table)))(t)
			defer rows.Close()
			columns := storetest.Got(rows.Columns())(t)
			storetest.Must(t, w.Table(snapshot.Table{Name: table, Columns: columns}))
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			for rows.Next() {
				storetest.Must(t, rows.Scan(into...))
				storetest.Must(t, w.Row(values))
			}
		}()
	}
	storetest.Must(t, w.Close())
	return out.Bytes()
}

// TestRestoreAmongWrites: a restore has a transaction of its own, and what others write
// at the same time is done before or after it.
func TestRestoreAmongWrites(t *testing.T) {
	ctx := t.Context()
	from, to := openSQLite(t, filepath.Join(t.TempDir(), "a.db")), openSQLite(t, filepath.Join(t.TempDir(), "b.db"))
	storetest.Must(t, from.CreateKeyStore(ctx, storetest.KeyStore(1)))
	var out bytes.Buffer
	storetest.Must(t, from.Snapshot(ctx, &out))
	stop, done := make(chan struct{}), make(chan int)
	for range 4 {
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				if err := to.NoteTokenObjects(ctx, storetest.TokenObject(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
				n++
			}
		}()
	}
	for range 20 {
		storetest.Must(t, to.Restore(ctx, bytes.NewReader(out.Bytes())))
		storetest.Must(t, to.DeleteKeyStore(ctx, storetest.KeyStore(1).ID, storetest.KeyStore(1).Seal))
	}
	close(stop)
	for range 4 {
		if n := <-done; n == 0 {
			t.Error("nothing was written meanwhile")
		}
	}
}

var _ storetest.Engine = (*sqlite.DB)(nil)
