//go:build fleet

package fleettest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
)

// superuser is who may do anything to the database of a fleet.
type superuser struct {
	t    *testing.T
	f    *fleettest.Fleet
	conn *pgx.Conn
}

func newSuperuser(t *testing.T, f *fleettest.Fleet) *superuser {
	t.Helper()
	c, err := pgx.Connect(t.Context(), f.Primary.In(f.Database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return &superuser{t, f, c}
}

func (s *superuser) do(sql string) error {
	_, err := s.conn.Exec(s.t.Context(), sql)
	return err
}

// column is one of a table.
type column struct{ table, name, kind string }

// columns gives those of all tables that the log has.
func (s *superuser) columns() []column {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), `SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position`)
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (c column, err error) { return c, r.Scan(&c.table, &c.name, &c.kind) })
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// another is an expression for another value of a column.
func (c column) another() string {
	switch c.kind {
	case "bytea":
		return fmt.Sprintf(`set_byte(%[1]s, length(%[1]s)/2, get_byte(%[1]s, length(%[1]s)/2) # 1)`, c.name)
	case "boolean":
		return "NOT " + c.name
	case "timestamp with time zone", "timestamp without time zone":
		return c.name + " + interval '1 year'"
	case "text":
		return c.name + " || 'x'"
	}
	return c.name + " + 1"
}

// The rows that are changed, by PostgreSQL's place of them.
const (
	newest = "(SELECT max(ctid) FROM %[1]s)"
	oldest = "(SELECT min(ctid) FROM %[1]s)"
)

// tampering is one thing that a superuser does.
type tampering struct {
	name, sql string
	// free has the constraints of the table dropped before it.
	free string
	// forged says that there is a change that no node has made, or with another number.
	forged bool
}

// tamperings are generated from the tables that there are.
func tamperings(columns []column) (all []tampering) {
	tables := map[string][]string{}
	for _, c := range columns {
		tables[c.table] = append(tables[c.table], c.name)
		add := func(name, sql string, free bool) {
			x := tampering{name: c.table + "." + c.name + ": " + name, sql: fmt.Sprintf(sql, c.table, c.name, c.another())}
			if free {
				x.free = c.table
			}
			x.forged = c.table == "changes" && c.name == "number" && free
			all = append(all, x)
		}
		add("update the newest", "UPDATE %[1]s SET %[2]s = %[3]s WHERE ctid = "+newest, true)
		add("update the oldest", "UPDATE %[1]s SET %[2]s = %[3]s WHERE ctid = "+oldest, true)
		add("null", "ALTER TABLE %[1]s ALTER %[2]s DROP NOT NULL; UPDATE %[1]s SET %[2]s = NULL WHERE ctid = "+newest, true)
		add("swap", "UPDATE %[1]s AS a SET %[2]s = b.%[2]s FROM %[1]s AS b WHERE a.ctid IN ("+newest+", "+oldest+") AND b.ctid IN ("+newest+", "+oldest+") AND a.ctid <> b.ctid", true)
		add("drop", "ALTER TABLE %[1]s DROP COLUMN %[2]s CASCADE", false)
		add("rename", "ALTER TABLE %[1]s RENAME COLUMN %[2]s TO moved", false)
		if c.kind == "bytea" {
			add("empty", "UPDATE %[1]s SET %[2]s = '' WHERE ctid = "+newest, true)
			add("long", "UPDATE %[1]s SET %[2]s = %[2]s || %[2]s WHERE ctid = "+newest, true)
		}
	}
	for table, names := range tables {
		add := func(name, sql string) {
			all = append(all, tampering{name: table + ": " + name, sql: fmt.Sprintf(sql, table, strings.Join(names, ", "), names[0], strings.Join(names[1:], ", ")), free: table, forged: table == "changes" && name == "insert twice"})
		}
		add("delete the newest", "DELETE FROM %[1]s WHERE ctid = "+newest)
		add("delete the oldest", "DELETE FROM %[1]s WHERE ctid = "+oldest)
		add("truncate", "TRUNCATE %[1]s CASCADE")
		add("insert twice", "INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM %[1]s WHERE ctid = "+newest)
		add("drop", "DROP TABLE %[1]s CASCADE")
		add("rename", "ALTER TABLE %[1]s RENAME TO moved")
	}
	for name, values := range map[string]string{
		"the newest once more as the next": "max(number)+1, (SELECT body FROM changes ORDER BY number DESC LIMIT 1)",
		"the one before as the next":       "max(number)+1, (SELECT body FROM changes ORDER BY number DESC OFFSET 1 LIMIT 1)",
		"nonsense as the next":             "max(number)+1, 'x'",
		"nonsense after a gap":             "max(number)+2, 'x'",
	} {
		all = append(all, tampering{name: "changes: insert " + name, sql: "INSERT INTO changes SELECT " + values + " FROM changes", forged: true})
	}
	all = append(all, tampering{name: "changes: take the permission", sql: "ALTER TABLE changes OWNER TO postgres"})
	slices.SortFunc(all, func(a, b tampering) int { return strings.Compare(a.name, b.name) })
	return all
}

// dropConstraints has a table take any row.
const dropConstraints = `DO $$ DECLARE r record; BEGIN
	FOR r IN SELECT conname, conrelid::regclass AS t FROM pg_constraint WHERE confrelid = 'public.%[1]s'::regclass OR conrelid = 'public.%[1]s'::regclass ORDER BY contype <> 'f' LOOP
		EXECUTE format('ALTER TABLE %%s DROP CONSTRAINT IF EXISTS %%I CASCADE', r.t, r.conname);
	END LOOP;
END $$`

// program gives one of PostgreSQL's programs.
func program(t *testing.T, f *fleettest.Fleet, name string, args ...string) {
	t.Helper()
	path := fmt.Sprintf("/usr/lib/postgresql/%d/bin/%s", f.Primary.Version, name)
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// save keeps the database, and gives what puts it back as it was, in one transaction, but
// for the changes that nodes have made meanwhile: to take those away would be another attack
// ([TestTakenBack]).
func (s *superuser) save() (restore func(forged bool)) {
	s.t.Helper()
	url := s.f.Primary.In(s.f.Database)
	dump := filepath.Join(s.t.TempDir(), "dump.sql")
	program(s.t, s.f, "pg_dump", "--dbname="+url, "--file="+dump)
	text, err := os.ReadFile(dump)
	if err != nil {
		s.t.Fatal(err)
	}
	var last int64
	if err := s.conn.QueryRow(s.t.Context(), "SELECT max(number) FROM changes").Scan(&last); err != nil {
		s.t.Fatal(err)
	}
	return func(forged bool) {
		s.t.Helper()
		before, after := "", ""
		if !forged && s.do("SELECT number, body FROM public.changes LIMIT 1") == nil {
			before = fmt.Sprintf("LOCK TABLE public.changes;\nCREATE TEMP TABLE newer AS SELECT number, body FROM public.changes WHERE number > %d;\n", last)
			after = "INSERT INTO public.changes (number, body) SELECT number, body FROM newer;\n"
		}
		const clean = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO PUBLIC;\n"
		if err := os.WriteFile(dump, []byte(before+clean+string(text)+after), 0o600); err != nil {
			s.t.Fatal(err)
		}
		program(s.t, s.f, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-1", "-f", dump, url)
	}
}

// matrix is a fleet whose database is changed by hand, case after case.
type matrix struct {
	*superuser
	blocked bool // whether the key that is changed is blocked
}

// always is a key that is blocked all the time.
const always = "always-blocked"

// coded are lines of a node's log that tell a fault.
var coded = regexp.MustCompile(`(?m)level=(?:ERROR|WARN) .*\b(E_(?:FLEET|DATABASE|STATE)_[A-Z_]+)`)

// told gives the codes that a node has told after its log had so many bytes, and in /readyz.
func told(n *fleettest.Node, from int) (codes []string) {
	for _, m := range coded.FindAllStringSubmatch(n.Server.Log.String()[from:], -1) {
		if !slices.Contains(codes, m[1]) {
			codes = append(codes, m[1])
		}
	}
	return codes
}

// toggle has a node block the key, or take that back.
func (m *matrix) toggle(n *fleettest.Node) error {
	do := n.TryBlock
	if m.blocked {
		do = n.TryUnblock
	}
	err := do(other)
	if err == nil {
		m.blocked = !m.blocked
	}
	return err
}

// as says whether a node serves as the sealed state says.
func (m *matrix) as(n *fleettest.Node) bool {
	if m.blocked {
		return n.Refuses(other, blocked)
	}
	_, err := n.Ask(other)
	return err == nil
}

// check looks that no node does what the sealed state does not allow.
func (m *matrix) check(t *testing.T, name string) {
	t.Helper()
	for _, n := range m.f.Nodes {
		if _, err := n.Ask(always); err == nil {
			t.Errorf("%s: %s serves a key that is blocked", name, n.Name)
		}
		if _, err := n.Ask(cached); err != nil {
			if _, ready := n.Ready(); ready {
				t.Errorf("%s: %s is ready, and refuses a key that is enabled: %v", name, n.Name, err)
			}
		}
	}
}

// foundWithin is how soon it must be told what has an effect.
const foundWithin = 5 * time.Second

// TestTampered: whatever a superuser does to the tables of the log while three nodes run, no
// request has another outcome than the sealed state says; and what he did is told by a node
// within five seconds, or a change is made and in effect as if nothing had been. With the
// database put back, the nodes go on by themselves.
func TestTampered(t *testing.T) {
	f := start(t, fleettest.Options{})
	f.NewKey(always, appliance.CustodyCached)
	f.Nodes[0].Block(always)
	for _, n := range f.Nodes {
		n.Await("refuses the key that is blocked", func() bool { return n.Refuses(always, blocked) })
	}
	m := &matrix{superuser: newSuperuser(t, f)}
	all := tamperings(m.columns())
	outcome := map[string]int{}
	for i, x := range all {
		outcome[m.try(t, x, f.Nodes[i%len(f.Nodes)])]++
	}
	t.Logf("%d kinds: %v", len(all), outcome)
}

// try does one thing, and gives what came of it.
func (m *matrix) try(t *testing.T, x tampering, at *fleettest.Node) string {
	t.Helper()
	restore := m.save()
	before := make([]int, len(m.f.Nodes))
	for i, n := range m.f.Nodes {
		before[i] = len(n.Server.Log.String())
	}
	began := time.Now()
	sql := x.sql
	if x.free != "" {
		sql = fmt.Sprintf(dropConstraints, x.free) + ";" + sql
	}
	if err := m.do(sql); err != nil {
		t.Errorf("%s: %v", x.name, err)
		return "not done"
	}
	codes := func() (all []string) {
		for i, n := range m.f.Nodes {
			all = append(all, told(n, before[i])...)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	made := m.toggle(at)
	result, found := "", time.Duration(0)
	for result == "" && time.Since(began) < foundWithin {
		switch {
		case len(codes()) > 0:
			result, found = "told", time.Since(began)
		case made == nil && !slices.ContainsFunc(m.f.Nodes, func(n *fleettest.Node) bool { return !m.as(n) }):
			result, found = "without effect", time.Since(began)
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
	m.check(t, x.name)
	if result == "" {
		t.Errorf("%s: not told within %v, and a change has no effect: %v", x.name, foundWithin, made)
	}
	t.Logf("%-50s %-15s %8v %v", x.name, result, found.Round(time.Millisecond), codes())
	restore(x.forged && made != nil)
	m.recover(t, x.name, at)
	return result
}

// recover waits until a change is made and in effect again.
func (m *matrix) recover(t *testing.T, name string, at *fleettest.Node) {
	t.Helper()
	began := time.Now()
	for {
		err := m.toggle(at)
		if err == nil {
			break
		}
		if time.Since(began) > fleettest.Patience/2 {
			t.Fatalf("%s: with the database put back, the nodes do not go on: %v", name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, n := range m.f.Nodes {
		n.Await("is as before, with the database put back after "+name, func() bool { return m.as(n) })
	}
}
