package sqlite

import (
	"cmp"
	"context"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// KeepsAnswers implements [idempotency.Store].
func (s *DB) KeepsAnswers() bool { return s.writer.live.Load().keepsAnswers() }

// keepsAnswers says whether the fleet's schema has marks; without a fleet it has.
func (st *state) keepsAnswers() bool { return st == nil || len(st.specs["answers"].logged()) > 0 }

// Answer implements [idempotency.Store].
func (s *DB) Answer(ctx context.Context, id string) (*idempotency.Row, error) {
	r := &idempotency.Row{}
	err := s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "answers", "id = ?", id); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{&r.ID, &r.Owner, &r.Request, &r.Run, &r.Node, millis{&r.Begun}, millis{&r.Expires}, &r.Answer},
			`SELECT id, owner, request, run, node, begun_at, expires_at, answer FROM answers WHERE id = ?`, id)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "nothing was answered to a request of that name")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// AnswersOf implements [idempotency.Store].
func (s *DB) AnswersOf(ctx context.Context, owner string, now time.Time) (t idempotency.Total, err error) {
	err = s.read(ctx, func(c *conn) error {
		_, err := c.one([]any{&t.Answers, &t.Bytes}, `SELECT count(*), coalesce(sum(length(answer)), 0) FROM answers WHERE owner = ? AND expires_at > ?`, owner, now.UnixMilli())
		return err
	})
	return t, err
}

// CreateAnswer implements [idempotency.Store].
func (s *DB) CreateAnswer(ctx context.Context, r *idempotency.Row) error {
	return s.write(ctx, func(c *conn) error {
		there, err := createAnswer(c, r)
		if err == nil && there {
			return errAnswered()
		}
		return err
	})
}

func errAnswered() error {
	return fault.Errorf(fault.Exists, "there is a request of that name already")
}

// createAnswer writes a row, and says whether there is one of another run.
func createAnswer(c *conn, r *idempotency.Row) (there bool, err error) {
	if _, err := c.exec(`DELETE FROM answers WHERE expires_at <= ?`, r.Begun.UnixMilli()); err != nil {
		return false, err
	}
	n, err := c.exec(`INSERT INTO answers (id, owner, request, run, node, begun_at, expires_at, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.ID, r.Owner, r.Request, r.Run, r.Node, r.Begun.UnixMilli(), r.Expires.UnixMilli(), r.Answer)
	return n == 0, err
}

// FinishAnswer implements [idempotency.Store].
func (s *DB) FinishAnswer(ctx context.Context, r *idempotency.Row) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE answers SET answer = ? WHERE id = ? AND run = ? AND answer IS NULL`, r.Answer, r.ID, r.Run)
		if n != 0 || err != nil {
			return err
		}
		there, err := createAnswer(c, r)
		if err == nil && there {
			return errAnswered()
		}
		return err
	})
}

// DeleteAnswer implements [idempotency.Store].
func (s *DB) DeleteAnswer(ctx context.Context, id, run string) error {
	return s.update(ctx, `DELETE FROM answers WHERE id = ? AND run = ?`, id, run)
}

// ForgetAnswers implements [idempotency.Store].
func (s *DB) ForgetAnswers(ctx context.Context, now time.Time) (int, error) {
	var n int64
	err := s.write(ctx, func(c *conn) (err error) {
		n, err = c.exec(`DELETE FROM answers WHERE expires_at <= ?`, now.UnixMilli())
		return err
	})
	return int(n), err
}

// marked has a change leave the mark of the request that makes it, in the same transaction, and so
// in the order of the log: of two nodes that do the same request, one makes its change. While
// nodes of the fleet have a schema without marks, none is left.
func (w *writer) marked(ctx context.Context, apply func(*conn) error) func(*conn) error {
	m := idempotency.MarkOf(ctx)
	if m == nil {
		return apply
	}
	return func(c *conn) error {
		if !w.counting.keepsAnswers() {
			return apply(c)
		}
		var run string
		found, err := c.one([]any{&run}, `SELECT run FROM answers WHERE id = ? AND expires_at > ?`, m.Row.ID, m.Row.Begun.UnixMilli())
		if err != nil {
			return err
		}
		if found && run != m.Row.Run {
			m.Overtaken()
			return errAnswered()
		}
		if !found {
			if _, err := createAnswer(c, m.Row); err != nil {
				return err
			}
		}
		return apply(c)
	}
}
