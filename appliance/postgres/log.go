package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Log is the log of changes of one installation. Make one with [Open]. Its methods may be
// called at once from several goroutines.
type Log struct{ pool *pgxpool.Pool }

var _ appliance.ChangeLog = (*Log)(nil)

// MaxBody bounds the body of a change, in bytes.
const MaxBody = 64 << 20

// Append implements [appliance.ChangeLog].
func (l *Log) Append(ctx context.Context, number uint64, body []byte) error {
	if len(body) > MaxBody {
		return fault.Errorf(fault.Invalid, "a change of %d bytes; at most %d are allowed: make it in several changes", len(body), MaxBody)
	}
	// The change before must be there, so that a database that lost changes takes none.
	tag, err := l.pool.Exec(ctx, `INSERT INTO changes (number, body) SELECT $1::bigint, $2
		WHERE $1::bigint = 1 OR EXISTS (SELECT FROM changes WHERE number = $1::bigint - 1)`, int64(number), body)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.Code == uniqueViolation:
		return fault.Errorf(fault.Changed, "change %d was made by another appliance at the same time", number)
	case err != nil:
		return unavailable(ctx, err)
	case tag.RowsAffected() == 0:
		return fault.Errorf(fault.Conflict, "the database lacks change %d: it was put back to an earlier state, or is of another installation", number-1)
	}
	return nil
}

// uniqueViolation is PostgreSQL's code (Appendix A of its manual).
const uniqueViolation = "23505"

// Change implements [appliance.ChangeLog].
func (l *Log) Change(ctx context.Context, number uint64) (body []byte, err error) {
	err = l.pool.QueryRow(ctx, `SELECT body FROM changes WHERE number = $1 AND length(body) <= $2`, int64(number), MaxBody).Scan(&body)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.Errorf(fault.NotFound, "there is no change %d yet", number)
	}
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return body, nil
}

// Close ends the use of the log.
func (l *Log) Close() { l.pool.Close() }

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &fault.Fault{Code: fault.Timeout, Message: "the database did not answer in time", Err: err}
	}
	return fault.Wrapf(fault.Internal, err, "the database of the fleet could not be used")
}

// Limits of one connection and statement.
const (
	statementTime  = 5 * time.Second
	maxConnections = 8
)

// Options say which database.
type Options struct {
	// URL is that of libpq: postgres://user@host:5432/name, without a password.
	URL string
	// Asynchronous accepts a server that confirms commits before they are on its disk, or
	// on its synchronous replica's.
	Asynchronous bool
}

// Open connects to the database and brings its tables to this version's.
func Open(ctx context.Context, o Options) (*Log, error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "state.database is no URL of a PostgreSQL database")
	}
	cfg.MaxConns = maxConnections
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements: PgBouncer
	cfg.ConnConfig.StatementCacheCapacity, cfg.ConnConfig.DescriptionCacheCapacity = 0, 0
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	l := &Log{pool}
	if err := l.prepare(ctx, o); err != nil {
		pool.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) prepare(ctx context.Context, o Options) error {
	var synchronous, fsync, full string
	if err := l.pool.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')`).Scan(&synchronous, &fsync, &full); err != nil {
		return unavailable(ctx, err)
	}
	if !o.Asynchronous && (synchronous == "off" || fsync == "off" || full == "off") {
		return fault.Errorf(fault.Invalid, "the database commits without waiting for its disk (synchronous_commit=%s, fsync=%s, full_page_writes=%s), so changes that were answered could be lost; set them on", synchronous, fsync, full)
	}
	return migrate(ctx, l.pool)
}

var _ = fmt.Sprint
