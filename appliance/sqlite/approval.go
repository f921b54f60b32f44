package sqlite

import (
	"cmp"
	"context"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
)

const (
	// maxPending bounds what waits for approval at once, maxApprovals what is kept.
	maxPending   = 1000
	maxApprovals = 10000
)

const approvalColumns = `id, operation, method, path, body, user_id, token, requested_by, created_at, expires_at, state, decided_by, decided_by_id, decided_at, outcome, reason, address, decision_reason, secret, seal`

func scanApproval(r *approval.Request) []any {
	return []any{&r.ID, &r.Operation, &r.Method, &r.Path, &r.Body, &r.UserID, &r.Token, &r.RequestedBy,
		millis{&r.CreatedAt}, millis{&r.ExpiresAt}, &r.State, &r.DecidedBy, &r.DecidedByID, millis{&r.DecidedAt}, &r.Outcome, &r.Reason, &r.Address, &r.DecisionReason, (*[]byte)(&r.Secret), &r.Seal}
}

// CreateApproval implements [approval.Store].
func (s *DB) CreateApproval(ctx context.Context, r *approval.Request) error {
	return s.write(ctx, func(c *conn) error {
		pending, err := pendingApprovals(c, r.CreatedAt)
		if err != nil {
			return err
		}
		if pending >= maxPending {
			return fault.Errorf(fault.Conflict, "%d requests wait for approval already; decide some of them first", pending)
		}
		n, err := c.exec(`INSERT INTO approvals (`+approvalColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			r.ID, r.Operation, r.Method, r.Path, r.Body, r.UserID, r.Token, r.RequestedBy,
			r.CreatedAt.UnixMilli(), r.ExpiresAt.UnixMilli(), string(r.State), r.DecidedBy, r.DecidedByID, ms(r.DecidedAt), r.Outcome, r.Reason, r.Address, r.DecisionReason, []byte(r.Secret), r.Seal)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.Errorf(fault.Exists, "there is a request for approval with the ID %q already", r.ID)
		}
		_, err = c.exec(`DELETE FROM approvals WHERE (state NOT IN ('pending', 'approved') OR expires_at <= ?) AND id NOT IN
			(SELECT id FROM approvals ORDER BY created_at DESC LIMIT ?)`, r.CreatedAt.UnixMilli(), maxApprovals)
		return err
	})
}

// Approval implements [approval.Store].
func (s *DB) Approval(ctx context.Context, id string) (*approval.Request, error) {
	r := &approval.Request{}
	err := s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "approvals", "id = ?", id); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one(scanApproval(r), `SELECT `+approvalColumns+` FROM approvals WHERE id = ?`, id)
		if err == nil && !found {
			return noApproval(id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Approvals implements [approval.Store].
func (s *DB) Approvals(ctx context.Context, limit int) ([]*approval.Request, error) {
	var list []*approval.Request
	err := s.read(ctx, func(c *conn) error {
		list = nil
		if err := s.allMatch(ctx, c, "approvals"); err != nil {
			return err
		}
		return c.each(ctx, func(scan scanner) error {
			r := &approval.Request{}
			list = append(list, r)
			return scan(scanApproval(r)...)
		}, `SELECT `+approvalColumns+` FROM approvals ORDER BY state IN ('pending', 'approved') DESC, created_at DESC LIMIT ?`, limit)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CountApprovals implements [approval.Store].
func (s *DB) CountApprovals(ctx context.Context, now time.Time) (map[approval.State]int, error) {
	var all map[approval.State]int
	err := s.read(ctx, func(c *conn) error {
		all = map[approval.State]int{}
		return c.each(ctx, func(scan scanner) error {
			var state approval.State
			n := 0
			err := scan(&state, &n)
			all[state] += n
			return err
		}, `SELECT CASE WHEN state IN ('pending', 'approved') AND expires_at <= ? THEN 'expired' ELSE state END, count(*) FROM approvals GROUP BY 1`, now.UnixMilli())
	})
	return all, err
}

func pendingApprovals(c *conn, now time.Time) (n int, err error) {
	_, err = c.one([]any{&n}, `SELECT count(*) FROM approvals WHERE state = 'pending' AND expires_at > ?`, now.UnixMilli())
	return n, err
}

// DecideApproval implements [approval.Store].
func (s *DB) DecideApproval(ctx context.Context, r, was *approval.Request) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE approvals SET state = ?, decided_by = ?, decided_by_id = ?, decided_at = ?, outcome = ?, decision_reason = ?, seal = ?
			WHERE id = ? AND state = ? AND coalesce(seal, x'') = ?`,
			string(r.State), r.DecidedBy, r.DecidedByID, ms(r.DecidedAt), r.Outcome, r.DecisionReason, r.Seal, r.ID, string(was.State), blob(was.Seal))
		return unlessChanged(c, n, err, expect("the request for approval", noApproval(r.ID), `SELECT 1 FROM approvals WHERE id = ?`, r.ID))
	})
}

func noApproval(id string) error {
	return fault.Errorf(fault.NotFound, "there is no request for approval with the ID %.40q", id)
}

// SealApprovals implements [approval.Store].
func (s *DB) SealApprovals(ctx context.Context, f func(*approval.Request) error) error {
	return s.write(ctx, func(c *conn) error {
		all, err := read(ctx, c, scanApproval, `SELECT `+approvalColumns+` FROM approvals`)
		if err != nil {
			return err
		}
		for i := range all {
			if err := f(&all[i]); err != nil {
				return err
			}
			if _, err := c.exec(`UPDATE approvals SET seal = ? WHERE id = ?`, all[i].Seal, all[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
}
