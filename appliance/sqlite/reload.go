package sqlite

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

// openReplica opens the rows of a fleet: those that are here, if they match their manifest,
// or those of the log; and brings them to its newest change. It is not opened if the log has
// no change, and all rows are to be sealed as its first one.
func (s *DB) openReplica(ctx context.Context, o appliance.StateOptions) (opened bool, report *appliance.StateReport, err error) {
	var st *state
	err = s.writer.doFree(ctx, func() error {
		w := s.writer
		if err := checkSchema(ctx, w.conn.c.QueryContext, s.schema); err != nil {
			return err
		}
		at, err := readPosition(w.conn)
		if err != nil {
			return err
		}
		newest, err := o.Log.Newest(ctx)
		if err != nil {
			return err
		}
		switch {
		case at.Number == 0 && newest == 0 && o.Seal:
			return nil
		case at.Number == 0 && newest == 0:
			return fault.Errorf(fault.FleetFounding, "the fleet's database has no change yet: the node that began the installation has not left its rows there; start that node")
		case o.Seal:
			return fault.Errorf(fault.Conflict, "the rows of a fleet are in its log of changes and are not sealed as one node has them; restore a backup to an appliance of one machine, and move that with holdfastd state move")
		}
		if st, err = s.brought(ctx, o, at); err != nil {
			return err
		}
		head := st.heads[appliance.ScopeInstallation]
		if head == nil {
			return fault.Errorf(fault.FleetFounding, "the fleet's database has the first change, and not yet the snapshot of the rows that it stands for: the node that began the installation leaves it there when it starts")
		}
		if o.Fresh != nil {
			if _, err := fresh(ctx, w.conn, o, head); err != nil {
				return err
			}
		}
		if st.version, err = dataVersion(w.conn); err != nil {
			return err
		}
		st.first = head.Head()
		w.progress.begin(st.replica.at)
		w.live.Store(st)
		return nil
	})
	if err != nil || st == nil {
		return false, nil, err
	}
	s.announce(appliance.Change{})
	return true, &appliance.StateReport{Head: st.first, Rows: st.rows}, nil
}

// brought gives the state at the newest change: of the rows that are here, or of those that
// the log has if they do not count, or are not what its changes come after. Whether what
// the log has in their place is as new as what this node has known, the anchors say.
func (s *DB) brought(ctx context.Context, o appliance.StateOptions, at appliance.Position) (st *state, err error) {
	var why error
	if at.Number > 0 {
		if st, why = s.judged(ctx, o, at); why == nil {
			st, why = s.writer.catchUp(ctx, st)
			if code := fault.CodeOf(why); code != fault.FleetBehind && code != fault.FleetUpdating {
				return st, why // what is here is good: it is not given up for what the log has
			}
			heads, err := readManifests(ctx, s.writer.conn)
			if err != nil {
				return nil, err
			}
			own := heads[appliance.ScopeInstallation].Head()
			if st, err = s.reload(ctx, o, &own); err == nil {
				st, err = s.writer.catchUp(ctx, st)
			}
			return st, err
		}
		switch fault.CodeOf(why) {
		case fault.StateChanged, fault.StateUnsealed, fault.FleetLog, fault.FleetUpdating:
		default:
			return st, why
		}
		s.writer.log.Error("the rows of the fleet on this machine do not match their manifest, or not what the fleet's database has; they are loaded from there", "code", fault.CodeOf(why), "reason", fault.ReasonOf(why))
	}
	if st, err = s.reload(ctx, o, nil); err == nil {
		st, err = s.writer.catchUp(ctx, st)
	}
	if fault.CodeOf(err) == fault.FleetLog && why != nil {
		return nil, why
	}
	return st, err
}

// judged gives the state of all rows that there are. fault.StateUnsealed,
// fault.StateChanged.
func (s *DB) judged(ctx context.Context, o appliance.StateOptions, at appliance.Position) (*state, error) {
	w := s.writer
	heads, err := readManifests(ctx, w.conn)
	if err != nil {
		return nil, err
	}
	root := heads[appliance.ScopeInstallation]
	if root == nil {
		return nil, fault.Errorf(fault.StateUnsealed, "there is no manifest of the installation")
	}
	if root.Schema > s.schema || root.Schema < firstOfFleet { // this node does not take one over
		return nil, stateChanged()
	}
	st, err := w.newState(ctx, o, root.Schema)
	if err != nil {
		return nil, err
	}
	st.heads = heads
	st.replica = &replica{log: o.Log, key: o.Key, at: at}
	there, n, err := st.actual(ctx, w.conn)
	if err != nil {
		return nil, err
	}
	j, err := st.judge(ctx, w.conn, there)
	if err != nil {
		return nil, err
	}
	if !j.root || len(j.broken) > 0 {
		return nil, stateChanged()
	}
	if err := w.proven(st.replica); err != nil {
		return nil, err
	}
	st.sums, st.groups, st.rows = there.sums, there.groups, n
	st.version, err = dataVersion(w.conn)
	return st, err
}

// proven says whether a node of this installation has made the change that the position
// is of.
func (w *writer) proven(r *replica) error {
	t, err := w.kept(r.at.Number)
	if err != nil {
		return err
	}
	if t != nil && len(t.body) >= sha256.Size {
		body := t.body
		before := appliance.Position{Number: r.at.Number - 1, Digest: hex.EncodeToString(body[:sha256.Size])}
		_, err = (&replica{key: r.key, at: before}).open(body)
		if err == nil && after(before, body) == r.at {
			return nil
		}
	}
	return fault.Errorf(fault.FleetLog, "the position of change %d was not written by this installation", r.at.Number)
}

// reload puts what the log has in the place of the rows that are here: the newest snapshot,
// or the first change. Rows that are good have a head, own, which must be in the past of the
// snapshot: an earlier one must not replace them. Without it what is here does not count.
func (s *DB) reload(ctx context.Context, o appliance.StateOptions, own *appliance.Head) (st *state, err error) {
	w := s.writer
	number, parts, err := o.Log.Snapshot(ctx)
	if code := fault.CodeOf(err); err != nil && code != fault.NotFound {
		return nil, err
	}
	if err != nil && own != nil {
		return nil, fault.Errorf(fault.FleetLog, "the fleet's database has forgotten changes, and has no snapshot")
	}
	if err != nil {
		if st, err = w.newState(ctx, o, s.schema); err != nil {
			return nil, err
		}
		st.replica = &replica{log: o.Log, key: o.Key, at: begunAt}
		first, err := o.Log.Changes(ctx, 1, 1)
		if err != nil {
			return nil, err
		}
		if len(first) == 0 {
			return nil, fault.Errorf(fault.FleetLog, "the fleet's database has neither its first change nor a snapshot: it was changed by hand, or restored in part")
		}
		return w.takeOver(ctx, st, first[0], func() (err error) {
			if err := w.empty(); err != nil {
				return err
			}
			st.version, err = dataVersion(w.conn)
			return err
		})
	}
	err = w.exactly(func() error {
		if err := w.empty(); err != nil {
			return err
		}
		at, err := w.load(ctx, o.Key, number, parts)
		if err != nil {
			return err
		}
		st, err = s.judged(ctx, o, at)
		if code := fault.CodeOf(err); code == fault.StateChanged || code == fault.StateUnsealed {
			return fault.Wrapf(fault.FleetLog, err, "the snapshot of change %d in the fleet's database does not match its manifest", number)
		}
		if err != nil || own == nil {
			return err
		}
		is, err := past(ctx, w.conn, st.heads[appliance.ScopeInstallation], *own)
		if err == nil && !is {
			err = fault.Errorf(fault.FleetBranch, "the snapshot of change %d in the fleet's database does not come after the state that this node has", number)
		}
		return err
	})
	return st, err
}

// empty removes all rows that a fleet shares, and what is of them.
func (w *writer) empty() error {
	for _, name := range append(slices.Sorted(maps.Keys(w.specs)), "manifest_history", "taken_changes") {
		if sp := w.specs[name]; sp != nil && sp.machine {
			continue
		}
		if _, err := w.conn.exec(fmt.Sprintf("DELETE FROM %q", name)); err != nil {
			return err
		}
	}
	return nil
}

// snapshotID is of one snapshot: there may be several of a change, and their parts do not fit.
type snapshotID [16]byte

// partBinding names a part of a snapshot. The last one says so.
func partBinding(id snapshotID, number uint64, part int, last bool) appliance.Binding {
	return appliance.Binding{Purpose: "snapshot", Fields: []string{hex.EncodeToString(id[:]), strconv.FormatUint(number, 10), strconv.Itoa(part), strconv.FormatBool(last)}}
}

// A part of a snapshot begins with this byte and the snapshot's ID, in the clear.
const (
	morePart = 0
	lastPart = 1
)

// sealedParts opens the parts of a snapshot, as a stream.
type sealedParts struct {
	key    appliance.ManifestKey
	number uint64
	next   func() ([]byte, error, bool)
	id     snapshotID // of the first part
	part   int
	last   bool
	rest   []byte
}

func (p *sealedParts) Read(out []byte) (int, error) {
	for len(p.rest) == 0 {
		sealed, err, more := p.next()
		if err != nil {
			return 0, err
		}
		switch {
		case p.last && !more:
			return 0, io.EOF
		case p.last || !more || len(sealed) < 1+len(p.id):
			return 0, fault.Errorf(fault.FleetLog, "the snapshot of change %d in the fleet's database has too few parts or too many", p.number)
		}
		p.last = sealed[0] == lastPart
		if p.part == 0 {
			copy(p.id[:], sealed[1:])
		}
		if p.rest, err = p.key.OpenChange(partBinding(p.id, p.number, p.part, p.last), sealed[1+len(p.id):]); err != nil {
			return 0, fault.Wrapf(fault.FleetLog, err, "part %d of the snapshot of change %d in the fleet's database was not made by a node of this installation, or is of another snapshot", p.part, p.number)
		}
		p.part++
	}
	n := copy(out, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// load writes the rows of a snapshot, and gives the position that it is of.
func (w *writer) load(ctx context.Context, key appliance.ManifestKey, number uint64, parts iter.Seq2[[]byte, error]) (at appliance.Position, err error) {
	next, stop := iter.Pull2(parts)
	defer stop()
	stream := &sealedParts{key: key, number: number, next: func() ([]byte, error, bool) {
		part, err, more := next()
		return part, err, more
	}}
	r, err := snapshot.NewReader(stream)
	if err != nil {
		return at, notTaken(number, err)
	}
	schema := int64(r.Schema())
	if schema > w.schema {
		return at, fleetNewer(schema, w.schema)
	}
	then, err := specsOf(ctx, schema, w.seed)
	if err != nil {
		return at, err
	}
	specs, err := specsIn(ctx, schema, w.schema, w.specs, w.seed)
	if err != nil {
		return at, err
	}
	newest := []byte{}
	for {
		t, err := r.Table()
		if err != nil {
			return at, notTaken(number, err)
		}
		if t == nil {
			break
		}
		sp := specs[t.Name]
		if sp == nil && then[t.Name] != nil {
			if row, err := r.Row(); row != nil || err != nil {
				return at, cmp.Or(err, stillUsed("table "+t.Name))
			}
			continue
		}
		if t.Name == newestChange {
			if newest, err = readNewest(r, t); err != nil {
				return at, notTaken(number, err)
			}
			continue
		}
		kept := t.Name == "taken_changes" || t.Name == "manifest_history"
		if !kept && (sp == nil || sp.machine || !slices.Equal(sp.logged(), t.Columns)) {
			return at, fault.Errorf(fault.FleetLog, "the snapshot of change %d has a table %s that this version does not know, or with other columns", number, t.Name)
		}
		into := &target{table: t.Name, columns: t.Columns}
		if !kept {
			into.columns, into.row = sp.columns, sp.fromLog
		}
		if err := loadTable(ctx, r, w.conn, into); err != nil {
			return at, notTaken(number, err)
		}
	}
	if _, err := w.conn.exec(`UPDATE taken_changes SET body = ? WHERE number = (SELECT max(number) FROM taken_changes)`, newest); err != nil {
		return at, err
	}
	if at, err = readPosition(w.conn); err == nil && at.Number != number {
		err = fault.Errorf(fault.FleetLog, "the snapshot of change %d in the fleet's database is of change %d", number, at.Number)
	}
	return at, err
}

// partBytes is how much of a snapshot a part has.
const partBytes = 1<<20 - 1<<10

// KeepSnapshot implements [appliance.StateRows].
func (s *DB) KeepSnapshot(ctx context.Context) (number uint64, err error) {
	st := s.writer.live.Load()
	if st == nil || st.replica == nil {
		return 0, stateClosed()
	}
	err = s.read(ctx, func(c *conn) error {
		at, err := readPosition(c)
		if err != nil {
			return err
		}
		number = at.Number
		return st.o.Log.KeepSnapshot(ctx, number, s.parts(ctx, c, st.o.Key, number))
	})
	return number, err
}

// parts gives the sealed parts of a snapshot of all rows that a fleet shares.
func (s *DB) parts(ctx context.Context, c *conn, key appliance.ManifestKey, number uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		p := &partWriter{key: key, number: number, yield: yield}
		_, _ = rand.Read(p.id[:]) // never fails (crypto/rand)
		err := s.writeRows(ctx, c, p)
		if err == nil {
			err = p.flush(true)
		}
		if err != nil && !p.stopped {
			yield(nil, err)
		}
	}
}

// partWriter cuts a stream into parts and seals them.
type partWriter struct {
	key     appliance.ManifestKey
	id      snapshotID
	number  uint64
	part    int
	held    []byte
	yield   func([]byte, error) bool
	stopped bool
}

func (p *partWriter) Write(b []byte) (int, error) {
	p.held = append(p.held, b...)
	for len(p.held) > partBytes {
		if err := p.flush(false); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (p *partWriter) flush(last bool) error {
	n := min(len(p.held), partBytes)
	sealed, err := p.key.SealChange(partBinding(p.id, p.number, p.part, last), p.held[:n])
	if err != nil {
		return err
	}
	kind := byte(morePart)
	if last {
		kind = lastPart
	}
	p.held = append(p.held[:0], p.held[n:]...)
	p.part++
	if !p.yield(slices.Concat([]byte{kind}, p.id[:], sealed), nil) {
		p.stopped = true
		return fault.Errorf(fault.DatabaseAway, "the snapshot was not taken whole")
	}
	return nil
}

// writeRows writes all rows that a fleet shares, their manifests, and the position.
func (s *DB) writeRows(ctx context.Context, c *conn, w io.Writer) error {
	heads, err := readManifests(ctx, c) // the rows are of the schema of this moment
	if err != nil {
		return err
	}
	if heads[appliance.ScopeInstallation] == nil {
		return stateClosed()
	}
	schema := heads[appliance.ScopeInstallation].Schema
	specs, err := specsIn(ctx, schema, s.schema, s.writer.specs, s.seed)
	if err != nil {
		return err
	}
	out := snapshot.NewWriter(w, uint32(schema))
	write := func(name string, columns, names []string, order string, toLog func([]any) []any) error {
		if err := out.Table(snapshot.Table{Name: name, Columns: names}); err != nil {
			return err
		}
		var failed error
		err := c.raw(ctx, func(row []any) {
			if failed == nil {
				failed = out.Row(toLog(row))
			}
		}, fmt.Sprintf(`SELECT %s FROM %q%s`, quoted(columns), name, order))
		if failed != nil {
			return failed
		}
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		sp := specs[name]
		if sp.machine || len(sp.logged()) == 0 {
			continue
		}
		if err := write(name, sp.columns, sp.logged(), "", sp.toLog); err != nil {
			return err
		}
	}
	asItIs := func(row []any) []any { return row }
	history := []string{"sequence", "link"}
	if err := write("manifest_history", history, history, " ORDER BY sequence", asItIs); err != nil {
		return err
	}
	position := []string{"number", "digest"}
	if err := write("taken_changes", position, append(position, "body"), " ORDER BY number", func(row []any) []any {
		return append(row, []byte{}) // only which they were
	}); err != nil {
		return err
	}
	if err := writeNewest(ctx, c, out); err != nil {
		return err
	}
	return out.Close()
}

// newestChange is what a snapshot calls the body of the change that it is of: in pieces, since
// it may be longer than a value can be.
const newestChange = "newest_change"

const (
	pieceBytes = 1 << 20
	// maxChange bounds a change, as package postgres does.
	maxChange = 64 << 20
)

func writeNewest(ctx context.Context, c *conn, out *snapshot.Writer) error {
	if err := out.Table(snapshot.Table{Name: newestChange, Columns: []string{"piece"}}); err != nil {
		return err
	}
	var body []byte
	if err := c.each(ctx, func(scan scanner) error { return scan(&body) }, `SELECT body FROM taken_changes ORDER BY number DESC LIMIT 1`); err != nil {
		return err
	}
	for piece := range slices.Chunk(body, pieceBytes) {
		if err := out.Row([]any{piece}); err != nil {
			return err
		}
	}
	return nil
}

func readNewest(r *snapshot.Reader, t *snapshot.Table) (body []byte, err error) {
	if !slices.Equal(t.Columns, []string{"piece"}) {
		return nil, fault.Errorf(fault.FleetLog, "the snapshot has its newest change in another form than this version knows")
	}
	for {
		row, err := r.Row()
		if row == nil || err != nil {
			return body, err
		}
		piece, is := row[0].([]byte)
		if !is || len(body)+len(piece) > maxChange {
			return nil, fault.Errorf(fault.FleetLog, "the newest change of the snapshot is longer than one can be")
		}
		body = append(body, piece...)
	}
}

// CatchUp implements [appliance.StateRows].
func (s *DB) CatchUp(ctx context.Context) error {
	err := s.writer.doFree(ctx, func() error {
		st := s.writer.live.Load()
		if st == nil || st.replica == nil {
			return nil
		}
		_, err := s.writer.catchUp(ctx, st)
		return err
	})
	s.announceForeign()
	return err
}

// announceForeign announces what was taken over.
func (s *DB) announceForeign() {
	for _, a := range s.writer.progress.foreign() {
		s.announce(a.changes...)
		s.writer.progress.done(a.open)
	}
}

// Position implements [appliance.StateRows].
func (s *DB) Position() appliance.Position { return s.writer.progress.position() }

// Written implements [appliance.StateRows].
func (s *DB) Written() uint64 { return s.writer.progress.written() }

// Origin implements [appliance.StateRows].
func (s *DB) Origin(ctx context.Context) (origin string, err error) {
	err = s.read(ctx, func(c *conn) error {
		if c.state == nil {
			return stateClosed()
		}
		if matches, err := s.rowMatches(ctx, c, "settings", "name = ?", appliance.SettingLog); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{&origin}, `SELECT value FROM settings WHERE name = ?`, appliance.SettingLog)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "the rows have no ID of their log of changes: the log was begun by an earlier version; move the state to one file with holdfastd state move --to sqlite, and then to an empty database")
		}
		return err
	})
	return origin, err
}

// beginLog gives the log that is about to begin its ID, in the rows of its first change. That
// of an earlier log of these rows is replaced.
func beginLog(c *conn) error {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	_, err := c.exec(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value, seal = NULL`, appliance.SettingLog, hex.EncodeToString(id[:]))
	return err
}

// Passed implements [appliance.StateRows].
func (s *DB) Passed(ctx context.Context, p appliance.Position) (passed bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		if c.state == nil {
			return stateClosed()
		}
		var digest []byte
		found, err := c.one([]any{&digest}, `SELECT digest FROM taken_changes WHERE number = ?`, int64(p.Number))
		if err != nil {
			return err
		}
		if found {
			passed = fmt.Sprintf("%x", digest) == p.Digest
			return nil
		}
		at, err := readPosition(c)
		if p.Number < at.Number {
			return fault.Errorf(fault.NotFound, "change %d is further back than this node knows positions", p.Number)
		}
		return err
	})
	return passed, err
}
