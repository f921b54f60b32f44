package sqlite

import (
	"cmp"
	"context"
	"fmt"

	"holdfast/appliance"
)

// selection is rows of a table; without a condition all of them.
type selection struct {
	table, where string
	args         []any
}

func (s selection) query(columns []string) string {
	query := fmt.Sprintf(`SELECT %s FROM %q`, quoted(columns), s.table)
	if s.where != "" {
		query += " WHERE " + s.where
	}
	return query
}

// matches says whether rows that are read together are those of memory; true while the
// state is closed. The selections must be all rows of their groups; at are groups that
// have rows, or have none, whatever is found. In doubt, as when a change was committed
// meanwhile, it gives false, and [DB.read] looks closer.
func (c *conn) matches(ctx context.Context, at []place, selections ...selection) (bool, error) {
	if c.state == nil {
		return true, nil
	}
	return c.matching(ctx, at, selections, func(*spec, []any) error { return nil })
}

// matching does that while the state is open, and hands each row to read, so that what is read
// is what was held against memory, and is read once.
func (c *conn) matching(ctx context.Context, at []place, selections []selection, read func(*spec, []any) error) (bool, error) {
	st := c.state
	there, scopes, err := st.sumOf(ctx, c, at, selections, read)
	if err != nil {
		return false, err
	}
	st.mu.RLock()
	defer st.mu.RUnlock()
	good := true
	for g, sum := range there.groups {
		switch {
		case st.broken[scopes[g]] || st.bad[g]:
			good = false
		case st.groups[g] != sum:
			good = false
			c.doubts = append(c.doubts, doubt{at, selections})
		}
	}
	return good, nil
}

// doubt is what was not as in memory, and is to be looked at while nothing changes.
type doubt struct {
	at         []place
	selections []selection
}

func (s *state) sumOf(ctx context.Context, c *conn, at []place, selections []selection, read func(*spec, []any) error) (*delta, map[uint64]string, error) {
	there, scopes := newDelta(), map[uint64]string{}
	for _, p := range at {
		there.groups[p.group], scopes[p.group] = 0, p.scope
	}
	for _, sel := range selections {
		sp := s.specs[sel.table]
		if err := c.selected(ctx, sp, sel, func(row []any) error {
			p := s.count(there, sp, row, false)
			scopes[p.group] = p.scope
			return read(sp, row)
		}); err != nil {
			return nil, nil, err
		}
		if sel.where != "" {
			delete(there.groups, sp.whole)
		} else if sp.whole != 0 {
			there.groups[sp.whole] += 0 // also if the table has no row
			scopes[sp.whole] = appliance.ScopeInstallation
		}
	}
	return there, scopes, nil
}

// selected reads the rows of a selection.
func (c *conn) selected(ctx context.Context, sp *spec, sel selection, f func(row []any) error) error {
	if sp == nil {
		return fmt.Errorf("the table %s is in no set", sel.table)
	}
	name := [2]string{sel.table, sel.where}
	query := c.selections[name]
	if query == "" {
		query = sel.query(sp.columns)
		c.selections[name] = query
	}
	var failed error
	err := c.raw(ctx, func(row []any) {
		if failed == nil {
			failed = f(row)
		}
	}, query, sel.args...)
	return cmp.Or(err, failed)
}

// resolve looks at doubts while nothing is changed, and notes which groups are not as in
// memory. It does so apart from changes, so that a read does not fail with the log of changes.
func (s *DB) resolve(ctx context.Context, doubts []doubt) error {
	return s.writer.doOnce(ctx, func(c *conn) error {
		st := s.writer.counting
		if st == nil {
			return nil
		}
		for _, d := range doubts {
			there, scopes, err := st.sumOf(ctx, c, d.at, d.selections, func(*spec, []any) error { return nil })
			if err != nil {
				return err
			}
			for g, sum := range there.groups {
				if st.groups[g]+st.batch.groups[g] == sum {
					continue
				}
				st.mu.Lock()
				st.bad[g] = true
				if scopes[g] != appliance.ScopeInstallation {
					st.damaged[scopes[g]] = true
				}
				st.mu.Unlock()
				s.writer.log.Error("rows do not match their manifest, so somebody else has changed them", "table", d.selections[0].table, "scope", scopes[g])
				if scopes[g] == appliance.ScopeInstallation && d.selections[0].table != "sessions" {
					st.lost(stateChanged())
				}
			}
		}
		return nil
	})
}

// keyMatches reads a key, its versions in their order and the grants on it, and says whether
// they are those of memory; true while the state is closed.
func (s *DB) keyMatches(ctx context.Context, c *conn, keyStore, id string, read func(*spec, []any) error) (bool, error) {
	args := []any{keyStore, id}
	selections := []selection{
		{"external_keys", "key_store = ? AND id = ?", args},
		{"key_versions", "key_store = ? AND key_id = ? ORDER BY version", args},
		{"grants", "key_store = ? AND key_id = ?", args}}
	if c.state != nil {
		return c.matching(ctx, []place{placeOfKey(s.seed, keyStore, id)}, selections, read)
	}
	for _, sel := range selections {
		sp := s.writer.specs[sel.table]
		if err := c.selected(ctx, sp, sel, func(row []any) error { return read(sp, row) }); err != nil {
			return false, err
		}
	}
	return true, nil
}

// storeMatches says that of a key store, its credentials and the grants on the whole of it.
func (s *DB) storeMatches(ctx context.Context, c *conn, keyStore string) (bool, error) {
	args := []any{keyStore}
	return c.matches(ctx, []place{placeOfKeyStore(s.seed, keyStore)},
		selection{"key_stores", "id = ?", args},
		selection{"credentials", "key_store = ?", args},
		selection{"grants", "key_store = ? AND key_id IS NULL", args})
}

// rowMatches says that of one row of another table.
func (s *DB) rowMatches(ctx context.Context, c *conn, table, where string, args ...any) (bool, error) {
	return c.matches(ctx, nil, selection{table, where, args})
}

// allMatch gives fault.StateChanged if the rows of a table are not those of memory.
func (s *DB) allMatch(ctx context.Context, c *conn, table string) error {
	matches, err := s.rowMatches(ctx, c, table, "")
	if err == nil && !matches {
		err = stateChanged()
	}
	return err
}

// clear has a group taken as it is after the change at hand: people discard what it has.
func (w *writer) clear(p place) {
	if w.counting != nil {
		w.counting.tx.cleared[p.group] = true
	}
}

// clearStore does that with all groups of a key store.
func (s *DB) clearStore(ctx context.Context, c *conn, keyStore string) error {
	s.writer.clear(placeOfKeyStore(s.seed, keyStore))
	return c.each(ctx, func(scan scanner) error {
		var id string
		err := scan(&id)
		s.writer.clear(placeOfKey(s.seed, keyStore, id))
		return err
	}, `SELECT id FROM external_keys WHERE key_store = ?`, keyStore)
}
