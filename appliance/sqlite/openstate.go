package sqlite

import (
	"context"
	"crypto/hmac"
	"fmt"
	"maps"
	"slices"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

var _ appliance.StateRows = (*DB)(nil)

// OpenState implements [appliance.StateRows].
func (s *DB) OpenState(ctx context.Context, o appliance.StateOptions) (report *appliance.StateReport, err error) {
	s.CloseState()
	var st *state
	if o.Log != nil {
		opened, report, err := s.openReplica(ctx, o)
		if err != nil || opened {
			return report, err
		}
	}
	err = s.writer.doOnce(ctx, func(c *conn) (err error) {
		st, report, err = s.openState(ctx, c, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.forgetLoss(); err != nil {
		s.CloseState()
		return nil, err
	}
	report.Head = st.first
	if st.replica != nil && st.replica.bySnapshot {
		if _, err := s.KeepSnapshot(ctx); err != nil {
			s.CloseState()
			return nil, err
		}
	}
	if o.Installed != nil {
		s.announce(appliance.Change{})
	}
	return report, nil
}

func (s *DB) openState(ctx context.Context, c *conn, o appliance.StateOptions) (*state, *appliance.StateReport, error) {
	if err := checkSchema(ctx, c.c.QueryContext, s.schema); err != nil {
		return nil, nil, err
	}
	// Nobody accepts a loss by making an installation in what is left.
	if founds := o.Installed != nil && o.Was == nil; founds || !o.Seal {
		if err := s.lost(o.Anchoring != nil); err != nil && o.Log == nil {
			return nil, nil, err
		}
	}
	if err := begin(c, o); err != nil {
		return nil, nil, err
	}
	heads, err := readManifests(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	root := heads[appliance.ScopeInstallation]
	if root == nil && !o.Seal {
		return nil, nil, fault.Errorf(fault.StateUnsealed, "the database has an installation, and lacks the manifest that authenticates its rows: it was removed, or the database is of before there were any")
	}
	st, err := s.writer.newState(ctx, o, s.begins(o))
	if err != nil {
		return nil, nil, err
	}
	st.heads = heads
	there, n, err := st.actual(ctx, c)
	if err == nil {
		st.version, err = dataVersion(c)
	}
	if err != nil {
		return nil, nil, err
	}
	report := &appliance.StateReport{Rows: n}
	if !o.Seal {
		j, err := st.judge(ctx, c, there)
		if err != nil {
			return nil, nil, err
		}
		if !j.root {
			return nil, nil, stateChanged()
		}
		st.broken = j.broken
		report.Head, report.Migrated, report.Damaged = root.Head(), j.migrated, slices.Sorted(maps.Keys(j.broken))
		st.know(report.Damaged)
	}
	st.sums, st.groups = there.sums, there.groups
	if o.Seal || report.Migrated {
		for scope := range scopesOf(there.sums) {
			st.tx.forced[scope] = !st.broken[scope]
		}
		for scope := range heads { // also of sets that have no rows any more
			st.tx.forced[scope] = !st.broken[scope]
		}
		maps.DeleteFunc(st.tx.forced, func(_ string, forced bool) bool { return !forced })
		st.tx.forced[appliance.ScopeInstallation] = true
		st.tx.anchored = true
	}
	if o.Fresh != nil {
		if st.known, err = fresh(ctx, c, o, root); err != nil {
			return nil, nil, err
		}
		st.tx.forced[appliance.ScopeInstallation], st.tx.anchored = true, true
	}
	if o.Log != nil {
		st.replica = &replica{log: o.Log, key: o.Key, at: begunAt, bySnapshot: n > inFirstChange || root != nil}
		if err := st.recordAll(ctx, c); err != nil {
			return nil, nil, err
		}
	}
	s.writer.opened = st
	return st, report, nil
}

// begin writes what an opening adds to the rows: the installation, and the ID of a log that begins.
func begin(c *conn, o appliance.StateOptions) (err error) {
	switch {
	case o.Installed != nil && o.Was == nil:
		err = createInstallation(c, o.Installed)
	case o.Installed != nil:
		err = upgradeInstallation(c, o.Installed, o.Was)
	}
	if err == nil && o.Log != nil {
		err = beginLog(c)
	}
	return err
}

// recordAll has the first change of a fleet have all rows, unless a snapshot has them.
func (s *state) recordAll(ctx context.Context, c *conn) error {
	if s.replica.bySnapshot {
		return nil
	}
	_, err := scan(ctx, c, s.specs, func(sp *spec, row []any) { s.tx.recordRow(sp, nil, cloneRow(row)) })
	return err
}

// fresh asks whether the state is as new as its anchors, and gives the heads that the next
// manifest comes after; none for its own.
func fresh(ctx context.Context, c *conn, o appliance.StateOptions, root *appliance.Manifest) ([]appliance.Head, error) {
	var own appliance.Head
	if root != nil {
		own = root.Head()
	}
	return o.Fresh(own, func(h appliance.Head) (bool, error) { return past(ctx, c, root, h) })
}

// judgement is what the sums of the sets are by the manifests.
type judgement struct {
	root     bool            // the set of the installation matches
	broken   map[string]bool // the others that do not
	migrated bool            // the manifests are of an earlier schema
}

// judge holds the sums against the manifests, of which there is the installation's.
func (s *state) judge(ctx context.Context, c *conn, there *delta) (j judgement, err error) {
	sums := there.sums
	root := s.heads[appliance.ScopeInstallation]
	if root.Schema != s.schema {
		if sums, err = s.earlierSums(ctx, c, root.Schema); err != nil {
			return j, err
		}
		j.migrated = true
	}
	matches := func(m *appliance.Manifest, sum appliance.Sum) bool {
		return m.Schema == root.Schema && hmac.Equal(m.Seal, s.o.Key.Seal(m, &sum))
	}
	j.root, j.broken = matches(root, sums[appliance.ScopeInstallation]), map[string]bool{}
	for scope := range scopesOf(sums) {
		if m := s.heads[scope]; scope != appliance.ScopeInstallation && (m == nil || !matches(m, sums[scope])) {
			j.broken[scope] = true
		}
	}
	for scope, m := range s.heads {
		if _, rows := sums[scope]; scope != appliance.ScopeInstallation && !rows && !matches(m, appliance.Sum{}) {
			j.broken[scope] = true
		}
	}
	return j, nil
}

// earlierSums counts the rows as they were counted before the schema was migrated: without
// the tables and columns that are new, which must be as the migrations make them.
func (s *state) earlierSums(ctx context.Context, c *conn, schema int64) (map[string]appliance.Sum, error) {
	if schema > s.schema || schema < firstManifest {
		return nil, stateChanged()
	}
	before, err := specsOf(ctx, schema, s.seed)
	if err != nil {
		return nil, err
	}
	there := newDelta()
	for name, now := range s.specs {
		was := before[name]
		if was == nil {
			var rows int
			if _, err := c.one([]any{&rows}, fmt.Sprintf(`SELECT count(*) FROM %q`, name)); err != nil {
				return nil, err
			}
			if rows > 0 && now.kept {
				return nil, fault.Errorf(fault.StateChanged, "the table %s is new in this version and has rows already: somebody else added them", name)
			}
			continue
		}
		if err := s.earlierRows(ctx, c, there, was, now); err != nil {
			return nil, err
		}
	}
	return there.sums, nil
}

// firstManifest is the version of the schema that has manifests first.
const firstManifest = 9

func (s *state) earlierRows(ctx context.Context, c *conn, there *delta, was, now *spec) error {
	added := map[int]any{}
	var from []int
	for i, name := range now.columns {
		if slices.Contains(was.columns, name) {
			continue
		}
		var value any
		var text *string
		if _, err := c.one([]any{&text}, `SELECT dflt_value FROM pragma_table_info(?) WHERE name = ?`, now.name, name); err != nil {
			return err
		}
		if text != nil { // an expression of our own migrations
			if _, err := c.one([]any{&value}, `SELECT `+*text); err != nil {
				return err
			}
		}
		added[i] = value
	}
	for _, name := range was.columns {
		from = append(from, slices.Index(now.columns, name))
	}
	var changed bool
	err := c.raw(ctx, func(row []any) {
		for i, value := range added {
			changed = changed || now.counted[i] && !equal(row[i], value)
		}
		earlier := make([]any, len(from))
		for i, at := range from {
			earlier[i] = row[at]
		}
		if !was.outOfPlace(earlier) {
			s.count(there, was, earlier, false)
		}
	}, fmt.Sprintf(`SELECT %s FROM %q`, quoted(now.columns), now.name))
	if changed {
		return fault.Errorf(fault.StateChanged, "a column of the table %s is new in this version and was changed already by somebody else", now.name)
	}
	return err
}

// CloseState implements [appliance.StateRows].
func (s *DB) CloseState() {
	// In the writer's goroutine, so that no transaction is sealed by a key that is wiped.
	_ = s.writer.hand(context.Background(), &change{once: true, closes: true, done: make(chan error, 1), apply: func(*conn) error {
		if st := s.writer.live.Swap(nil); st != nil {
			st.o.Key.Wipe()
		}
		s.writer.counting = nil
		return nil
	}})
}

// CheckState implements [appliance.StateRows].
func (s *DB) CheckState(ctx context.Context) (report *appliance.StateReport, err error) {
	err = s.writer.doOnce(ctx, func(c *conn) error {
		st := s.writer.live.Load()
		if st == nil {
			return stateClosed()
		}
		if err := checkSchema(ctx, c.c.QueryContext, st.file); err != nil {
			st.lost(err)
			return err
		}
		report, err = st.compare(ctx, c)
		return err
	})
	return report, err
}

// Damaged implements [appliance.StateRows].
func (s *DB) Damaged() []string {
	st := s.writer.live.Load()
	if st == nil {
		return nil
	}
	st.mu.RLock()
	defer st.mu.RUnlock()
	return slices.Sorted(maps.Keys(st.damaged))
}

// Past implements [appliance.StateRows].
func (s *DB) Past(ctx context.Context, h appliance.Head) (is bool, err error) {
	err = s.writer.doOnce(ctx, func(c *conn) error {
		st := s.writer.live.Load()
		if st == nil {
			return stateClosed()
		}
		is, err = past(ctx, c, st.heads[appliance.ScopeInstallation], h)
		return err
	})
	return is, err
}

func stateClosed() error {
	return fault.Errorf(fault.Locked, "the rows cannot be changed while the appliance is locked: their manifest is sealed by a key that the HSM opens")
}
