package certificate_test

import (
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"holdfast/appliance/machine/certificate"
)

// TestTrusted: the first certificate, which signs itself, is not trusted; one of an authority is,
// from its installation on, for its names and as long as it is valid.
func TestTrusted(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := certificate.MakeFirst(certFile, keyFile, []string{"console.test"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c, err := certificate.Load(certFile, keyFile, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(what, host string, want bool) {
		t.Helper()
		for range 2 { // the second answer is remembered
			if got := c.Trusted(host); got != want {
				t.Errorf("%s: trusted for %s: %t", what, host, got)
			}
		}
	}
	install := func(change func(*x509.Certificate), rest ...byte) {
		t.Helper()
		request, err := c.Request(t.Context(), []string{"console.test", "192.0.2.1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Install(t.Context(), append(a.sign(request, change), rest...), meant); err != nil {
			t.Fatal(err)
		}
	}
	ask("the first", "console.test", false)
	install(nil, a.pem()...)
	ask("with its authority", "console.test", true)
	ask("with its authority", "CONSOLE.test", true)
	ask("with its authority", "other.test", false)
	ask("with its authority", "", false)
	install(func(x *x509.Certificate) { x.NotAfter = now.Add(time.Hour) }, a.pem()...)
	ask("for an hour", "console.test", true)
	now = now.Add(2 * time.Hour)
	ask("expired", "console.test", false)
}
