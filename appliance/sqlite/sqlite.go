package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"hash/maphash"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// DB is an [appliance.Store] in one SQLite file, with the rows of identities and
// approvals; [DB.Machine] has those of this machine. Make one with [Open].
type DB struct {
	db      *sql.DB
	lock    *os.File
	writer  *writer
	readers chan *conn // the idle ones
	path    string
	schema  int64 // its version: the last migration's
	founds  int64 // the schema that a fleet begins with; 0 for this one
	seed    maphash.Seed
	loss    atomic.Pointer[walLoss] // what the write-ahead log had lost; nil for nothing

	closing chan struct{}
	close   func() error

	mu          sync.RWMutex
	subscribers []func(appliance.Change)
}

var (
	_ appliance.Store = (*DB)(nil)
	_ io.Closer       = (*DB)(nil)
	_ identity.Store  = (*DB)(nil)
	_ approval.Store  = (*DB)(nil)
)

// Subscribe has f called with each change, in the goroutine of the caller that
// made it, after the commit and before its method returns. No lock is held, so
// f may use the store; changes made at once may be announced at once.
func (s *DB) Subscribe(f func(appliance.Change)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = append(s.subscribers, f)
}

func (s *DB) announce(changes ...appliance.Change) {
	s.mu.RLock()
	subscribers := s.subscribers
	s.mu.RUnlock()
	for _, c := range changes {
		for _, f := range subscribers {
			f(c)
		}
	}
	if len(changes) > 0 {
		s.writer.changes.Add(1) // what is in memory of the rows is another, too
	}
}

// Changes is a number that rises with each change of rows, of whichever node, before the method
// that made it returns: rows that were read when it was the same are the same. It does not count
// what changes as the appliance serves: the counts of encryptions, when something was last used, and
// the audit log's head. It begins anew with the process, and says nothing of what another program
// does to the file.
func (s *DB) Changes() uint64 { return s.writer.changes.Load() }

// Close refuses further calls, waits for those that run, commits the changes
// already handed in, and closes the database. Closing twice is no error.
func (s *DB) Close() error { return s.close() }

func (s *DB) shutDown() error {
	close(s.closing)
	var errs []error
	for range cap(s.readers) {
		errs = append(errs, (<-s.readers).close())
	}
	// The writer comes last: the last connection to close brings the
	// write-ahead log into the file and removes it.
	errs = append(errs, s.writer.close(), s.db.Close(), unlock(s.lock))
	if err := errors.Join(errs...); err != nil {
		return failed("the database could not be closed", err)
	}
	return nil
}

// read runs f on a connection that reads one snapshot of the database.
func (s *DB) read(ctx context.Context, f func(*conn) error) error {
	if ctx.Err() != nil {
		return timeout(ctx)
	}
	var c *conn
	select {
	case <-s.closing:
		return errClosed()
	default:
	}
	select {
	case c = <-s.readers:
	case <-s.closing:
		return errClosed()
	case <-ctx.Done():
		return timeout(ctx)
	}
	defer func() { s.readers <- c }()

	err := s.snapshot(ctx, c, f)
	var refusal *fault.Fault
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return err
	case ctx.Err() != nil:
		return timeout(ctx)
	}
	return failed("the database could not be read", err)
}

// snapshot runs f in one transaction. Where f has found rows that are not as in memory, it
// is run once more after they were looked at.
func (s *DB) snapshot(ctx context.Context, c *conn, f func(*conn) error) error {
	for attempt := 1; ; attempt++ {
		c.state, c.doubts = s.writer.live.Load(), nil
		_, err := c.exec("BEGIN")
		if err == nil {
			if err = f(c); err == nil {
				_, err = c.exec("COMMIT")
			}
			if err != nil {
				_, _ = c.exec("ROLLBACK")
			}
		}
		if len(c.doubts) == 0 {
			return err
		}
		if attempt == 10 {
			return fault.Errorf(fault.Timeout, "the rows are changed faster than they can be read; nothing changed")
		}
		if err := s.resolve(ctx, c.doubts); err != nil {
			return err
		}
	}
}

// write makes a change and announces it. See [writer.do].
func (s *DB) write(ctx context.Context, apply func(*conn) error, changes ...appliance.Change) error {
	return s.writer.announced(ctx, apply, func() { s.announce(changes...) })
}

// stale refuses a change whose caller expected another row than there is.
func stale(what string) error {
	return fault.Errorf(fault.Changed, "%s was changed by another operation at the same time; look at it and try again", what)
}

// expectation is a row that a change expects.
type expectation struct {
	// what names it in errors; missing is the error if there is none.
	what    string
	missing error
	// exists selects it by its key alone.
	exists string
	args   []any
}

func expect(what string, missing error, exists string, args ...any) expectation {
	return expectation{what, missing, exists, args}
}

// unlessChanged gives the error of a change that states the value it expects, after it
// has changed n rows: nil, err, that of a missing row, or that of a stale change.
func unlessChanged(c *conn, n int64, err error, e expectation) error {
	if err != nil || n > 0 {
		return err
	}
	var one int
	found, err := c.one([]any{&one}, e.exists, e.args...)
	switch {
	case err != nil:
		return err
	case !found:
		return e.missing
	}
	return stale(e.what)
}

func failed(message string, cause error) error {
	return &fault.Fault{Code: fault.Internal, Message: message, Err: cause}
}

func timeout(ctx context.Context) error {
	return &fault.Fault{Code: fault.Timeout, Message: "the database did not answer in time; nothing changed", Err: context.Cause(ctx)}
}

func errClosed() error {
	return fault.Errorf(fault.Internal, "the database is closed")
}

func noKeyStore(id string) error {
	return fault.Errorf(fault.NotFound, "there is no key store with the ID %q", id)
}

func noKey(id string) error {
	return fault.Errorf(fault.NotFound, "there is no key %q in the key store", id)
}

// Schema gives the number of the newest migration that the database has.
func (s *DB) Schema() int64 { return s.schema }
