package xks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// A load balancer's probe has no certificate, and shares the port with KMS. So the handshake asks for one,
// and ends if it gets a wrong one, as the specification wants it ("Authentication"); that there is one is
// demanded of each request that is not a probe's.

// The paths that load balancers ask, without a signature and without a certificate.
const (
	healthzPath = "/healthz"
	readyzPath  = "/readyz"
)

type demandKey struct{}

// demandCertificate has the API ask each request for the client certificate of its connection.
func demandCertificate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), demandKey{}, true)))
	})
}

// certified says why a request may not be served by the certificate of its connection.
func certified(r *http.Request) error {
	if demanded, _ := r.Context().Value(demandKey{}).(bool); !demanded {
		return nil
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return authenticationFailed(errors.New("the connection has no client certificate, and xks.client_ca demands one of each XKS call: if KMS sends none, leave xks.client_ca out; if this was a load balancer's probe, have it ask " + readyzPath))
	}
	return nil
}

// askForCertificate has the handshake ask for a client certificate, and end if it gets one that is not of
// the authorities or has another name.
func askForCertificate(c *tls.Config, o ServerOptions) {
	c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, o.ClientCAs
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // a probe, or [certified] refuses it
		}
		if cn := state.PeerCertificates[0].Subject.CommonName; !slices.Contains(o.ClientNames, cn) {
			return fmt.Errorf("the client certificate's common name %q is none of xks.client_names", cn)
		}
		return nil
	}
}
