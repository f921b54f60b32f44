package postgres

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// notices takes the NOTIFY of other nodes, on a connection of its own.
type notices struct {
	changed chan struct{}
	done    chan struct{}
}

// Changed implements [appliance.ChangeLog]. Where a pooler is between, it gives nothing.
func (l *Log) Changed() <-chan struct{} { return l.notices.changed }

// Pauses between attempts to listen.
const (
	firstPause = 200 * time.Millisecond
	mostPause  = 15 * time.Second
)

// listen listens until ctx ends.
func (l *Log) listen(ctx context.Context, config *pgx.ConnConfig) *notices {
	n := &notices{changed: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		pause := firstPause
		for ctx.Err() == nil {
			began := time.Now()
			pooled, err := l.hear(ctx, config.Copy(), n.changed)
			if pooled {
				l.log.Info("a pooler is between this node and the database: changes of other nodes are asked for each second", "database", l.address.String())
				return
			}
			l.log.Debug("notices of the database were lost", "error", err)
			if time.Since(began) > mostPause {
				pause = firstPause
			}
			select {
			case <-time.After(pause/2 + rand.N(pause)): // so that not all nodes come at once
			case <-ctx.Done():
			}
			pause = min(2*pause, mostPause)
		}
	}()
	return n
}

// hear listens until the connection is lost. It does not listen if a pooler is between:
// the pooler would hand the connection that listens to others.
func (l *Log) hear(ctx context.Context, config *pgx.ConnConfig, changed chan<- struct{}) (pooled bool, err error) {
	if err := l.prepare(config); err != nil {
		return false, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, l.failed(ctx, err)
	}
	defer func() {
		closing, end := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer end()
		_ = conn.Close(closing)
	}()
	// A pooler gives a number of its own at the start of the connection.
	backend := int64(-1)
	asking, end := context.WithTimeout(ctx, statementTime)
	defer end()
	_, err = l.run(asking, conn.PgConn(), statement{sql: `SELECT pg_backend_pid()::bigint`, time: statementTime, rows: 1, row: func(r *row) error {
		backend = r.number("process", 0, 1<<32)
		return nil
	}})
	if err != nil {
		return false, l.failed(asking, err)
	}
	if backend != int64(conn.PgConn().PID()) {
		return true, nil
	}
	if _, err := conn.Exec(asking, "LISTEN "+channel); err != nil {
		return false, l.failed(asking, err)
	}
	for {
		select {
		case changed <- struct{}{}: // the first also for what came before
		default:
		}
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return false, l.failed(ctx, err)
		}
	}
}
