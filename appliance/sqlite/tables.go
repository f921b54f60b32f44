package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// machineTables are about this machine. All others but the engine's own are shared by
// a fleet: a snapshot has them.
var machineTables = []string{"audit_head", "boot_steps", "policy_version", "master_key_making", "seen_head", "taken_changes", "witnessed_time"}

// manifestTables authenticate the others. A snapshot does not have them: what is restored
// is sealed as it is then.
var manifestTables = []string{"manifests", "manifest_history"}

// engineTables are neither: what goose notes about migrations.
var engineTables = []string{"goose_db_version"}

// remaining says which rows of a table outlive a restore, as an SQL condition; of
// tables that are not here all do. The others could do harm that somebody has
// prevented since the backup. Nobody stays signed in, and no token is valid that may
// have been revoked. Nobody approves today what was asked for then. The noted
// objects of the HSM's token are another appliance's to destroy. And the nodes of then are
// no nodes of a fleet that begins with a backup.
var remaining = map[string]string{
	"sessions":      "false",
	"spent":         "false", // no session, and no ceremony that was begun, outlives a restore
	"answers":       "false", // what was done then with a key was done to another state
	"invitations":   "false",
	"api_tokens":    "false",
	"approvals":     "state NOT IN ('pending', 'approved')",
	"token_objects": "false",
	"nodes":         "false",
	"leader":        "false",
}

// table is a table that a fleet shares.
type table struct {
	name    string
	columns []string
	key     []string // of columns, the primary key
	parents []string // the tables that its rows refer to
	// initial is the value of each column in rows that do not state it. Only patterns have it.
	initial []any
}

// allTables gives all tables, but SQLite's own.
func allTables(ctx context.Context, c *conn) ([]table, error) {
	names, err := words(ctx, c, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`)
	if err != nil {
		return nil, err
	}
	list := make([]table, len(names))
	for i, name := range names {
		t := &list[i]
		t.name = name
		if t.columns, err = words(ctx, c, `SELECT name FROM pragma_table_info(?) ORDER BY cid`, name); err != nil {
			return nil, err
		}
		if t.key, err = words(ctx, c, `SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk`, name); err != nil {
			return nil, err
		}
		if t.parents, err = words(ctx, c, `SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)`, name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// shared gives the tables that a fleet shares, those first that others refer to.
func shared(ctx context.Context, c *conn) ([]table, error) {
	all, err := allTables(ctx, c)
	if err != nil {
		return nil, err
	}
	var left []table
	for _, t := range all {
		if !slices.Contains(machineTables, t.name) && !slices.Contains(engineTables, t.name) && !slices.Contains(manifestTables, t.name) {
			left = append(left, t)
		}
	}
	return parentsFirst(left)
}

func parentsFirst(left []table) (ordered []table, err error) {
	for len(left) > 0 {
		waits := func(t table) bool {
			return slices.ContainsFunc(left, func(other table) bool { return other.name != t.name && slices.Contains(t.parents, other.name) })
		}
		i := slices.IndexFunc(left, func(t table) bool { return !waits(t) })
		if i < 0 {
			return nil, fmt.Errorf("the tables refer to each other in a circle: %v", left)
		}
		ordered = append(ordered, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return ordered, nil
}

// words gives the only column of a query.
func words(ctx context.Context, c *conn, query string, args ...any) (list []string, err error) {
	err = c.each(ctx, func(scan scanner) error {
		var s string
		err := scan(&s)
		list = append(list, s)
		return err
	}, query, args...)
	return list, err
}

// quoted gives names as SQL has them, with commas between.
func quoted(names []string) string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = fmt.Sprintf("%q", n) // they are letters and '_'
	}
	return strings.Join(list, ", ")
}
