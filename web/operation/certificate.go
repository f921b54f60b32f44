package operation

import (
	"context"
	"net/http"
	"time"

	"holdfast/appliance/identity"
	"holdfast/appliance/machine/instance"
)

// Site is what operations need of where the appliance runs.
type Site interface {
	// Version is the release.
	Version() string
	// Configuration gives the configuration in force, as TOML without secrets.
	Configuration() string
	// XKSEndpoint is the XksProxyUriEndpoint, "https://HOST"; empty if the appliance
	// does not know its name.
	XKSEndpoint() string
	// Instance is the instance of EC2 that its metadata service tells of; nil if that
	// was not asked, or is unknown.
	Instance() *instance.Identity
	// Certificate describes the server's certificate.
	Certificate() (Certificate, error)
	// RequestCertificate makes a new key, which stays here, and gives a signing
	// request (PKCS#10, PEM) for the names. Errors: fault.Invalid.
	RequestCertificate(names []string) (string, error)
	// InstallCertificate takes a chain (PEM) of the key of the last request, or of
	// the key in use. Errors: fault.Invalid.
	InstallCertificate(chain string) (Certificate, error)
}

// Certificate describes a server certificate.
type Certificate struct {
	Subject   string    `json:"subject"`
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// SHA256 is the fingerprint of the certificate, in hexadecimal.
	SHA256 string `json:"sha256"`
	// Chain is the certificate with those that signed it, in PEM.
	Chain string `json:"chain"`
	// Requested says that a signing request waits for its certificate.
	Requested bool `json:"requested"`
}

// CertificateRequest asks for a signing request.
type CertificateRequest struct {
	Names []string `json:"names"`
}

// SigningRequest is a PKCS#10 request in PEM.
type SigningRequest struct {
	PEM string `json:"pem"`
}

// CertificateChain is the certificate with those that signed it, in PEM.
type CertificateChain struct {
	Chain string `json:"chain" record:"-"` // people paste the private key with it
}

// certificateSubject is the certificate that is in use.
func certificateSubject[In any](_ context.Context, c *Caller, _ In) any {
	cert, err := c.Site.Certificate()
	return found(&cert, err)
}

// The operations on the server's certificate.
var (
	ShowCertificate = define(Operation[Nothing, Certificate]{
		Route: Route{ID: "certificate", Method: http.MethodGet, Path: "/certificate", Capability: identity.See,
			Summary: "The server's TLS certificate"},
		Run: func(_ context.Context, c *Caller, _ Nothing) (Certificate, error) { return c.Site.Certificate() },
	})
	RequestCertificate = define(Operation[CertificateRequest, SigningRequest]{
		Route: Route{ID: "requestCertificate", Method: http.MethodPost, Path: "/certificate/request", Capability: identity.Administer, Dangerous: true, Urgency: Ordinary,
			Summary: "Make a new key, and a request to sign its certificate"},
		Subject: makes[CertificateRequest],
		Run: func(_ context.Context, c *Caller, in CertificateRequest) (SigningRequest, error) {
			pem, err := c.Site.RequestCertificate(in.Names)
			return SigningRequest{pem}, err
		},
	})
	InstallCertificate = define(Operation[CertificateChain, Certificate]{
		Route: Route{ID: "installCertificate", Method: http.MethodPut, Path: "/certificate", Capability: identity.Administer, Dangerous: true, Urgency: Ordinary,
			Summary: "Serve with another certificate"},
		Subject: certificateSubject[CertificateChain],
		Run: func(_ context.Context, c *Caller, in CertificateChain) (Certificate, error) {
			return c.Site.InstallCertificate(in.Chain)
		},
	})
)
