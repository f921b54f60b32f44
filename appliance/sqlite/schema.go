package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"holdfast/appliance/fault"
)

// schemaObject is a row of sqlite_schema.
type schemaObject struct{ kind, name, table, sql string }

// String names the object, and the table that it is on.
func (o schemaObject) String() string {
	if o.name == o.table {
		return fmt.Sprintf("%s %.80q", o.kind, o.name)
	}
	return fmt.Sprintf("%s %.80q on %.80q", o.kind, o.name, o.table)
}

// schemaOf reads the schema of a database.
func schemaOf(ctx context.Context, query func(context.Context, string, ...any) (*sql.Rows, error)) ([]schemaObject, error) {
	rows, err := query(ctx, `SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []schemaObject
	for rows.Next() {
		var o schemaObject
		if err := rows.Scan(&o.kind, &o.name, &o.table, &o.sql); err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, rows.Err()
}

// pattern is what the migrations up to a version make: the schema, and the columns.
type pattern struct {
	objects []schemaObject
	tables  []table
}

var patterns struct {
	sync.Mutex
	made map[int64]*pattern
}

// patternOf gives what the migrations make of an empty database.
func patternOf(ctx context.Context, schema int64) (*pattern, error) {
	patterns.Lock()
	defer patterns.Unlock()
	if p := patterns.made[schema]; p != nil {
		return p, nil
	}
	db, err := sql.Open("sqlite", "file::memory:?_dqs=0")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := migrateTo(ctx, db, schema); err != nil {
		return nil, err
	}
	p := &pattern{}
	if p.objects, err = schemaOf(ctx, db.QueryContext); err != nil {
		return nil, err
	}
	c, err := newConn(ctx, db)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if p.tables, err = allTables(ctx, c); err != nil {
		return nil, err
	}
	for i := range p.tables {
		if p.tables[i].initial, err = initialValues(c, &p.tables[i]); err != nil {
			return nil, err
		}
	}
	if patterns.made == nil {
		patterns.made = map[int64]*pattern{}
	}
	patterns.made[schema] = p
	return p, nil
}

// initialValues gives the values that the columns of a table have in rows that do not state
// them: SQLite itself makes such a row, without what else its columns demand.
func initialValues(c *conn, t *table) ([]any, error) {
	columns, err := words(context.Background(), c, `SELECT printf('"%w" %s DEFAULT (%s)', name, type, coalesce(dflt_value, 'NULL')) FROM pragma_table_info(?) ORDER BY cid`, t.name)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{fmt.Sprintf(`CREATE TEMP TABLE initial (%s)`, strings.Join(columns, ", ")), `INSERT INTO initial DEFAULT VALUES`} {
		if _, err := c.c.ExecContext(context.Background(), statement); err != nil {
			return nil, err
		}
	}
	var values []any
	if err := c.raw(context.Background(), func(row []any) { values = cloneRow(row) }, `SELECT * FROM initial`); err != nil {
		return nil, err
	}
	_, err = c.c.ExecContext(context.Background(), `DROP TABLE initial`)
	return values, err
}

// checkSchema says what in a database is not what the migrations make: a trigger, a view,
// an index or a table that is added, removed or written otherwise. It is compared byte
// for byte, since each of them can have a change do something else than it says.
func checkSchema(ctx context.Context, query func(context.Context, string, ...any) (*sql.Rows, error), schema int64) error {
	p, err := patternOf(ctx, schema)
	if err != nil {
		return err
	}
	there, err := schemaOf(ctx, query)
	if err != nil {
		return err
	}
	for _, o := range there {
		if slices.Contains(p.objects, o) || (o.kind == "table" && slices.Contains(engineTables, o.name)) {
			continue
		}
		if slices.ContainsFunc(p.objects, func(want schemaObject) bool { return want.kind == o.kind && want.name == o.name }) {
			return schemaFault("the %s is not what Holdfast made", o)
		}
		return schemaFault("the %s is not Holdfast's", o)
	}
	for _, want := range p.objects {
		if !slices.Contains(there, want) && !slices.Contains(engineTables, want.name) {
			return schemaFault("it lacks the %s", want)
		}
	}
	return nil
}

func schemaFault(format string, args ...any) error {
	return fault.Errorf(fault.StateSchema, "the database's schema was changed by something else than Holdfast: %s", fmt.Sprintf(format, args...))
}
