package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// Public is what the administrators' HTTPS listener answers with. All but Console,
// Installation, Fleet and Positions are needed.
type Public struct {
	API   *API
	Boot  operation.Boot
	Ready func(ctx context.Context) (ready bool, note string)
	// Installation, if given, says which copy of its installation the appliance is.
	Installation func() appliance.InstallationState
	Metrics      http.Handler
	Identity     *identity.Directory
	// Fleet answers the calls of other nodes; nil for an appliance on its own.
	Fleet http.Handler
	// Console is the browser console; nil for none.
	Console http.Handler
	// Positions is how far this node of a fleet is in the log of changes; nil for an
	// appliance that is alone.
	Positions Positions
	// Trusted says whether browsers take the certificate in use for a host; nil for never.
	Trusted func(host string) bool
	Log     *slog.Logger
}

// NewHandler gives what the administrators' HTTPS listener answers: the API to
// bearers of API tokens, the console to browsers, and some things to everybody.
func NewHandler(p Public) http.Handler {
	r := chi.NewRouter()
	r.Use(p.transportSecurity)
	public(r, p)
	r.Handle(operation.Prefix+"/*", follow(p.Positions, bearer(p)))
	if p.Fleet != nil {
		r.Handle("/fleet/v1/*", p.Fleet)
	}
	if p.Console != nil {
		r.Handle("/*", follow(p.Positions, p.Console))
	}
	return r
}

// transportSecurity has browsers come by TLS alone from now on, and let nobody click through a
// warning (RFC 6797), where they take the certificate: with the first one, which signs itself,
// they would be locked out. Localhost is left out, where other programs have other ports.
func (p Public) transportSecurity(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = identify(w, r)
		if host := hostname(r); host != "localhost" && p.Trusted != nil && p.Trusted(host) {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// hostname is the host that a request names, without its port.
func hostname(r *http.Request) string { return strings.ToLower((&url.URL{Host: r.Host}).Hostname()) }

// bearer finds out who calls the API by an API token (RFC 6750). A cookie does not
// count here, so that no other site can make a browser call the API.
func bearer(p Public) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(kind, "Bearer") {
			p.API.ServeHTTP(w, r) // which says what is missing
			return
		}
		who, err := p.Identity.Bearer(r.Context(), strings.TrimSpace(token), identity.Client{Address: r.RemoteAddr})
		if err != nil {
			if errors.Is(err, identity.ErrProof) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="holdfast", error="invalid_token"`)
				err = fault.Errorf(fault.Unauthenticated, "the API token is unknown, revoked or expired; make another in the console, or with holdfast token create")
			}
			p.API.fail(w, r, err)
			return
		}
		p.API.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), who)))
	})
}
