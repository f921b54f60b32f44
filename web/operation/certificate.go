package operation

import (
	"context"
	"net/http"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/instance"
)

// Site is what operations need of where the appliance runs.
type Site interface {
	// Version is the release.
	Version() string
	// Configuration gives the configuration in force, as TOML without secrets.
	Configuration() string
	// Options are the options of the configuration, each with its value in force.
	Options() []Option
	// XKSEndpoint is the XksProxyUriEndpoint, "https://NAME", and in one sentence why KMS
	// cannot use it. The endpoint is empty if the appliance does not know its name, the problem
	// if there is none. Whatever shows the endpoint gets it here.
	XKSEndpoint() (endpoint, problem string)
	// Instance is the instance of EC2 that its metadata service tells of; nil if that
	// was not asked, or is unknown.
	Instance() *instance.Identity
	// Certificate describes the server's certificate.
	Certificate() (Certificate, error)
	// RequestCertificate makes a new key, which stays here or is shared as the certificate
	// is, and gives a signing request (PKCS#10, PEM) for the names. Errors: fault.Invalid.
	RequestCertificate(ctx context.Context, names []string) (string, error)
	// InstallCertificate takes a chain (PEM) of the key of the last request, or of
	// the key in use, and keeps the one before. Errors: fault.Invalid.
	InstallCertificate(ctx context.Context, chain string, accepted Accepted) (Certificate, error)
	// RestoreCertificate brings back the one before, and keeps the present one in its place.
	// Errors: fault.NotFound, fault.Invalid, fault.Locked, fault.Changed.
	RestoreCertificate(ctx context.Context) (Certificate, error)
	// CheckInstall, CheckRestore, CheckShare and CheckUnshare give the error that
	// InstallCertificate, RestoreCertificate, ShareCertificate and UnshareCertificate would,
	// and change nothing.
	CheckInstall(ctx context.Context, chain string, accepted Accepted) error
	CheckRestore(ctx context.Context) error
	CheckShare(ctx context.Context, chain string, key []byte, accepted Accepted) error
	CheckUnshare(ctx context.Context) error
	// ShareCertificate has all nodes serve with a chain and its key (PEM), or, if both are
	// empty, with those of this node. Errors: fault.Invalid, fault.Locked, fault.Changed.
	ShareCertificate(ctx context.Context, chain string, key []byte, accepted Accepted) (Certificate, error)
	// UnshareCertificate has each node serve with its own. Errors: fault.NotFound,
	// fault.Locked, fault.Changed.
	UnshareCertificate(ctx context.Context) (Certificate, error)
}

// Accepted is what somebody has said of a certificate that AWS KMS would most likely not take: that
// it is meant all the same.
type Accepted struct {
	// OwnAuthority takes one that no public authority has signed, as far as this machine knows.
	OwnAuthority bool
	// OtherName takes one that lacks a name by which this machine is called now, or whose common name is
	// not the endpoint's.
	OtherName bool
}

// words says what somebody has said.
func (a Accepted) words() (list []string) {
	if a.OwnAuthority {
		list = append(list, "it may be of an authority that AWS KMS does not trust (own_authority)")
	}
	if a.OtherName {
		list = append(list, "it may lack a name by which the appliance is called, or that of the endpoint (other_name)")
	}
	return list
}

// Certificate describes a server certificate.
type Certificate struct {
	Subject   string    `json:"subject" jsonschema:"The subject of the certificate." example:"CN=holdfast.example.com"`
	Names     []string  `json:"names" jsonschema:"The DNS names and IP addresses that the certificate is for."`
	Issuer    string    `json:"issuer" jsonschema:"The issuer of the certificate."`
	NotBefore time.Time `json:"not_before" jsonschema:"The beginning of the certificate's validity."`
	NotAfter  time.Time `json:"not_after" jsonschema:"The end of the certificate's validity."`
	// SHA256 is the fingerprint of the certificate, in hexadecimal.
	SHA256 string `json:"sha256" jsonschema:"The SHA-256 fingerprint of the certificate, in hexadecimal."`
	// Chain is the certificate with those that signed it, in PEM.
	Chain string `json:"chain" jsonschema:"The certificate and those that signed it, in PEM."`
	// Requested says that a signing request waits for its certificate.
	Requested bool `json:"requested" jsonschema:"Whether a signing request waits for its certificate."`
	// Shared says that it rests in the database, and all nodes serve with it. Otherwise it
	// is this machine's own.
	Shared bool `json:"shared" jsonschema:"Whether all nodes of the fleet serve with this certificate, whose key is in the database, sealed. Otherwise it is this machine's own."`
	// Previous is the one that can be brought back.
	Previous *PreviousCertificate `json:"previous,omitempty" jsonschema:"The certificate of before, which restoreCertificate brings back; absent if none is kept."`
}

// PreviousCertificate describes the certificate of before.
type PreviousCertificate struct {
	Subject  string    `json:"subject" jsonschema:"The subject of the certificate of before." example:"CN=holdfast.example.com"`
	Names    []string  `json:"names" jsonschema:"The DNS names and IP addresses that it is for."`
	NotAfter time.Time `json:"not_after" jsonschema:"The end of its validity."`
	SHA256   string    `json:"sha256" jsonschema:"Its SHA-256 fingerprint, in hexadecimal."`
}

// CertificateRequest asks for a signing request.
type CertificateRequest struct {
	Names []string `json:"names" jsonschema:"The DNS names and IP addresses that the certificate is to be for." example:"[\"holdfast.example.com\"]" items:"50" each:"253"`
}

// SigningRequest is a PKCS#10 request in PEM.
type SigningRequest struct {
	PEM string `json:"pem" jsonschema:"The certificate signing request (PKCS #10), in PEM."`
}

// CertificateChain is the certificate with those that signed it, in PEM.
type CertificateChain struct {
	Chain string `json:"chain" record:"-" jsonschema:"The certificate and those that signed it, in PEM." example:"-----BEGIN CERTIFICATE-----" longest:"65536"` // people paste the private key with it
	// OwnAuthority and OtherName are [Accepted].
	OwnAuthority bool `json:"own_authority,omitempty" jsonschema:"Install it although no public authority has signed it, as far as this machine knows. AWS KMS takes none of a private authority."`
	OtherName    bool `json:"other_name,omitempty" jsonschema:"Install it although it lacks a name by which the appliance is called now, or its common name is not the endpoint's."`
}

func (c CertificateChain) insists() []string { return c.accepted().words() }

func (c CertificateChain) accepted() Accepted {
	return Accepted{OwnAuthority: c.OwnAuthority, OtherName: c.OtherName}
}

// SharedCertificate is a certificate with those that signed it, and its private key, both in
// PEM. If both are left out, it is the present one of the node that is asked.
type SharedCertificate struct {
	Chain string `json:"chain,omitempty" record:"-" jsonschema:"The certificate and those that signed it, in PEM. Leave it out together with private_key to share the present certificate of this node." longest:"65536"`
	Key   Secret `json:"private_key,omitempty" jsonschema:"The private key of the certificate, in PEM."`
	// OwnAuthority and OtherName are [Accepted].
	OwnAuthority bool `json:"own_authority,omitempty" jsonschema:"Share it although no public authority has signed it, as far as this machine knows. AWS KMS takes none of a private authority."`
	OtherName    bool `json:"other_name,omitempty" jsonschema:"Share it although it lacks a name by which the appliance is called now, or its common name is not the endpoint's."`
}

func (c SharedCertificate) insists() []string { return c.accepted().words() }

func (c SharedCertificate) accepted() Accepted {
	return Accepted{OwnAuthority: c.OwnAuthority, OtherName: c.OtherName}
}

// certificateSubject is the certificate that is in use.
func certificateSubject[In any](_ context.Context, c *Caller, _ In) any {
	cert, err := c.Site.Certificate()
	return found(&cert, err)
}

// The operations on the server's certificate. KMS refuses key stores whose endpoint has a certificate
// that it does not trust, or of another name: another certificate can stop service.
var (
	ShowCertificate = define(Operation[Nothing, Certificate]{
		Route: Route{ID: "certificate", Method: http.MethodGet, Path: "/certificate", Capability: identity.See,
			Words: "Show certificate", Summary: "The server's TLS certificate"},
		Run: func(_ context.Context, c *Caller, _ Nothing) (Certificate, error) { return c.Site.Certificate() },
	})
	RequestCertificate = define(Operation[CertificateRequest, SigningRequest]{
		Route: Route{ID: "requestCertificate", Method: http.MethodPost, Path: "/certificate/request", Capability: identity.Administer, Outside: true, Effects: Identifies, Alone: "nothing uses the new key until its certificate is installed, which can need a second person", Urgency: Ordinary,
			Words: "Request certificate", Summary: "Make a new key, and a request to sign its certificate"},
		Subject: makes[CertificateRequest],
		Run: func(ctx context.Context, c *Caller, in CertificateRequest) (SigningRequest, error) {
			pem, err := c.Site.RequestCertificate(ctx, in.Names)
			return SigningRequest{pem}, err
		},
	})
	InstallCertificate = define(Operation[CertificateChain, Certificate]{
		Route: Route{ID: "installCertificate", Method: http.MethodPut, Path: "/certificate", Capability: identity.Administer, Outside: true, Effects: StopsService | Identifies, Urgency: Ordinary,
			Words: "Install certificate", Summary: "Serve with another certificate"},
		Subject: certificateSubject[CertificateChain],
		Check: func(ctx context.Context, c *Caller, in CertificateChain) error {
			return c.Site.CheckInstall(ctx, in.Chain, in.accepted())
		},
		Run: func(ctx context.Context, c *Caller, in CertificateChain) (Certificate, error) {
			installed, err := c.Site.InstallCertificate(ctx, in.Chain, in.accepted())
			if err == nil {
				appliance.MadeHere(ctx)
			}
			return installed, err
		},
	})
	RestoreCertificate = define(Operation[Nothing, Certificate]{
		Route: Route{ID: "restoreCertificate", Method: http.MethodPost, Path: "/certificate/restore", Absent: true, Revision: "/certificate", Capability: identity.Administer, Outside: true, Effects: StopsService | Identifies, Urgency: Ordinary,
			Words: "Restore previous certificate", Summary: "Serve with the certificate of before again; the present one is kept in its place"},
		Subject: certificateSubject[Nothing],
		Check:   func(ctx context.Context, c *Caller, _ Nothing) error { return c.Site.CheckRestore(ctx) },
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Certificate, error) {
			restored, err := c.Site.RestoreCertificate(ctx)
			if err == nil {
				appliance.MadeHere(ctx)
			}
			return restored, err
		},
	})
	ShareCertificate = define(Operation[SharedCertificate, Certificate]{
		Route: Route{ID: "shareCertificate", Method: http.MethodPut, Path: "/certificate/shared", Revision: "/certificate", Capability: identity.Administer, Outside: true, Effects: StopsService | Identifies, Urgency: Ordinary,
			Words: "Share certificate", Summary: "Have all nodes serve with one certificate, whose key rests sealed in the database"},
		Subject: certificateSubject[SharedCertificate],
		Check: func(ctx context.Context, c *Caller, in SharedCertificate) error {
			return c.Site.CheckShare(ctx, in.Chain, in.Key, in.accepted())
		},
		Run: func(ctx context.Context, c *Caller, in SharedCertificate) (Certificate, error) {
			return c.Site.ShareCertificate(ctx, in.Chain, in.Key, in.accepted())
		},
	})
	UnshareCertificate = define(Operation[Nothing, Certificate]{
		Route: Route{ID: "unshareCertificate", Method: http.MethodDelete, Path: "/certificate/shared", Absent: true, Revision: "/certificate", Capability: identity.Administer, Outside: true, Effects: StopsService | Identifies, Urgency: Ordinary,
			Words: "Stop sharing certificate", Summary: "Remove the shared certificate and its key: each node serves with its own"},
		Subject: certificateSubject[Nothing],
		Check:   func(ctx context.Context, c *Caller, _ Nothing) error { return c.Site.CheckUnshare(ctx) },
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Certificate, error) {
			return c.Site.UnshareCertificate(ctx)
		},
	})
)
