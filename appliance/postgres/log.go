package postgres

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/postgres/address"
)

// Log is the log of changes of one installation. Make one with [Open]. Its methods may be
// called at once from several goroutines. Besides the errors of [appliance.ChangeLog] they
// give fault.DatabaseRefused, fault.FleetLog and fault.DatabaseNewer; only after
// fault.DatabaseAway something may have been changed.
type Log struct {
	*connector
	pool     *pgxpool.Pool
	schema   schema
	migrated atomic.Bool // the tables are there
	// preparing is full while they are made.
	preparing chan struct{}
	// open ends when the log is closed.
	open    context.Context
	end     context.CancelFunc
	notices *notices
	log     *slog.Logger
}

var (
	_ appliance.ChangeLog = (*Log)(nil)
	_ appliance.NodeHints = (*Log)(nil)
)

// Open makes a log, connects to the database and brings its tables to this release's.
// Errors: those of [New] and of [Log].
func Open(ctx context.Context, o Options) (*Log, error) {
	l, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := l.prepared(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// New makes a log that connects when it is used, so that an appliance starts though its
// database is away. fault.Invalid if the options are not right.
func New(o Options) (*Log, error) {
	a, err := address.Parse(o.URL)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "state.database: %v", err)
	}
	if (o.Certificate == "") != (o.Key == "") {
		return nil, fault.Errorf(fault.Invalid, "state.database_certificate and state.database_key belong together: one of them is missing")
	}
	l := &Log{connector: &connector{options: o, address: a}, preparing: make(chan struct{}, 1), log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.schema, err = newSchema(o.migrations); err != nil {
		return nil, err
	}
	config, err := l.config(l.check)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the database cannot be used")
	}
	if l.pool, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the database cannot be used")
	}
	l.open, l.end = context.WithCancel(context.Background())
	l.notices = l.listen(l.open, config.ConnConfig)
	return l, nil
}

// prepared brings the tables to this release's, once. It is waited for as long as ctx
// allows, and goes on without: a migration can take longer than a caller waits.
func (l *Log) prepared(ctx context.Context) error {
	if l.migrated.Load() {
		return nil
	}
	select {
	case l.preparing <- struct{}{}:
	case <-ctx.Done():
		return l.failed(ctx, ctx.Err())
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-l.preparing }()
		done <- l.prepareNow()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return l.failed(ctx, ctx.Err())
	}
}

func (l *Log) prepareNow() error {
	if l.migrated.Load() { // by the call before
		return nil
	}
	if err := l.migrate(l.open); err != nil {
		return err
	}
	l.reportStandbys(l.open)
	return nil
}

// Close ends the use of the log.
func (l *Log) Close() {
	l.end()
	<-l.notices.done
	l.pool.Close()
}

// check is made of each new connection, so also of a server that was promoted.
func (l *Log) check(ctx context.Context, conn *pgconn.PgConn) error {
	l.connected() // it is there; what follows is about what it is
	return l.checkServer(ctx, conn)
}
