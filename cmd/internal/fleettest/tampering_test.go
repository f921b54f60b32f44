//go:build fleet

package fleettest_test

import (
	"fmt"
	"slices"
	"strings"
)

// outcome is what comes of a tampering.
type outcome string

const (
	// told: a node says that something is wrong with the database, by a code.
	told outcome = "told"
	// harmless: what nodes do goes on as if nothing had been, changes too.
	harmless outcome = "without effect"
)

// place is what a table is to nodes that run.
type place string

const (
	// next: nodes append to it, and read what is newer than what they have. What they have
	// stays with each of them.
	next place = "the log"
	// connecting: it is read at each new connection.
	connecting place = "read by new connections"
	// beginning: only a node that begins reads it, and what it reads there is authenticated.
	beginning place = "read by nodes that begin"
	// hint: it says where nodes may be, and decides nothing.
	hint place = "hints"
)

// places are those of the tables; a table that is new must have one.
var places = map[string]place{
	"changes":         next,
	"compatibility":   connecting,
	"founding":        beginning,
	"founding_claim":  beginning,
	"holdfast_schema": beginning,
	"nodes":           hint,
	"snapshot_parts":  beginning,
	"snapshots":       beginning,
}

// tampering is one thing that a superuser does.
type tampering struct {
	table, column string // the column is empty for what is done to the whole table
	kind, sql     string
	expect        outcome
	// codes are those by which it is told: one of them is enough. E_DATABASE_AWAY is none: to
	// end the nodes' connections gives that, whatever else was done.
	codes []string
}

func (x *tampering) name() string {
	name := x.table
	if x.column != "" {
		name += "." + x.column
	}
	return name + ": " + x.kind
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
	newest = "(SELECT max(ctid) FROM public.%[1]s)"
	oldest = "(SELECT min(ctid) FROM public.%[1]s)"
)

// ofColumns are done to each column: %[1]s is the table, %[2]s the column, %[3]s another
// value.
var ofColumns = []struct {
	kind, sql string
	// bytea says that it is done to columns of bytes.
	bytea bool
}{
	{kind: "change the newest", sql: "UPDATE public.%[1]s SET %[2]s = %[3]s WHERE ctid = " + newest},
	{kind: "change the oldest", sql: "UPDATE public.%[1]s SET %[2]s = %[3]s WHERE ctid = " + oldest},
	{kind: "change all", sql: "UPDATE public.%[1]s SET %[2]s = %[3]s"},
	{kind: "null", sql: "ALTER TABLE public.%[1]s ALTER %[2]s DROP NOT NULL; UPDATE public.%[1]s SET %[2]s = NULL WHERE ctid = " + newest},
	{kind: "swap two", sql: "UPDATE public.%[1]s AS a SET %[2]s = b.%[2]s FROM public.%[1]s AS b WHERE a.ctid IN (" + newest + ", " + oldest + ") AND b.ctid IN (" + newest + ", " + oldest + ") AND a.ctid <> b.ctid"},
	{kind: "put the old values back", sql: "UPDATE public.%[1]s AS a SET %[2]s = b.%[2]s FROM (SELECT %[2]s, row_number() OVER () AS i FROM began.%[1]s) AS b, (SELECT ctid AS at, row_number() OVER () AS i FROM public.%[1]s) AS c WHERE a.ctid = c.at AND b.i = c.i"},
	{kind: "empty", sql: "UPDATE public.%[1]s SET %[2]s = '' WHERE ctid = " + newest, bytea: true},
	{kind: "lengthen", sql: "UPDATE public.%[1]s SET %[2]s = %[2]s || %[2]s WHERE ctid = " + newest, bytea: true},
	{kind: "drop", sql: "ALTER TABLE public.%[1]s DROP COLUMN %[2]s CASCADE"},
	{kind: "rename", sql: "ALTER TABLE public.%[1]s RENAME COLUMN %[2]s TO moved"},
}

// ofTables are done to each table: %[1]s is it, %[2]s all its columns.
var ofTables = []struct{ kind, sql string }{
	{"delete the newest", "DELETE FROM public.%[1]s WHERE ctid = " + newest},
	{"delete the oldest", "DELETE FROM public.%[1]s WHERE ctid = " + oldest},
	{"truncate", "TRUNCATE public.%[1]s CASCADE"},
	{"insert the newest twice", "INSERT INTO public.%[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM public.%[1]s WHERE ctid = " + newest},
	{"put an old row beside", "INSERT INTO public.%[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM began.%[1]s LIMIT 1"},
	{"put back", "DELETE FROM public.%[1]s; INSERT INTO public.%[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM began.%[1]s"},
	{"drop", "DROP TABLE public.%[1]s CASCADE"},
	{"rename", "ALTER TABLE public.%[1]s RENAME TO moved"},
	{"take the permission", "ALTER TABLE public.%[1]s OWNER TO postgres"},
	{"hide the rows", "ALTER TABLE public.%[1]s ENABLE ROW LEVEL SECURITY; ALTER TABLE public.%[1]s FORCE ROW LEVEL SECURITY"},
}

// forgeries are changes that no node has made, and a database that does something else than
// it was told.
var forgeries = []struct {
	kind, sql string
	expect    outcome
}{
	{"insert the newest as the next", "INSERT INTO public.changes SELECT max(number)+1, (SELECT body FROM public.changes ORDER BY number DESC LIMIT 1) FROM public.changes", told},
	{"insert the one before as the next", "INSERT INTO public.changes SELECT max(number)+1, (SELECT body FROM public.changes ORDER BY number DESC OFFSET 1 LIMIT 1) FROM public.changes", told},
	{"insert nonsense as the next", "INSERT INTO public.changes SELECT max(number)+1, 'x' FROM public.changes", told},
	{"insert nonsense that follows", "INSERT INTO public.changes SELECT max(number)+1, sha256('c' || (SELECT body FROM public.changes ORDER BY number DESC LIMIT 1)) || decode(repeat('00', 100), 'hex') FROM public.changes", told},
	{"insert nonsense after a gap", "INSERT INTO public.changes SELECT max(number)+2, 'x' FROM public.changes", told},
	{"insert the last number that there is", "INSERT INTO public.changes VALUES (9223372036854775807, 'x')", told},
	{"swallow what is appended", trigger("RETURN NULL"), told},
	{"alter what is appended", trigger("NEW.body = NEW.body || 'x'; RETURN NEW"), told},
	{"renumber what is appended", trigger("NEW.number = NEW.number + 1; RETURN NEW"), told},
	{"remove what was appended", "CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.changes WHERE number = NEW.number; RETURN NULL; END $$; " +
		"CREATE TRIGGER evil AFTER INSERT ON public.changes FOR EACH ROW EXECUTE FUNCTION public.evil()", told},
	{"refuse what is appended", trigger("RAISE EXCEPTION 'no'"), told},
	{"do nothing instead", "CREATE RULE evil AS ON INSERT TO public.changes DO INSTEAD NOTHING", told},
	{"show a view of it", "ALTER TABLE public.changes RENAME TO moved; CREATE VIEW public.changes AS SELECT * FROM public.moved", told},
}

func trigger(body string) string {
	return "CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + body + "; END $$; " +
		"CREATE TRIGGER evil BEFORE INSERT ON public.changes FOR EACH ROW EXECUTE FUNCTION public.evil()"
}

// tamperings are generated from the columns that there are. Rows is how many a table has.
func tamperings(columns []column, rows func(table string) int) (all []*tampering) {
	names := map[string][]string{}
	for _, c := range columns {
		names[c.table] = append(names[c.table], c.name)
	}
	few := map[string]bool{}
	for table := range names {
		few[table] = rows(table) < 2
	}
	last := ""
	for _, c := range columns {
		if c.table != last {
			last = c.table
			for _, k := range ofTables {
				all = append(all, &tampering{table: c.table, kind: k.kind, sql: fmt.Sprintf(k.sql, c.table, strings.Join(names[c.table], ", "))})
			}
		}
		for _, k := range ofColumns {
			// With one row these are another kind once more.
			if k.bytea && c.kind != "bytea" || few[c.table] && (k.kind == "change the oldest" || k.kind == "change all" || k.kind == "swap two") {
				continue
			}
			all = append(all, &tampering{table: c.table, column: c.name, kind: k.kind, sql: fmt.Sprintf(k.sql, c.table, c.name, c.another())})
		}
	}
	for _, x := range all {
		x.expect = expected(x)
	}
	for _, k := range forgeries {
		all = append(all, &tampering{table: "changes", kind: k.kind, sql: k.sql, expect: k.expect})
	}
	for _, x := range all {
		x.codes = tellingCodes(x)
	}
	return all
}

// tellingCodes gives the codes that may tell a tampering.
func tellingCodes(x *tampering) []string {
	switch {
	case x.kind == "take the permission", x.kind == "show a view of it": // the view is another owner's
		return []string{"E_DATABASE_REFUSED"}
	case x.kind == "hide the rows" && places[x.table] == next: // from who reads, and from who appends
		return []string{"E_FLEET_LOG", "E_DATABASE_REFUSED"}
	case places[x.table] == connecting && x.column != "" && strings.HasPrefix(x.kind, "change "):
		return []string{"E_DATABASE_NEWER"}
	}
	return []string{"E_FLEET_LOG"}
}

// toldBy says whether one of the codes tells it.
func (x *tampering) toldBy(codes []string) bool {
	return slices.ContainsFunc(codes, func(code string) bool { return slices.Contains(x.codes, code) })
}

// withheld are the kinds that keep nodes from a whole table.
var withheld = []string{"drop", "rename", "take the permission", "hide the rows"}

// expected says what comes of a tampering, by the place of its table and its column.
func expected(x *tampering) outcome {
	toldIf := func(so bool) outcome {
		if so {
			return told
		}
		return harmless
	}
	switch places[x.table] {
	case next:
		// What nodes have, they keep; so it matters what keeps them from the next change, and
		// what stands in its place.
		return toldIf(slices.Contains(withheld, x.kind) || x.column == "number" && (x.kind == "change the newest" || x.kind == "change all"))
	case connecting:
		if x.column == "" {
			return toldIf(x.kind != "put back") // no row says it, or two do
		}
		return toldIf(x.column == "oldest" && x.kind != "put the old values back")
	}
	return harmless
}

// dropConstraints has a table take any row.
const dropConstraints = `DO $$ DECLARE r record; BEGIN
	FOR r IN SELECT conname, conrelid::regclass AS t FROM pg_constraint WHERE confrelid = 'public.%[1]s'::regclass OR conrelid = 'public.%[1]s'::regclass ORDER BY contype <> 'f' LOOP
		EXECUTE format('ALTER TABLE %%s DROP CONSTRAINT IF EXISTS %%I CASCADE', r.t, r.conname);
	END LOOP;
	FOR r IN SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = '%[1]s' AND is_identity = 'YES' LOOP
		EXECUTE format('ALTER TABLE public.%[1]s ALTER %%I DROP IDENTITY', r.column_name);
	END LOOP;
END $$; `

// oneNext has only one change get the next number, though the table takes any row: if two
// nodes could have it, there were two logs, which people must bring together
// ([TestForked]).
const oneNext = `DO $$ BEGIN
	EXECUTE format('CREATE UNIQUE INDEX ON public.changes (number) WHERE number > %s', (SELECT max(number) FROM public.changes));
END $$; `

// endConnections has the nodes connect again, which they do from time to time.
const endConnections = `; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'holdfast'`

// statements is what psql is given.
func (x *tampering) statements() string {
	sql := x.sql
	if x.kind != "drop" && x.kind != "rename" {
		before := fmt.Sprintf(dropConstraints, x.table)
		if places[x.table] == next {
			before += oneNext
		}
		sql = before + sql
	}
	if places[x.table] == connecting {
		sql += endConnections
	}
	return sql
}
