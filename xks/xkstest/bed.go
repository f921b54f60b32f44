// Package xkstest runs a whole appliance for tests: a SoftHSM2 token, a SQLite
// database and the XKS endpoint over HTTPS on a port of its own. Nothing in it
// is a double but the clock, if a test wants one.
package xkstest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/xks"
	"holdfast/xks/sigv4"
)

// Options change what Start does by default.
type Options struct {
	// Token is the token to use; a fresh one if its Module is empty.
	Token hsm.Config
	// Dir is the folder of the database; a fresh one if empty.
	Dir string
	// Appliance and XKS are passed on; what the bed itself sets is overridden.
	Appliance appliance.Options
	XKS       xks.Options
	Server    xks.ServerOptions
	// KeyStores wraps what the API serves.
	KeyStores func(*appliance.Appliance) xks.KeyStores
	// Keyring wraps what the appliance is unlocked with.
	Keyring func(appliance.Keyring) appliance.Keyring
}

// Bed is a running appliance.
type Bed struct {
	Appliance *appliance.Appliance
	Store     *sqlite.DB
	Token     *hsm.Token
	API       *xks.API
	// Config opens the token again.
	Config hsm.Config
	// Dir is the folder of the database, DB the file.
	Dir, DB string
	// URL is https://127.0.0.1:PORT.
	URL string
	// Certificate is the server's, signed by itself; Roots verify it.
	Certificate *x509.Certificate
	Roots       *x509.CertPool
	// Log is what was logged, at every level.
	Log *Log

	stop func()
}

// Start runs an appliance until the test ends.
func Start(t testing.TB, o Options) *Bed {
	t.Helper()
	b, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

func start(t testing.TB, o Options) (*Bed, error) {
	b := &Bed{Config: o.Token, Dir: o.Dir, Log: &Log{}}
	if b.Config.Module == "" {
		b.Config = hsmtest.New(t)
	}
	if b.Dir == "" {
		b.Dir = t.TempDir()
	}
	b.DB = filepath.Join(b.Dir, "holdfast.db")
	log := slog.New(slog.NewTextHandler(b.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx := context.Background()

	var err error
	if b.Store, err = sqlite.Open(ctx, b.DB, sqlite.Options{Logger: log}); err != nil {
		return nil, err
	}
	b.Config.Log = log
	if b.Token, err = hsm.Open(ctx, b.Config); err != nil {
		return nil, err
	}
	o.Appliance.Store, o.Appliance.Log, o.Appliance.Dir = b.Store, log, b.Dir
	o.Appliance.OpenStore = func(ctx context.Context, path string) (appliance.Store, error) {
		return sqlite.Open(ctx, path, sqlite.Options{Logger: log})
	}
	b.Appliance = appliance.New(o.Appliance)
	var ring appliance.Keyring = keyring.New(b.Token)
	if o.Keyring != nil {
		ring = o.Keyring(ring)
	}
	if err := b.Appliance.Unlock(ctx, ring, []appliance.HSM{keyring.Watched(b.Token)}); err != nil {
		return nil, err
	}

	o.XKS.KeyStores, o.XKS.Log, o.XKS.Model = b.Appliance, log, "Holdfast test"
	if o.KeyStores != nil {
		o.XKS.KeyStores = o.KeyStores(b.Appliance)
	}
	if o.XKS.Timeout == 0 {
		o.XKS.Timeout = 20 * time.Second // the race detector and a busy machine are slow
	}
	if o.Appliance.Now != nil {
		o.XKS.SigV4.Now = o.Appliance.Now
	}
	b.API = xks.New(o.XKS)
	certificate, roots := Certificate(t, "127.0.0.1")
	b.Certificate, b.Roots = certificate.Leaf, roots
	if o.Server.Certificate == nil {
		o.Server.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	o.Server.Log = log
	server := xks.NewServer(b.API, o.Server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.URL = "https://" + l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	b.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		wg.Wait()
		b.Appliance.Lock()
		if err := b.Token.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, nil
}

// Stop ends the appliance cleanly; the state remains for another Start.
func (b *Bed) Stop() { b.stop() }

// HTTP gives a client of the endpoint, of HTTP version 1 or 2.
func (b *Bed) HTTP(version int) *http.Client {
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: version == 2}
	return &http.Client{Transport: t, Timeout: time.Minute}
}

// Certificate makes a self-signed server certificate for the IP address.
func Certificate(t testing.TB, ip string) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "xkstest"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// Log keeps what is logged.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String gives what was logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// SigV4 rules that accept one more service, as a configuration may.
func SigV4(services ...string) sigv4.Verifier { return sigv4.Verifier{Services: services} }
