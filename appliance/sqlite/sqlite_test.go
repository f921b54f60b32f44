package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

func TestSQLite(t *testing.T) {
	open := func(t *testing.T) *sqlite.DB { return openSQLite(t, filepath.Join(t.TempDir(), "holdfast.db")) }
	t.Run("shared", func(t *testing.T) { storetest.Run(t, func(t *testing.T) storetest.Engine { return open(t) }) })
	t.Run("machine", func(t *testing.T) {
		storetest.RunMachine(t, func(t *testing.T) storetest.Machine { return open(t).Machine() })
	})
	t.Run("move", func(t *testing.T) {
		engine := func(t *testing.T) storetest.Engine { return open(t) }
		storetest.RunMove(t, engine, engine)
	})
}

func openSQLite(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	storetest.Must(t, empty(path))
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	storetest.Must(t, err)
	t.Cleanup(func() { storetest.Must(t, s.Close()) })
	return s
}

// empty makes an empty database.
var empty = storetest.Template(func(path string) error {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		return err
	}
	return s.Close()
})

// madeSQLite gives the path of a closed database with a few hundred keys.
func madeSQLite(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	storetest.Must(t, s.CreateKeyStore(t.Context(), storetest.KeyStore(1)))
	var keys []appliance.NewKey
	for i := range 300 {
		keys = append(keys, storetest.NewKey(storetest.KeyStore(1), fmt.Sprintf("k%03d", i)))
	}
	storetest.Must(t, s.CreateKeys(t.Context(), keys...))
	storetest.Must(t, s.Close())
	return path
}

// edit runs statements on the file as an administrator's sqlite3 shell would.
func edit(t testing.TB, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	storetest.Must(t, err)
	defer db.Close()
	for _, st := range statements {
		_, err := db.ExecContext(t.Context(), st)
		storetest.Must(t, err)
	}
}

func TestReopen(t *testing.T) {
	// Folders are made, and no character in the path means anything to SQLite.
	path := filepath.Join(t.TempDir(), "a b", "c?d=e&f%20#g", "holdfast.db")
	s := openSQLite(t, path)
	ctx := t.Context()
	ks := storetest.KeyStore(1)
	storetest.Must(t, s.CreateKeyStore(ctx, ks))
	k := storetest.NewKey(ks, "a")
	storetest.Must(t, s.CreateKeys(ctx, k))
	storetest.Must(t, s.CreateCredential(ctx, storetest.Credential(ks, 1)))
	storetest.Must(t, s.CreateGrants(ctx, storetest.Grant(ks, 1, "a")))
	storetest.Must(t, s.Close())

	s = openSQLite(t, path)
	storetest.Equal(t, storetest.Got(s.KeyStores(ctx))(t), []*appliance.KeyStore{ks})
	storetest.Equal(t, *storetest.Got(s.Key(ctx, ks.ID, "a"))(t), appliance.StoredKey{ExternalKey: *k.Key,
		Versions: []*appliance.KeyVersion{k.Version}, Grants: []*appliance.Grant{storetest.Grant(ks, 1, "a")}})
	storetest.Equal(t, storetest.Got(s.Credentials(ctx, ks.ID))(t), []*appliance.Credential{storetest.Credential(ks, 1)})
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, "holdfast.db")
	s := openSQLite(t, path)
	storetest.Must(t, s.CreateKeyStore(t.Context(), storetest.KeyStore(1)))
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		storetest.Must(t, err)
		return info.Mode().Perm()
	}
	storetest.Equal(t, mode(dir), os.FileMode(0o700))
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		storetest.Equal(t, mode(path+suffix), os.FileMode(0o600))
	}
	storetest.Must(t, s.Close())
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close left the write-ahead log behind: %v", err)
	}

	// A file that others could read is closed to them, and the log says so.
	storetest.Must(t, os.Chmod(path, 0o644))
	var log bytes.Buffer
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	storetest.Must(t, err)
	storetest.Must(t, s.Close())
	storetest.Equal(t, mode(path), os.FileMode(0o600))
	if !strings.Contains(log.String(), path) || !strings.Contains(log.String(), "0644") {
		t.Errorf("the log does not tell of the mode: %s", &log)
	}
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	storetest.Wants(t, err, fault.Conflict, path+".lock")
	storetest.Wants(t, err, fault.Conflict, fmt.Sprint(os.Getpid()))
	storetest.Must(t, s.CreateKeyStore(t.Context(), storetest.KeyStore(1))) // the first is not disturbed
	storetest.Must(t, s.Close())
	storetest.Must(t, openSQLite(t, path).Close())
}

// forbidden has a row that the schema forbids, by rewriting the schema for a moment.
func forbidden(table, without, statement string) func(t *testing.T) string {
	return func(t *testing.T) string {
		path := madeSQLite(t)
		rewrite := func(from, to string) {
			edit(t, path, "PRAGMA writable_schema = 1", fmt.Sprintf("UPDATE sqlite_schema SET sql = replace(sql, '%s', '%s') WHERE name = '%s'", from, to, table))
		}
		rewrite(without, "/* "+without+" */")
		edit(t, path, "PRAGMA ignore_check_constraints = 1", statement)
		rewrite("/* "+without+" */", without)
		return path
	}
}

// foreign is another program's database, with what that has not written into it yet.
func foreign(id int, mode string) func(t *testing.T) string {
	return func(t *testing.T) string {
		theirs, path := filepath.Join(t.TempDir(), "songs.db"), filepath.Join(t.TempDir(), "holdfast.db")
		db, err := sql.Open("sqlite", theirs)
		storetest.Must(t, err)
		defer db.Close()
		db.SetMaxOpenConns(1)
		for _, st := range []string{fmt.Sprintf("PRAGMA application_id = %d", id), "PRAGMA cache_size = 1", "PRAGMA journal_mode = " + mode, "CREATE TABLE songs (title TEXT)", "BEGIN",
			"INSERT INTO songs SELECT randomblob(1000) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT i FROM n)"} {
			_, err := db.ExecContext(t.Context(), st)
			storetest.Must(t, err)
		}
		if mode == "wal" {
			_, err := db.ExecContext(t.Context(), "COMMIT")
			storetest.Must(t, err)
		}
		for _, suffix := range []string{"", "-wal", "-journal"} {
			content, err := os.ReadFile(theirs + suffix)
			if suffix == "-wal" && len(content) > 3*4096 {
				content[2*4096] ^= 1 // damage that is not ours to judge
			}
			if err == nil {
				storetest.Must(t, os.WriteFile(path+suffix, content, 0o600))
			}
		}
		return path
	}
}

// withoutIndexRows is a database whose index lacks rows.
func withoutIndexRows(t *testing.T) string {
	path := madeSQLite(t)
	db, err := sql.Open("sqlite", path)
	storetest.Must(t, err)
	defer db.Close()
	var root int
	var text string
	storetest.Must(t, db.QueryRowContext(t.Context(), "SELECT rootpage, sql FROM sqlite_schema WHERE name = 'external_keys_due'").Scan(&root, &text))
	storetest.Must(t, db.Close())
	edit(t, path, "PRAGMA writable_schema = 1", "DELETE FROM sqlite_schema WHERE name = 'external_keys_due'")
	edit(t, path, "UPDATE external_keys SET deletion_at = 5")
	edit(t, path, "PRAGMA writable_schema = 1", fmt.Sprintf("INSERT INTO sqlite_schema VALUES ('index', 'external_keys_due', 'external_keys', %d, '%s')", root, text))
	return path
}

// TestRefused opens what must be refused, and finds the file unchanged after.
func TestRefused(t *testing.T) {
	write := func(content string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			storetest.Must(t, os.WriteFile(path, []byte(content), 0o600))
			return path
		}
	}
	// garble overwrites bytes of a good database.
	garble := func(offset int64, with string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := madeSQLite(t)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			storetest.Must(t, err)
			defer f.Close()
			info, err := f.Stat()
			storetest.Must(t, err)
			if offset < 0 {
				offset += info.Size()
			}
			_, err = f.WriteAt([]byte(with), offset)
			storetest.Must(t, err)
			return path
		}
	}
	made := func(statements ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := madeSQLite(t)
			edit(t, path, statements...)
			return path
		}
	}
	for name, test := range map[string]struct {
		path func(t *testing.T) string
		code fault.Code
		want string
	}{
		"another program's log":             {foreign(7, "wal"), fault.StateForeign, "of another program"},
		"the log of a program without mark": {foreign(0, "wal"), fault.StateForeign, "of another program"},
		"another program's journal":         {foreign(7, "delete"), fault.StateForeign, "of another program"},
		"the journal of one without mark":   {foreign(0, "delete"), fault.StateForeign, "of another program"},
		"a log without its database": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			storetest.Must(t, os.WriteFile(path+"-wal", newLogged(t).logs[4], 0o600))
			storetest.Must(t, os.WriteFile(path, nil, 0o600))
			return path
		}, fault.StateLoss, "put both files back"},
		"a value that is not allowed": {made("PRAGMA ignore_check_constraints = 1", "UPDATE external_keys SET can_encrypt = 7"), fault.StateDamaged, "external_keys"},
		"a value that is missing":     {forbidden("external_keys", "NOT NULL", "UPDATE external_keys SET seal = NULL"), fault.StateDamaged, "external_keys.seal"},
		"a value of another type":     {forbidden("key_stores", "STRICT", "UPDATE key_stores SET key_count = 'many'"), fault.StateDamaged, "key_stores.key_count"},
		"an index that lacks rows":    {withoutIndexRows, fault.StateDamaged, "table external_keys: "},
		"text":                        {write("name,prefix\ndemo,/demo\nand more of the same"), fault.StateForeign, "it is not a database"},
		"a few bytes":                 {write("x"), fault.StateForeign, "it is not a database"},
		"a folder": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			storetest.Must(t, os.Mkdir(path, 0o700))
			return path
		}, fault.Internal, "is a directory"},
		"another program's": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			edit(t, path, "CREATE TABLE songs (title TEXT)")
			return path
		}, fault.StateForeign, "of another program"},
		"header only":   {write("SQLite format 3\x00" + strings.Repeat("\x00", 84)), fault.StateDamaged, "damaged"},
		"garbage in it": {garble(-5*4096, strings.Repeat("garbage!", 1024)), fault.StateDamaged, "damaged"},
		"zeros in it":   {garble(-4*4096, strings.Repeat("\x00", 4096)), fault.StateDamaged, "damaged"},
		"wrong page 1":  {garble(100, strings.Repeat("\xff", 1000)), fault.StateDamaged, "damaged"},
		"no key store":  {made("PRAGMA foreign_keys = 0", "DELETE FROM key_stores"), fault.StateDamaged, "damaged (a row of external_keys refers"},
		"newer":         {made("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"), fault.Conflict, "newer Holdfast made it (schema 9999"},
		"cut off": {func(t *testing.T) string {
			path := madeSQLite(t)
			info, err := os.Stat(path)
			storetest.Must(t, err)
			storetest.Must(t, os.Truncate(path, info.Size()/2/4096*4096))
			return path
		}, fault.StateDamaged, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := test.path(t)
			content := func() map[string]string {
				all := map[string]string{}
				for _, suffix := range []string{"", "-wal", "-journal", "-wal.lost"} {
					if b, err := os.ReadFile(path + suffix); err == nil {
						all[suffix] = string(b)
					}
				}
				return all
			}
			before := content()
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err == nil {
				s.Close()
			}
			storetest.Wants(t, err, test.code, test.want)
			storetest.Wants(t, err, test.code, "database "+path+": ")
			if after := content(); !maps.Equal(before, after) {
				t.Errorf("the files were changed: %q were there, and %q are", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
			t.Log(err.(*fault.Fault).Message)
		})
	}
	t.Run("cut short", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := sqlite.Open(ctx, madeSQLite(t), sqlite.Options{})
		storetest.Wants(t, err, fault.Timeout, "cut short")
	})
}

// TestHandEdited shows that the schema keeps rows readable, and that an edit
// that it allows harms no other row.
func TestHandEdited(t *testing.T) {
	path := madeSQLite(t)
	ks := storetest.KeyStore(1)
	s := openSQLite(t, path)
	storetest.Must(t, s.CreateGrants(t.Context(), storetest.Grant(ks, 1, "k001")))
	storetest.Must(t, s.CreateGrants(t.Context(), storetest.Grant(ks, 2, "k001")))
	storetest.Must(t, s.Close())

	db, err := sql.Open("sqlite", path)
	storetest.Must(t, err)
	defer db.Close()
	for _, st := range []string{
		"UPDATE external_keys SET created_at = 'yesterday'",
		"UPDATE external_keys SET seal = NULL",
		"UPDATE external_keys SET can_encrypt = 7",
		"UPDATE key_versions SET version = -1",
		"UPDATE key_versions SET encryptions = -1",
		"UPDATE key_stores SET key_count = 'many'",
	} {
		if _, err := db.ExecContext(t.Context(), st); err == nil {
			t.Errorf("the schema allows %s", st)
		}
	}
	storetest.Must(t, db.Close())
	edit(t, path, "UPDATE grants SET operations = 'Everything' WHERE id = '"+storetest.ID(1)+"'")

	s = openSQLite(t, path)
	list := storetest.Got(s.Grants(t.Context(), ks.ID))(t)
	storetest.Equal(t, len(list[0].Operations), 0)
	storetest.Equal(t, list[1], storetest.Grant(ks, 2, "k001"))
}

// TestReadsDoNotWait has another program hold the write lock: a write waits for
// it, reads do not.
func TestReadsDoNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	ctx := t.Context()
	ks := storetest.KeyStore(1)
	storetest.Must(t, s.CreateKeyStore(ctx, ks))
	storetest.Must(t, s.CreateKeys(ctx, storetest.NewKey(ks, "a")))

	db, err := sql.Open("sqlite", path)
	storetest.Must(t, err)
	defer db.Close()
	shell, err := db.Conn(ctx)
	storetest.Must(t, err)
	_, err = shell.ExecContext(ctx, "BEGIN IMMEDIATE")
	storetest.Must(t, err)
	written := make(chan error, 1)
	go func() { written <- s.CreateKeys(ctx, storetest.NewKey(ks, "b")) }()
	for range 50 {
		storetest.Equal(t, storetest.Got(s.Key(ctx, ks.ID, "a"))(t).ID, "a")
		storetest.Equal(t, storetest.Got(s.CountKeys(ctx, ks.ID))(t), 1)
	}
	select {
	case err := <-written:
		t.Fatalf("the write did not wait: %v", err)
	default:
	}
	_, err = shell.ExecContext(ctx, "ROLLBACK")
	storetest.Must(t, err)
	storetest.Must(t, shell.Close())
	storetest.Must(t, <-written)
	storetest.Equal(t, storetest.Got(s.CountKeys(ctx, ks.ID))(t), 2)
}

// TestMain lets the tests start this binary as another process.
func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		children[os.Getenv(childRole)](path)
		return
	}
	os.Exit(m.Run())
}

const (
	childPath = "HOLDFAST_TEST_DATABASE"
	childRole = "HOLDFAST_TEST_ROLE"
)

var children = map[string]func(path string){
	"write":     writeForever,
	"disk full": writeUntilDiskFails,
}

func child(t *testing.T, role, path string) *exec.Cmd {
	exe, err := os.Executable()
	storetest.Must(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childPath+"="+path, childRole+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// isCode says whether err is of the code.
func isCode(err error, code fault.Code) bool {
	var e *fault.Fault
	return errors.As(err, &e) && e.Code == code
}

// TestLockIsGivenUp: a database that was closed can be opened at once, though a child that
// another goroutine is making has its lock file open, as between fork and exec.
func TestLockIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	storetest.Must(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	storetest.Must(t, err)
	copies := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != path+".lock" {
			continue
		}
		n, err := strconv.Atoi(fd.Name())
		storetest.Must(t, err)
		again, err := syscall.Dup(n)
		storetest.Must(t, err)
		defer func() { _ = syscall.Close(again) }()
		copies++
	}
	if copies != 1 {
		t.Fatalf("%d descriptors of the lock", copies)
	}
	storetest.Must(t, s.Close())
	s, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	storetest.Must(t, err)
	storetest.Must(t, s.Close())
}
