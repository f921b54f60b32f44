package sqlite

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

// replica is what a state has with a log of changes. The writer's goroutine alone has it.
type replica struct {
	log appliance.ChangeLog
	key appliance.ManifestKey
	at  appliance.Position // of the last change that is in the database
	// confirmed says that the log was seen to have the change that the position is at, since the
	// rows were opened.
	confirmed bool
	// taking says that the rows that are written are those of another node's change.
	taking bool
	// bySnapshot says that the change at hand is the first, and has no rows: there are so
	// many, or they were sealed before in another place, that a snapshot has them and the
	// links of their manifests.
	bySnapshot bool
	// sealed is the change at hand, as it is in the log; nil if there is none.
	sealed *taken
}

// taken is a change as it is kept here.
type taken struct {
	at   appliance.Position
	body []byte
}

// Bounds of the use of the log.
const (
	// appendWithin is how long a change waits for the log, and appendPerMiB how much longer
	// for each MiB of it.
	appendWithin = 10 * time.Second
	appendPerMiB = time.Second
	// readWithin is how long a question to the log takes; one for changes takes longer if
	// they are large, of up to largestRead bytes.
	readWithin  = 10 * time.Second
	largestRead = 64 << 20
	// overtaken is how often a change is made again because another node was faster.
	overtakenMost = 100
	// takeAtOnce is how many changes are asked for at once.
	takeAtOnce = 64
	// inFirstChange is how many rows the first change has at most; if there are more, as
	// when an appliance becomes a node, nodes begin with a snapshot of them.
	inFirstChange = 10000
	// keptTaken is how many of the newest changes are kept here, and keptPositions of how many
	// it is known which they were.
	keptTaken     = 1024
	keptPositions = 16384
)

// errOvertaken says that another node's change has the number.
var errOvertaken = errors.New("another node was faster")

// A sealed change begins with the digest of the one before it, in the clear.
func changeBinding(number uint64, before string) appliance.Binding {
	return appliance.Binding{Purpose: "change", Fields: []string{strconv.FormatUint(number, 10), before}}
}

// MadeFirst says whether the first change of a log was made by the installation whose key it
// is: fault.FleetLog.
func MadeFirst(key appliance.ManifestKey, sealed []byte) error {
	_, err := (&replica{key: key, at: begunAt}).open(sealed)
	return err
}

// after gives the position of a change that comes after this one.
func after(p appliance.Position, body []byte) appliance.Position {
	before, _ := hex.DecodeString(p.Digest)
	d := sha256.Sum256(append(append([]byte{'c'}, before...), body...))
	return appliance.Position{Number: p.Number + 1, Digest: hex.EncodeToString(d[:])}
}

// begunAt is the position before the first change.
var begunAt = appliance.Position{Digest: hex.EncodeToString(make([]byte, sha256.Size))}

// seal makes the change of the rows that the transaction changed; nil if it changed none.
func (r *replica) seal(schema int64, rows map[string]*rowChange) error {
	r.sealed = nil
	first := r.bySnapshot && r.at.Number == 0
	if first {
		rows = nil
	}
	body, err := encodeChange(schema, rows)
	if err != nil || len(rows) == 0 && !first {
		return err
	}
	before, err := hex.DecodeString(r.at.Digest)
	if err != nil {
		return err
	}
	sealed, err := r.key.SealChange(changeBinding(r.at.Number+1, r.at.Digest), body)
	if err != nil {
		return err
	}
	sealed = append(before, sealed...)
	r.sealed = &taken{after(r.at, sealed), sealed}
	return nil
}

// open gives the body of the change that comes next. fault.FleetBranch, fault.FleetLog.
func (r *replica) open(sealed []byte) ([]byte, error) {
	number := r.at.Number + 1
	if len(sealed) < sha256.Size {
		return nil, fault.Errorf(fault.FleetLog, "change %d of the fleet's database is too short: no node has made it", number)
	}
	body, err := r.key.OpenChange(changeBinding(number, hex.EncodeToString(sealed[:sha256.Size])), sealed[sha256.Size:])
	if fault.CodeOf(err) == fault.Tampered {
		return nil, fault.Wrapf(fault.FleetLog, err, "change %d of the fleet's database was not made by a node of this installation", number)
	}
	if err == nil && hex.EncodeToString(sealed[:sha256.Size]) != r.at.Digest {
		return nil, fault.Errorf(fault.FleetBranch, "change %d of the fleet's database, which a node of this installation has made, does not come after change %d as this node knows it", number, r.at.Number)
	}
	return body, err
}

// appendTime is how long a change of so many bytes waits for the log.
func appendTime(size int) time.Duration {
	return appendWithin + time.Duration(size)*appendPerMiB/(1<<20)
}

// append puts the change at hand into the log. Where it is not known what became of it, the
// same is tried again: what has its number then is the answer. errOvertaken;
// fault.DatabaseAway.
func (r *replica) append(ctx context.Context) error {
	if r.sealed == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, appendTime(len(r.sealed.body)))
	defer cancel()
	number := r.sealed.at.Number
	for attempt := 0; ; attempt++ {
		err := r.log.Append(ctx, number, r.sealed.body)
		switch fault.CodeOf(err) {
		case fault.Changed:
			there, err := r.log.Changes(ctx, number, 1)
			if err != nil {
				return err
			}
			if len(there) == 1 && bytes.Equal(there[0], r.sealed.body) {
				return nil
			}
			return errOvertaken
		case fault.Conflict: // the log has lost changes: catching up gives them back
			return errOvertaken
		case fault.DatabaseAway:
			if ctx.Err() != nil || attempt == appendAgain {
				return err
			}
		default:
			return err
		}
	}
}

// appendAgain is how often a change is appended again after the log did not answer. The
// log waits between.
const appendAgain = 2

// keep writes the change at hand beside the rows, in the same transaction.
func (r *replica) keep(c *conn, t *taken) error {
	digest, err := hex.DecodeString(t.at.Digest)
	if err != nil {
		return err
	}
	if _, err := c.exec(`INSERT INTO taken_changes (number, digest, body) VALUES (?, ?, ?)`, int64(t.at.Number), digest, t.body); err != nil {
		return err
	}
	if _, err = c.exec(`UPDATE taken_changes SET body = x'' WHERE number = ?`, int64(t.at.Number)-keptTaken); err != nil {
		return err
	}
	_, err = c.exec(`DELETE FROM taken_changes WHERE number <= ?`, int64(t.at.Number)-keptPositions)
	return err
}

// readPosition gives the position of the database.
func readPosition(c *conn) (appliance.Position, error) {
	var number int64
	var digest []byte
	found, err := c.one([]any{&number, &digest}, `SELECT number, digest FROM taken_changes ORDER BY number DESC LIMIT 1`)
	if err != nil || !found {
		return begunAt, err
	}
	return appliance.Position{Number: uint64(number), Digest: hex.EncodeToString(digest)}, nil
}

// catchUp takes over all changes of others, in the writer's goroutine and in no transaction.
// It gives the state after them, which is another one if the schema was raised.
func (w *writer) catchUp(ctx context.Context, st *state) (*state, error) {
	r := st.replica
	for {
		bodies, err := r.changes(ctx)
		if err != nil {
			return st, err
		}
		if len(bodies) == 0 {
			return st, w.giveBack(ctx, r)
		}
		for _, sealed := range bodies {
			if st, err = w.takeOver(ctx, st, sealed, nil); err != nil {
				return st, err
			}
		}
	}
}

// changes gives the next changes of the log. If they do not come in time, and the log answers
// all the same, they are large: the next one alone is waited for as long as its size may need.
func (r *replica) changes(ctx context.Context) ([][]byte, error) {
	within := func(most int, wait time.Duration) ([][]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return r.log.Changes(ctx, r.at.Number+1, most)
	}
	bodies, err := within(takeAtOnce, readWithin)
	if fault.CodeOf(err) != fault.DatabaseAway || ctx.Err() != nil {
		return bodies, err
	}
	asking, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	if newest, away := r.log.Newest(asking); away != nil || newest <= r.at.Number {
		return nil, err
	}
	return within(1, appendTime(largestRead))
}

// giveBack gives the log what it has lost of what this node has taken over, as when a
// replica was promoted that had not every change.
func (w *writer) giveBack(ctx context.Context, r *replica) error {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	newest, err := r.log.Newest(ctx)
	switch {
	case err != nil:
		return err
	case newest == r.at.Number:
		return r.confirm(ctx)
	case newest > r.at.Number:
		return r.missing(ctx, newest)
	}
	if newest > 0 {
		mine, err := w.kept(newest)
		if err != nil {
			return err
		}
		there, err := r.log.Changes(ctx, newest, 1)
		if err != nil {
			return err
		}
		if mine != nil && (len(there) != 1 || !bytes.Equal(there[0], mine.body)) {
			return fault.Errorf(fault.FleetBranch, "the fleet's database ends with change %d, which is another one than this node has taken over: it shows nodes two pasts, or was put back to an earlier state and changed", newest)
		}
	}
	// All are looked at before the first is given back: what is kept here is a file, and what
	// the log once has, it keeps. One at a time, as a change may have megabytes.
	if err := w.eachKept(ctx, r.at, newest, func(*taken) error { return nil }); err != nil {
		return err
	}
	w.log.Warn("the fleet's database has lost changes; this node gives them back", "code", fault.FleetLog, "from", newest+1, "to", r.at.Number)
	return w.eachKept(ctx, r.at, newest, func(t *taken) error {
		err := r.log.Append(ctx, t.at.Number, t.body)
		if fault.CodeOf(err) == fault.Changed {
			return nil // another node gives them back, too; if it is another, the next one does not fit
		}
		return err
	})
}

// eachKept calls f with each change that is kept here after one, up to the last that was taken
// over. Each must be the one that comes before the next. fault.FleetLog if one is not kept.
func (w *writer) eachKept(ctx context.Context, to appliance.Position, newest uint64, f func(*taken) error) error {
	before := begunAt
	if newest > 0 {
		var digest []byte
		if _, err := w.conn.one([]any{&digest}, `SELECT digest FROM taken_changes WHERE number = ?`, int64(newest)); err != nil {
			return err
		}
		before = appliance.Position{Number: newest, Digest: hex.EncodeToString(digest)}
	}
	for before.Number < to.Number {
		if ctx.Err() != nil {
			return fault.Wrapf(fault.DatabaseAway, ctx.Err(), "the fleet's database was not given back all changes in time; it is tried again")
		}
		t, err := w.kept(before.Number + 1)
		if err != nil {
			return err
		}
		if t == nil || t.at != after(before, t.body) {
			return fault.Errorf(fault.FleetLog, "the fleet's database ends with change %d, and this node has taken over change %d and does not have all between: the database was put back to an earlier state", newest, to.Number)
		}
		if err := f(t); err != nil {
			return err
		}
		before = t.at
	}
	if before != to {
		return fault.Errorf(fault.FleetLog, "the changes that this node keeps do not lead to change %d, which it has taken over: its files were edited; start it with an empty fleet.db", to.Number)
	}
	return nil
}

// confirm looks once that the log has the change that the rows are at: if it has another
// one, another node goes on with that, and this one may not serve what it has.
func (r *replica) confirm(ctx context.Context) error {
	if r.confirmed || r.at.Number == 0 {
		return nil
	}
	there, err := r.log.Changes(ctx, r.at.Number, 1)
	if err != nil {
		return err
	}
	if len(there) == 0 || len(there[0]) < sha256.Size {
		return fault.Errorf(fault.FleetLog, "change %d of the fleet's database, which this node has taken over, is gone or too short: the database was changed by hand", r.at.Number)
	}
	before := appliance.Position{Number: r.at.Number - 1, Digest: hex.EncodeToString(there[0][:sha256.Size])}
	if after(before, there[0]) != r.at {
		if _, err := (&replica{key: r.key, at: before}).open(there[0]); err != nil {
			return err
		}
		return fault.Errorf(fault.FleetBranch, "change %d of the fleet's database, which a node of this installation has made, is another one than this node has taken over: the database shows nodes two pasts, or was put back to an earlier state and changed", r.at.Number)
	}
	r.confirmed = true
	return nil
}

// missing says why the next change is not there though later ones are: nil if it was not
// yet, fault.FleetBehind if it was forgotten.
func (r *replica) missing(ctx context.Context, newest uint64) error {
	next, err := r.log.Changes(ctx, r.at.Number+1, 1)
	if err != nil || len(next) > 0 {
		return err
	}
	number, _, err := r.log.Snapshot(ctx)
	if err == nil && number > r.at.Number {
		return fault.Errorf(fault.FleetBehind, "the fleet's database has forgotten change %d, which this node has not taken over: it begins again with the snapshot of change %d", r.at.Number+1, number)
	}
	if err != nil && fault.CodeOf(err) != fault.NotFound {
		return err
	}
	return fault.Errorf(fault.FleetLog, "the fleet's database lacks change %d, and has later ones up to %d", r.at.Number+1, newest)
}

// kept gives a change that is kept here; nil if it is not.
func (w *writer) kept(number uint64) (*taken, error) {
	var digest, body []byte
	found, err := w.conn.one([]any{&digest, &body}, `SELECT digest, body FROM taken_changes WHERE number = ? AND length(body) > 0`, int64(number))
	if err != nil || !found {
		return nil, err
	}
	return &taken{appliance.Position{Number: number, Digest: hex.EncodeToString(digest)}, body}, nil
}

// takeOver makes the change of another node here, after what is given. What it leaves must
// match the manifests that it brings. It gives the state after it.
func (w *writer) takeOver(ctx context.Context, st *state, sealed []byte, first func() error) (*state, error) {
	r := st.replica
	body, err := r.open(sealed)
	if err != nil {
		return st, err
	}
	t := &taken{after(r.at, sealed), sealed}
	rows, err := snapshot.NewReader(bytes.NewReader(body))
	if err != nil {
		return st, notTaken(t.at.Number, err)
	}
	to, err := w.stateAfter(ctx, st, int64(rows.Schema()))
	if err != nil {
		return st, err
	}
	var changes announced
	var kept []*rowChange
	err = w.exactly(func() error {
		if first != nil {
			if err := first(); err != nil {
				return err
			}
		}
		if err := st.begin(ctx, w.conn); err != nil {
			return err
		}
		to.version = st.version
		raises := to != st && r.at.Number > 0
		if raises {
			if err := to.recount(ctx, w.conn, st); err != nil {
				return err
			}
		}
		w.counting, r.taking = to, true
		defer func() { w.counting, r.taking = nil, false }()
		if err := decodeChange(rows, to.specs, func(c *rowChange) error {
			if raises && c.spec.name != "manifests" {
				return fault.Errorf(fault.FleetLog, "the change raises the schema, and has a row of %s too", c.spec.name)
			}
			if a, some := c.announced(); some {
				changes = changes.add(a)
			}
			w.alsoInNext(c)
			if c.after == nil {
				return w.put(c)
			}
			kept = append(kept, &rowChange{c.spec, cloneRow(c.before), cloneRow(c.after)})
			return nil
		}); err != nil {
			return err
		}
		// What was removed may have had what another row has now, such as a name.
		for _, c := range kept {
			if err := w.put(c); err != nil {
				return err
			}
		}
		if err := w.dropOrphans(); err != nil {
			return err
		}
		if err := to.verifyTaken(ctx, w.conn); err != nil {
			return err
		}
		return r.keep(w.conn, t)
	})
	if err != nil {
		st.tx = newDelta()
		return st, notTaken(t.at.Number, err)
	}
	r.at = t.at
	to.committed()
	w.nextCommitted()
	if w.live.Load() == st {
		w.live.Store(to)
		w.progress.add(t.at, 1, changes.list())
	}
	return to, nil
}

// notTaken says why a change that a node has made cannot be made here.
func notTaken(number uint64, err error) error {
	var e *fault.Fault
	if errors.As(err, &e) && e.Code != fault.Invalid {
		return err
	}
	return fault.Wrapf(fault.FleetLog, err, "change %d of the fleet's database cannot be made here", number)
}

// announced is what is to be announced, each once.
type announced map[appliance.Change]bool

func (a announced) add(c appliance.Change) announced {
	if a == nil {
		a = announced{}
	}
	a[c] = true
	return a
}

// list gives it; not nil, since nil is a change that who made it announces.
func (a announced) list() []appliance.Change {
	list := make([]appliance.Change, 0, len(a))
	for c := range a {
		list = append(list, c)
	}
	return list
}

// dropOrphans removes the sessions of users who are gone: a node has sessions of its own from
// when it was locked, which the change of another node does not name.
func (w *writer) dropOrphans() error {
	_, err := w.conn.exec(`DELETE FROM sessions WHERE user_id NOT IN (SELECT id FROM users)`)
	return err
}

// exactly runs f in a transaction in which SQLite adds nothing to what is written: the
// rows of a change have what followed from it at the node that made it.
func (w *writer) exactly(f func() error) error {
	if w.broken != nil {
		return w.broken
	}
	if _, err := w.conn.exec("PRAGMA foreign_keys = 0"); err != nil {
		return err
	}
	defer func() {
		if _, err := w.conn.exec("PRAGMA foreign_keys = 1"); err != nil {
			w.broken = failed("the database is not written any more: its foreign keys cannot be enforced", err)
		}
	}()
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := f(); err != nil {
		return w.rollback(err)
	}
	return w.commitDurably()
}

// verifyTaken holds what a change of another node left against its manifests.
func (s *state) verifyTaken(ctx context.Context, c *conn) error {
	if s.tx.err != nil {
		return s.tx.err
	}
	stored, err := readManifests(ctx, c)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	for scope, sum := range s.tx.sums {
		if sum != (appliance.Sum{}) {
			changed[scope] = true
		}
	}
	for scope, m := range stored {
		was := s.heads[scope]
		if was != nil && m.Schema == s.schema && string(was.Digest()) == string(m.Digest()) {
			continue // its rows must not have changed
		}
		sum := s.sums[scope].Plus(s.tx.sums[scope])
		sequence, before := uint64(1), []byte{}
		if was != nil {
			sequence, before = was.Sequence+1, was.Digest()
		}
		if m.Schema != s.schema || m.Sequence != sequence || string(m.Before) != string(before) || !hmac.Equal(m.Seal, s.o.Key.Seal(m, &sum)) {
			return fault.Errorf(fault.FleetLog, "a change of another node leaves rows of %q that do not match its manifest", scope)
		}
		s.tx.heads[scope] = m
		delete(changed, scope)
	}
	for scope := range changed {
		return fault.Errorf(fault.FleetLog, "a change of another node has rows of %q and no manifest of them", scope)
	}
	if root := s.tx.heads[appliance.ScopeInstallation]; root != nil {
		return writeLink(c, root)
	}
	return nil
}
