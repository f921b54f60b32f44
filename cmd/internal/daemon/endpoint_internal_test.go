package daemon

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/machine/certificate"
)

// TestEndpointForPeople: what people are told to enter in KMS is what KMS takes, or there is a reason why there
// is nothing; a site for development says that it is one.
func TestEndpointForPeople(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 8443}
	for name, tt := range map[string]struct {
		names         []string
		xks           config.XKS
		endpoint, why string
	}{
		"a name":              {[]string{"xks.example.com"}, config.XKS{}, "https://xks.example.com", ""},
		"the first that does": {[]string{"10.0.0.7", "holdfast", "xks.example.com"}, config.XKS{}, "https://xks.example.com", ""},
		"no name":             {[]string{"10.0.0.7", "localhost"}, config.XKS{}, "", noEndpoint},
		"configured":          {[]string{"other.example.com"}, config.XKS{URL: "https://xks.example.com"}, "https://xks.example.com", ""},
		"development":         {[]string{"localhost"}, config.XKS{Development: true}, "https://localhost:8443", developmentSite},
		"development, named":  {[]string{"localhost"}, config.XKS{Development: true, URL: "https://localhost:1"}, "https://localhost:1", developmentSite},
	} {
		certFile, keyFile := filepath.Join(t.TempDir(), "c.pem"), filepath.Join(t.TempDir(), "k.pem")
		if _, err := certificate.MakeFirst(certFile, keyFile, tt.names, time.Now()); err != nil {
			t.Fatal(err)
		}
		c, err := certificate.Load(certFile, keyFile, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s := &site{cfg: &config.Config{XKS: tt.xks}, certificate: c, listening: Addresses{XKS: at, Admin: at}}
		endpoint, why := s.XKSEndpoint()
		if endpoint != tt.endpoint || why != tt.why {
			t.Errorf("%s: %q, %q", name, endpoint, why)
		}
		if err := appliance.CheckXKSEndpoint(endpoint); (err == nil) != (why == "") {
			t.Errorf("%s: %q is said to be usable, or not, and %v", name, endpoint, err)
		}
	}
}
