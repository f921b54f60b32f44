package sqlite

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// writer owns the one connection that writes. Changes that callers hand in
// while it is busy wait, and share the next transaction and its one fsync:
// group commit. Each change keeps its own atomicity and its own error.
type writer struct {
	conn *conn
	log  *slog.Logger

	mu      sync.Mutex
	waiting []*change
	closed  bool
	wake    chan struct{} // holds a signal when there may be changes waiting

	stopped chan struct{} // closed when the goroutine has ended
	broken  error         // why nothing can be written any more; the goroutine's own

	live      atomic.Pointer[state] // nil while the state is closed
	progress  announcements         // of the log of changes
	taken     func()                // announces what was taken over
	changes   atomic.Uint64         // [DB.Changes]
	manifests bool                  // the schema has them
	specs     map[string]*spec
	schema    int64 // the file's
	seed      maphash.Seed
	// The goroutine's own: the state that the transaction at hand opens, the one that it
	// is counted in, and whether the change at hand touched what manifests cover while it is closed.
	opened   *state
	counting *state
	next     *state // that a raise of the schema prepares; nil without one
	touched  bool
	moved    bool // the transaction at hand changed what [DB.Changes] counts
}

// watch has SQLite itself tell the state of each change of a row that the connection
// makes, so that no statement can be forgotten, nor a cascade. Taken is called when changes
// of other nodes were taken over, to announce them.
func (w *writer) watch(taken func()) error {
	w.taken = taken
	return w.conn.c.Raw(func(raw any) error {
		hooks, ok := raw.(sqlite.HookRegisterer)
		if !ok {
			return errors.New("the driver of SQLite has no hooks")
		}
		hooks.RegisterPreUpdateHook(func(p sqlite.SQLitePreUpdateData) {
			st, specs := w.counting, w.specs
			if st != nil {
				specs = st.specs
			}
			sp := specs[p.TableName]
			if sp == nil {
				return
			}
			before, after, err := sp.rows(&p)
			w.moved = w.moved || err != nil || sp.moves(before, after)
			if st != nil {
				st.changed(sp, before, after, err)
			} else if sp.kept && sp.name != "manifests" && (err != nil || sp.differs(sp.counted, before, after)) {
				w.touched = true
			}
		})
		return nil
	})
}

// change is one caller's change.
type change struct {
	// apply makes the change. An *fault.Fault from it refuses the change,
	// any other error is the database's. It may be called a second time after
	// its first work has been rolled back.
	apply func(*conn) error
	// once says that apply cannot be called again, so that the change is in a
	// transaction of its own.
	once bool
	// closes says that it ends the use of the state, whatever that is.
	closes bool
	// free, if given, is done in place of all that, in no transaction.
	free func() error
	done chan error
	// open is what the log has of it, which its caller has to announce; nil for nothing.
	open *openChange
}

func newWriter(c *conn, schema int64, seed maphash.Seed, specs map[string]*spec, log *slog.Logger) *writer {
	w := &writer{conn: c, log: log, manifests: schema >= firstManifest, specs: specs, schema: schema, seed: seed, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go w.run()
	return w
}

// do has the change applied and committed. When ctx ends before the change has
// been begun, it is withdrawn: fault.Timeout, and nothing changed. From then on
// do waits for the outcome, so that its answer is always true.
func (w *writer) do(ctx context.Context, apply func(*conn) error) error {
	return w.announced(ctx, apply, func() {})
}

// announced does that, and has the change announced before it counts as taken over.
func (w *writer) announced(ctx context.Context, apply func(*conn) error, announce func()) error {
	c := &change{apply: fenced(ctx, w.looked(ctx, w.marked(ctx, apply))), done: make(chan error, 1)}
	err := w.hand(ctx, c)
	if err == nil {
		announce()
	}
	if l := appliance.LookOf(ctx); l != nil && err == nil && c.open != nil {
		l.Used()
	}
	if m := idempotency.MarkOf(ctx); m != nil && err == nil {
		m.Made()
	}
	w.progress.done(c.open)
	return err
}

// looked refuses a change whose caller has decided by rows of before another change: in the
// change's own transaction, and so in the order of the log.
func (w *writer) looked(ctx context.Context, apply func(*conn) error) func(*conn) error {
	l := appliance.LookOf(ctx)
	if l == nil {
		return apply
	}
	return func(c *conn) error {
		if st := w.counting; st != nil && st.replica != nil && !l.Holds(st.replica.at.Number) {
			return stale("the state of the fleet")
		}
		return apply(c)
	}
}

// doFree has f done in the writer's goroutine, in no transaction.
func (w *writer) doFree(ctx context.Context, f func() error) error {
	return w.hand(ctx, &change{once: true, free: f, done: make(chan error, 1)})
}

// doOnce does that with a change that reads a stream: it is applied once at most.
func (w *writer) doOnce(ctx context.Context, apply func(*conn) error) error {
	c := &change{apply: apply, once: true, done: make(chan error, 1)}
	err := w.hand(ctx, c)
	w.progress.done(c.open)
	return err
}

func (w *writer) hand(ctx context.Context, c *change) error {
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	if err := w.enqueue(c); err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		if w.withdraw(c) {
			return timeout(ctx)
		}
		return <-c.done
	}
}

func (w *writer) enqueue(c *change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errClosed()
	}
	w.waiting = append(w.waiting, c)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// withdraw takes a change back, and says whether it could.
func (w *writer) withdraw(c *change) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.waiting, c)
	if i < 0 {
		return false
	}
	w.waiting = slices.Delete(w.waiting, i, i+1)
	return true
}

// take gives the changes of the next transaction: all that wait, but one that is
// applied once has its own.
func (w *writer) take() []*change {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := slices.IndexFunc(w.waiting, func(c *change) bool { return c.once })
	switch n {
	case -1:
		n = len(w.waiting)
	case 0:
		n = 1
	}
	batch := w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	return batch
}

// close refuses further changes, waits until those handed in are committed, and
// closes the connection.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	close(w.wake)
	w.mu.Unlock()
	<-w.stopped
	return w.conn.close()
}

func (w *writer) run() {
	defer close(w.stopped)
	for range w.wake {
		for batch := w.take(); len(batch) > 0; batch = w.take() {
			w.commit(batch)
		}
	}
}

// commit commits a batch of changes and answers their callers. When the
// database fails one change, all are tried again, each alone, so that one that
// cannot be done, such as one too big for the disk, does no harm to the others.
// Not when another program holds the lock, or the log of changes is away: each would wait
// for it in turn.
func (w *writer) commit(batch []*change) {
	results := make([]error, len(batch))
	err := w.transact(batch, results)
	if err != nil && len(batch) > 1 && w.broken == nil && !hasCode(err, sqlite3.SQLITE_BUSY) && !ofLog(err) {
		for i := range batch {
			w.commit(batch[i : i+1])
		}
		return
	}
	for i, c := range batch {
		if err != nil {
			c.done <- notWritten(err)
		} else {
			c.done <- results[i]
		}
	}
}

// transact runs the batch in one transaction. It sets results to nil or the
// refusal of each change; when it fails itself, nothing of the batch remains. Where another
// node was faster, its changes are taken over first, and the batch is made again.
func (w *writer) transact(batch []*change, results []error) error {
	if batch[0].free != nil {
		results[0] = cmp.Or(w.broken, batch[0].free())
		return nil
	}
	for again := 0; ; again++ {
		err := w.attempt(batch, results)
		st := w.live.Load()
		switch {
		case !errors.Is(err, errOvertaken):
			return err
		case batch[0].once || st == nil || again == overtakenMost:
			return fault.Errorf(fault.Changed, "another node of the fleet has changed something at the same time; look at it and try again")
		}
		_, err = w.catchUp(context.Background(), st)
		go w.taken() // who has made a change may hold what the others' changes need
		if err != nil {
			return err
		}
		clear(results)
	}
}

// attempt does that once. errOvertaken.
func (w *writer) attempt(batch []*change, results []error) error {
	if w.broken != nil {
		return w.broken
	}
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	w.opened, w.counting = nil, w.live.Load()
	defer func() { w.opened, w.counting = nil, nil }()
	if w.counting != nil && !batch[0].closes {
		if err := w.counting.begin(context.Background(), w.conn); err != nil {
			return w.rollback(err)
		}
	}
	alone := len(batch) == 1
	for i, c := range batch {
		if !alone {
			if _, err := w.conn.exec("SAVEPOINT change"); err != nil {
				return w.rollback(err)
			}
		}
		results[i] = w.apply(c)
		var refusal *fault.Fault
		switch {
		case results[i] != nil && !errors.As(results[i], &refusal):
			return w.rollback(results[i])
		case alone && refusal != nil:
			w.rollback(nil)
			return nil
		case alone:
			continue
		case refusal != nil:
			if _, err := w.conn.exec("ROLLBACK TO SAVEPOINT change"); err != nil {
				return w.rollback(err)
			}
		}
		if _, err := w.conn.exec("RELEASE SAVEPOINT change"); err != nil {
			return w.rollback(err)
		}
	}
	st := cmp.Or(w.opened, w.counting)
	if st != nil {
		w.counting = st // the manifests are counted as well
		if err := st.seal(context.Background(), w.conn); err != nil {
			return w.rollback(err)
		}
		if r := st.replica; r != nil {
			if err := w.publish(st, r); err != nil {
				return w.rollback(err)
			}
		}
	}
	if err := w.commitDurably(); err != nil {
		if st != nil && st.replica != nil && st.replica.sealed != nil {
			err = fault.Wrapf(fault.DatabaseAway, err, "the change is made in the fleet, and this node's disk does not take it: it takes it over when the disk has room")
		}
		return w.rollback(err)
	}
	if st != nil {
		w.published(st, batch)
		st.committed()
	}
	if w.opened != nil {
		w.opened.first = w.opened.heads[appliance.ScopeInstallation].Head()
		w.live.Store(w.opened)
	}
	return nil
}

// commitDurably commits the transaction at hand.
func (w *writer) commitDurably() error {
	_, err := w.conn.exec("COMMIT")
	if err == nil && w.moved {
		w.moved = false
		w.changes.Add(1)
	}
	if err == nil || hasCode(err, sqlite3.SQLITE_FULL) {
		return err
	}
	// The commit record may or may not be on the disk, and the kernel may forget what it
	// failed to write. Only reading the file again tells, so nothing more is built on it.
	w.broken = failed("the database is not written any more, because its disk failed; nothing changed, restart the machine", err)
	w.log.Error("a commit to the database failed; nothing more is written until a restart", "error", err)
	return failed("the database's disk failed; restart the machine to see whether the change is on it", err)
}

// publish puts the change at hand into the log, if there is one. After that it is durable
// for all nodes; if this one does not come to commit it, it takes it over like any other.
func (w *writer) publish(st *state, r *replica) error {
	if err := r.seal(st.schema, st.tx.rows); err != nil || r.sealed == nil {
		return err
	}
	if err := r.keep(w.conn, r.sealed); err != nil {
		return err
	}
	return r.append(context.Background())
}

// published takes note of the position after the transaction was committed. Each of the
// batch announces its part.
func (w *writer) published(st *state, batch []*change) {
	r := st.replica
	if r == nil || r.sealed == nil {
		return
	}
	r.at = r.sealed.at
	if w.live.Load() == nil {
		w.progress.begin(r.at)
		return
	}
	open := w.progress.add(r.at, len(batch), nil)
	for _, c := range batch {
		c.open = open
	}
}

// apply makes one change. What it counts is folded in unless it is refused.
func (w *writer) apply(c *change) error {
	w.touched = false
	st := w.counting
	if st == nil {
		err := c.apply(w.conn)
		if err == nil && w.touched && w.opened == nil && w.manifests {
			var one int
			found, failed := w.conn.one([]any{&one}, `SELECT 1 FROM manifests WHERE scope = ''`)
			if failed != nil {
				return failed
			}
			if found {
				return stateClosed()
			}
		}
		return err
	}
	retired, err := w.retired(st)
	if err != nil {
		return err
	}
	st.batch, st.tx = st.tx, newDelta()
	err = c.apply(w.conn)
	after := st.tx
	if st.tx, st.batch = st.batch, nil; err == nil {
		err = after.err
	}
	if err == nil && retired && len(after.rows) > 0 {
		err = fault.Errorf(fault.Conflict, "the state of this fleet is being moved to a single appliance, and takes no change any more: make the change there; if the move was not finished, run holdfastd state move --to sqlite once more, on the machine where it ran")
	}
	if err == nil {
		st.tx.fold(after)
	}
	return err
}

// retired says whether the rows are those of a fleet that is moved elsewhere. What they take after
// that would be in effect here, and lost in the place that counts.
func (w *writer) retired(st *state) (bool, error) {
	if st.replica == nil {
		return false, nil
	}
	var b appliance.Block
	_, err := w.conn.one([]any{&b.Reason}, `SELECT block_reason FROM installation`)
	return b.Retired(), err
}

// rollback ends the transaction and gives err. That it fails when SQLite has
// rolled back by itself is expected; if the transaction were still open, the
// next BEGIN would fail.
func (w *writer) rollback(err error) error {
	_, _ = w.conn.exec("ROLLBACK")
	return err
}

// notWritten makes the error of a change that the database failed.
func notWritten(err error) error {
	var e *fault.Fault
	switch {
	case errors.As(err, &e):
		return e
	case hasCode(err, sqlite3.SQLITE_FULL):
		return failed("the database's disk is full; nothing changed", err)
	case hasCode(err, sqlite3.SQLITE_BUSY):
		return failed("another program holds the database's write lock; nothing changed", err)
	}
	return failed("the database could not be written; nothing changed", err)
}

// ofLog says whether an error is the log's, and not that of one change.
func ofLog(err error) bool {
	switch fault.CodeOf(err) {
	case fault.DatabaseAway, fault.DatabaseRefused, fault.DatabaseNewer, fault.FleetNewer, fault.FleetLog, fault.FleetBranch, fault.FleetBehind, fault.Changed:
		return true
	}
	return false
}

// hasCode says whether err is SQLite's with the primary result code.
func hasCode(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == code
}
