package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"sync/atomic"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/machine/certificate"
	"holdfast/appliance/machine/instance"
	"holdfast/cmd/internal/version"
	"holdfast/web/operation"
)

// site implements [operation.Site].
type site struct {
	cfg         *config.Config
	certificate *certificate.Certificate
	listening   Addresses
	instance    atomic.Pointer[instance.Identity] // nil while it is unknown
}

func (s *site) Instance() *instance.Identity { return s.instance.Load() }

func (s *site) Version() string { return version.Version }

func (s *site) Configuration() string {
	text, err := s.cfg.Effective()
	if err != nil {
		return "# it cannot be shown: " + err.Error()
	}
	return string(text)
}

func (s *site) Options() []operation.Option {
	list := []operation.Option{}
	for _, o := range s.cfg.Options() {
		list = append(list, operation.Option(o))
	}
	return list
}

// The problems with the endpoint, for people.
const (
	developmentSite = "This is a site for development (xks.development): AWS KMS cannot reach it."
	noEndpoint      = "The appliance does not know by which name AWS KMS calls it: install a certificate with a DNS name that KMS takes, such as xks.example.com, or set xks.url."
)

// XKSEndpoint has no port: AWS KMS calls 443, which the load balancer passes on.
func (s *site) XKSEndpoint() (endpoint, problem string) {
	if s.cfg.XKS.Development {
		endpoint = s.cfg.XKS.URL
		if endpoint == "" {
			endpoint = s.named(s.listening.XKS, false)
		}
		return endpoint, developmentSite
	}
	if s.cfg.XKS.URL != "" {
		return s.cfg.XKS.URL, ""
	}
	if c, err := s.certificate.Get(nil); err == nil {
		for _, name := range c.Leaf.DNSNames {
			if endpoint := "https://" + name; appliance.CheckXKSEndpoint(endpoint) == nil {
				return endpoint, ""
			}
		}
	}
	return "", noEndpoint
}

// consoleURL is the console's origin.
func (s *site) consoleURL() string {
	if s.cfg.Admin.URL != "" {
		return s.cfg.Admin.URL
	}
	return s.named(s.listening.Admin, true)
}

// named is the URL of a listener by the first of the certificate's names, DNS names before IP
// addresses; empty if it has none. AWS KMS calls no IP address.
func (s *site) named(a net.Addr, addresses bool) string {
	c, err := s.certificate.Get(nil)
	if err != nil {
		return ""
	}
	names := c.Leaf.DNSNames
	if addresses {
		names = certificate.Names(c.Leaf)
	}
	if len(names) == 0 {
		return ""
	}
	u := url.URL{Scheme: "https", Host: names[0]}
	if _, port, err := net.SplitHostPort(a.String()); err == nil && port != "443" {
		u.Host = net.JoinHostPort(names[0], port)
	} else if strings.Contains(names[0], ":") {
		u.Host = "[" + names[0] + "]"
	}
	return u.String()
}

func (s *site) Certificate() (operation.Certificate, error) {
	c, err := s.certificate.Get(nil)
	if err != nil {
		return operation.Certificate{}, err
	}
	sum := sha256.Sum256(c.Leaf.Raw)
	d := operation.Certificate{Subject: c.Leaf.Subject.String(), Issuer: c.Leaf.Issuer.String(), Names: certificate.Names(c.Leaf),
		NotBefore: c.Leaf.NotBefore.UTC(), NotAfter: c.Leaf.NotAfter.UTC(), SHA256: hex.EncodeToString(sum[:]), Requested: s.certificate.Requested(), Shared: s.certificate.Shared()}
	if p := s.certificate.Previous(); p != nil {
		sum := sha256.Sum256(p.Raw)
		d.Previous = &operation.PreviousCertificate{Subject: p.Subject.String(), Names: certificate.Names(p), NotAfter: p.NotAfter.UTC(), SHA256: hex.EncodeToString(sum[:])}
	}
	for _, der := range c.Certificate {
		d.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return d, nil
}

func (s *site) RequestCertificate(ctx context.Context, names []string) (string, error) {
	text, err := s.certificate.Request(ctx, names)
	return string(text), err
}

func (s *site) InstallCertificate(ctx context.Context, chain string, accepted operation.Accepted) (operation.Certificate, error) {
	return s.replaced(s.certificate.Install(ctx, []byte(chain), certificate.Accepted(accepted)))
}

func (s *site) RestoreCertificate(ctx context.Context) (operation.Certificate, error) {
	return s.replaced(s.certificate.Restore(ctx))
}

func (s *site) ShareCertificate(ctx context.Context, chain string, key []byte, accepted operation.Accepted) (operation.Certificate, error) {
	return s.replaced(s.certificate.Share(ctx, []byte(chain), key, certificate.Accepted(accepted)))
}

func (s *site) UnshareCertificate(ctx context.Context) (operation.Certificate, error) {
	return s.replaced(s.certificate.Unshare(ctx))
}

func (s *site) CheckInstall(ctx context.Context, chain string, accepted operation.Accepted) error {
	return s.certificate.CheckInstall(ctx, []byte(chain), certificate.Accepted(accepted))
}

func (s *site) CheckRestore(ctx context.Context) error {
	return s.certificate.CheckRestore(ctx)
}

func (s *site) CheckShare(_ context.Context, chain string, key []byte, accepted operation.Accepted) error {
	return s.certificate.CheckShare([]byte(chain), key, certificate.Accepted(accepted))
}

func (s *site) CheckUnshare(ctx context.Context) error {
	return s.certificate.CheckUnshare(ctx)
}

// replaced gives the certificate in use after a change.
func (s *site) replaced(err error) (operation.Certificate, error) {
	if err != nil {
		return operation.Certificate{}, err
	}
	return s.Certificate()
}
