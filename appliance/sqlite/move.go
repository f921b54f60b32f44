package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Split copies a database into two: the rows that a fleet shares, with their manifests, whose
// chain goes on; and those of this machine, without any. Both are sealed as they are when
// their state is opened. The files must not exist. The database may be open.
func Split(ctx context.Context, from, shared, machine string) error {
	if err := copyPart(ctx, from, shared, ofFleet); err != nil {
		return refuse(shared, err)
	}
	if err := copyPart(ctx, from, machine, func(table string) bool { return slices.Contains(machineTables, table) }); err != nil {
		return refuse(machine, err)
	}
	return nil
}

// Join copies the rows that a fleet shares and those of this machine into one database.
func Join(ctx context.Context, shared, machine, to string) error {
	err := copyPart(ctx, shared, to, ofFleet)
	if err != nil {
		return refuse(to, err)
	}
	if err := alter(ctx, to, func(c *sql.Conn, tables []string) error {
		if _, err := c.ExecContext(ctx, `ATTACH DATABASE ? AS machine`, machine); err != nil {
			return err
		}
		for _, table := range tables {
			if !slices.Contains(machineTables, table) || table == "taken_changes" || table == "seen_head" {
				continue
			}
			if _, err := c.ExecContext(ctx, fmt.Sprintf(`INSERT INTO main.%q SELECT * FROM machine.%q`, table, table)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return refuse(to, err)
	}
	return nil
}

func ofFleet(table string) bool { return !slices.Contains(machineTables, table) }

// copyPart copies a database with the rows of some tables alone.
func copyPart(ctx context.Context, from, to string, keep func(table string) bool) error {
	if err := copyAtOneMoment(ctx, from, to); err != nil {
		return err
	}
	return alter(ctx, to, func(c *sql.Conn, tables []string) error {
		for _, table := range tables {
			if slices.Contains(engineTables, table) || keep(table) {
				continue
			}
			if _, err := c.ExecContext(ctx, fmt.Sprintf(`DELETE FROM %q`, table)); err != nil {
				return err
			}
		}
		return nil
	})
}

// alter changes rows of a file that nobody else has open.
func alter(ctx context.Context, path string, f func(c *sql.Conn, tables []string) error) (err error) {
	db, err := sql.Open("sqlite", strings.Replace(dsn(path), "foreign_keys%281%29", "foreign_keys%280%29", 1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	rows, err := c.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	if err := f(c, tables); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, `VACUUM`)
	return err
}
