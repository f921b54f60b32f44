package certificate_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// sign signs what a request asks for; change may spoil it.
func (a *authority) sign(request []byte, change func(*x509.Certificate)) []byte {
	a.t.Helper()
	block, _ := pem.Decode(request)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || r.CheckSignature() != nil {
		a.t.Fatalf("the request: %v", err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: r.Subject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(100 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, r.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// meant takes what AWS KMS would most likely not.
var meant = certificate.Accepted{OwnAuthority: true, OtherName: true}

// TestRequestAndInstall: a key that never leaves the machine gets a certificate,
// and what will not do is refused with the one before in use.
func TestRequestAndInstall(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(first)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"old.test"}}, first)
	if err != nil {
		t.Fatal(err)
	}
	firstRequest := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	for file, text := range map[string][]byte{certFile: a.sign(firstRequest, nil), keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	c, err := certificate.Load(certFile, keyFile, time.Now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	inUse := func() string {
		t.Helper()
		pair, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.DNSNames[0]
	}

	for _, names := range [][]string{nil, {""}, {"no name"}, {"a..b"}, {strings.Repeat("a.", 200) + "b"}, make([]string, 51)} {
		if _, err := c.Request(t.Context(), names); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("names %.60q: %v", names, err)
		}
	}
	if c.Requested() {
		t.Error("a request that was refused waits")
	}
	asked, err := c.Request(t.Context(), []string{"new.test", "192.0.2.7"})
	if err != nil || !c.Requested() {
		t.Fatal(err)
	}
	if info, err := os.Stat(keyFile + ".requested"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the new key's file: %v %v", info, err)
	}
	good := append(a.sign(asked, nil), a.pem()...)
	other := newAuthority(t)
	for name, chain := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("hello"), "a request": asked, "more behind": append(bytes.Clone(good), "and so on"...),
		"the authority first": append(a.pem(), a.sign(asked, nil)...),
		"another authority":   append(a.sign(asked, nil), other.pem()...),
		"expired":             a.sign(asked, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		"not yet":             a.sign(asked, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }),
		"without names":       a.sign(asked, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }),
		"endless":             bytes.Repeat(good, 200),
	} {
		if err := c.Install(t.Context(), chain, meant); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	strange, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strangeRequest, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"x.test"}}, strange)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Install(t.Context(), append(a.sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: strangeRequest}), nil), a.pem()...), meant); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "another key") {
		t.Errorf("of another key: %v", err)
	}
	if inUse() != "old.test" {
		t.Errorf("what was refused is in use: %s", inUse())
	}

	// The power is cut between the two files: the next start finishes.
	cut := t.TempDir()
	for name, from := range map[string]string{"key.pem": keyFile, "key.pem.requested": keyFile + ".requested"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cut, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(cut, "cert.pem"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and the start after it finds a pair
		finished, err := certificate.Load(filepath.Join(cut, "cert.pem"), filepath.Join(cut, "key.pem"), time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if pair, err := finished.Get(nil); err != nil || pair.Leaf.DNSNames[0] != "new.test" {
			t.Errorf("%v", err)
		}
	}

	if err := c.Install(t.Context(), good, meant); err != nil || inUse() != "new.test" || c.Requested() {
		t.Fatalf("%v, in use %s", err, inUse())
	}
	// Renewed for the key in use; and read by the next start.
	if err := c.Install(t.Context(), append(a.sign(asked, func(c *x509.Certificate) { c.DNSNames = []string{"renewed.test"} }), a.pem()...), meant); err != nil || inUse() != "renewed.test" {
		t.Fatalf("%v, in use %s", err, inUse())
	}
	again, err := certificate.Load(certFile, keyFile, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if pair, err := again.Get(nil); err != nil || pair.Leaf.DNSNames[0] != "renewed.test" {
		t.Errorf("%v %v", pair, err)
	}
}

func FuzzInstall(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	dir := f.TempDir()
	for _, name := range []string{"c", "k"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	a := newAuthority(f)
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "c"), a.pem(), 0o600), os.WriteFile(filepath.Join(dir, "k"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)); err != nil {
		f.Fatal(err)
	}
	c, err := certificate.Load(filepath.Join(dir, "c"), filepath.Join(dir, "k"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, chain []byte) {
		if err := c.Install(t.Context(), chain, meant); err == nil {
			t.Error("it was taken")
		}
	})
}
