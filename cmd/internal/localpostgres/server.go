// Package localpostgres runs a PostgreSQL server of the system's packages in a folder, for
// development: all its files are there, and it is reached by a Unix socket there. It has one
// role and one database, both of the same name. A server that a killed process has left is
// stopped at the next start. Tests of failures use package postgrestest, whose servers can
// be paused, promoted and reached by TLS.
package localpostgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is a server that runs. [Start] starts one.
type Server struct {
	// Version is the major version.
	Version int

	dir, bin, name string
	who            account
	log            *os.File
	cmd            *exec.Cmd
	ended          chan struct{}
	stop           func() error
}

// port is in the socket's name, and nowhere else.
const port = 5432

// find gives the newest PostgreSQL that is installed as Debian does.
func find() (bin string, version int, err error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well formed
	type installed struct {
		bin     string
		version int
	}
	var all []installed
	for _, f := range found {
		bin := filepath.Dir(f)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil {
			all = append(all, installed{bin, v})
		}
	}
	if len(all) == 0 {
		return "", 0, errors.New("PostgreSQL is not installed: apt-get install postgresql")
	}
	newest := slices.MaxFunc(all, func(a, b installed) int { return cmp.Compare(a.version, b.version) })
	return newest.bin, newest.version, nil
}

// Start starts the server whose files are in the folder, which is made with the role and
// the database of that name the first time. It comes back when the server answers.
func Start(ctx context.Context, dir, name string) (_ *Server, err error) {
	s := &Server{name: name, ended: make(chan struct{})}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if s.bin, s.Version, err = find(); err != nil {
		return nil, err
	}
	if s.who, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "postgres.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("PostgreSQL's log: %w", err)
	}
	if err := s.launch(); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	if err := s.await(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	if err := s.createDatabase(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// URL is that by which an appliance reaches the database.
func (s *Server) URL() string {
	u := url.URL{Scheme: "postgres", User: url.User(s.name), Path: "/" + s.name, RawQuery: url.Values{"host": {s.dir}, "port": {strconv.Itoa(port)}}.Encode()}
	return u.String()
}

// prepare makes the folder and the server's files, or ends what a killed process has left.
func (s *Server) prepare(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("PostgreSQL's folder: %w", err)
	}
	if err := s.who.own(s.dir); err != nil {
		return fmt.Errorf("PostgreSQL's folder: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// An initdb that was interrupted has left files that the next one refuses.
		if err := os.RemoveAll(s.data()); err != nil {
			return fmt.Errorf("PostgreSQL's folder: %w", err)
		}
		return s.run(ctx, "initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
	case err != nil:
		return fmt.Errorf("PostgreSQL's folder: %w", err)
	case strings.TrimSpace(string(text)) != strconv.Itoa(s.Version):
		return fmt.Errorf("%s was made by PostgreSQL %s, and the newest that is installed is %d: install that one, or delete the folder of the fleet to start over", s.data(), strings.TrimSpace(string(text)), s.Version)
	}
	if s.run(ctx, "pg_ctl", "status", "-D", s.data()) != nil {
		return nil // none runs
	}
	return s.run(ctx, "pg_ctl", "stop", "-D", s.data(), "-m", "immediate", "-w")
}

// launch starts the server. The socket's folder is this user's alone, so that all who reach
// it may connect.
func (s *Server) launch() error {
	s.cmd = s.who.command(context.Background(), filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=100", "-c", "unix_socket_permissions=0700")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	// Ctrl-C of the terminal is for the process that started it, which stops the server after
	// the nodes.
	s.cmd.SysProcAttr.Setpgid = true
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("PostgreSQL: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is in its log
		close(s.ended)
	}()
	s.stop = sync.OnceValue(func() error {
		_ = s.cmd.Process.Signal(syscall.SIGINT) // fast: it ends connections; if it has ended, there is nothing to do
		<-s.ended
		return s.log.Close()
	})
	return nil
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s.run(ctx, "pg_isready", "-q", "-h", s.dir, "-p", strconv.Itoa(port)) == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("PostgreSQL does not start; its log is %s: %s", s.log.Name(), lastLine(s.log.Name()))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer; its log is %s: %w", s.log.Name(), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func lastLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// createDatabase makes role and database if they are missing.
func (s *Server) createDatabase(ctx context.Context) error {
	has, err := s.ask(ctx, "SELECT count(*) FROM pg_database WHERE datname = '"+s.name+"'")
	if err != nil || has != "0" {
		return err
	}
	_, err = s.ask(ctx, "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '"+s.name+"') THEN CREATE ROLE "+s.name+" LOGIN; END IF; END $$")
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, "CREATE DATABASE "+s.name+" OWNER "+s.name)
	return err
}

// ask runs SQL as the superuser, and gives what psql prints.
func (s *Server) ask(ctx context.Context, sql string) (string, error) {
	c := s.who.command(ctx, filepath.Join(s.bin, "psql"), s.psql(sql)...)
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *Server) psql(sql string) []string {
	return []string{"-XqAt", "-v", "ON_ERROR_STOP=1", "-h", s.dir, "-p", strconv.Itoa(port), "-U", "postgres", "-c", sql, "postgres"}
}

// Psql is the command line by which the superuser looks at the database.
func (s *Server) Psql() string { return fmt.Sprintf("psql -h %s -U postgres %s", s.dir, s.name) }

// run runs one of PostgreSQL's programs.
func (s *Server) run(ctx context.Context, program string, args ...string) error {
	c := s.who.command(ctx, filepath.Join(s.bin, program), args...)
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Stop ends the server. Its connections end with it.
func (s *Server) Stop() error { return s.stop() }
