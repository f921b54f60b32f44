package sqlite

import (
	"cmp"
	"context"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Nodes implements [appliance.Store].
func (s *DB) Nodes(ctx context.Context) ([]appliance.NodeRow, error) {
	return allMatching(ctx, s, "nodes", func(r *appliance.NodeRow) []any {
		return []any{&r.ID, &r.Address, &r.State, millis{&r.Joined}, &r.Seal}
	}, `SELECT id, address, state, joined, seal FROM nodes ORDER BY id`)
}

// CreateNode implements [appliance.Store].
func (s *DB) CreateNode(ctx context.Context, r *appliance.NodeRow) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`INSERT INTO nodes (id, address, state, joined, seal) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			r.ID, r.Address, string(r.State), r.Joined.UnixMilli(), blob(r.Seal))
		if err == nil && n == 0 {
			return fault.Errorf(fault.Exists, "the fleet has a node %q already", r.ID)
		}
		return err
	})
}

// UpdateNode implements [appliance.Store].
func (s *DB) UpdateNode(ctx context.Context, r *appliance.NodeRow, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		if err := leaves(c, r); err != nil {
			return err
		}
		n, err := c.exec(`UPDATE nodes SET address = ?, state = ?, joined = ?, seal = ? WHERE id = ? AND seal = ?`,
			r.Address, string(r.State), r.Joined.UnixMilli(), blob(r.Seal), r.ID, blob(was))
		return unlessChanged(c, n, err, expectNode(r.ID))
	})
}

// leaves refuses to take the last node out of a fleet: two nodes that remove each other at
// once are each allowed to by what they know.
func leaves(c *conn, r *appliance.NodeRow) error {
	if r.State != appliance.NodeLeaving {
		return nil
	}
	var one int64
	found, err := c.one([]any{&one}, `SELECT 1 FROM nodes WHERE id <> ? AND state IN ('joining', 'serving', 'drained')`, r.ID)
	if err == nil && !found {
		return fault.Errorf(fault.Conflict, "node %s is the last node of the fleet that is not removed: nobody could add another one after it", r.ID)
	}
	return err
}

// DeleteNode implements [appliance.Store].
func (s *DB) DeleteNode(ctx context.Context, id string, was []byte) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`DELETE FROM nodes WHERE id = ? AND seal = ?`, id, blob(was))
		return unlessChanged(c, n, err, expectNode(id))
	})
}

func expectNode(id string) expectation {
	return expect(fmt.Sprintf("the node %q", id), fault.Errorf(fault.NotFound, "the fleet has no node %q", id), `SELECT 1 FROM nodes WHERE id = ?`, id)
}

// Leader implements [appliance.Store].
func (s *DB) Leader(ctx context.Context) (*appliance.LeaderRow, error) {
	r := &appliance.LeaderRow{}
	err := s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "leader", "one = 1"); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		var token int64
		found, err := c.one([]any{&r.Node, &token, &r.Seal}, `SELECT node, token, seal FROM leader`)
		if err == nil && !found {
			return errNoLeader()
		}
		r.Token = uint64(token)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func errNoLeader() error { return fault.Errorf(fault.NotFound, "no node leads the fleet yet") }

// SetLeader implements [appliance.Store].
func (s *DB) SetLeader(ctx context.Context, r, was *appliance.LeaderRow) error {
	return s.write(ctx, func(c *conn) error {
		if was == nil {
			n, err := c.exec(`INSERT INTO leader (one, node, token, seal) VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING`, r.Node, int64(r.Token), blob(r.Seal))
			if err == nil && n == 0 {
				return stale("the leader of the fleet")
			}
			return err
		}
		n, err := c.exec(`UPDATE leader SET node = ?, token = ?, seal = ? WHERE token = ? AND seal = ?`, r.Node, int64(r.Token), blob(r.Seal), int64(was.Token), blob(was.Seal))
		return unlessChanged(c, n, err, expect("the leader of the fleet", errNoLeader(), `SELECT 1 FROM leader`))
	})
}

// fenced refuses a change of a node that led the fleet, and does not any more: in the
// change's own transaction, and so in the order of the log.
func fenced(ctx context.Context, apply func(*conn) error) func(*conn) error {
	token, is := appliance.Fence(ctx)
	if !is {
		return apply
	}
	return func(c *conn) error {
		var now int64
		if _, err := c.one([]any{&now}, `SELECT token FROM leader`); err != nil {
			return err
		}
		if uint64(now) != token {
			return fault.Errorf(fault.FleetFenced, "another node does the work for the whole fleet now: the token is %d, and not %d", now, token)
		}
		return apply(c)
	}
}
