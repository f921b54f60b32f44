package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Limits of the founding, in bytes.
const (
	maxName    = 256
	maxWrapped = 64 << 10
)

// Founding implements [appliance.ChangeLog].
func (l *Log) Founding(ctx context.Context) (*appliance.Founding, error) {
	var f *appliance.Founding
	_, err := l.do(ctx, statement{
		sql: `SELECT CASE WHEN octet_length(installation) <= $1 THEN installation::text END, CASE WHEN octet_length(wrapped_state_key) <= $2 THEN wrapped_state_key::bytea END
			FROM founding`,
		parameters: []any{maxName, maxWrapped}, rows: 1, row: func(r *row) error {
			f = &appliance.Founding{Installation: r.text("installation", maxName), WrappedStateKey: r.bytes("wrapped state key", maxWrapped)}
			return nil
		}})
	switch {
	case err != nil:
		return nil, err
	case f == nil:
		return nil, fault.Errorf(fault.NotFound, "no installation was begun in the database %s", l.address)
	}
	return f, nil
}

// ClaimFounding implements [appliance.ChangeLog]. The lease is by the database's clock.
// After the installation was begun no node gets it.
func (l *Log) ClaimFounding(ctx context.Context, node string, lease time.Duration) (bool, error) {
	if err := checkName("node", node); err != nil {
		return false, err
	}
	claimed, err := l.do(ctx, statement{
		sql: `INSERT INTO founding_claim AS c (node, ends)
			SELECT $1, clock_timestamp() + $2 * interval '1 microsecond' WHERE NOT EXISTS (SELECT FROM founding)
			ON CONFLICT (one) DO UPDATE SET node = excluded.node, ends = excluded.ends WHERE c.node = excluded.node OR c.ends <= clock_timestamp()`,
		parameters: []any{node, lease.Microseconds()}})
	return claimed == 1, err
}

// Found implements [appliance.ChangeLog]. Fault.Invalid if the founding is longer than it
// can be.
func (l *Log) Found(ctx context.Context, f *appliance.Founding) error {
	if err := checkName("installation", f.Installation); err != nil {
		return err
	}
	if len(f.WrappedStateKey) > maxWrapped {
		return fault.Errorf(fault.Invalid, "a wrapped state key of %d bytes; at most %d are allowed", len(f.WrappedStateKey), maxWrapped)
	}
	_, err := l.do(ctx, statement{sql: `INSERT INTO founding (installation, wrapped_state_key) VALUES ($1, $2)`, parameters: []any{f.Installation, f.WrappedStateKey}, commits: true})
	refused := new(pgconn.PgError)
	if errors.As(err, &refused) && refused.Code == uniqueViolation {
		return fault.Errorf(fault.Exists, "another node has begun an installation in the database %s", l.address)
	}
	return err
}

// checkName checks an ID that is written.
func checkName(what, s string) error {
	if s == "" || len(s) > maxName || !printable(s) {
		return fault.Errorf(fault.Invalid, "the ID of the %s has %d bytes, or a character that is not printable; 1 to %d printable ones are allowed", what, len(s), maxName)
	}
	return nil
}
