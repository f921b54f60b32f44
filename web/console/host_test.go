package console_test

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// TestForeignHost: what a request calls the appliance is in no answer: in no page, redirect, cookie
// or answer of the API. The links that people hand on have the address of the configuration.
func TestForeignHost(t *testing.T) {
	const evilHost = "evil-host.test"
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	r.console = web.NewHandler(web.Public{API: r.api, Boot: serving(), Ready: func(context.Context) (bool, string) { return true, "" }, Metrics: http.NotFoundHandler(), Identity: r.users, Console: r.console, Log: slog.New(slog.DiscardHandler)})
	foreign := func(q *http.Request) {
		q.Host = evilHost + ":9443"
		for _, name := range []string{"X-Forwarded-Host", "X-Original-Host", "X-Host"} {
			q.Header.Set(name, evilHost)
		}
		q.Header.Set("Forwarded", "host="+evilHost)
	}
	looked := 0
	look := func(what string, w *httptest.ResponseRecorder) *httptest.ResponseRecorder {
		t.Helper()
		looked++
		if strings.Contains(w.Body.String(), evilHost) {
			t.Errorf("%s: the page has the host of the request", what)
		}
		for name, values := range w.Header() {
			if strings.Contains(strings.Join(values, " "), evilHost) {
				t.Errorf("%s: the header %s has the host of the request: %q", what, name, values)
			}
		}
		return w
	}
	_, secret, err := r.users.CreateToken(t.Context(), identity.Principal{Name: "local", Role: identity.RoleAdministrator}, identity.NewToken{Name: "walker", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("{keystore}", "bank", "{key}", "k", "{user}", admin.principal.UserID, "{token}", "x", "{seq}", "0")
	for _, path := range []string{"/healthz", "/readyz", "/boot", "/codes", "/attestation", "/signin", "/signin?next=//" + "other.test/", "/setup", "/invitation/x", "/no/page", "/standing", "/session"} {
		look(path, admin.do(http.MethodGet, path, nil, foreign))
	}
	for _, page := range console.Pages() {
		look(page, admin.do(http.MethodGet, names.Replace(page), nil, foreign))
	}
	for _, route := range operation.Table() {
		look("API "+route.ID, admin.do(route.Method, operation.Prefix+names.Replace(route.Path), nil, func(q *http.Request) {
			if foreign(q); route.Method == http.MethodGet {
				q.Header.Set("Authorization", "Bearer "+secret)
			}
		}))
	}
	ends := map[string]bool{operation.DeleteUser.ID: true, operation.SignOutEverywhere.ID: true, operation.SetRole.ID: true, operation.DisableUser.ID: true, operation.SignOutUser.ID: true, operation.RevokeSession.ID: true, operation.RevokeOwnSession.ID: true}
	links := map[string]string{operation.CreateInvitation.ID: "https://console.test/invitation/", operation.CreateToken.ID: "--server https://console.test --token-file"}
	for _, op := range console.Operations() {
		if ends[op] {
			continue // they end the session of this test
		}
		form := confirmed(maps.Clone(things), op, admin.version(""))
		if op == operation.CreateToken.ID {
			form.Set("operations", "*")
		}
		w := look("/do/"+op, admin.do(http.MethodPost, "/do/"+op, form, foreign))
		if to := w.Header().Get("Location"); to != "" {
			w = look("after /do/"+op, admin.do(http.MethodGet, to, nil, foreign))
		}
		if want := links[op]; want != "" && !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s does not show %q: %s", op, want, w.Body)
		}
	}
	if looked < 150 {
		t.Errorf("only %d answers were looked at", looked)
	}

	// Without an address the link says what is missing, and takes none of the request.
	r.users.URL = ""
	r.console = console.New(console.Options{Performer: r.api.Performer, Identity: r.users, Boot: serving(), Version: "test", Log: slog.New(slog.DiscardHandler), Now: r.clock})
	form := confirmed(maps.Clone(things), operation.CreateInvitation.ID, admin.version(""))
	form.Set("name", "another")
	w := admin.do(http.MethodGet, admin.do(http.MethodPost, "/do/"+operation.CreateInvitation.ID, form, foreign).Header().Get("Location"), nil, foreign)
	if look("without an address", w); !strings.Contains(w.Body.String(), "><code>/invitation/") || !strings.Contains(w.Body.String(), "set admin.url") {
		t.Errorf("without an address: %s", w.Body)
	}
}
