//go:build fleet

package fleettest_test

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/cmd/internal/fleettest"
)

// superuser is who may do anything to the database of a fleet, and has psql. What he needs
// to put the database back is in two schemas of it that nodes do not look at: began has the
// rows as they were when he came, and kept those of the last [superuser.keep].
type superuser struct {
	t    *testing.T
	f    *fleettest.Fleet
	conn *pgx.Conn
	// tables are those of the log, with what makes them, before and after there are rows.
	tables        []string
	before, after string
}

func newSuperuser(t *testing.T, f *fleettest.Fleet) *superuser {
	t.Helper()
	c, err := pgx.Connect(t.Context(), f.Primary.In(f.Database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	s := &superuser{t: t, f: f, conn: c}
	s.before, s.after = s.dump("pre-data"), s.dump("post-data")
	for _, c := range s.columns() {
		if n := len(s.tables); n == 0 || s.tables[n-1] != c.table {
			s.tables = append(s.tables, c.table)
		}
	}
	s.copyTo("began")
	return s
}

// program runs one of PostgreSQL's programs, and gives what it prints.
func (s *superuser) program(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(fmt.Sprintf("/usr/lib/postgresql/%d/bin/%s", s.f.Primary.Version, name), append(args, "--dbname="+s.f.Primary.In(s.f.Database))...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s: %q", name, err, out, args)
	}
	return string(out)
}

// dump gives what makes a section of the database, for the server. Lines with a backslash
// are for psql.
func (s *superuser) dump(section string) string {
	s.t.Helper()
	return regexp.MustCompile(`(?m)^\\.*$`).ReplaceAllString(s.program("pg_dump", "--section="+section), "")
}

// psql does something to the database, in one transaction.
func (s *superuser) psql(sql string) {
	s.t.Helper()
	s.program("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-1", "-c", sql)
}

func (s *superuser) must(sql string) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%v: %s", err, sql)
	}
}

// column is one of a table.
type column struct {
	table, name, kind string
	// numbered says that PostgreSQL gives its values.
	numbered bool
}

// columns gives those of all tables that the log has, by table.
func (s *superuser) columns() []column {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), `SELECT table_name, column_name, data_type, is_identity = 'YES' OR coalesce(column_default, '') LIKE 'nextval(%'
		FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position`)
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (c column, err error) {
		return c, r.Scan(&c.table, &c.name, &c.kind, &c.numbered)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// rows is how many a table has.
func (s *superuser) rows(table string) (n int) {
	s.t.Helper()
	if err := s.conn.QueryRow(s.t.Context(), "SELECT count(*) FROM public."+table).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// copyTo copies all rows to a schema of their own, at one moment.
func (s *superuser) copyTo(schema string) {
	s.t.Helper()
	var sql strings.Builder
	fmt.Fprintf(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL client_min_messages = error; DROP SCHEMA IF EXISTS %[1]s CASCADE; CREATE SCHEMA %[1]s;", schema)
	for _, table := range s.tables {
		fmt.Fprintf(&sql, "CREATE TABLE %[1]s.%[2]s AS TABLE public.%[2]s;", schema, table)
	}
	s.must(sql.String() + "COMMIT")
}

// keep keeps the rows for [superuser.putBack].
func (s *superuser) keep() { s.t.Helper(); s.copyTo("kept") }

// putBack makes the database what it was at keep, so that it lacks what nodes have changed
// since: they give that back.
func (s *superuser) putBack() {
	s.t.Helper()
	var sql strings.Builder
	sql.WriteString("BEGIN; SET LOCAL client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC;\n" + s.before)
	for _, table := range s.tables {
		fmt.Fprintf(&sql, "INSERT INTO public.%[1]s OVERRIDING SYSTEM VALUE SELECT * FROM kept.%[1]s;\n", table)
	}
	s.must(sql.String() + s.after + "COMMIT")
	for _, c := range s.columns() {
		if c.numbered {
			s.must(fmt.Sprintf("SELECT setval(pg_get_serial_sequence('public.%[1]s', '%[2]s'), coalesce(max(%[2]s), 0) + 1, false) FROM public.%[1]s", c.table, c.name))
		}
	}
}
