package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance/fault"
)

// channel is that of NOTIFY.
const channel = "holdfast_changes"

// durable is what [appendChange] demands of the server's settings of the moment.
const durable = `(current_setting('synchronous_commit') IN ('on', 'remote_apply') AND current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on')`

// appendChange adds a change if the one before is there, so that a database that lost
// changes takes none. That the number is free, the primary key decides.
const appendChange = `WITH made AS (
	INSERT INTO changes (number, body)
	SELECT $1, $2
	WHERE ($3 OR ` + durable + `) AND CASE WHEN $1 = 1
		THEN NOT EXISTS (SELECT FROM changes WHERE number >= 1)
		ELSE EXISTS (SELECT FROM changes WHERE number = $1 - 1) END
	RETURNING pg_notify('` + channel + `', ''))
SELECT (SELECT count(*) FROM made)::bigint, coalesce((SELECT max(number) FROM changes), 0)::bigint, ` + durable

// Append implements [appliance.ChangeLog]. Fault.Invalid if the body is longer than
// [MaxBody], or the number is not one of a change.
func (l *Log) Append(ctx context.Context, number uint64, body []byte) error {
	switch {
	case number == 0 || number > math.MaxInt64:
		return notNumber(number)
	case len(body) > MaxBody:
		return fault.Errorf(fault.Invalid, "a change of %d bytes; at most %d are allowed: make it in several changes", len(body), MaxBody)
	}
	var made, newest int64
	var waits bool
	_, err := l.do(ctx, statement{sql: appendChange, parameters: []any{int64(number), body, l.options.Asynchronous}, time: timeFor(len(body)), commits: true,
		rows: 1, row: func(r *row) error {
			made, newest, waits = r.number("count", 0, 1), r.number("number", 0, math.MaxInt64), r.bool("settings")
			return nil
		}})
	refused := new(pgconn.PgError)
	switch {
	case errors.As(err, &refused) && refused.Code == uniqueViolation:
		return madeByAnother(number)
	case err != nil:
		return err
	case made == 1:
		return nil
	case newest >= int64(number):
		return madeByAnother(number)
	case !waits && !l.options.Asynchronous:
		return l.notDurable("a setting was changed")
	case newest == int64(number)-1:
		return l.damaged("a rule or a trigger that takes no change")
	}
	return fault.Errorf(fault.Conflict, "the database %s lacks change %d: it was put back to an earlier state, or is of another installation", l.address, number-1)
}

func madeByAnother(number uint64) error {
	return fault.Errorf(fault.Changed, "change %d was made by another node at the same time; take it over, and make this change again", number)
}

// maxRows bounds the changes of one answer.
const maxRows = 1000

// Changes implements [appliance.ChangeLog]. It gives fewer than there are if they are
// longer than [MaxBody] together, or more than 1000, but at least one.
func (l *Log) Changes(ctx context.Context, from uint64, most int) ([][]byte, error) {
	if from == 0 || from > math.MaxInt64 || most <= 0 {
		return nil, ctxError(l, ctx)
	}
	first := int64(from)
	rows := min(most, maxRows)
	last := first + min(int64(rows)-1, math.MaxInt64-first)
	var bodies [][]byte
	gap := false
	limit := rows + 1 // there is one more only if a number is there twice
	_, err := l.do(ctx, statement{
		sql: `SELECT number, CASE WHEN octet_length(body) <= $4 THEN body END FROM (
				SELECT number::bigint, body::bytea, sum(octet_length(body)) OVER (ORDER BY number) AS total
				FROM changes WHERE number BETWEEN $1 AND $2 ORDER BY number LIMIT $3) AS c
			WHERE number = $1 OR total <= $4 ORDER BY number`,
		parameters: []any{first, last, limit, int64(MaxBody)}, time: timeFor(MaxBody), rows: limit,
		row: func(r *row) error {
			n := r.number("number", first, last)
			want := first + int64(len(bodies))
			switch {
			case gap || r.wrong == "" && n > want:
				gap = true
				return nil
			case n < want:
				return l.damaged(fmt.Sprintf("change %d is there twice", n))
			}
			bodies = append(bodies, r.bytes(fmt.Sprintf("body of change %d", n), MaxBody))
			return nil
		}})
	if err != nil {
		return nil, err
	}
	return bodies, nil
}

// ctxError says that ctx has ended, where nothing is asked.
func ctxError(l *Log, ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return l.failed(ctx, err)
	}
	return nil
}

// Newest implements [appliance.ChangeLog].
func (l *Log) Newest(ctx context.Context) (uint64, error) {
	var newest int64
	_, err := l.do(ctx, statement{sql: `SELECT coalesce(max(number), 0)::bigint FROM changes`, rows: 1, row: func(r *row) error {
		newest = r.number("number", 0, math.MaxInt64)
		return nil
	}})
	return uint64(newest), err
}

// Forget implements [appliance.ChangeLog]. The newest change stays, so that the next has
// one before it.
func (l *Log) Forget(ctx context.Context, before uint64) error {
	limit := int64(min(before, math.MaxInt64))
	_, err := l.do(ctx, statement{sql: `DELETE FROM changes WHERE number < $1 AND number < (SELECT max(number) FROM changes)`, parameters: []any{limit}, time: forgetTime})
	if err != nil {
		return err
	}
	_, err = l.do(ctx, statement{sql: `DELETE FROM snapshots WHERE number < $1`, parameters: []any{limit}, time: forgetTime})
	if err != nil {
		return err
	}
	return l.removeUnfinished(ctx)
}

// Abandon removes the changes and snapshots of a database in which no installation was begun,
// as those of a move that was interrupted. Claim the founding first, so
// that nobody else begins one meanwhile. fault.Exists if an installation was begun.
func (l *Log) Abandon(ctx context.Context) error {
	var begun bool
	_, err := l.do(ctx, statement{
		sql: `WITH begun AS (SELECT EXISTS (SELECT FROM founding) AS found),
			parts AS (DELETE FROM snapshots USING begun WHERE NOT begun.found),
			bodies AS (DELETE FROM changes USING begun WHERE NOT begun.found)
			SELECT found FROM begun`,
		time: forgetTime, commits: true, rows: 1, row: func(r *row) error {
			begun = r.bool("founding")
			return nil
		}})
	if err == nil && begun {
		err = fault.Errorf(fault.Exists, "an installation was begun in the database %s, so its changes stay", l.address)
	}
	return err
}
