package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// TestEveryCookie: each cookie that any page or post sets is kept to this host, to TLS and from
// scripts, and is not sent with the posts of other sites; and every page says that no site may
// frame it. All routes are walked, signed in and not.
func TestEveryCookie(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	seen := map[string]bool{}
	look := func(what string, w *httptest.ResponseRecorder) {
		t.Helper()
		for _, k := range w.Result().Cookies() {
			name, _, _ := strings.Cut(k.Name, ".")
			seen[name] = true
			// What is kept for one page has a path, so that it cannot have the prefix __Host-.
			host := strings.HasPrefix(k.Name, "__Host-") && k.Path == "/"
			kept := strings.HasPrefix(k.Name, "__Secure-") && strings.HasPrefix(k.Path, "/")
			if !host && !kept || !k.Secure || !k.HttpOnly || k.Domain != "" || k.SameSite != http.SameSiteLaxMode && k.SameSite != http.SameSiteStrictMode {
				t.Errorf("%s sets the cookie %s", what, k)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "form-action 'self'") || !strings.Contains(csp, "base-uri 'none'") {
			t.Errorf("%s: policy %q", what, csp)
		}
	}
	names := strings.NewReplacer("{operation}", "disableKey", "{token}", "x", "{keystore}", "bank", "{key}", "k", "{user}", admin.principal.UserID, "{seq}", "0", "{what}", "x", "{id}", "x", "{approval}", "x")
	err := chi.Walk(r.console.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasPrefix(route, "/assets/") || route == "/signout" {
			return nil
		}
		for _, who := range []*session{{r: r}, admin} {
			look(method+" "+route, who.do(method, names.Replace(route), url.Values{"back": {"/"}, "theme": {"dark"}, "shortcuts": {"off"}}, nil))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{operation.CreateGrant.ID, operation.EnableKey.ID, operation.CreateToken.ID} {
		look("/do/"+op, admin.do(http.MethodPost, "/do/"+op, confirmed(things, op, admin.version("")), nil))
	}
	look("a form of nobody", (&session{r: r}).do(http.MethodPost, "/do/setPolicy", confirmed(things, "setPolicy", admin.version("")), nil))
	codes, err := r.users.NewRecoveryCodes(t.Context(), admin.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	look("a sign-in", (&session{r: r}).do(http.MethodPost, "/signin", url.Values{"name": {"admin"}, "password": {"a long enough sentence"}, "code": {codes[0]}}, nil))
	look("a sign-out", admin.do(http.MethodPost, "/signout", nil, nil))
	for _, name := range []string{"__Host-holdfast", "__Host-holdfast-device", "__Host-holdfast-flash", "__Host-holdfast-theme", "__Host-holdfast-keys"} {
		if !seen[name] {
			t.Errorf("no route set %s: %v", name, seen)
		}
	}
}

// FuzzLocal: whatever a link says about where to go after a sign-in, it is a page of this console.
func FuzzLocal(f *testing.F) {
	for _, next := range []string{"/", "/audit?x=1", "//evil.test", "///evil.test", "/\\evil.test", "\\\\evil.test", "https://evil.test/", "https:evil.test", "javascript:alert(1)", "/%2f/evil.test", "/%5cevil.test",
		"/\t/evil.test", "/\n/evil.test", " //evil.test", "/.//evil.test", "/..//evil.test", "?next=//evil.test", "//user@evil.test", "http:///evil.test", "/;//evil.test", "\x00//evil.test", "/a/../../evil.test", "data:text/html,x", "%2f%2fevil.test"} {
		f.Add(next)
	}
	f.Fuzz(func(t *testing.T, next string) {
		to := console.Local(next)
		base := &url.URL{Scheme: "https", Host: "console.test", Path: "/signin"}
		// Browsers take tabs and newlines out, and backslashes for slashes (WHATWG URL section 4.4).
		read := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(strings.Trim(to, " \x00"))
		u, err := base.Parse(read)
		if err != nil || u.Host != "console.test" || u.Scheme != "https" || u.User != nil || !strings.HasPrefix(read, "/") || strings.HasPrefix(read, "//") {
			t.Errorf("%q leads to %q: %v %v", next, to, u, err)
		}
	})
}

// TestSessionIsAnother: a sign-in makes a new session, whatever cookie the browser had before, and
// signing out everywhere ends all of them but no other user's.
func TestSessionIsAnother(t *testing.T) {
	r := start(t)
	admin, other := r.enrolByPassword("admin", identity.RoleAdministrator), r.enrolByPassword("other", identity.RoleAdministrator)
	codes, err := r.users.NewRecoveryCodes(t.Context(), admin.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]bool{admin.token: true, "planted": true}
	for i, before := range []string{"planted", admin.token, other.token} {
		s := &session{r: r, token: before}
		w := s.do(http.MethodPost, "/signin", url.Values{"name": {"admin"}, "password": {"a long enough sentence"}, "code": {codes[i]}}, nil)
		for _, k := range w.Result().Cookies() {
			if k.Name == "__Host-holdfast" {
				if tokens[k.Value] || k.Value == other.token {
					t.Errorf("the session %q is not new", k.Value)
				}
				tokens[k.Value] = true
			}
		}
		r.pass(time.Second)
	}
	if len(tokens) != 5 {
		t.Fatalf("%d sessions", len(tokens)-1)
	}
	delete(tokens, "planted")
	form := url.Values{"version": {admin.version("")}, "back": {"/account"}}
	if w := admin.do(http.MethodPost, "/do/"+operation.SignOutEverywhere.ID, form, nil); w.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for token := range tokens {
		if w := (&session{r: r, token: token}).do(http.MethodGet, "/account", nil, nil); w.Code != http.StatusSeeOther {
			t.Errorf("a session goes on: %d", w.Code)
		}
	}
	if w := other.do(http.MethodGet, "/account", nil, nil); w.Code != http.StatusOK {
		t.Errorf("another user's session has ended: %d", w.Code)
	}
}

// TestStrangersLearnNothing: to somebody who is not signed in, what there is and what there is not
// look alike: each path leads to the sign-in; and so do names of users, right and wrong.
func TestStrangersLearnNothing(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	r.things(admin)
	for _, path := range []string{"/keystores/bank", "/keystores/none", "/users/" + admin.principal.UserID, "/users/none", "/audit/0", "/audit/99999", "/no/page", "/download/x", "/approvals/x"} {
		w := (&session{r: r}).do(http.MethodGet, path, nil, nil)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/signin?next="+url.QueryEscape(path) || w.Body.Len() > 200 {
			t.Errorf("%s: %d %s %s", path, w.Code, w.Header().Get("Location"), w.Body)
		}
	}
	answers := map[string]string{}
	for i, name := range []string{"admin", "nobody"} {
		w := (&session{r: r}).do(http.MethodPost, "/signin", url.Values{"name": {name}, "password": {"wrong"}, "code": {"000000"}}, func(q *http.Request) { q.RemoteAddr = []string{"192.0.2.7:1", "192.0.2.8:1"}[i] })
		answers[strings.ReplaceAll(w.Body.String(), name, "NAME")] = name
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if len(answers) != 1 {
		t.Errorf("a user that there is, and one that there is not, get different answers")
	}
	// One guess too many says how long to wait, in words and for programs.
	var w *httptest.ResponseRecorder
	for range 11 {
		w = (&session{r: r}).do(http.MethodPost, "/signin", url.Values{"name": {"nobody"}, "password": {"wrong"}, "code": {"000000"}}, nil)
	}
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "too many attempts: try again in") {
		t.Errorf("%d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
	w = (&session{r: r}).do(http.MethodPost, "/signin/passkey/finish", nil, func(q *http.Request) { q.Body = http.NoBody })
	if w.Code != http.StatusBadRequest {
		t.Errorf("no passkey at all: %d", w.Code)
	}
}

// TestTypedSecretsBeforeSigningIn: no page of a sign-in, the setup or an invitation has a secret
// that was typed into it, in whatever place.
func TestTypedSecretsBeforeSigningIn(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	root := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	_, token, err := r.users.Invite(t.Context(), root, "guest", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	typed := url.Values{"name": {"admin"}, "password": {"my secret sentence 4711"}, "code": {"918273"}, "setup_code": {"SECRET-SETUP-CODE"}, "back": {"/account"}, "next": {"/account"}}
	for _, tt := range []struct {
		who  *session
		path string
	}{{&session{r: r}, "/signin"}, {&session{r: r}, "/setup"}, {&session{r: r}, "/invitation/" + token + "/password"}, {&session{r: r}, "/invitation/x/password"}, {admin, "/prove"}, {&session{r: r}, "/prove"}} {
		w := tt.who.do(http.MethodPost, tt.path, typed, nil)
		for w.Header().Get("Location") != "" {
			w = tt.who.do(http.MethodGet, w.Header().Get("Location"), nil, nil)
		}
		for _, name := range []string{"password", "code", "setup_code"} {
			if strings.Contains(w.Body.String(), typed.Get(name)) {
				t.Errorf("after %s the page has the %s", tt.path, name)
			}
		}
	}
}

// endless is a body that does not end, and counts what is read of it.
type endless struct{ read int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'a'
	}
	e.read += int64(len(b))
	return len(b), nil
}

// TestLongBodiesAreOfThoseWhoMay: of each form that takes a file, no more is read of somebody
// without a session, or without the right, than of any other form.
func TestLongBodiesAreOfThoseWhoMay(t *testing.T) {
	r := start(t)
	admin, viewer := r.enrol("admin", identity.RoleAdministrator), r.enrol("viewer", identity.RoleViewer)
	read := func(s *session, op string) int64 {
		body := &endless{}
		q := httptest.NewRequest(http.MethodPost, "https://console.test/do/"+op, body)
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Sec-Fetch-Site", "same-origin")
		if s.token != "" {
			q.AddCookie(&http.Cookie{Name: "__Host-holdfast", Value: s.token})
		}
		r.console.ServeHTTP(httptest.NewRecorder(), q)
		return body.read
	}
	long := 0
	for _, op := range console.Operations() {
		if read(admin, op) <= 1<<20 {
			continue
		}
		long++
		for who, s := range map[string]*session{"a stranger": {r: r}, "a viewer": viewer} {
			if n := read(s, op); n > 1<<20 {
				t.Errorf("%s: %d bytes are read of %s", op, n, who)
			}
		}
	}
	if long < 2 {
		t.Errorf("%d forms take a file", long)
	}
}
