package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Snapshot implements [appliance.Store].
func (s *DB) Snapshot(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fault.Errorf(fault.Exists, "%s exists already", path)
	}
	c, err := s.db.Conn(ctx)
	if err != nil {
		return failed("the database could not be read", err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		_ = os.Remove(path)
		if ctx.Err() != nil {
			return timeout(ctx)
		}
		return failed("the database could not be copied", err)
	}
	return os.Chmod(path, 0o600)
}

// ownTables are about this machine, and not part of what is moved to another.
var ownTables = []string{"boot_steps", "policy_version", "goose_db_version"}

// remaining says which rows of a table outlive a restore, as an SQL condition; of
// tables that are not here all do. The others could do harm that somebody has
// prevented since the backup. Nobody stays signed in, and no token is valid that may
// have been revoked. Nobody approves today what was asked for then. And the noted
// objects of the HSM's token are another appliance's to destroy.
var remaining = map[string]string{
	"sessions":      "false",
	"invitations":   "false",
	"api_tokens":    "false",
	"approvals":     "state NOT IN ('pending', 'approved')",
	"token_objects": "false",
}

// Replace implements [appliance.Store].
func (s *DB) Replace(ctx context.Context, path string) error {
	from, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return failed("the other database could not be read", err)
	}
	defer from.Close()
	return s.write(ctx, func(c *conn) error {
		var stores int
		if _, err := c.one([]any{&stores}, `SELECT count(*) FROM key_stores`); err != nil {
			return err
		}
		if stores > 0 {
			return fault.Errorf(fault.Conflict, "this appliance has %d key stores already; restore into a fresh one", stores)
		}
		return copyTables(ctx, from, c)
	}, appliance.Change{})
}

// copyTables puts the rows of one database in the place of another's, of the same
// schema.
func copyTables(ctx context.Context, from *sql.DB, to *conn) error {
	// Rows may come before those that they refer to; the commit checks.
	if _, err := to.exec("PRAGMA defer_foreign_keys = 1"); err != nil {
		return err
	}
	var tables []string
	err := to.each(ctx, func(scan scanner) error {
		var name string
		err := scan(&name)
		if !slices.Contains(ownTables, name) && !strings.HasPrefix(name, "sqlite_") {
			tables = append(tables, name)
		}
		return err
	}, `SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := to.exec(fmt.Sprintf("DELETE FROM %q", t)); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if err := copyTable(ctx, from, to, t, cmp.Or(remaining[t], "true")); err != nil {
			return fmt.Errorf("table %s: %w", t, err)
		}
	}
	return nil
}

// copyTable copies the rows for which the condition is true.
func copyTable(ctx context.Context, from *sql.DB, to *conn, table, condition string) error {
	rows, err := from.QueryContext(ctx, fmt.Sprintf("SELECT * FROM %q WHERE %s", table, condition))
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = fmt.Sprintf("%q", c)
	}
	insert := fmt.Sprintf("INSERT INTO %q (%s) VALUES (?%s)", table, strings.Join(names, ", "), strings.Repeat(", ?", len(columns)-1))
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if _, err := to.exec(insert, values...); err != nil {
			return err
		}
	}
	return rows.Err()
}
