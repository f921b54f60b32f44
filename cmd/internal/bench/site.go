package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"holdfast/cmd/internal/officer"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/softhsm"
)

// site is what all servers share: a folder with a token, its PIN, a certificate,
// and the officers who let machines have the PIN.
type site struct {
	dir string
	// memory is a folder on a tmpfs; "" if there is none.
	memory string
	// module is SoftHSM2; shim is the same some time away.
	module string
	shim   *hsmtest.Shim
	pin    []byte
	// officer signs policies.
	officer *officer.Officer
	// trust is how a client of HTTP/1.1 connects.
	trust *tls.Config
}

const tokenLabel = "bench"

// newSite makes a site in the folder, its token so far away when seen through
// the shim.
func newSite(dir string, away time.Duration) (*site, error) {
	s := &site{dir: dir}
	var err error
	if s.module, err = softhsm.Find(); err != nil {
		return nil, err
	}
	if err := softhsm.Prepare(s.path("token")); err != nil {
		return nil, err
	}
	if err := softhsm.Use(s.path("token")); err != nil { // the children inherit it
		return nil, err
	}
	pin := make([]byte, 12)
	_, _ = rand.Read(pin) // never fails (crypto/rand)
	s.pin = []byte(hex.EncodeToString(pin))
	if err := softhsm.Create(s.module, tokenLabel, s.pin, s.pin); err != nil {
		return nil, err
	}
	if s.officer, err = officer.New(s.path("officer")); err != nil {
		return nil, err
	}
	if s.shim, err = hsmtest.BuildShim(dir); err != nil {
		return nil, err
	}
	s.shim.SetDelay(away)
	return s, s.makeCertificate()
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// certificateFile and keyFile are the servers'.
func (s *site) certificateFile() string { return s.path("server.pem") }
func (s *site) keyFile() string         { return s.path("server-key.pem") }

// makeCertificate makes a certificate for 127.0.0.1, signed by itself.
func (s *site) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 1),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		return fmt.Errorf("%s: the certificate just made cannot be read", s.certificateFile())
	}
	s.trust = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if err := os.WriteFile(s.certificateFile(), certificate, 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.keyFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)
}

// freeAddress gives an address at which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
