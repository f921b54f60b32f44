package web

import (
	"context"
	"net/http"
	"slices"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/instance"
)

// Site is what the API needs of where it runs.
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
	Chain string `json:"chain"`
}

// Settings are what can be changed while it runs. All else is in the
// configuration, which is measured: to change it changes what the machine proves.
type Settings struct {
	// FourEyes are the operations that need a second person.
	FourEyes []string `json:"four_eyes"`
}

// SettingsDetail is the settings with what cannot be changed here.
type SettingsDetail struct {
	Settings
	// Approvable are the operations that FourEyes may have.
	Approvable []Operation `json:"approvable"`
	// Configuration is the one in force, as TOML.
	Configuration string `json:"configuration"`
}

// Operation is an operation of the API by its name.
type Operation struct {
	ID      string `json:"id"`
	Summary string `json:"summary"`
}

func settingRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/settings", ID: "settings", Capability: identity.See, Summary: "Settings, and the configuration in force",
			handler: gives(func(c *call) (*SettingsDetail, error) {
				s, err := c.api.settings(c.ctx())
				if err != nil {
					return nil, err
				}
				d := &SettingsDetail{Settings: *s, Approvable: []Operation{}, Configuration: c.api.Site.Configuration()}
				for _, r := range c.api.routes {
					if r.Approvable {
						d.Approvable = append(d.Approvable, Operation{r.ID, r.Summary})
					}
				}
				return d, nil
			})},
		{Method: http.MethodPut, Path: "/settings", ID: "setSettings", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Change the settings",
			handler: checked(does(func(c *call, in Settings) (*Settings, error) {
				if err := c.checkSettings(in); err != nil {
					return nil, err
				}
				if before, err := approval.Chosen(c.ctx(), c.api.Settings); err != nil {
					return nil, err
				} else if !before.On() && len(in.FourEyes) > 0 {
					if err := c.api.Identity.AllArePersons(c.ctx()); err != nil {
						return nil, err
					}
				}
				if err := approval.Choose(c.ctx(), c.api.Settings, in.FourEyes); err != nil {
					return nil, err
				}
				return c.api.settings(c.ctx())
			}), (*call).checkSettings)},
		{Method: http.MethodGet, Path: "/certificate", ID: "certificate", Capability: identity.See, Summary: "The server's TLS certificate",
			handler: gives(func(c *call) (Certificate, error) { return c.api.Site.Certificate() })},
		{Method: http.MethodPost, Path: "/certificate/request", ID: "requestCertificate", Capability: identity.Administer, Dangerous: true, Summary: "Make a new key, and a request to sign its certificate",
			handler: does(func(c *call, in CertificateRequest) (SigningRequest, error) {
				pem, err := c.api.Site.RequestCertificate(in.Names)
				return SigningRequest{pem}, err
			})},
		{Method: http.MethodPut, Path: "/certificate", ID: "installCertificate", Capability: identity.Administer, Dangerous: true, Summary: "Serve with another certificate",
			handler: does(func(c *call, in CertificateChain) (Certificate, error) {
				return c.api.Site.InstallCertificate(in.Chain)
			})},
	}
}

// settings gives the settings; while the appliance is locked, as they are stored.
func (a *API) settings(ctx context.Context) (*Settings, error) {
	chosen, err := approval.Chosen(ctx, a.Settings)
	if err != nil && fault.CodeOf(err) != fault.Locked {
		return nil, err
	}
	s := &Settings{FourEyes: append([]string{}, chosen.Operations...)}
	if chosen.Every {
		s.FourEyes = []string{}
		for _, r := range a.routes {
			if r.Approvable {
				s.FourEyes = append(s.FourEyes, r.ID)
			}
		}
	}
	return s, nil
}

// checkSettings says which operation cannot be made to need approval: fault.Invalid.
func (c *call) checkSettings(s Settings) error {
	for _, op := range s.FourEyes {
		if !slices.ContainsFunc(c.api.routes, func(r *Route) bool { return r.ID == op && r.Approvable }) {
			return fault.Errorf(fault.Invalid, "operation %.60q: it cannot be made to need approval", op)
		}
	}
	if len(s.FourEyes) > 0 {
		return c.api.Identity.TwoCanApprove(c.ctx())
	}
	return nil
}
