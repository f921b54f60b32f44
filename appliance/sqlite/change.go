package sqlite

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// announced gives what a changed row has to be announced as; false for nothing, as of
// what the methods of the store announce nothing of.
func (r *rowChange) announced() (appliance.Change, bool) {
	if !r.spec.differs(r.spec.anchored, r.before, r.after) {
		return appliance.Change{}, false
	}
	row := r.after
	if row == nil {
		row = r.before
	}
	var c appliance.Change
	switch {
	case r.spec.name == "installation":
		return c, true
	case r.spec.name == "settings":
		c.Setting, _ = row[r.spec.pk[0]].(string)
		return c, true
	case r.spec.keyStore < 0:
		return c, false
	}
	c.KeyStore, _ = row[r.spec.keyStore].(string)
	if r.spec.key >= 0 {
		c.KeyID, _ = row[r.spec.key].(string)
	}
	return c, true
}

// A change in the log is a stream of tables (package snapshot). Each has the columns of the
// row before and after, and says whether there was one, and is one.
const (
	wasPrefix = "was_"
	hadColumn = "had"
	hasColumn = "has"
)

// encodeChange writes the rows that a transaction changed, ordered by table and row.
func encodeChange(schema int64, rows map[string]*rowChange) ([]byte, error) {
	var out bytes.Buffer
	w := snapshot.NewWriter(&out, uint32(schema))
	ids := slices.SortedFunc(maps.Keys(rows), func(a, b string) int {
		if c := strings.Compare(rows[a].spec.name, rows[b].spec.name); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	table := ""
	for _, id := range ids {
		r := rows[id]
		if r.before == nil && r.after == nil {
			continue // made and removed in one transaction
		}
		columns := r.spec.logged()
		n := len(columns)
		if r.spec.name != table {
			table = r.spec.name
			t := snapshot.Table{Name: table, Columns: []string{hadColumn, hasColumn}}
			for _, c := range columns {
				t.Columns = append(t.Columns, wasPrefix+c)
			}
			t.Columns = append(t.Columns, columns...)
			if err := w.Table(t); err != nil {
				return nil, err
			}
		}
		values := make([]any, 2+2*n)
		values[0], values[1] = int64(0), int64(0)
		if r.before != nil {
			values[0] = int64(1)
			copy(values[2:], r.spec.toLog(r.before))
		}
		if r.after != nil {
			values[1] = int64(1)
			copy(values[2+n:], r.spec.toLog(r.after))
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

// decodeChange gives the rows of a change one by one. The specs are those of its schema.
func decodeChange(r *snapshot.Reader, specs map[string]*spec, f func(*rowChange) error) error {
	for {
		t, err := r.Table()
		if t == nil || err != nil {
			return err
		}
		sp := specs[t.Name]
		if sp == nil || !sp.isLogged(t.Columns) {
			return fault.Errorf(fault.FleetLog, "the change has a table %s that this version does not know, or with other columns", t.Name)
		}
		for {
			row, err := r.Row()
			if err != nil {
				return err
			}
			if row == nil {
				break
			}
			n := len(sp.logged())
			c := &rowChange{spec: sp}
			if row[0] == int64(1) {
				c.before, err = sp.fromLog(row[2 : 2+n])
			}
			if row[1] == int64(1) && err == nil {
				c.after, err = sp.fromLog(row[2+n:])
			}
			if err == nil {
				err = f(c)
			}
			if err != nil {
				return err
			}
		}
	}
}

// isLogged says whether a table of a change has the columns that the log has of the table.
func (s *spec) isLogged(columns []string) bool {
	want := s.logged()
	return len(want) > 0 && len(columns) == 2+2*len(want) && slices.Equal(columns[2+len(want):], want)
}

// put makes the change of one row here, which must be as it was there. The rows of tables
// that are in no manifest may differ, since a node that is locked changes its own.
func (w *writer) put(r *rowChange) error {
	sp, n := r.spec, len(r.spec.columns)
	where, key := make([]string, len(sp.pk)), make([]any, len(sp.pk))
	for i, k := range sp.pk {
		where[i] = fmt.Sprintf("%q IS ?", sp.columns[k])
		if r.before != nil {
			key[i] = r.before[k]
		} else if r.after != nil {
			key[i] = r.after[k]
		}
	}
	condition := strings.Join(where, " AND ")
	var err error
	changed := int64(1)
	switch {
	case r.after == nil && r.before == nil:
		return fault.Errorf(fault.FleetLog, "the change has a row of %s that is none", sp.name)
	case r.after == nil:
		changed, err = w.conn.exec(fmt.Sprintf(`DELETE FROM %q WHERE %s`, sp.name, condition), key...)
	case r.before == nil || !sp.kept:
		if !sp.kept {
			_, err = w.conn.exec(fmt.Sprintf(`DELETE FROM %q WHERE %s`, sp.name, condition), key...)
		}
		if err == nil {
			changed, err = w.conn.exec(fmt.Sprintf(`INSERT INTO %q (%s) VALUES (?%s)`, sp.name, quoted(sp.columns), strings.Repeat(", ?", n-1)), slices.Clone(r.after)...)
		}
	default:
		set := make([]string, n)
		for i, c := range sp.columns {
			set[i] = fmt.Sprintf("%q = ?", c)
		}
		changed, err = w.conn.exec(fmt.Sprintf(`UPDATE %q SET %s WHERE %s`, sp.name, strings.Join(set, ", "), condition), append(slices.Clone(r.after), key...)...)
	}
	if err == nil && changed != 1 && sp.kept {
		err = fault.Errorf(fault.FleetLog, "the change is about a row of %s that is not there", sp.name)
	}
	return err
}

// cloneRow gives a row that nobody else has. What scan gives is of the next row, too.
func cloneRow(row []any) []any {
	out := slices.Clone(row)
	for i, v := range out {
		if b, ok := v.([]byte); ok {
			out[i] = bytes.Clone(b)
		}
	}
	return out
}
