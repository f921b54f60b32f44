package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance/fault"
)

const (
	// maxParts bounds the parts of a snapshot: 1 TiB in all.
	maxParts = 1 << 20
	// unfinished is after how many seconds without a new part a snapshot that is not whole
	// is removed.
	unfinished = 3600
	// removalTime is how long the rest of a snapshot that failed is removed for.
	removalTime = 5 * time.Second
)

// Snapshot implements [appliance.ChangeLog]. The parts are read from the database one by
// one. An error of theirs is of fault.Changed if the snapshot was removed meanwhile: a
// newer one is there.
func (l *Log) Snapshot(ctx context.Context) (uint64, iter.Seq2[[]byte, error], error) {
	var id, number, count int64
	_, err := l.do(ctx, statement{
		sql:  `SELECT id::bigint, number::bigint, parts::bigint FROM snapshots WHERE whole ORDER BY number DESC, id DESC LIMIT 1`,
		rows: 1, row: func(r *row) error {
			id, number, count = r.number("ID", math.MinInt64, math.MaxInt64), r.number("number", 1, math.MaxInt64), r.number("number of parts", 1, maxParts)
			return nil
		}})
	switch {
	case err != nil:
		return 0, nil, err
	case number == 0:
		return 0, nil, fault.Errorf(fault.NotFound, "the database %s has no snapshot", l.address)
	}
	return uint64(number), func(yield func([]byte, error) bool) {
		for part := range count {
			body, err := l.part(ctx, id, number, part)
			if !yield(body, err) || err != nil {
				return
			}
		}
	}, nil
}

func (l *Log) part(ctx context.Context, id, number, part int64) (body []byte, err error) {
	// The left join tells a part that is missing from a snapshot that is.
	found := false
	_, err = l.do(ctx, statement{
		sql: `SELECT CASE WHEN octet_length(p.body) <= $3 THEN p.body::bytea END
			FROM snapshots AS s LEFT JOIN snapshot_parts AS p ON p.snapshot = s.id AND p.part = $2 WHERE s.id = $1`,
		parameters: []any{id, part, MaxPart}, time: timeFor(MaxPart), rows: 1, row: func(r *row) error {
			found = true
			body = r.bytes(fmt.Sprintf("part %d of the snapshot of change %d", part, number), MaxPart)
			return nil
		}})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, fault.Errorf(fault.Changed, "the snapshot of change %d was removed while it was read; read the newest", number)
	}
	return body, nil
}

// KeepSnapshot implements [appliance.ChangeLog]. Nobody sees the snapshot before it is
// whole. Of one that fails, the rest is removed at once if possible, and otherwise by
// another node after an hour. Fault.Invalid if it has no part, or one longer than
// [MaxPart].
func (l *Log) KeepSnapshot(ctx context.Context, number uint64, parts iter.Seq2[[]byte, error]) error {
	if number == 0 || number > math.MaxInt64 {
		return notNumber(number)
	}
	if err := l.removeUnfinished(ctx); err != nil {
		return err
	}
	var id int64
	_, err := l.do(ctx, statement{sql: `INSERT INTO snapshots (number) VALUES ($1) RETURNING id::bigint`, parameters: []any{int64(number)}, rows: 1, row: func(r *row) error {
		id = r.number("ID", math.MinInt64, math.MaxInt64)
		return nil
	}})
	if err != nil {
		return err
	}
	if err := l.keepParts(ctx, id, number, parts); err != nil {
		removing, end := context.WithTimeout(context.WithoutCancel(ctx), removalTime)
		defer end()
		// What cannot be removed now is removed later.
		_, _ = l.do(removing, statement{sql: `DELETE FROM snapshots WHERE id = $1 AND NOT whole`, parameters: []any{id}})
		return err
	}
	return nil
}

func (l *Log) keepParts(ctx context.Context, id int64, number uint64, parts iter.Seq2[[]byte, error]) error {
	count := int64(0)
	for body, err := range parts {
		switch {
		case err != nil:
			return err
		case len(body) > MaxPart:
			return fault.Errorf(fault.Invalid, "a part of %d bytes; at most %d are allowed", len(body), MaxPart)
		case count == maxParts:
			return fault.Errorf(fault.Invalid, "a snapshot of more than %d parts", maxParts)
		}
		// The update is what says that somebody is still writing.
		written, err := l.do(ctx, statement{
			sql: `WITH still AS (UPDATE snapshots SET touched = clock_timestamp() WHERE id = $1 RETURNING id)
				INSERT INTO snapshot_parts (snapshot, part, body) SELECT id, $2, $3 FROM still`,
			parameters: []any{id, count, body}, time: timeFor(len(body))})
		if err != nil {
			return l.orRemoved(err, number)
		}
		if written != 1 {
			return l.removed(number)
		}
		count++
	}
	if count == 0 {
		return fault.Errorf(fault.Invalid, "a snapshot without parts")
	}
	whole, err := l.do(ctx, statement{
		sql:        `UPDATE snapshots SET whole = true, parts = $2 WHERE id = $1 AND $2 = (SELECT count(*) FROM snapshot_parts WHERE snapshot = $1)`,
		parameters: []any{id, count}, time: forgetTime, commits: true})
	if err == nil && whole != 1 {
		return l.removed(number)
	}
	return err
}

// orRemoved gives the error, or that the snapshot was removed.
func (l *Log) orRemoved(err error, number uint64) error {
	refused := new(pgconn.PgError)
	if errors.As(err, &refused) && refused.Code == foreignKeyViolation {
		return l.removed(number)
	}
	return err
}

func (l *Log) removed(number uint64) error {
	return fault.Errorf(fault.Changed, "the snapshot of change %d was removed while it was written, because a part took more than an hour, or a newer one is there; make another", number)
}

// removeUnfinished removes what nobody writes any more.
func (l *Log) removeUnfinished(ctx context.Context) error {
	_, err := l.do(ctx, statement{
		sql:        `DELETE FROM snapshots WHERE NOT whole AND touched < clock_timestamp() - $1 * interval '1 second'`,
		parameters: []any{unfinished}, time: forgetTime})
	return err
}
