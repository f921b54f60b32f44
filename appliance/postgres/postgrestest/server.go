// Package postgrestest starts a real PostgreSQL for tests, of the system's package.
package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Server is a server of its own on a Unix socket, which ends with the test.
type Server struct {
	// URL connects as its superuser.
	URL string
	// Dir is its data folder.
	Dir string

	t   testing.TB
	bin string
	cmd *exec.Cmd
	who *syscall.Credential
}

// Find gives the folder of the newest PostgreSQL's programs; empty without one.
func Find() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(slices.Max(found))
}

// Start makes a server with the settings, each such as "fsync=off".
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	bin := Find()
	if bin == "" {
		t.Fatal("there is no PostgreSQL: apt-get install postgresql")
	}
	// Sockets have short names.
	dir, err := os.MkdirTemp("/tmp", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{t: t, bin: bin, Dir: filepath.Join(dir, "data"), URL: fmt.Sprintf("postgres://postgres@/postgres?host=%s", dir)}
	if os.Getuid() == 0 { // it refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.who = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command("initdb", "-D", s.Dir, "-U", "postgres", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	args := []string{"-D", s.Dir, "-k", dir, "-c", "listen_addresses="}
	for _, set := range settings {
		args = append(args, "-c", set)
	}
	s.cmd = s.command("postgres", args...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	for range 300 {
		if s.command("pg_isready", "-h", dir, "-q").Run() == nil {
			return s
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("PostgreSQL does not start")
	return nil
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, name), args...)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.who}
	return c
}

// Stop stops the server at once, as a crash does.
func (s *Server) Stop() {
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	if err := s.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Error(err)
	}
}
