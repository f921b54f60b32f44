// Package postgrestest starts a real PostgreSQL for tests, of the system's packages: a
// server of its own in a temporary folder, with TLS; a synchronous replica of it that can
// be promoted; and PgBouncer in front of it. What it started ends with the test, also if
// the test's process is killed.
package postgrestest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The role that connects by TCP and TLS, and by a password or a client certificate.
const (
	User     = "holdfast"
	Password = "pg-test-password-1"
)

// Server is a PostgreSQL server. [Start] makes one.
type Server struct {
	// URL connects as the superuser by the Unix socket, without a password.
	URL string
	// Version is the major version.
	Version int
	// Dir is the data folder.
	Dir string
	// TLS is what a client over TCP needs.
	TLS TLS

	t       testing.TB
	bin     string // the folder of the programs
	home    string // the folder of this server's files, and of its socket
	port    int
	who     *account
	options []string
	running *process
}

// Versions gives the major versions that are installed, the newest first.
func Versions() []int {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	var all []int
	for _, f := range found {
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(f)))); err == nil {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b int) int { return cmp.Compare(b, a) })
	return all
}

// Start starts a server of the newest version with the settings, each such as
// "fsync=off".
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	versions := Versions()
	if len(versions) == 0 {
		t.Fatal("there is no PostgreSQL: apt-get install postgresql")
	}
	return StartVersion(t, versions[0], settings...)
}

// StartVersion starts a server of one of [Versions].
func StartVersion(t testing.TB, version int, settings ...string) *Server {
	t.Helper()
	s := newServer(t, version, settings)
	s.must(s.command("initdb", "-D", s.Dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"))
	s.TLS = newTLS(t, s.home, s.who)
	s.write("pg_hba.conf", "local all all trust\nlocal replication all trust\n"+
		"hostssl all "+User+" 127.0.0.1/32 scram-sha-256\nhostssl all certified 127.0.0.1/32 cert\n")
	s.Restart()
	s.Exec("CREATE ROLE " + User + " LOGIN PASSWORD '" + Password + "'; CREATE ROLE certified LOGIN")
	return s
}

func newServer(t testing.TB, version int, settings []string) *Server {
	home, err := os.MkdirTemp("/tmp", "pg") // names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	s := &Server{t: t, Version: version, home: home, Dir: filepath.Join(home, "data"), port: freePort(t), who: unprivileged(t),
		bin: fmt.Sprintf("/usr/lib/postgresql/%d/bin", version), options: settings}
	s.who.own(t, home)
	s.URL = fmt.Sprintf("postgres://postgres@/postgres?host=%s&port=%d", home, s.port)
	t.Cleanup(s.Kill)
	return s
}

// freePort gives a port that is free: PostgreSQL cannot choose one. It is none of those that Linux gives
// to whoever asks for any (ip_local_port_range), so that nobody has it before the server does, or
// while the server is started again.
func freePort(t testing.TB) int {
	t.Helper()
	const lowest, highest, attempts = 10000, 32768, 100
	for range attempts {
		port := lowest + rand.IntN(highest-lowest)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatalf("no port is free between %d and %d", lowest, highest)
	return 0
}

func (s *Server) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.who.own(s.t, path)
}

// Restart starts the server, after it was killed or not, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	args := []string{"-D", s.Dir, "-k", s.home, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1",
		"-c", "ssl=on", "-c", "ssl_cert_file=" + s.TLS.serverCertificate, "-c", "ssl_key_file=" + s.TLS.serverKey, "-c", "ssl_ca_file=" + s.TLS.CA,
		"-c", "shared_buffers=16MB", "-c", "max_connections=100", "-c", "timezone=UTC", "-c", "log_timezone=UTC"}
	for _, option := range s.options {
		args = append(args, "-c", option)
	}
	s.running = start(s.t, s.command("postgres", args...), s.home)
	s.running.await("PostgreSQL", func() bool { return s.psql("SELECT 1").Run() == nil })
}

// Kill ends all processes of the server at once, as when its machine fails. It does
// nothing if the server does not run.
func (s *Server) Kill() { s.running.kill() }

// Pause stops all processes of the server, as when its machine hangs. Connections stay,
// and nothing answers. [Server.Resume] ends it.
func (s *Server) Pause() { s.running.pause() }

// Resume ends what [Server.Pause] began.
func (s *Server) Resume() { s.running.resume() }

// Exec runs SQL as the superuser, and gives what psql prints of the result, without
// headers.
func (s *Server) Exec(sql string) string {
	s.t.Helper()
	return s.ExecIn("postgres", sql)
}

// ExecIn is Exec in another database.
func (s *Server) ExecIn(database, sql string) string {
	s.t.Helper()
	return strings.TrimSpace(string(s.must(s.psqlIn(database, sql))))
}

func (s *Server) psql(sql string) *exec.Cmd { return s.psqlIn("postgres", sql) }

func (s *Server) psqlIn(database, sql string) *exec.Cmd {
	return s.command("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", s.home, "-p", strconv.Itoa(s.port), "-U", "postgres", "-c", sql, database)
}

// Output is what the server has printed, its log, since it was started.
func (s *Server) Output() string { return s.running.said.String() }

// Database makes an empty database, and gives the URL by which the superuser reaches it.
// Several tests can have one server so.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	return s.In(s.NewDatabase(t))
}

// NewDatabase makes an empty database that belongs to [User], and gives its name.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	if out, err := s.psql("CREATE DATABASE " + name + " OWNER " + User).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

// In gives the URL by which the superuser reaches a database.
func (s *Server) In(database string) string { return replaceDatabase(s.URL, database) }

func replaceDatabase(text, name string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Replica makes a replica that the server waits for at each commit.
func (s *Server) Replica() *Server {
	s.t.Helper()
	r := newServer(s.t, s.Version, s.options)
	r.TLS = s.TLS
	s.must(s.command("pg_basebackup", "-D", r.Dir, "-h", s.home, "-p", strconv.Itoa(s.port), "-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync"))
	name := filepath.Base(r.home)
	r.write("standby.signal", "")
	r.write("postgresql.auto.conf", fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres application_name=%s'\n", s.home, s.port, name))
	r.Restart()
	s.Exec(`ALTER SYSTEM SET synchronous_standby_names = '"` + name + `"'`)
	s.Exec("SELECT pg_reload_conf()")
	s.running.await("the replica", func() bool {
		out, err := s.psql("SELECT sync_state FROM pg_stat_replication").Output()
		return err == nil && strings.TrimSpace(string(out)) == "sync"
	})
	return r
}

// Promote makes a replica the primary, and waits until it takes changes.
func (s *Server) Promote() {
	s.t.Helper()
	s.Exec("SELECT pg_promote(true, 60)")
}

// Address is the host and port of the server for TCP. The certificate names the host.
func (s *Server) Address() string { return fmt.Sprintf("localhost:%d", s.port) }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	return s.who.command(filepath.Join(s.bin, name), args...)
}

func (s *Server) must(c *exec.Cmd) []byte {
	s.t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", filepath.Base(c.Path), err, out)
	}
	return out
}
