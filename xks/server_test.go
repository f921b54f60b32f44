package xks_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/machine/certificate"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

func address(b *xkstest.Bed) string { return strings.TrimPrefix(b.URL, "https://") }

// dial opens a TLS connection that speaks HTTP/1.1 by hand.
func dial(t *testing.T, b *xkstest.Bed) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", address(b), &tls.Config{RootCAs: b.Roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	connect := func(c *tls.Config) (tls.ConnectionState, error) {
		c.RootCAs = b.Roots
		conn, err := tls.Dial("tcp", address(b), c)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	if _, err := connect(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	for name, tt := range map[string]struct {
		suite   uint16
		accepts bool
	}{
		"of the specification": {tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true},
		"without AEAD":         {tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false},
		"without secrecy":      {tls.TLS_RSA_WITH_AES_256_GCM_SHA384, false},
	} {
		s, err := connect(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tt.suite}})
		if (err == nil) != tt.accepts || (tt.accepts && s.CipherSuite != tt.suite) {
			t.Errorf("a suite of TLS 1.2 %s: %v", name, err)
		}
	}
	s, err := connect(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
	if err != nil || s.NegotiatedProtocol != "h2" || s.CurveID != tls.X25519MLKEM768 {
		t.Errorf("TLS 1.3: %v, protocol %q, key exchange %v", err, s.NegotiatedProtocol, s.CurveID)
	}
	if s, err := connect(&tls.Config{NextProtos: []string{"http/1.1"}}); err != nil || s.NegotiatedProtocol != "http/1.1" {
		t.Errorf("HTTP/1.1: %v", err)
	}
	if _, err := connect(&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}); err != nil {
		t.Errorf("a client without post-quantum key exchange: %v", err)
	}
}

// clientCert makes a client certificate of the common name, and its CA.
func clientCert(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
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
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestMutualTLS: with client certificates demanded, a probe without one is answered and an XKS call is not;
// one that is presented and is of another authority or name is refused, and the log says why.
func TestMutualTLS(t *testing.T) {
	const kms = "cks.kms.eu-west-1.amazonaws.com"
	good, cas := clientCert(t, kms)
	otherName, _ := clientCert(t, "cks.kms.us-east-1.amazonaws.com")
	impostor, _ := clientCert(t, kms)
	// The CA of the certificate with another name is trusted as well: the name
	// alone is what refuses it.
	leaf, err := x509.ParseCertificate(otherName.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	cas.AddCert(leaf)
	for name, tt := range map[string]struct {
		certificate *tls.Certificate
		probe, call int // statuses; 0 for no connection
		log         string
	}{
		"KMS":          {&good, 200, 200, ""},
		"none":         {nil, 200, 401, "xks.client_ca demands one"},
		"another name": {&otherName, 0, 0, "is none of xks.client_names"},
		"another CA":   {&impostor, 0, 0, "unknown authority"},
	} {
		for version := 1; version <= 2; version++ {
			for _, tlsVersion := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				t.Run(fmt.Sprint(name, ", HTTP/", version, ", ", tls.VersionName(tlsVersion)), func(t *testing.T) {
					b := xkstest.Start(t, xkstest.Options{Server: xks.ServerOptions{ClientCAs: cas, ClientNames: []string{kms}}})
					k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
					k.HTTP = b.HTTP(version)
					c := k.HTTP.Transport.(*http.Transport).TLSClientConfig
					c.MaxVersion, c.ClientSessionCache = tlsVersion, tls.NewLRUClientSessionCache(0)
					c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						if tt.certificate == nil {
							return &tls.Certificate{}, nil
						}
						return tt.certificate, nil // also if it is not of the authorities asked for
					}
					status := func(r *http.Request) int {
						r.URL.Scheme, r.URL.Host = "https", address(b)
						r.RequestURI = ""
						res, err := k.HTTP.Do(r)
						if err != nil {
							return 0
						}
						text, _ := io.ReadAll(res.Body)
						_ = res.Body.Close()
						if res.StatusCode == 401 && !strings.Contains(string(text), "AuthenticationFailedException") {
							t.Errorf("refused by %s", text)
						}
						return res.StatusCode
					}
					body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
					for range 2 { // the second time by a session that is resumed
						for _, probe := range []string{"/healthz", "/readyz"} {
							r, _ := http.NewRequest(http.MethodGet, b.URL+probe, nil)
							if got := status(r); got != tt.probe {
								t.Errorf("%s: %d", probe, got)
							}
						}
						if got := status(k.Request("/health", body)); got != tt.call {
							t.Errorf("GetHealthStatus: %d", got)
						}
						if got := status(k.Request("/keys/absent/metadata", body)); got != tt.call && (tt.call != 200 || got != 404) {
							t.Errorf("GetKeyMetadata: %d", got)
						}
						r, _ := http.NewRequest(http.MethodGet, b.URL+"/nowhere", nil)
						if got := status(r); got != tt.call && (tt.call != 200 || got != 404) {
							t.Errorf("no path of XKS: %d", got)
						}
						k.HTTP.CloseIdleConnections()
					}
					appliancetest.Eventually(t, "the log says why", func() bool { return strings.Contains(b.Log.String(), tt.log) })
					if n := strings.Count(b.Log.String(), "a client certificate was refused"); n > 1 || (tt.probe == 0) != (n == 1) {
						t.Errorf("the log tells of a refused certificate %d times", n)
					}
				})
			}
		}
	}
}

// TestProxyProtocol: a load balancer that adds the PROXY protocol is named in the log, once.
func TestProxyProtocol(t *testing.T) {
	for name, head := range map[string]string{
		"1": "PROXY TCP4 10.0.0.7 10.0.0.8 40000 8443\r\n",
		"2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x07\x0a\x00\x00\x08\x9c\x40\x20\xfb",
	} {
		b := xkstest.Start(t, xkstest.Options{})
		for _, pieces := range [][]string{{head}, {head[:3], head[3:]}, {head}} {
			c, err := net.Dial("tcp", address(b))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, piece := range pieces {
				if _, err := io.WriteString(c, piece); err != nil {
					t.Fatal(err)
				}
			}
			// A client hello follows, as from KMS. The connection comes to an end.
			_ = tls.Client(c, &tls.Config{RootCAs: b.Roots, ServerName: "127.0.0.1"}).Handshake()
		}
		log := b.Log.String()
		if n := strings.Count(log, "begins with the PROXY protocol"); n != 1 || !strings.Contains(log, "version="+name) || !strings.Contains(log, "proxy_protocol_v2.enabled=false") {
			t.Errorf("version %s: the log tells of it %d times:\n%s", name, n, log)
		}
		b.NewKeyStore(t, "demo", "/demo", "").OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	}
}

// TestCertificateReload: a renewed certificate is served without a restart, and
// a broken file does not end the service.
func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	at := time.Now()
	mtime := time.Now().Add(-time.Hour)
	write := func() *x509.Certificate {
		t.Helper()
		c, _ := appliancetest.Certificate(t, "127.0.0.1")
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		mtime = mtime.Add(time.Second)
		for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
			if err := errors.Join(os.WriteFile(file, pem.EncodeToMemory(block), 0o600), os.Chtimes(file, mtime, mtime)); err != nil {
				t.Fatal(err)
			}
		}
		return c.Leaf
	}
	first := write()
	log := &appliancetest.Log{}
	c, err := certificate.Load(certFile, keyFile, func() time.Time { return at }, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serves := func(want *x509.Certificate) {
		t.Helper()
		got, err := c.Get(nil)
		if err != nil || !got.Leaf.Equal(want) {
			t.Errorf("another certificate is served: %v", err)
		}
	}
	serves(first)
	second := write()
	serves(first) // not looked at yet
	at = at.Add(2 * time.Second)
	serves(second)
	if err := os.WriteFile(certFile, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	at = at.Add(2 * time.Second)
	serves(second)
	if !strings.Contains(log.String(), "cannot be read anew") {
		t.Error("the log does not tell of the broken file")
	}
	third := write()
	at = at.Add(2 * time.Second)
	serves(third)

	if _, err := certificate.Load(filepath.Join(dir, "absent"), keyFile, time.Now, nil); err == nil {
		t.Error("an absent file loads")
	}
}

// TestStrangersAreDisconnected: a connection on which nothing was authenticated
// is closed in time; one of KMS stays.
func TestStrangersAreDisconnected(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{Server: xks.ServerOptions{AuthenticateWithin: 300 * time.Millisecond}})
	k := b.NewKeyStore(t, "demo", "/demo", "")
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}

	send := func(c net.Conn) error {
		t.Helper()
		if err := k.Request("/health", body).Write(c); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
		return nil
	}
	var stranger, friend net.Conn
	appliancetest.Eventually(t, "the friend is faster than a busy machine is slow", func() bool {
		stranger, friend = dial(t, b), dial(t, b)
		return send(friend) == nil
	})
	if _, err := stranger.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the stranger was not disconnected: %v", err)
	}
	// The stranger's time has passed for the friend, too, who came a moment later.
	if err := send(friend); err != nil {
		t.Fatal(err)
	}
}

// TestFloodOfConnections: when there are too many, the oldest stranger goes and
// KMS gets in.
func TestFloodOfConnections(t *testing.T) {
	const limit = 8
	b := xkstest.Start(t, xkstest.Options{Server: xks.ServerOptions{MaxConnections: limit}})
	k := b.NewKeyStore(t, "demo", "/demo", "")
	var flood []net.Conn
	for range 5 * limit {
		c, err := net.Dial("tcp", address(b))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		flood = append(flood, c)
	}
	for range 3 {
		k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	}
	_ = flood[0].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := flood[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest of the flood is still connected: %v", err)
	}
}

func TestEndlessHeaders(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	c := dial(t, b)
	if _, err := io.WriteString(c, "POST /kms/xks/v1/health HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"
	written := 0
	for written < 10<<20 {
		n, err := io.WriteString(c, line)
		written += n
		if err != nil {
			break
		}
	}
	if written >= 10<<20 {
		t.Error("10 MiB of headers were taken")
	}
}

// TestUnauthenticatedBodies are not read: the answer comes while the body is
// still on its way.
func TestUnauthenticatedBodies(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	b.NewKeyStore(t, "demo", "/demo", "")
	c := dial(t, b)
	if _, err := fmt.Fprintf(c, "POST /demo/kms/xks/v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{", 1<<30); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != 401 || !strings.Contains(string(text), "AuthenticationFailedException") || !res.Close {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}

// TestSlowBody: one who knows an access key ID cannot hold a request open.
func TestSlowBody(t *testing.T) {
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprintf("http%d", version), func(t *testing.T) {
			b := xkstest.Start(t, xkstest.Options{Server: xks.ServerOptions{ReadTimeout: 500 * time.Millisecond}})
			k := b.NewKeyStore(t, "demo", "/demo", "")
			k.HTTP = b.HTTP(version)
			r := k.Request("/health", "{}")
			body, stop := io.Pipe()
			defer stop.Close()
			r.Body, r.GetBody, r.ContentLength = body, nil, 100
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			a := k.Do(r.WithContext(ctx))
			if a.Status != 400 || a.ErrorName() != "ValidationException" {
				t.Errorf("%d %s", a.Status, a.Text)
			}
		})
	}
}
