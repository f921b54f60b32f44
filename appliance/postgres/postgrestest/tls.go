package postgrestest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLS names the files that a client over TCP needs. The server's certificate is for
// localhost, and not for 127.0.0.1.
type TLS struct {
	// CA is the certificate of the server's authority; OtherCA of one that did not sign it.
	CA, OtherCA string
	// PasswordFile has the password of [User].
	PasswordFile string
	// Certificate and Key are of the role "certified", which has no password.
	Certificate, Key string

	serverCertificate, serverKey string
}

// authority signs certificates.
type authority struct {
	t           testing.TB
	dir         string
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newTLS(t testing.TB, dir string, who *account) TLS {
	t.Helper()
	ca := newAuthority(t, dir, "ca")
	newAuthority(t, dir, "other")
	ca.issue("server", "localhost", x509.ExtKeyUsageServerAuth)
	ca.issue("client", "certified", x509.ExtKeyUsageClientAuth)
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("password"), []byte(Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	who.own(t, path("server.key"))
	return TLS{CA: path("ca.pem"), OtherCA: path("other.pem"), PasswordFile: path("password"), Certificate: path("client.pem"), Key: path("client.key"),
		serverCertificate: path("server.pem"), serverKey: path("server.key")}
}

func newAuthority(t testing.TB, dir, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, dir: dir, key: key}
	a.certificate = a.sign(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: name}}, key)
	return a
}

// issue makes NAME.pem and NAME.key.
func (a *authority) issue(name, subject string, usage x509.ExtKeyUsage) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.sign(name, &x509.Certificate{Subject: pkix.Name{CommonName: subject}, DNSNames: []string{subject}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".key", "PRIVATE KEY", der, 0o600)
}

func (a *authority) sign(name string, c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := a.certificate
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der, 0o644)
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made
}

func (a *authority) write(name, kind string, der []byte, mode os.FileMode) {
	if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		a.t.Fatal(err)
	}
}
