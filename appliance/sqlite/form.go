package sqlite

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"

	"holdfast/appliance/fault"
)

// form is how a table is in the schema of the fleet, where that is not this node's: which
// columns are counted, sealed and in the log. The columns that this node has more must have
// the values that their migrations gave them.
type form struct {
	columns []string // none if the table came later
	digest  []byte
	counted []bool
	from    []int // for each of the columns, that of the table here; -1 if it was dropped since
	dropped []any // for each of the columns, the value that it must have if it was dropped
	added   []addedColumn
	width   int // how many columns the table has here
}

// addedColumn is a column that the fleet's schema lacks, and the value that its migration
// gave it.
type addedColumn struct {
	at    int
	value any
}

// specsIn gives the specs of the tables of one schema for rows that are in another one: here.
func specsIn(ctx context.Context, fleet, here int64, specs map[string]*spec, seed maphash.Seed) (map[string]*spec, error) {
	if fleet == here {
		return specs, nil
	}
	then, err := specsOf(ctx, fleet, seed)
	if err != nil {
		return nil, err
	}
	out := map[string]*spec{}
	for name, sp := range specs {
		was := then[name]
		if was != nil && slices.Equal(was.columns, sp.columns) {
			out[name] = sp
			continue
		}
		formed := *sp
		formed.form = formOf(was, sp)
		out[name] = &formed
	}
	return out, nil
}

// formOf gives the form of a table; was is nil if the table came later.
func formOf(was, now *spec) *form {
	f := &form{width: len(now.columns)}
	kept := make([]bool, len(now.columns))
	if was != nil {
		f.columns, f.digest, f.counted, f.dropped = was.columns, was.head, was.counted, was.initial
		for _, c := range was.columns {
			i := slices.Index(now.columns, c)
			f.from = append(f.from, i)
			if i >= 0 {
				kept[i] = true
			}
		}
	}
	for i := range now.columns {
		if !kept[i] {
			f.added = append(f.added, addedColumn{i, now.initial[i]})
		}
	}
	return f
}

// fits says whether a row has nothing that is counted and that the fleet's schema lacks. One
// that does is counted with it, so that it matches no manifest of the fleet's schema.
func (f *form) fits(row []any, counted []bool) bool {
	for _, a := range f.added {
		if counted[a.at] && !equal(row[a.at], a.value) {
			return false
		}
	}
	return f.columns != nil
}

// encode writes what is counted of a row that fits, as nodes with the fleet's schema do.
func (f *form) encode(out []byte, row []any) []byte {
	out = append(out, f.digest...)
	for i, counts := range f.counted {
		if counts {
			out = appendValue(out, f.value(i, row))
		}
	}
	return out
}

func (f *form) value(i int, row []any) any {
	if f.from[i] < 0 {
		return f.dropped[i]
	}
	return row[f.from[i]]
}

// logged gives the columns that the log has of the table; none if the fleet's schema lacks it.
func (s *spec) logged() []string {
	if s.form == nil {
		return s.columns
	}
	return s.form.columns
}

// toLog gives a row as the log has it.
func (s *spec) toLog(row []any) []any {
	if s.form == nil || row == nil {
		return row
	}
	out := make([]any, len(s.form.columns))
	for i := range out {
		out[i] = s.form.value(i, row)
	}
	return out
}

// fromLog gives a row of the log as the table here has it. fault.FleetUpdating if it has a
// value in a column that was dropped since.
func (s *spec) fromLog(row []any) ([]any, error) {
	f := s.form
	if f == nil || row == nil {
		return row, nil
	}
	out := make([]any, f.width)
	for _, a := range f.added {
		out[a.at] = a.value
	}
	for i, v := range row {
		switch at := f.from[i]; {
		case at >= 0:
			out[at] = v
		case !equal(v, f.dropped[i]):
			return nil, stillUsed(fmt.Sprintf("column %s of the table %s", f.columns[i], s.name))
		}
	}
	return out, nil
}

// writable says whether the fleet's schema can have a row. fault.FleetUpdating.
func (s *spec) writable(row []any) error {
	f := s.form
	if f == nil || row == nil {
		return nil
	}
	if f.columns == nil {
		return notYet(fmt.Sprintf("the table %s", s.name))
	}
	for _, a := range f.added {
		if !equal(row[a.at], a.value) {
			return notYet(fmt.Sprintf("the column %s of the table %s", s.columns[a.at], s.name))
		}
	}
	return nil
}

func stillUsed(what string) error {
	return fault.Errorf(fault.FleetUpdating, "the fleet still uses the %s, which this version of Holdfast does not have any more: update all nodes to the version before this one first", what)
}

func notYet(what string) error {
	return fault.Errorf(fault.FleetUpdating, "this needs %s, which nodes of the fleet with an earlier version of Holdfast do not have; update all nodes first", what)
}
