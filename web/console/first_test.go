package console_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/identity"
	"holdfast/web/console"
)

// TestClosed: while nobody can sign in, every way in says why, and evidence is there.
func TestClosed(t *testing.T) {
	r := start(t)
	r.users.Closed = "E_SEAL_PCRS: the machine is in <no> state"
	r.console = console.New(console.Options{Performer: r.api.Performer, Identity: r.users, Boot: serving(), Version: "test", Log: slog.New(slog.DiscardHandler), Now: r.clock})
	nobody := &session{r: r}
	look := func(w *httptest.ResponseRecorder, path string) {
		t.Helper()
		if text := w.Body.String(); w.Code != http.StatusServiceUnavailable || !strings.Contains(text, "E_SEAL_PCRS: the machine is in &lt;no&gt; state") ||
			!strings.Contains(text, `<form method="get" action="/attestation">`) || strings.Contains(text, "setup_code") || !strings.Contains(text, `href="/codes#E_SEAL_PCRS"`) {
			t.Errorf("%s: %d %s", path, w.Code, text)
		}
	}
	for _, path := range []string{"/setup", "/signin", "/signin?next=/keystores", "/invitation/x"} {
		look(nobody.do(http.MethodGet, path, nil, nil), path)
	}
	for _, path := range []string{"/setup", "/signin", "/signin/passkey/begin", "/signin/oidc/begin", "/invitation/x/password", "/invitation/x/passkey/finish"} {
		look(nobody.do(http.MethodPost, path, url.Values{"name": {"eve"}}, nil), path)
	}
	if w := nobody.do(http.MethodGet, "/", nil, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/setup" {
		t.Errorf("/: %d %v", w.Code, w.Header())
	}
}

// TestInstanceShown: as what it is, told and not proven.
func TestInstanceShown(t *testing.T) {
	r := start(t)
	text := r.enrol("alice", identity.RoleAdministrator).do(http.MethodGet, "/", nil, nil).Body.String()
	for _, want := range []string{"i-1234567890abcdef0", "m6a.large", "ami-5fb8c835", "eu-central-1, zone eu-central-1a", "123456789012", "not proven"} {
		if !strings.Contains(text, want) {
			t.Errorf("the overview has no %s", want)
		}
	}
}
