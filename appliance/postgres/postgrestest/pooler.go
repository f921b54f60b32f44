package postgrestest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Pooler is PgBouncer in transaction mode in front of a server.
type Pooler struct {
	// URL connects as the server's superuser by the Unix socket, without a password.
	URL string

	t       testing.TB
	home    string
	socket  string
	program string
	who     *account
	running *process
}

// Pooler starts PgBouncer in front of the server.
func (s *Server) Pooler() *Pooler {
	s.t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // not on everybody's PATH
		if _, err := os.Stat(program); err != nil {
			s.t.Fatal("there is no PgBouncer: apt-get install pgbouncer")
		}
	}
	home, err := os.MkdirTemp("/tmp", "pgb")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(home) })
	port := freePort(s.t)
	p := &Pooler{t: s.t, home: home, socket: filepath.Join(home, fmt.Sprintf(".s.PGSQL.%d", port)), program: program, who: s.who, URL: fmt.Sprintf("postgres://postgres@/postgres?host=%s&port=%d", home, port)}
	p.who.own(s.t, home)
	p.write("users", `"postgres" ""`+"\n")
	p.write("pgbouncer.ini", fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
pool_mode = transaction
listen_port = %d
unix_socket_dir = %s
auth_type = trust
auth_file = %s/users
max_client_conn = 200
default_pool_size = 10
`, s.home, s.port, port, home, home))
	s.t.Cleanup(func() { p.running.kill() })
	p.Restart()
	return p
}

// Restart ends all connections through it.
func (p *Pooler) Restart() {
	p.t.Helper()
	p.running.kill()
	_ = os.Remove(p.socket) // what was killed left it
	p.running = start(p.t, p.who.command(p.program, filepath.Join(p.home, "pgbouncer.ini")), p.home)
	p.running.await("PgBouncer", func() bool {
		c, err := net.Dial("unix", p.socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// Database is [Server.Database], through the pooler.
func (p *Pooler) Database(t testing.TB, s *Server) string {
	t.Helper()
	return p.In(s.NewDatabase(t))
}

// In is [Server.In], through the pooler.
func (p *Pooler) In(database string) string { return replaceDatabase(p.URL, database) }

func (p *Pooler) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.home, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.who.own(p.t, path)
}
