package web_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"holdfast/web"
	"holdfast/web/webtest"
)

// TestTransportSecurity: browsers are told to come by TLS alone, for a year, where they take the
// certificate, and only there: with one that signs itself they could not come back.
func TestTransportSecurity(t *testing.T) {
	trusted := ""
	h := web.NewHandler(web.Public{Boot: &webtest.Boot{}, Metrics: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler),
		Trusted: func(host string) bool { return host == trusted }})
	ask := func(what, host, want string) {
		t.Helper()
		for _, path := range []string{"/healthz", "/boot", "/nothing"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := w.Header().Get("Strict-Transport-Security"); got != want {
				t.Errorf("%s: %s for %q: %q", what, path, host, got)
			}
		}
	}
	const year = "max-age=31536000"
	ask("the first certificate", "console.test:9443", "")
	trusted = "console.test" // it was replaced while the appliance runs
	ask("a trusted one", "console.test:9443", year)
	ask("a trusted one", "CONSOLE.test", year)
	ask("a trusted one, by another name", "other.test:9443", "")
	trusted = "localhost"
	ask("this machine", "localhost:9443", "")
	trusted = "::1"
	ask("an address", "[::1]:9443", year)
	trusted = ""
	ask("the first certificate again", "console.test:9443", "")
}
