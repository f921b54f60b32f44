package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Offline is a database that is looked at and never changed: all that SQLite does is done
// to a private copy. Make one with [OpenOffline].
type Offline struct {
	dir string // of the private copy
	db  *DB
	// shown and private are the paths of the database and of the copy: errors name the first.
	shown, private string
	knows          int64 // the schema of this binary
}

var _ appliance.OfflineRows = (*Offline)(nil)

// OpenOffline copies the database at path, with its write-ahead log, to a private folder
// for temporary files, and opens the copy in the schema that it has. At path nothing is
// written, and nothing is locked: an appliance may have it open.
//
// Errors: those of [Open], which name path; [fs.ErrNotExist] in the chain if there is no
// such file. An empty one is fault.StateForeign; one that is missing or empty beside its
// log fault.StateLoss.
func OpenOffline(ctx context.Context, path string) (_ *Offline, err error) {
	info, err := os.Stat(path)
	_, noLog := os.Stat(path + "-wal")
	switch {
	case errors.Is(err, fs.ErrNotExist) && noLog == nil: // Open says that it is lost
	case err != nil:
		return nil, fmt.Errorf("database %s: %w", path, err)
	case !info.Mode().IsRegular():
		return nil, refuse(path, notOurs("it is not a regular file"))
	case info.Size() == 0 && noLog != nil:
		return nil, refuse(path, notOurs("it is empty"))
	}
	o := &Offline{shown: path}
	if o.dir, err = os.MkdirTemp("", "holdfast-offline-"); err != nil {
		return nil, refuse(path, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(o.dir)
		}
	}()
	o.private = filepath.Join(o.dir, "holdfast.db")
	if err := copyAtOneMoment(ctx, path, o.private); err != nil {
		return nil, refuse(path, err)
	}
	if err := o.open(ctx, true); err != nil {
		return nil, err
	}
	o.knows = latest
	return o, nil
}

// open opens the private copy, in the schema that it has or in this binary's.
func (o *Offline) open(ctx context.Context, asItIs bool) (err error) {
	if o.db, err = Open(ctx, o.private, Options{Readers: 1, asItIs: asItIs}); err == nil {
		return nil
	}
	// The path is the caller's, not that of the copy.
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok {
		return err
	}
	named := *f
	named.Message = string(bytes.ReplaceAll([]byte(f.Message), []byte(o.private), []byte(o.shown)))
	return &named
}

// copyAttempts is how often the files are copied anew while they change.
const copyAttempts = 10

// copyAtOneMoment copies a database and its log as they were at one moment, though an
// appliance writes to them. What is copied of the database's pages while a checkpoint
// writes them is in the log too. That ends when the log is begun again; then they are
// copied once more.
func copyAtOneMoment(ctx context.Context, from, to string) error {
	for range copyAttempts {
		before, err := logHeader(from + "-wal")
		if err != nil {
			return err
		}
		for _, suffix := range []string{"", "-wal", lostSuffix} {
			if err := copyWhole(ctx, from+suffix, to+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		// Of the log that was copied, and of the one that is there now.
		copied, err := logHeader(to + "-wal")
		if err != nil {
			return err
		}
		after, err := logHeader(from + "-wal")
		if err != nil {
			return err
		}
		if bytes.Equal(before, copied) && bytes.Equal(before, after) {
			return nil
		}
	}
	return fault.Errorf(fault.Timeout, "it changes faster than it can be copied; stop the appliance, or verify a snapshot of the volume")
}

// logHeader gives the header of a write-ahead log, by which it is told from the next one;
// empty if there is none.
func logHeader(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	header := make([]byte, walHeaderBytes)
	n, err := io.ReadFull(f, header)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return header[:n], err
}

// copyWhole copies a file; one that was there is replaced.
func copyWhole(ctx context.Context, from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, readerUntil{ctx, in})
	return errors.Join(err, out.Close())
}

// readerUntil ends with its context.
type readerUntil struct {
	ctx context.Context
	io.Reader
}

func (r readerUntil) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// Close removes the private copy.
func (o *Offline) Close() error {
	err := o.db.Close()
	return errors.Join(err, os.RemoveAll(o.dir))
}

// Loss implements [appliance.OfflineRows].
func (o *Offline) Loss() (certain bool, why error) {
	l := o.db.loss.Load()
	if l == nil {
		return false, nil
	}
	return l.certain, l.fault()
}

// StateKey implements [appliance.OfflineRows].
func (o *Offline) StateKey(ctx context.Context) (in *appliance.Installation, err error) {
	none := fault.Errorf(fault.NotFound, "the database has no installation")
	if o.db.schema == 0 { // nor a table
		return nil, none
	}
	err = o.db.read(ctx, func(c *conn) error {
		in = &appliance.Installation{}
		found, err := c.one([]any{&in.ID, &in.WrappedStateKey, millis{&in.CreatedAt}}, `SELECT id, wrapped_state_key, created_at FROM installation`)
		if err == nil && !found {
			err = none
		}
		return err
	})
	return in, err
}

// Survey implements [appliance.OfflineRows].
func (o *Offline) Survey(ctx context.Context, key appliance.ManifestKey) (*appliance.Survey, error) {
	s := &appliance.Survey{Schema: o.db.schema, Knows: o.knows}
	err := o.db.read(ctx, func(c *conn) error { return o.survey(ctx, c, key, s) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (o *Offline) survey(ctx context.Context, c *conn, key appliance.ManifestKey, s *appliance.Survey) error {
	specs, err := specsOf(ctx, s.Schema, o.db.seed)
	if err != nil {
		return err
	}
	heads := map[string]*appliance.Manifest{}
	if s.Schema >= firstManifest {
		if heads, err = readManifests(ctx, c); err != nil {
			return err
		}
	}
	root := heads[appliance.ScopeInstallation]
	if root != nil {
		s.Head, s.HeadSchema = root.Head(), root.Schema
		if s.Chained, err = chained(c, root, s.Schema); err != nil {
			return err
		}
	}
	for _, scope := range slices.Sorted(maps.Keys(heads)) {
		s.Sets = append(s.Sets, appliance.SetSurvey{Scope: scope, Sequence: heads[scope].Sequence, At: heads[scope].At})
	}
	if key == nil || root == nil {
		s.Rows, err = scan(ctx, c, specs, func(*spec, []any) {})
		return err
	}
	st := newState(appliance.StateOptions{Key: key}, s.Schema, o.db.seed, specs)
	st.heads = heads
	there, n, err := st.actual(ctx, c)
	if err != nil {
		return err
	}
	s.Rows = n
	j, err := st.judge(ctx, c, there)
	if fault.CodeOf(err) == fault.StateChanged { // rows that the migration since does not make
		s.Why = err
		return nil
	}
	if err != nil {
		return err
	}
	s.Judged = true
	if !j.root {
		s.Why = stateChanged()
	}
	for i := range s.Sets {
		set := &s.Sets[i]
		set.Matches = !j.broken[set.Scope] && (set.Scope != appliance.ScopeInstallation || j.root)
	}
	for scope := range j.broken {
		if heads[scope] == nil { // rows of a scope that has no manifest
			s.Sets = append(s.Sets, appliance.SetSurvey{Scope: scope})
		}
	}
	return nil
}

// chained says whether the history has what the manifest adds to it. After a migration it is
// begun with the next one.
func chained(c *conn, m *appliance.Manifest, schema int64) (bool, error) {
	column := "link"
	if schema < firstLink {
		column = "digest"
	} else if m.Schema != schema {
		return true, nil
	}
	var link []byte
	_, err := c.one([]any{&link}, `SELECT `+column+` FROM manifest_history WHERE sequence = ?`, int64(m.Sequence))
	return bytes.Equal(link, m.Link()), err
}

// firstLink is the version of the schema whose history has links first.
const firstLink = 14

// Past implements [appliance.OfflineRows].
func (o *Offline) Past(ctx context.Context, h appliance.Head) (is bool, err error) {
	if o.db.schema < firstLink {
		return false, nil // its releases told nobody
	}
	err = o.db.read(ctx, func(c *conn) error {
		heads, err := readManifests(ctx, c)
		if err == nil {
			is, err = past(ctx, c, heads[appliance.ScopeInstallation], h)
		}
		return err
	})
	return is, err
}

// AuditHead implements [appliance.OfflineRows].
func (o *Offline) AuditHead(ctx context.Context) (*appliance.AuditHeadRow, error) {
	if o.db.schema < firstAuditHead {
		return nil, fault.Errorf(fault.NotFound, "databases of this schema have no head of the audit log")
	}
	return o.db.Machine().AuditHead(ctx)
}

// firstAuditHead is the version of the schema that has the head of the audit log first.
const firstAuditHead = 11

// Migrated implements [appliance.OfflineRows].
func (o *Offline) Migrated(ctx context.Context) (appliance.Store, error) {
	if o.db.schema != o.knows {
		if err := o.db.Close(); err != nil {
			return nil, err
		}
		if err := o.open(ctx, false); err != nil {
			return nil, err
		}
	}
	return o.db, nil
}

// Everything gives the rows after Migrated: those of identities and approvals too.
func (o *Offline) Everything() *DB { return o.db }
