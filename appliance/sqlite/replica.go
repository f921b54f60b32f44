package sqlite

import (
	"bytes"
	"context"
	"crypto/hmac"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

// rowChange is what a transaction did to a row; nil for no such row.
type rowChange struct {
	spec          *spec
	before, after []any
}

// recordRow keeps what a change does to a row, as one change for each row of a transaction.
func (d *delta) recordRow(sp *spec, before, after []any) {
	row := before
	if row == nil {
		row = after
	}
	// A primary key that is changed is another row.
	if before != nil && after != nil && sp.rowID(before) != sp.rowID(after) {
		d.recordRow(sp, before, nil)
		d.recordRow(sp, nil, after)
		return
	}
	id := sp.rowID(row)
	if was := d.rows[id]; was != nil {
		was.after = after
		return
	}
	if d.rows == nil {
		d.rows = map[string]*rowChange{}
	}
	d.rows[id] = &rowChange{sp, before, after}
}

// rowID names a row by its table and primary key.
func (s *spec) rowID(row []any) string {
	id := appendPart(nil, 'r', s.name)
	for _, i := range s.pk {
		id = appendValue(id, row[i])
	}
	return string(id)
}

// The columns of a change in a stream of rows: those of the row before have a prefix.
const (
	wasPrefix  = "was_"
	headTable  = "head"
	headColumn = "digest"
)

// encodeChange writes the rows that a transaction changed.
func encodeChange(schema int64, head []byte, rows map[string]*rowChange) ([]byte, error) {
	var out bytes.Buffer
	w := snapshot.NewWriter(&out, uint32(schema))
	if err := w.Table(snapshot.Table{Name: headTable, Columns: []string{headColumn}}); err != nil {
		return nil, err
	}
	if err := w.Row([]any{head}); err != nil {
		return nil, err
	}
	table := ""
	ids := slices.SortedFunc(maps.Keys(rows), strings.Compare)
	slices.SortStableFunc(ids, func(a, b string) int { return strings.Compare(rows[a].spec.name, rows[b].spec.name) })
	for _, id := range ids {
		r := rows[id]
		n := len(r.spec.columns)
		if r.spec.name != table {
			table = r.spec.name
			t := snapshot.Table{Name: table, Columns: []string{"had", "has"}}
			for _, c := range r.spec.columns {
				t.Columns = append(t.Columns, wasPrefix+c)
			}
			t.Columns = append(t.Columns, r.spec.columns...)
			if err := w.Table(t); err != nil {
				return nil, err
			}
		}
		values := make([]any, 2+2*n)
		values[0], values[1] = int64(0), int64(0)
		if r.before != nil {
			values[0] = int64(1)
			copy(values[2:], r.before)
		}
		if r.after != nil {
			values[1] = int64(1)
			copy(values[2+n:], r.after)
		}
		if err := w.Row(values); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// append hands the transaction at hand to the log. fault.Changed if another appliance was
// faster.
func (s *state) append(ctx context.Context) error {
	if len(s.tx.rows) == 0 {
		return nil
	}
	root := s.tx.heads[appliance.ScopeInstallation]
	if root == nil {
		root = s.heads[appliance.ScopeInstallation]
	}
	body, err := encodeChange(s.schema, root.Digest(), s.tx.rows)
	if err != nil {
		return err
	}
	return s.o.Log.Append(ctx, s.number+1, body)
}

// catchUp takes over all changes of others.
func (w *writer) catchUp(ctx context.Context, st *state) error {
	for {
		body, err := st.o.Log.Change(ctx, st.number+1)
		if fault.CodeOf(err) == fault.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.takeOver(ctx, st, body); err != nil {
			return err
		}
	}
}

// takeOver makes the change of another appliance here. What it leaves must match the
// manifests that it brings.
func (w *writer) takeOver(ctx context.Context, st *state, body []byte) error {
	if _, err := w.conn.exec("PRAGMA foreign_keys = 0"); err != nil { // the rows are exact
		return err
	}
	defer func() { _, _ = w.conn.exec("PRAGMA foreign_keys = 1") }()
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	w.counting = st
	defer func() { w.counting = nil }()
	if err := st.begin(ctx, w.conn); err != nil {
		return w.rollback(err)
	}
	st.replaying = true
	defer func() { st.replaying = false }()
	head, err := w.replay(st, body)
	if err == nil {
		err = st.verifyReplayed(ctx, w.conn, head)
	}
	if err != nil {
		return w.rollback(err)
	}
	if _, err := w.conn.exec("COMMIT"); err != nil {
		return w.rollback(err)
	}
	st.tx.anchored = false
	st.committed()
	st.number++
	return nil
}

// replay writes the rows of a change, and gives the digest of the manifest that it leaves.
func (w *writer) replay(st *state, body []byte) (head []byte, err error) {
	r, err := snapshot.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for {
		t, err := r.Table()
		if err != nil {
			return nil, err
		}
		if t == nil {
			return head, nil
		}
		if t.Name == headTable {
			row, err := r.Row()
			if err != nil {
				return nil, err
			}
			head, _ = row[0].([]byte)
		}
		sp := st.specs[t.Name]
		if sp == nil && t.Name != headTable {
			return nil, fmt.Errorf("the table %s of the change is unknown", t.Name)
		}
		for {
			row, err := r.Row()
			if err != nil {
				return nil, err
			}
			if row == nil {
				break
			}
			if err := w.put(sp, row); err != nil {
				return nil, err
			}
		}
	}
}

// put writes one row of a change.
func (w *writer) put(sp *spec, row []any) error {
	n := len(sp.columns)
	before, after := row[2:2+n], row[2+n:]
	had, has := row[0] == int64(1), row[1] == int64(1)
	where, args := make([]string, len(sp.pk)), make([]any, len(sp.pk))
	for i, k := range sp.pk {
		where[i] = fmt.Sprintf("%q IS ?", sp.columns[k])
		args[i] = before[k]
	}
	var err error
	var changed int64
	switch {
	case had && !has:
		changed, err = w.conn.exec(fmt.Sprintf(`DELETE FROM %q WHERE %s`, sp.name, strings.Join(where, " AND ")), args...)
	case has && !had:
		changed, err = w.conn.exec(fmt.Sprintf(`INSERT INTO %q (%s) VALUES (%s)`, sp.name, quoted(sp.columns), strings.TrimSuffix(strings.Repeat("?, ", n), ", ")), slices.Clone(after)...)
	case had && has:
		set := make([]string, n)
		for i, c := range sp.columns {
			set[i] = fmt.Sprintf("%q = ?", c)
		}
		changed, err = w.conn.exec(fmt.Sprintf(`UPDATE %q SET %s WHERE %s`, sp.name, strings.Join(set, ", "), strings.Join(where, " AND ")), append(slices.Clone(after), args...)...)
	default:
		return nil // made and removed in one transaction
	}
	if err == nil && changed != 1 {
		err = fmt.Errorf("%d rows of %s are changed where one should be", changed, sp.name)
	}
	return err
}

// verifyReplayed holds what a change of another appliance left against its manifests.
func (s *state) verifyReplayed(ctx context.Context, c *conn, head []byte) error {
	if s.tx.err != nil {
		return s.tx.err
	}
	stored, err := readManifests(ctx, c)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	for scope, sum := range s.tx.sums {
		changed[scope] = sum != (appliance.Sum{})
	}
	for scope, m := range stored {
		was := s.heads[scope]
		same := was != nil && string(was.Digest()) == string(m.Digest())
		if same && !changed[scope] {
			continue
		}
		sum := s.sums[scope].Plus(s.tx.sums[scope])
		sequence, before := uint64(1), []byte{}
		if was != nil {
			sequence, before = was.Sequence+1, was.Digest()
		}
		if m.Sequence != sequence || string(m.Before) != string(before) || !hmac.Equal(m.Seal, s.o.Key.Seal(m, &sum)) {
			return fault.Errorf(fault.StateChanged, "a change of another appliance leaves rows of %q that do not match its manifest", scope)
		}
		s.tx.heads[scope] = m
		delete(changed, scope)
	}
	for scope, open := range changed {
		if open {
			return fault.Errorf(fault.StateChanged, "a change of another appliance has rows of %q and no manifest of them", scope)
		}
	}
	root := s.tx.heads[appliance.ScopeInstallation]
	if root == nil {
		root = s.heads[appliance.ScopeInstallation]
	}
	if string(root.Digest()) != string(head) {
		return fault.Errorf(fault.StateChanged, "a change of another appliance leaves another state than it says")
	}
	if s.tx.heads[appliance.ScopeInstallation] != nil {
		_, err = c.exec(`INSERT INTO manifest_history (sequence, digest) VALUES (?, ?) ON CONFLICT (sequence) DO UPDATE SET digest = excluded.digest`, int64(root.Sequence), root.Digest())
	}
	return err
}

var _ = io.EOF
var _ = time.Now
