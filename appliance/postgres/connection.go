package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"holdfast/appliance/fault"
	"holdfast/appliance/postgres/address"
	"holdfast/attest/privatefile"
)

// connector makes connections.
type connector struct {
	options Options
	address *address.Address

	mu       sync.Mutex
	password string // the last that was read, to keep it out of errors
	failures int    // since the last connection that was made
}

// config gives what pgx needs. Its parser adds what the environment says, so the text
// names each setting, and what it cannot name is set afterwards.
func (c *connector) config(check pgconn.ValidateConnectFunc) (*pgxpool.Config, error) {
	// The one variable that no text overrides: the parser reads the file that it names.
	if err := os.Unsetenv("PGSERVICE"); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig("host=invalid port=5432 user=x dbname=x password=x passfile=/dev/null sslmode=disable sslcertmode=allow sslsni=1 " +
		"sslnegotiation=postgres target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer " +
		"require_auth='' connect_timeout=5 pool_max_conns=8")
	if err != nil {
		return nil, errors.New("the settings of the connection cannot be read") // without what they are
	}
	cc := config.ConnConfig
	cc.User, cc.Database, cc.Password = c.address.User, c.address.Database, ""
	cc.RuntimeParams = map[string]string{"application_name": "holdfast"}
	cc.ConnectTimeout = connectTime
	cc.MaxProtocolMessageBodyLen = MaxBody + 1<<20
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements
	cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 0, 0
	cc.OnNotice = noteWarning
	cc.ValidateConnect = check // of several hosts the first that passes is used
	config.MaxConns = maxConnections
	config.MaxConnLifetime, config.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	config.PingTimeout = statementTime
	config.BeforeConnect = func(ctx context.Context, cc *pgx.ConnConfig) error {
		if err := c.pause(ctx); err != nil {
			return err
		}
		return c.prepare(cc)
	}
	return config, nil
}

// prepare completes what a connection is made with: what may change while the process
// runs is read each time.
func (c *connector) prepare(cc *pgx.ConnConfig) error {
	password, err := c.readPassword()
	if err != nil {
		return err
	}
	authorities, err := c.authorities()
	if err != nil {
		return err
	}
	cc.Password = password
	cc.Fallbacks = nil
	for i, h := range c.address.Hosts {
		f := &pgconn.FallbackConfig{Host: h.Name, Port: h.Port}
		if !h.Socket() {
			f.TLSConfig = &tls.Config{ServerName: h.Name, RootCAs: authorities, MinVersion: tls.VersionTLS12, GetClientCertificate: c.clientCertificate}
		}
		if i == 0 {
			cc.Host, cc.Port, cc.TLSConfig = f.Host, f.Port, f.TLSConfig
		} else {
			cc.Fallbacks = append(cc.Fallbacks, f)
		}
	}
	s := new(socket)
	cc.DialFunc = s.dial
	cc.BuildContextWatcherHandler = func(*pgconn.PgConn) ctxwatch.Handler { return s }
	cc.AfterConnect = func(context.Context, *pgconn.PgConn) error { s.made(); return nil }
	return nil
}

// pause waits before a connection that follows on failures, so that the nodes of a fleet
// do not all come at once when the database is back.
func (c *connector) pause(ctx context.Context) error {
	c.mu.Lock()
	n := c.failures
	c.failures++ // until it is made
	c.mu.Unlock()
	if n == 0 {
		return nil
	}
	most := min(time.Second, 25*time.Millisecond<<min(n, 10))
	select {
	case <-time.After(rand.N(most)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *connector) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = 0
}

// maxSecret bounds what is read of a file, in bytes.
const maxSecret = 1 << 20

func (c *connector) readPassword() (string, error) {
	if c.options.PasswordFile == "" {
		return "", nil
	}
	text, err := readPrivate(c.options.PasswordFile)
	if err != nil {
		return "", fault.Errorf(fault.DatabaseRefused, "state.database_password_file cannot be read: %v", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if password == "" || strings.ContainsAny(password, "\x00\n") {
		return "", fault.Errorf(fault.DatabaseRefused, "state.database_password_file %s does not have one line with a password; write the password alone to it", c.options.PasswordFile)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.password = password
	return password, nil
}

func readPrivate(path string) ([]byte, error) {
	f, err := privatefile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(f *os.File) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%s is longer than %d bytes", f.Name(), maxSecret)
	}
	return text, err
}

// authorities gives those that may sign the server's certificate; nil for the system's.
func (c *connector) authorities() (*x509.CertPool, error) {
	if c.options.CA == "" {
		return nil, nil
	}
	f, err := os.Open(c.options.CA)
	if err != nil {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_ca cannot be read: %v", err)
	}
	defer f.Close()
	text, err := readBounded(f)
	if err != nil {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_ca cannot be read: %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_ca %s has no certificate in PEM; write the certificate of the authority that signed the server's to it", c.options.CA)
	}
	return pool, nil
}

// clientCertificate gives the client's certificate to a server that asks for one.
func (c *connector) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if c.options.Certificate == "" {
		return new(tls.Certificate), nil // none
	}
	f, err := os.Open(c.options.Certificate)
	if err != nil {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_certificate cannot be read: %v", err)
	}
	defer f.Close()
	certificate, err := readBounded(f)
	if err != nil {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_certificate cannot be read: %v", err)
	}
	key, err := readPrivate(c.options.Key)
	if err != nil {
		return nil, fault.Errorf(fault.DatabaseRefused, "state.database_key cannot be read: %v", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fault.Wrapf(fault.DatabaseRefused, err, "state.database_certificate and state.database_key are not a pair")
	}
	return &pair, nil
}

// socket is the network connection under one connection to the database. It is closed
// when a statement is no longer waited for. pgx then wants to ask the server, by a
// connection of its own, to cancel the statement: that is refused (see the package's
// guarantees).
type socket struct {
	mu   sync.Mutex
	conn net.Conn
	done bool // the connection is made, so nothing is dialled any more
}

var errNoCancel = errors.New("statements are not cancelled")

func (s *socket) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	if done {
		return nil, errNoCancel
	}
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return conn, nil
}

func (s *socket) made() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
}

// HandleCancel implements [ctxwatch.Handler].
func (s *socket) HandleCancel(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Close()
}

// HandleUnwatchAfterCancel implements [ctxwatch.Handler].
func (s *socket) HandleUnwatchAfterCancel() {}

// warned is where a connection keeps the last warning of the server.
const warned = "holdfast.warning"

// noteWarning: a server that stopped waiting for its synchronous replica, because
// somebody cancelled the wait, says so in a warning and reports success.
func noteWarning(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING" {
		c.CustomData()[warned] = n.Message
	}
}
