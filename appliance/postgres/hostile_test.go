package postgres_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// sqls is SQL as somebody with all rights runs it.
func sqls(s *postgrestest.Server, database string, statements ...string) {
	for _, one := range statements {
		s.ExecIn(database, one)
	}
}

// methods are all that ask the database.
func methods(t *testing.T, l *postgres.Log) map[string]func() error {
	ctx := t.Context()
	return map[string]func() error{
		"Append":   func() error { return l.Append(ctx, 3, []byte("three")) },
		"Changes":  func() error { _, err := l.Changes(ctx, 1, 10); return err },
		"Newest":   func() error { _, err := l.Newest(ctx); return err },
		"Founding": func() error { _, err := l.Founding(ctx); return err },
		"ClaimFounding": func() error {
			_, err := l.ClaimFounding(ctx, "n", time.Second)
			return err
		},
		"Found": func() error {
			return l.Found(ctx, &appliance.Founding{Installation: "i", WrappedStateKey: []byte("k")})
		},
		"Snapshot": func() error {
			_, parts, err := l.Snapshot(ctx)
			if err != nil {
				return err
			}
			for _, err := range parts {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"KeepSnapshot": func() error { return l.KeepSnapshot(ctx, 2, changelogtest.Parts(nil, []byte("part"))) },
		"Forget":       func() error { return l.Forget(ctx, 1) },
		"Announce":     func() error { return l.Announce(ctx, appliance.NodeHint{ID: "n", Address: "a:1"}) },
		"Nodes":        func() error { _, err := l.Nodes(ctx); return err },
		"RemoveNode":   func() error { return l.RemoveNode(ctx, "n") },
	}
}

// codes are those that a method may give, whatever stands in the database.
var codes = []fault.Code{"", fault.FleetLog, fault.NotFound, fault.Exists, fault.Changed, fault.Conflict, fault.DatabaseRefused}

const free = `ALTER TABLE changes DROP CONSTRAINT changes_pkey, DROP CONSTRAINT changes_number_check, ALTER COLUMN number DROP NOT NULL, ALTER COLUMN body DROP NOT NULL;
	ALTER TABLE snapshots DROP CONSTRAINT snapshots_number_check, DROP CONSTRAINT snapshots_check, DROP CONSTRAINT snapshots_parts_check, ALTER COLUMN number DROP NOT NULL, ALTER COLUMN parts DROP NOT NULL;
	ALTER TABLE snapshot_parts DROP CONSTRAINT snapshot_parts_pkey, DROP CONSTRAINT snapshot_parts_part_check, ALTER COLUMN body DROP NOT NULL;
	ALTER TABLE founding DROP CONSTRAINT founding_pkey, DROP CONSTRAINT founding_one_check, ALTER COLUMN installation DROP NOT NULL, ALTER COLUMN wrapped_state_key DROP NOT NULL;
	ALTER TABLE nodes DROP CONSTRAINT nodes_pkey, ALTER COLUMN id DROP NOT NULL, ALTER COLUMN address DROP NOT NULL, ALTER COLUMN at DROP NOT NULL;
	ALTER TABLE compatibility DROP CONSTRAINT compatibility_pkey, DROP CONSTRAINT compatibility_one_check;`

// TestHostileRows: whatever the database's superuser writes, a method gives what is right
// or a fault, and says what it found where it finds something; none panics, and none
// reads more than its limit.
func TestHostileRows(t *testing.T) {
	s := postgrestest.Start(t)
	const huge = `decode(repeat('00', 65 << 20), 'hex')`
	for what, c := range map[string]struct {
		sql string
		// damaged are the methods that must find it.
		damaged []string
	}{
		"nothing":                {"", nil},
		"negative number":        {"INSERT INTO changes VALUES (-5, 'x'), (0, 'x')", nil},
		"negative numbers alone": {"UPDATE changes SET number = -number", []string{"Newest"}},
		"gap":                    {"INSERT INTO changes VALUES (9, 'x')", nil},
		"number twice":           {"INSERT INTO changes VALUES (1, 'other')", []string{"Changes"}},
		"greatest number":        {"INSERT INTO changes VALUES (9223372036854775807, 'x')", nil},
		"no number":              {"INSERT INTO changes VALUES (NULL, 'x')", nil},
		"no body":                {"UPDATE changes SET body = NULL WHERE number = 1", []string{"Changes"}},
		"huge body":              {"UPDATE changes SET body = " + huge + " WHERE number = 1", []string{"Changes"}},
		"text for numbers":       {"ALTER TABLE changes ALTER COLUMN number TYPE text USING 'x'", []string{"Append", "Changes", "Newest", "Forget"}},
		"numeric for numbers":    {"ALTER TABLE changes ALTER COLUMN number TYPE numeric; UPDATE changes SET number = number + 1e40", []string{"Newest", "Append"}},
		"text for bodies":        {"ALTER TABLE changes ALTER COLUMN body TYPE text USING 'x\\'", []string{"Changes"}},
		"changes dropped":        {"DROP TABLE changes", []string{"Append", "Changes", "Newest", "Forget"}},
		"changes a view": {"ALTER TABLE changes RENAME TO c; CREATE VIEW changes AS SELECT number, body FROM c UNION ALL SELECT g, 'x' FROM generate_series(1, 5000) g",
			[]string{"Changes"}},
		"column dropped":              {"ALTER TABLE changes DROP COLUMN body", []string{"Append", "Changes"}},
		"snapshots dropped":           {"DROP TABLE snapshots CASCADE", []string{"Snapshot", "KeepSnapshot", "Forget"}},
		"parts dropped":               {"DROP TABLE snapshot_parts", []string{"Snapshot", "KeepSnapshot"}},
		"part missing":                {"DELETE FROM snapshot_parts WHERE part = 1", []string{"Snapshot"}},
		"part twice":                  {"INSERT INTO snapshot_parts SELECT * FROM snapshot_parts", []string{"Snapshot"}},
		"part without body":           {"UPDATE snapshot_parts SET body = NULL", []string{"Snapshot"}},
		"huge part":                   {"UPDATE snapshot_parts SET body = decode(repeat('00', 2 << 20), 'hex')", []string{"Snapshot"}},
		"negative count of parts":     {"UPDATE snapshots SET parts = -1", []string{"Snapshot"}},
		"no count of parts":           {"UPDATE snapshots SET parts = NULL", []string{"Snapshot"}},
		"endless parts":               {"UPDATE snapshots SET parts = 9223372036854775807", []string{"Snapshot"}},
		"negative snapshot":           {"UPDATE snapshots SET number = -1", []string{"Snapshot"}},
		"founding dropped":            {"DROP TABLE founding", []string{"Founding", "ClaimFounding", "Found"}},
		"founding twice":              {"INSERT INTO founding SELECT * FROM founding", []string{"Founding"}},
		"founding empty":              {"UPDATE founding SET installation = NULL", []string{"Founding"}},
		"founding huge":               {"UPDATE founding SET wrapped_state_key = decode(repeat('00', 1 << 20), 'hex')", []string{"Founding"}},
		"installation huge":           {"UPDATE founding SET installation = repeat('x', 1 << 20)", []string{"Founding"}},
		"claim dropped":               {"DROP TABLE founding_claim", []string{"ClaimFounding"}},
		"nodes dropped":               {"DROP TABLE nodes", []string{"Announce", "Nodes", "RemoveNode"}},
		"node of all time":            {"INSERT INTO nodes VALUES ('x', 'y', 'infinity'), ('y', 'z', '-infinity'), (NULL, NULL, NULL), ('z', NULL, '0044-03-15 BC')", nil},
		"huge node":                   {"INSERT INTO nodes VALUES (repeat('x', 1 << 20), 'y', now())", nil},
		"node with control character": {"INSERT INTO nodes VALUES (E'x\\ny', 'y', now())", nil},
		"endless nodes":               {"INSERT INTO nodes SELECT g::text, 'y', now() FROM generate_series(1, 5000) g", nil},
		"trigger that swallows":       {"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION f()", []string{"Append"}},
		"trigger that raises":         {"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION E'a\\nb %', repeat('x', 100000); END$$; CREATE TRIGGER t BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION f()", []string{"Append"}},
		"trigger that asserts":        {"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ASSERT false; END'; CREATE TRIGGER t BEFORE INSERT ON nodes FOR EACH ROW EXECUTE FUNCTION f()", []string{"Announce"}},
	} {
		t.Run(what, func(t *testing.T) {
			db := s.NewDatabase(t)
			l := open(t, postgres.Options{URL: s.In(db)})
			storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
			storetest.Must(t, l.Append(t.Context(), 2, []byte("two")))
			storetest.Must(t, l.KeepSnapshot(t.Context(), 2, changelogtest.Parts(nil, []byte("a"), []byte("b"))))
			storetest.Must(t, l.Found(t.Context(), &appliance.Founding{Installation: "i", WrappedStateKey: []byte("k")}))
			storetest.Must(t, l.Announce(t.Context(), appliance.NodeHint{ID: "n1", Address: "a:1"}))
			sqls(s, db, free)
			if c.sql != "" {
				sqls(s, db, c.sql)
			}
			all := methods(t, l)
			for _, name := range []string{"Changes", "Newest", "Snapshot", "Founding", "Nodes", "Append", "ClaimFounding", "Found", "Announce", "RemoveNode", "KeepSnapshot", "Forget"} {
				err := all[name]()
				code := fault.CodeOf(err)
				if !slices.Contains(codes, code) {
					t.Errorf("%s: got %v", name, err)
				}
				if err != nil && (len(err.Error()) > 2000 || slices.Contains([]byte(err.Error()), '\n')) {
					t.Errorf("%s: an error of %d bytes: %.3000q", name, len(err.Error()), err)
				}
				if slices.Contains(c.damaged, name) && code != fault.FleetLog {
					t.Errorf("%s does not find it: %v", name, err)
				}
			}
		})
	}
}

// TestTwoChangesOfOneNumber: a number that two changes have is found by who asks for it,
// however many are asked for.
func TestTwoChangesOfOneNumber(t *testing.T) {
	s := postgrestest.Start(t)
	db := s.NewDatabase(t)
	l := open(t, postgres.Options{URL: s.In(db)})
	for n := range 3 {
		storetest.Must(t, l.Append(t.Context(), uint64(n+1), []byte{byte(n)}))
	}
	sqls(s, db, "ALTER TABLE changes DROP CONSTRAINT changes_pkey; INSERT INTO changes VALUES (2, 'other')")
	for _, most := range []int{1, 2, 3, 64} {
		for from := range uint64(2) {
			_, err := l.Changes(t.Context(), from+1, most)
			if twice := from+1 == 2 || most > 1; twice != (fault.CodeOf(err) == fault.FleetLog) {
				t.Errorf("%d changes from %d on: %v", most, from+1, err)
			}
		}
		if _, err := l.Changes(t.Context(), 3, most); err != nil {
			t.Error(err)
		}
	}
}

// TestHostileSchema: tables that are missing from the start, and what says which release
// they are of.
func TestHostileSchema(t *testing.T) {
	s := postgrestest.Start(t)
	for what, c := range map[string]struct {
		sql  string
		code fault.Code
	}{
		"no compatibility":       {"DELETE FROM compatibility", fault.FleetLog},
		"negative compatibility": {"UPDATE compatibility SET oldest = -1", fault.FleetLog},
		"two compatibilities":    {"INSERT INTO compatibility SELECT * FROM compatibility", fault.FleetLog},
		"compatibility dropped":  {"DROP TABLE compatibility", fault.FleetLog},
		"versions dropped":       {"DROP TABLE holdfast_schema", fault.FleetLog},
		"negative version":       {"UPDATE holdfast_schema SET version_id = -5", fault.FleetLog},
		"another's table":        {"DROP TABLE holdfast_schema; CREATE TABLE holdfast_schema (x int)", fault.FleetLog},
	} {
		t.Run(what, func(t *testing.T) {
			db := s.NewDatabase(t)
			open(t, postgres.Options{URL: s.In(db)}).Close()
			sqls(s, db, free, c.sql)
			refused(t, postgres.Options{URL: s.In(db)}, c.code, "")
		})
	}
}

// TestLimits: what is too long is refused before it is sent.
func TestLimits(t *testing.T) {
	s := postgrestest.Start(t)
	l := open(t, postgres.Options{URL: s.Database(t)})
	ctx := t.Context()
	storetest.Must(t, l.Append(ctx, 1, make([]byte, postgres.MaxBody)))
	storetest.Wants(t, l.Append(ctx, 2, make([]byte, postgres.MaxBody+1)), fault.Invalid, "several changes")
	storetest.Must(t, l.Append(ctx, 2, []byte("two")))
	// An answer has at least one change, and no more than fits.
	for from, want := range map[uint64]int{1: 1, 2: 1} {
		if got, err := l.Changes(ctx, from, 10); err != nil || len(got) != want {
			t.Errorf("from %d: got %d changes, %v", from, len(got), err)
		}
	}
	for n := range uint64(2000) {
		s := fmt.Sprint(n)
		storetest.Must(t, l.Append(ctx, n+3, []byte(s)))
	}
	if got, err := l.Changes(ctx, 2, 5000); err != nil || len(got) != 1000 {
		t.Errorf("got %d changes, %v", len(got), err)
	}
	long := string(make([]byte, 300))
	for _, id := range []string{"", long, "a\nb", "\xff"} {
		storetest.Wants(t, l.Announce(ctx, appliance.NodeHint{ID: id, Address: "a:1"}), fault.Invalid, "ID of the node")
		storetest.Wants(t, l.Announce(ctx, appliance.NodeHint{ID: "n", Address: id}), fault.Invalid, "address")
		storetest.Wants(t, l.RemoveNode(ctx, id), fault.Invalid, "ID of the node")
		storetest.Wants(t, l.Found(ctx, &appliance.Founding{Installation: id}), fault.Invalid, "ID of the installation")
		_, err := l.ClaimFounding(ctx, id, time.Second)
		storetest.Wants(t, err, fault.Invalid, "ID of the node")
	}
	storetest.Wants(t, l.Found(ctx, &appliance.Founding{Installation: "i", WrappedStateKey: make([]byte, 65<<10)}), fault.Invalid, "bytes")
}
