package postgres

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"holdfast/appliance/fault"
)

//go:embed migrations/*.sql
var embedded embed.FS

// schema is what this release knows of the tables.
type schema struct {
	migrations fs.FS
	newest     int64
}

// newSchema reads the migrations; this package's if nil.
func newSchema(migrations fs.FS) (schema, error) {
	var err error
	if migrations == nil {
		if migrations, err = fs.Sub(embedded, "migrations"); err != nil {
			return schema{}, err
		}
	}
	s := schema{migrations: migrations}
	files, err := fs.Glob(migrations, "*.sql")
	for _, file := range files {
		number, _, _ := strings.Cut(file, "_")
		n, wrong := strconv.ParseInt(number, 10, 64)
		err = errors.Join(err, wrong)
		s.newest = max(s.newest, n)
	}
	return s, err
}

// versionTable is where goose notes which migrations were applied.
const versionTable = "holdfast_schema"

// lockNumber is that of the advisory lock for migrations.
const lockNumber = 0x686f6c6466617374 // "holdfast"

// migrate applies the migrations that the database lacks. A database that has more is
// left as it is, if this release can work with it.
func (l *Log) migrate(ctx context.Context) error {
	has, err := l.version(ctx)
	if err != nil {
		return err
	}
	if has < l.schema.newest {
		if err := l.migrateLocked(ctx); err != nil {
			return err
		}
	}
	if err := l.checkCompatible(ctx, l.perform); err != nil {
		return err
	}
	l.migrated.Store(true) // from now on each new connection checks
	return nil
}

// version gives the newest migration that the database has; 0 if none.
func (l *Log) version(ctx context.Context) (version int64, err error) {
	_, err = l.perform(ctx, statement{sql: `SELECT coalesce(max(version_id), 0)::bigint FROM ` + versionTable + ` WHERE is_applied`, rows: 1, row: func(r *row) error {
		version = r.number("version", 0, math.MaxInt64)
		return nil
	}})
	if refused := new(pgconn.PgError); errors.As(err, &refused) && refused.Code == undefinedTable {
		return 0, nil
	}
	return version, err
}

// migrateLocked lets goose work while a transaction beside it holds a lock, since goose's
// own locks are of sessions. The second of two nodes waits here, and finds it done.
func (l *Log) migrateLocked(ctx context.Context) error {
	waiting, end := context.WithTimeout(ctx, forgetTime)
	defer end()
	tx, err := l.pool.Begin(waiting)
	if err != nil {
		return l.failed(waiting, err)
	}
	defer func() { _ = tx.Rollback(waiting) }() // it only holds the lock
	if _, err := tx.Exec(waiting, `SELECT pg_advisory_xact_lock($1)`, int64(lockNumber)); err != nil {
		return l.failed(waiting, err)
	}
	db := stdlib.OpenDBFromPool(l.pool)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, l.schema.migrations, goose.WithVerbose(false), goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the migrations of the database cannot be read")
	}
	if _, err := p.Up(waiting); err != nil {
		return l.failed(waiting, err)
	}
	return nil
}

// checkCompatible asks, by do, whether this release can work with the tables.
func (l *Log) checkCompatible(ctx context.Context, do func(context.Context, statement) (int64, error)) error {
	oldest := int64(0)
	_, err := do(ctx, statement{sql: `SELECT oldest::bigint FROM compatibility`, time: statementTime, rows: 1, row: func(r *row) error {
		oldest = r.number("oldest migration", 1, math.MaxInt64)
		return nil
	}})
	switch {
	case err != nil:
		return err
	case oldest == 0:
		return l.damaged("the table compatibility is empty")
	case oldest > l.schema.newest:
		return l.fault(fault.DatabaseNewer, nil, "has the tables of a later release, which this one cannot work with: update this node")
	}
	return nil
}
