package postgres_test

import (
	"io/fs"
	"sync"
	"testing"
	"testing/fstest"

	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// later gives this release's migrations and further ones, which are of the next releases.
func later(t *testing.T, more map[string]string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	names, err := fs.Glob(postgres.Migrations, "migrations/*.sql")
	storetest.Must(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(postgres.Migrations, name)
		storetest.Must(t, err)
		all[name[len("migrations/"):]] = &fstest.MapFile{Data: text}
	}
	for name, text := range more {
		all[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + text)}
	}
	return all
}

const (
	expand   = "ALTER TABLE changes ADD COLUMN length bigint;\n"
	contract = "ALTER TABLE changes ADD COLUMN at timestamptz;\nUPDATE compatibility SET oldest = 90001;\n"
)

// TestFirstNodes: nodes that come first at once all find the tables.
func TestFirstNodes(t *testing.T) {
	s := postgrestest.Start(t)
	pooler := s.Pooler()
	for name, url := range map[string]string{"direct": s.Database(t), "pgbouncer": pooler.Database(t, s)} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					l, err := postgres.Open(t.Context(), postgres.Options{URL: url})
					if err != nil {
						t.Error(err)
						return
					}
					l.Close()
				})
			}
			wg.Wait()
		})
	}
}

// TestReleases: this release and the next serve together, in both orders; one that the
// tables have left behind is refused, also if it was running.
func TestReleases(t *testing.T) {
	s := postgrestest.Start(t)
	next := later(t, map[string]string{"90001_expand.sql": expand})
	afterNext := later(t, map[string]string{"90001_expand.sql": expand, "90002_contract.sql": contract})
	now := func(url string) postgres.Options { return postgres.Options{URL: url} }

	// The next release comes while this one runs; both pass the contract.
	for name, order := range map[string][]fs.FS{"this first": {nil, next}, "next first": {next, nil}} {
		t.Run(name, func(t *testing.T) {
			changelogtest.Run(t, func(t *testing.T) func(t *testing.T) changelogtest.Log {
				url, n := s.Database(t), 0
				return func(t *testing.T) changelogtest.Log {
					o := now(url).WithMigrations(order[n%2])
					n++
					return open(t, o)
				}
			})
		})
	}

	url := s.Database(t)
	old := open(t, now(url))
	storetest.Must(t, old.Append(t.Context(), 1, []byte("one")))
	open(t, now(url).WithMigrations(next))
	newest := open(t, now(url).WithMigrations(afterNext))
	refused(t, now(url), fault.DatabaseNewer, "update this node")
	open(t, now(url).WithMigrations(next)) // one before is not left behind
	// What was running is refused at its next connection.
	s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'")
	await(t, func() bool {
		_, err := old.Newest(t.Context())
		return fault.CodeOf(err) == fault.DatabaseNewer
	})
	await(t, func() bool { return newest.Append(t.Context(), 2, []byte("two")) == nil })
}

// TestRoleWithoutRights: once the tables are there, a node needs no right to make tables.
func TestRoleWithoutRights(t *testing.T) {
	s := postgrestest.Start(t)
	db := s.NewDatabase(t)
	open(t, postgres.Options{URL: s.In(db)})
	s.ExecIn(db, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO certified")
	l := open(t, postgres.Options{URL: "postgres://certified@" + s.Address() + "/" + db, CA: s.TLS.CA, Certificate: s.TLS.Certificate, Key: s.TLS.Key})
	storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
	storetest.Must(t, l.KeepSnapshot(t.Context(), 1, changelogtest.Parts(nil, []byte("part"))))
}
