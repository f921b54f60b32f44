package localpostgres_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/cmd/internal/localpostgres"
)

// TestMain lets the test's binary be a process that starts a server and is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LOCALPOSTGRES_TEST"); dir != "" {
		if _, err := localpostgres.Start(context.Background(), dir, "fleet"); err != nil {
			panic(err)
		}
		_ = os.WriteFile(dir+".started", nil, 0o600)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, dir string) (*localpostgres.Server, *pgx.Conn) {
	t.Helper()
	s, err := localpostgres.Start(t.Context(), dir, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := pgx.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return s, c
}

func do(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, c *pgx.Conn) (n int) {
	t.Helper()
	if err := c.QueryRow(t.Context(), "SELECT n FROM x").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStart: the role may make tables, and finds them again after a stop. The folder is one
// that root alone may enter, if this is root.
func TestStart(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "postgres")
	s, c := start(t, dir)
	do(t, c, "CREATE TABLE x (n int); INSERT INTO x VALUES (7)")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".s.PGSQL.5432")); err == nil {
		t.Error("the server has not ended")
	}
	_, c = start(t, dir)
	if n := number(t, c); n != 7 {
		t.Errorf("got %d", n)
	}
}

// TestLeftOver: a server whose process was killed is stopped by the next start, and what
// was committed is there.
func TestLeftOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "postgres")
	s, c := start(t, dir)
	do(t, c, "CREATE TABLE x (n int); INSERT INTO x VALUES (8)")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed := exec.Command(exe)
	killed.Env = append(os.Environ(), "LOCALPOSTGRES_TEST="+dir)
	_ = killed.Run() // it kills itself
	if _, err := os.Stat(dir + ".started"); err != nil {
		t.Fatal(err)
	}
	if c, err := pgx.Connect(t.Context(), s.URL()); err != nil {
		t.Errorf("the server has ended with its process: %v", err)
	} else {
		_ = c.Close(t.Context())
	}
	_, c = start(t, dir)
	if n := number(t, c); n != 8 {
		t.Errorf("got %d", n)
	}
}

// TestRefused: what is wrong is one line that names the folder or the log.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"another version": {func(t *testing.T, dir string) { write(t, dir, "data/PG_VERSION", "9\n") }, "was made by PostgreSQL 9"},
		"a setting":       {func(t *testing.T, dir string) { write(t, dir, "data/postgresql.auto.conf", "nonsense = 1\n") }, "postgres.log"},
		"a file":          {func(t *testing.T, dir string) { remove(t, dir); write(t, filepath.Dir(dir), filepath.Base(dir), "") }, "PostgreSQL's folder"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "postgres")
			s, _ := start(t, dir)
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			_, err := localpostgres.Start(t.Context(), dir, "fleet")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
