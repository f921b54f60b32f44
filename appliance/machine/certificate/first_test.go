package certificate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
)

func TestFirstCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	now := time.Now()
	c, err := certificate.MakeFirst(cert, key, []string{"holdfast.example.com", "192.0.2.7", "2001:db8::7"}, now)
	if err != nil {
		t.Fatal(err)
	}
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || c.IsCA || c.NotBefore.After(now) || c.NotAfter.Sub(c.NotBefore).Round(time.Hour) != 397*24*time.Hour ||
		!slices.Equal(c.DNSNames, []string{"holdfast.example.com"}) || len(c.IPAddresses) != 2 || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		t.Errorf("%+v", c)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	for _, name := range []string{"holdfast.example.com", "192.0.2.7", "2001:db8::7"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	for _, file := range []string{cert, key} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info, err)
		}
	}
	// What is there stays.
	if again, err := certificate.MakeFirst(cert, key, []string{"other.example.com"}, now); again != nil || err != nil {
		t.Errorf("%v %v", again, err)
	}

	// After a crash between the two, the key is taken.
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	again, err := certificate.MakeFirst(cert, key, []string{"holdfast.example.com"}, now)
	if err != nil || !public.Equal(again.PublicKey) {
		t.Fatalf("%v", err)
	}

	// It can be replaced, as the console does.
	loaded, err := certificate.Load(cert, key, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	request, err := loaded.Request(t.Context(), []string{"holdfast.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	if err := loaded.Install(t.Context(), append(a.sign(request, nil), a.pem()...), meant); err != nil {
		t.Fatal(err)
	}
	if now, err := loaded.Get(nil); err != nil || now.Leaf.Issuer.CommonName != "authority" {
		t.Errorf("%v %v", now, err)
	}
}

// TestFirstCertificateFails: there are both files or neither, and no key that was
// there is harmed.
func TestFirstCertificateFails(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	make := func(cert, key string, names ...string) error {
		c, err := certificate.MakeFirst(cert, key, names, time.Now())
		if c != nil {
			t.Errorf("%+v", c)
		}
		return err
	}
	if err := make(cert, key, "not a name"); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	if err := os.WriteFile(key, []byte("what may be valuable"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := make(cert, key, net.IPv4zero.String()); err == nil || !strings.Contains(err.Error(), "is no private key in PEM") {
		t.Error(err)
	}
	if text, err := os.ReadFile(key); err != nil || string(text) != "what may be valuable" {
		t.Errorf("%q %v", text, err)
	}
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.Remove(key), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := make(cert, filepath.Join(file, "key"), "a"); err == nil {
		t.Error("a key in a file")
	}
	long := filepath.Join(dir, strings.Repeat("x", 300)) // longer than a name can be
	if err := make(long, key, "a"); err == nil {
		t.Error("a certificate where none can be")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
