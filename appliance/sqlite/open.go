package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/appliance/fault"
)

// Options are what [Open] may be told. The zero value serves.
type Options struct {
	// Logger gets what an operator should know: migrations, a file mode that
	// was tightened, a disk that fails. Nil means none.
	Logger *slog.Logger
	// Readers is how many reads run at once; the others wait. 0 means one for
	// each processor, and at least 4.
	Readers int
	// Copy says that the file has rows of a backup and not a state: manifests that it may
	// have are removed.
	Copy bool
	// schema is the version to migrate to, and the newest that is known; 0 for this binary's.
	schema int64
	// asItIs leaves the schema of the file as it is.
	asItIs bool
}

//go:embed migrations/*.sql
var embedded embed.FS

// migrations are those of this version. Tests add those of later ones.
var migrations = func() fs.FS {
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the name is a valid one
	}
	return files
}()

// latest is the newest schema that this version knows.
var latest = func() (newest int64) {
	names, _ := fs.Glob(migrations, "*.sql")
	for _, name := range names {
		if v, err := goose.NumericComponent(name); err == nil {
			newest = max(newest, v)
		}
	}
	return newest
}()

// applicationID marks the file as Holdfast's: "Hold" in ASCII, in the header
// field that SQLite has for this.
const applicationID = 0x486f6c64

// fileMagic begins every SQLite file.
const fileMagic = "SQLite format 3\x00"

// Open opens the database at path, or makes it: the file with mode 0600, its
// folder, if missing, with mode 0700. The folder must be on a local disk.
//
// Before the database is used it is checked whole (PRAGMA integrity_check and
// foreign_key_check). With 1,000,000 keys (343 MB, 2 cores, NVMe) Open takes
// 1.8 s, or 2.6 s when nothing of the file is in memory; the time grows with the
// number of keys. Then missing migrations are applied.
//
// Open refuses, with one line in the [fault.Fault] that names the file, the
// reason and what to do: a database that another process has open (an exclusive
// lock on path + ".lock" keeps others out until Close, or until the process
// ends in whatever way), one that is damaged, one made by a newer Holdfast, and
// a file that is something else. It changes nothing in what it refuses.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Readers == 0 {
		opts.Readers = max(4, runtime.GOMAXPROCS(0))
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, refuse(path, err)
	}
	lock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, path, opts)
	if err != nil {
		_ = unlock(lock)
		return nil, refuse(path, err)
	}
	s.lock = lock
	return s, nil
}

// lockFile takes the lock that keeps other processes out. The file stays behind
// when the lock is given up: removing it would let two processes lock two files
// of the same name.
func lockFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, refuse(path, err)
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, refuse(path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, refuse(path, fmt.Errorf("locking %s: %w", f.Name(), err))
		}
		holder := "another process"
		if pid, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(pid) > 0 {
			holder += " (" + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fault.Errorf(fault.Conflict,
			"database %s: %s has it open and holds the lock %s; stop that process first", path, holder, f.Name())
	}
	// The process ID is for that message only; the lock does not depend on it.
	if f.Truncate(0) == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// unlock gives the lock up at once. To close the file is not enough: a child that is being
// made meanwhile has it open, too, until it executes its program.
func unlock(lock *os.File) error {
	return errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_UN), lock.Close())
}

func open(ctx context.Context, path string, opts Options) (_ *DB, err error) {
	ours, err := prepareFile(ctx, path)
	if err != nil {
		return nil, err
	}
	var loss *walLoss
	if ours { // the log of another program's database is not touched
		if loss, err = findLoss(path, opts.Logger); err != nil {
			return nil, err
		}
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, err
	}
	readers := make(chan *conn, opts.Readers)
	defer func() {
		if err != nil {
			for len(readers) > 0 {
				_ = (<-readers).close()
			}
			_ = db.Close()
		}
	}()
	db.SetMaxIdleConns(opts.Readers + 1)

	if err := inspect(ctx, db, cmp.Or(opts.schema, latest)); err != nil {
		return nil, err
	}
	if err := closeToOthers(path, opts.Logger); err != nil {
		return nil, err
	}
	schema, err := migrate(ctx, db, opts)
	if err != nil {
		return nil, err
	}

	for range opts.Readers {
		r, err := newConn(ctx, db)
		if err != nil {
			return nil, err
		}
		readers <- r
		if _, err := r.exec("PRAGMA query_only = 1"); err != nil {
			return nil, err
		}
	}
	w, err := newConn(ctx, db)
	if err != nil {
		return nil, err
	}
	// Keys come in the order of their IDs, which is any order: 64 MiB of pages
	// keep a large load from writing each page many times.
	if _, err := w.exec("PRAGMA cache_size = -65536"); err != nil {
		_ = w.close()
		return nil, err
	}
	if opts.Copy && schema >= firstManifest {
		for _, name := range manifestTables {
			if _, err := w.exec(fmt.Sprintf("DELETE FROM %q", name)); err != nil {
				_ = w.close()
				return nil, err
			}
		}
	}
	seed := maphash.MakeSeed()
	specs, err := specsOf(ctx, schema, seed)
	if err != nil {
		_ = w.close()
		return nil, err
	}
	s := &DB{db: db, readers: readers, path: path, schema: schema, seed: seed, writer: newWriter(w, schema, seed, specs, opts.Logger), closing: make(chan struct{})}
	if err := s.writer.watch(s.announceForeign); err != nil {
		_ = s.writer.close()
		return nil, err
	}
	s.loss.Store(loss)
	s.close = sync.OnceValue(s.shutDown)
	return s, nil
}

// dsn is what every connection is opened with.
func dsn(path string) string {
	q := url.Values{
		"_pragma": {
			"busy_timeout(5000)", // an administrator's sqlite3 shell, at most
			"synchronous(full)",
			"foreign_keys(1)",
			"temp_store(memory)",
			"journal_size_limit(67108864)",
			// Distrust the file: notice wrong pages early, and run no
			// functions that somebody wrote into its schema.
			"cell_size_check(1)",
			"trusted_schema(0)",
		},
		"_defensive": {"1"},
		"_dqs":       {"0"},
		"_error_rc":  {"1"},
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// prepareFile makes the file if there is none, and refuses one that is not a
// database of ours before SQLite touches it or what lies beside it: SQLite would bring a
// log or journal into the file. Ours says that the file says whose it is.
//
// It reads the file once from end to end: after a boot nothing of it is in
// memory, and the check that follows reads its pages in the order of the keys,
// which is any order. A disk does that ten times more slowly.
//
// No connection may be open meanwhile: closing any descriptor of the file would
// take away SQLite's POSIX locks.
func prepareFile(ctx context.Context, path string) (ours bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, errors.New("it is not a regular file; give the path of a database file")
	}
	if ours, err = claimed(f, path); err != nil {
		return false, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	for buf := make([]byte, 1<<20); ; {
		if _, err := f.Read(buf); err == io.EOF {
			return ours, nil
		} else if err != nil {
			return false, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
}

// applicationIDAt is where the file's header has the application ID
// (https://www.sqlite.org/fileformat2.html#the_database_header). Holdfast writes it before
// there is a table or a write-ahead log, so it stands in the file itself.
const applicationIDAt = 68

// claimed says whether the file is marked as Holdfast's. One that is marked as nobody's may
// be new, unless a log or journal lies beside it.
func claimed(f *os.File, path string) (bool, error) {
	header := make([]byte, applicationIDAt+4)
	n, err := io.ReadFull(f, header)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return false, err
	}
	if n > 0 && !strings.HasPrefix(string(header), fileMagic) {
		return false, notOurs("it is not a database")
	}
	switch id := binary.BigEndian.Uint32(header[applicationIDAt:]); {
	case id == applicationID:
		return true, nil
	case id != 0:
		return false, notOurs("it is a database, but of another program")
	}
	for _, suffix := range []string{"-wal", "-journal"} {
		info, err := os.Lstat(path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false, err
		case info.Size() > 0 && n == 0:
			return false, fault.Errorf(fault.StateLoss, "it is missing or empty, and its log %s is there: all that was in the database is lost; put both files back as they were, or move both away and restore the last good backup", path+suffix)
		case info.Size() > 0:
			return false, notOurs("it is a database, but of another program, which has left the log " + path + suffix)
		}
	}
	return false, nil
}

func notOurs(what string) error {
	return fault.Errorf(fault.StateForeign, "%s; give the path of a Holdfast database, or of a file that does not exist yet", what)
}

// inspect refuses a database that is not Holdfast's or is damaged, and makes a
// new one Holdfast's. Knows is the newest schema that can be used.
func inspect(ctx context.Context, db *sql.DB, knows int64) error {
	var id, tables int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	switch {
	case id == applicationID:
		// One after the other: side by side they take longer, waiting for
		// SQLite's own locks.
		if err := checkPages(ctx, db); err != nil {
			return err
		}
		// Before what depends on the schema, such as references to a table.
		if err := checkMade(ctx, db, knows); err != nil {
			return err
		}
		if err := checkReferences(ctx, db); err != nil {
			return err
		}
	case id != 0 || tables != 0:
		return notOurs("it is a database, but of another program")
	default:
		if _, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return err
		}
	}
	// The file remembers this mode, and tells every later connection.
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = wal").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("its journal mode is %s and cannot be made wal; put it on a local disk", mode)
	}
	return nil
}

// closeToOthers takes away the access that others have to the file.
func closeToOthers(path string, log *slog.Logger) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		log.Warn("others could open the database; its mode is 0600 now", "file", path, "mode was", fmt.Sprintf("%#o", mode))
		return os.Chmod(path, 0o600)
	}
	return nil
}

// damage is what a check found.
type damage string

func (d damage) Error() string { return string(d) }

// checkPages reads the whole file, and compares pages, rows and indexes.
func checkPages(ctx context.Context, db *sql.DB) error {
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return damage(named(ctx, db, result))
	}
	return nil
}

// The places that a finding of integrity_check may name in place of a table.
var (
	inTree  = regexp.MustCompile(`\b[Tt]ree (\d+)\b`)
	inIndex = regexp.MustCompile(`\bindex (\w+)`)
)

// named adds to a finding of integrity_check which table it is about, if it does not say
// so and that can be told.
func named(ctx context.Context, db *sql.DB, finding string) string {
	query, place := `SELECT tbl_name FROM sqlite_schema WHERE rootpage = ?`, inTree.FindStringSubmatch(finding)
	if place == nil {
		query, place = `SELECT tbl_name FROM sqlite_schema WHERE type = 'index' AND name = ?`, inIndex.FindStringSubmatch(finding)
	}
	var table string
	if place == nil || db.QueryRowContext(ctx, query, place[1]).Scan(&table) != nil {
		return finding
	}
	return "table " + table + ": " + finding
}

// checkReferences looks for rows whose parent is gone.
func checkReferences(ctx context.Context, db *sql.DB) error {
	var table, parent string
	var row, key any
	err := db.QueryRowContext(ctx, "PRAGMA foreign_key_check").Scan(&table, &row, &parent, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return damage(fmt.Sprintf("a row of %s refers to a row of %s that does not exist", table, parent))
}

// checkMade refuses a schema that is of a newer version, or not what the migrations make.
// Without a version there must be no table yet: a process may have ended before the first
// migration.
func checkMade(ctx context.Context, db *sql.DB, knows int64) error {
	objects, err := schemaOf(ctx, db.QueryContext)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(objects, func(o schemaObject) bool {
		return slices.Contains(engineTables, o.table) || strings.HasPrefix(o.name, "sqlite_")
	})
	if len(ours) == 0 {
		return nil
	}
	var has int64
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&has)
	if err != nil && !hasCode(err, sqlite3.SQLITE_ERROR) {
		return err
	}
	if err != nil || has < 1 { // such as that there is no such table
		return schemaFault("the table \"goose_db_version\" does not say which version it is")
	}
	p, err := provider(db)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if has > knows {
		return newer{has, knows}
	}
	want := []int64{0} // which the engine notes when it makes its table
	for _, m := range sources {
		if m.Version <= has {
			want = append(want, m.Version)
		}
	}
	if err := checkVersions(ctx, db, want); err != nil {
		return err
	}
	return checkSchema(ctx, db.QueryContext, has)
}

// checkVersions refuses a list of migrations that is not what they leave, which the engine
// could not read.
func checkVersions(ctx context.Context, db *sql.DB, want []int64) error {
	rows, err := db.QueryContext(ctx, `SELECT CASE WHEN is_applied = 1 AND datetime(tstamp) IS NOT NULL THEN version_id ELSE -1 END FROM goose_db_version ORDER BY version_id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var there []int64
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			return err
		}
		there = append(there, v)
	}
	if err := rows.Err(); err != nil || slices.Equal(there, want) {
		return err
	}
	return schemaFault("the table \"goose_db_version\" does not list the migrations that made it")
}

// migrate brings the schema to this binary's version, or the one that is asked for, and
// gives it.
func migrate(ctx context.Context, db *sql.DB, opts Options) (int64, error) {
	p, err := provider(db)
	if err != nil {
		return 0, err
	}
	has, _, err := p.GetVersions(ctx)
	if err != nil {
		return 0, err
	}
	if opts.asItIs {
		return has, nil
	}
	began := time.Now()
	to := cmp.Or(opts.schema, latest)
	done, err := p.UpTo(ctx, to)
	if err != nil {
		return 0, err
	}
	if len(done) > 0 {
		opts.Logger.Info("database schema brought up to date", "from", has, "to", to, "took", time.Since(began))
	}
	return to, nil
}

func provider(db *sql.DB) (*goose.Provider, error) {
	return goose.NewProvider(goose.DialectSQLite3, db, migrations, goose.WithDisableGlobalRegistry(true))
}

// migrateTo brings an empty database to a version of the schema.
func migrateTo(ctx context.Context, db *sql.DB, schema int64) (int64, error) {
	p, err := provider(db)
	if err != nil {
		return 0, err
	}
	_, err = p.UpTo(ctx, schema)
	return schema, err
}

// newer is the refusal of a database whose schema this binary does not know.
type newer struct{ has, knows int64 }

func (n newer) Error() string {
	return fmt.Sprintf("a newer Holdfast made it (schema %d, this binary knows %d); start that version or a later one", n.has, n.knows)
}

// refuse makes the one line that says why the database at path cannot be used.
func refuse(path string, err error) error {
	var d damage
	switch {
	case errors.As(err, &d):
		return damaged(path, oneLine(string(d)), nil)
	case hasCode(err, sqlite3.SQLITE_CORRUPT), hasCode(err, sqlite3.SQLITE_NOTADB):
		return damaged(path, oneLine(err.Error()), err)
	case slices.Contains([]fault.Code{fault.StateSchema, fault.StateForeign, fault.StateLoss}, fault.CodeOf(err)):
		return fault.Errorf(fault.CodeOf(err), "database %s: %s", path, fault.ReasonOf(err))
	case errors.As(err, new(newer)):
		return fault.Errorf(fault.Conflict, "database %s: %v", path, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), hasCode(err, sqlite3.SQLITE_INTERRUPT):
		return &fault.Fault{Code: fault.Timeout, Message: "database " + path + ": opening was cut short", Err: err}
	}
	return fault.Errorf(fault.Internal, "database %s: %s", path, oneLine(err.Error()))
}

func damaged(path, what string, err error) error {
	return &fault.Fault{
		Code:    fault.StateDamaged,
		Message: fmt.Sprintf("database %s: it is damaged (%s); move this file away and keep it for inquiry, restart the machine, and restore the last good backup", path, what),
		Err:     err,
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
