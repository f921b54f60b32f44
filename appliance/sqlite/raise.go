package sqlite

import (
	"cmp"
	"context"
	"errors"
	"maps"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// firstOfFleet is the version of the schema that a fleet can have first.
const firstOfFleet = 19

// begins gives the schema in which rows that are sealed as they are begin: this binary's, or
// for a test an earlier one of a fleet.
func (s *DB) begins(o appliance.StateOptions) int64 {
	if o.Log == nil {
		return s.schema
	}
	return cmp.Or(s.founds, s.schema)
}

// newState gives a state, without rows yet, in which rows are counted in a schema.
func (w *writer) newState(ctx context.Context, o appliance.StateOptions, schema int64) (*state, error) {
	specs, err := specsIn(ctx, schema, w.schema, w.specs, w.seed)
	if err != nil {
		return nil, err
	}
	s := newState(o, schema, w.seed, specs)
	s.file = w.schema
	return s, nil
}

// stateAfter gives the state in which a change of a schema is taken over: the one that there
// is, or if the change raises the schema or is the first one, another. fault.FleetNewer.
func (w *writer) stateAfter(ctx context.Context, st *state, schema int64) (*state, error) {
	first := st.replica.at.Number == 0
	switch {
	case schema == st.schema:
		return st, nil
	case schema > w.schema:
		return nil, fleetNewer(schema, w.schema)
	case schema < firstOfFleet || schema < st.schema && !first:
		return nil, fault.Errorf(fault.FleetLog, "change %d of the fleet's database is of schema %d, and the fleet has schema %d already", st.replica.at.Number+1, schema, st.schema)
	}
	to, err := w.newState(ctx, st.o, schema)
	if err != nil {
		return nil, err
	}
	to.replica = st.replica
	return to, nil
}

func fleetNewer(fleet, knows int64) error {
	return fault.Errorf(fault.FleetNewer, "the fleet has schema %d, and this version of Holdfast knows schemas up to %d: update this node to the version of the other nodes", fleet, knows)
}

// recount counts all rows in the schema of this state. They must be what they are in memory.
// Another program must not write meanwhile: call it in a transaction.
func (s *state) recount(ctx context.Context, c *conn, was *state) error {
	report, err := was.compare(ctx, c)
	if err != nil {
		return err
	}
	if len(report.Damaged) > 0 {
		return fault.Errorf(fault.StateChanged, "rows of %q do not match their manifest, so the schema of the fleet is not raised on this node: restart it, which loads them from the fleet's database", report.Damaged[0])
	}
	there, n, err := s.actual(ctx, c)
	if err != nil {
		return err
	}
	if s.version, err = dataVersion(c); err != nil {
		return err
	}
	s.sums, s.groups, s.rows = there.sums, there.groups, n
	s.heads, s.replica, s.first, s.told = maps.Clone(was.heads), was.replica, was.first, was.told
	s.tx = newDelta()
	s.tx.anchored = true // anchors are told of it
	return nil
}

// RaiseSchema implements [appliance.StateRows].
func (s *DB) RaiseSchema(ctx context.Context, to int64) error {
	var open *openChange
	err := s.writer.doFree(ctx, func() (err error) {
		open, err = s.writer.raise(ctx, to)
		return err
	})
	s.announceForeign()
	s.writer.progress.done(open)
	return err
}

// raise does that in the writer's goroutine. All rows are counted once; what other nodes
// change meanwhile is counted as it is taken over.
func (w *writer) raise(ctx context.Context, to int64) (*openChange, error) {
	st := w.live.Load()
	switch {
	case st == nil:
		return nil, stateClosed()
	case to <= st.schema || st.replica == nil:
		return nil, nil
	case to > w.schema:
		return nil, fleetNewer(to, w.schema)
	}
	next, err := w.newState(ctx, st.o, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.conn.exec("BEGIN"); err != nil {
		return nil, notWritten(err)
	}
	err = next.recount(ctx, w.conn, st)
	if w.rollback(nil); err != nil {
		return nil, err
	}
	w.next = next
	defer func() { w.next = nil }()
	for range overtakenMost {
		open, err := w.sealRaised(ctx, st, next)
		if !errors.Is(err, errOvertaken) {
			return open, err
		}
		if st, err = w.catchUp(ctx, st); err != nil || st.schema >= to {
			return nil, err
		}
	}
	return nil, fault.Errorf(fault.Changed, "other nodes of the fleet change something all the time; the schema is raised later")
}

// sealRaised tries once to seal all sets in the schema of next. errOvertaken.
func (w *writer) sealRaised(ctx context.Context, st, next *state) (*openChange, error) {
	c := &change{apply: fenced(ctx, func(*conn) error {
		next.heads, next.tx = maps.Clone(st.heads), newDelta()
		next.tx.anchored = true
		for scope := range st.heads {
			next.tx.forced[scope] = true
		}
		w.opened = next
		return nil
	})}
	results := make([]error, 1)
	if err := w.attempt([]*change{c}, results); err != nil {
		next.tx = newDelta()
		if errors.Is(err, errOvertaken) {
			return nil, err
		}
		return nil, notWritten(err)
	}
	return c.open, results[0]
}

// alsoInNext counts a row that is taken over in the state that a raise prepares.
func (w *writer) alsoInNext(c *rowChange) {
	n := w.next
	if n == nil {
		return
	}
	sp := n.specs[c.spec.name]
	if c.before != nil && !sp.outOfPlace(c.before) {
		n.count(n.tx, sp, c.before, true)
	}
	if c.after != nil && !sp.outOfPlace(c.after) {
		n.count(n.tx, sp, c.after, false)
	}
}

// nextCommitted takes over what alsoInNext has counted.
func (w *writer) nextCommitted() {
	n := w.next
	if n == nil {
		return
	}
	for scope, sum := range n.tx.sums {
		n.sums[scope] = n.sums[scope].Plus(sum)
	}
	for g, sum := range n.tx.groups {
		if sum += n.groups[g]; sum == 0 {
			delete(n.groups, g)
		} else {
			n.groups[g] = sum
		}
	}
	n.tx = newDelta()
}

// Schemas implements [appliance.StateRows].
func (s *DB) Schemas() appliance.Schemas {
	known := appliance.Schemas{Known: s.schema}
	if st := s.writer.live.Load(); st != nil {
		known.Used = st.schema
	}
	return known
}
