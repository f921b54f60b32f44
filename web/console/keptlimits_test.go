package console_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// noise is a policy that is none, of so many bytes that cannot be compressed to much less than
// five eighths of them.
func noise(bytes int) string {
	var s strings.Builder
	for s.WriteString("no cedar\n"); s.Len() < bytes; {
		s.WriteString("// " + rand.Text() + rand.Text() + "\n")
	}
	return s.String()[:bytes]
}

// browser is a real one's part of HTTP: it keeps cookies and follows redirects. The server has the
// limit for headers that the appliance has.
func (s *session) browser(t *testing.T) *http.Client {
	t.Helper()
	server := httptest.NewUnstartedServer(s.r.console)
	server.Config.MaxHeaderBytes = console.MaxHeader
	server.StartTLS()
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(&url.URL{Scheme: "https", Host: "console.test", Path: "/"}, []*http.Cookie{{Name: "__Host-holdfast", Value: s.token, Path: "/", Secure: true}})
	to := server.Listener.Addr().String()
	return &http.Client{Jar: jar, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
		TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"}}}
}

// visit opens a page, or posts a form, and gives the page to which that leads, and its URL.
func visit(t *testing.T, b *http.Client, path string, form url.Values) (status int, body, at string) {
	t.Helper()
	method, sent := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, sent = http.MethodPost, strings.NewReader(form.Encode())
	}
	q, err := http.NewRequestWithContext(t.Context(), method, "https://console.test"+path, sent)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Sec-Fetch-Site", "same-origin")
	w, err := b.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Body.Close() }()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, html.UnescapeString(string(text)), w.Request.URL.RequestURI()
}

// TestKeptFormsFitIntoARequest: however often a long form is refused, on a page and on those below
// it, the server takes the next request, which brings what the browser keeps; and the page has what
// was typed last.
func TestKeptFormsFitIntoARequest(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	b := admin.browser(t)
	for _, page := range []string{"/keystores", "/keystores/bank", "/keystores/bank/grants", "/keystores/bank/grants", "/keystores/bank/grants", "/keystores/bank/grants", "/keystores/bank"} {
		form := confirmed(things, "setPolicy", admin.version(""))
		form.Set("cedar", noise(31<<10))
		form.Set("back", page)
		status, body, _ := visit(t, b, "/do/setPolicy", form)
		if status != http.StatusUnprocessableEntity || !strings.Contains(body, form.Get("cedar")[:4096]) {
			t.Fatalf("%s: %d %.300s", page, status, body)
		}
	}
}

// TestKeptForms: a page keeps the last three forms of it that were refused, each in cookies that a
// browser takes.
func TestKeptForms(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	b := admin.browser(t)
	var urls, marks []string
	for range 5 {
		r.pass(time.Second)
		form := confirmed(things, "setPolicy", admin.version(""))
		form.Set("cedar", noise(200))
		form.Set("back", "/keystores/bank/grants")
		status, body, at := visit(t, b, "/do/setPolicy", form)
		if status != http.StatusUnprocessableEntity || !strings.Contains(body, form.Get("cedar")) {
			t.Fatalf("%d %s", status, body)
		}
		urls, marks = append(urls, at), append(marks, form.Get("cedar"))
	}
	for i, at := range urls {
		_, body, _ := visit(t, b, at, nil)
		if there, want := strings.Contains(body, marks[i]), i >= 2; there != want || strings.Contains(body, "is gone") == want {
			t.Errorf("form %d of 5 is there: %t", i+1, there)
		}
	}
	w := admin.do(http.MethodPost, "/do/setPolicy", url.Values{"version": {admin.version("")}, "keystore": {"bank"}, "cedar": {noise(20 << 10)}, "back": {"/keystores/bank/grants"}}, nil)
	if n := len(w.Result().Cookies()); n < 4 {
		t.Errorf("a long form is in %d cookies", n)
	}
	for _, line := range w.Header().Values("Set-Cookie") {
		if len(line) > 4096 {
			t.Errorf("a cookie has %d bytes; browsers keep 4096", len(line))
		}
	}
}

// TestTooLongToBeKept: a form that is too long to be carried is given back at once, also to who is
// not signed in any more; one that is only long, and can be compressed, is kept.
func TestTooLongToBeKept(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	ended := &session{r: r, name: "admin", token: "ended", principal: admin.principal}
	form := confirmed(things, "setPolicy", admin.version(""))
	form.Set("author", admin.principal.UserID)
	form.Set("back", "/keystores/bank/grants")
	form.Set("cedar", noise(60<<10))
	for who, s := range map[string]*session{"signed in": admin, "not signed in": ended} {
		w := s.do(http.MethodPost, "/do/setPolicy", form, nil)
		if body := html.UnescapeString(w.Body.String()); w.Code != http.StatusUnprocessableEntity || !strings.Contains(body, form.Get("cedar")) || !strings.Contains(body, "too long to be kept") {
			t.Errorf("%s: %d %.300s", who, w.Code, body)
		}
	}
	form.Set("cedar", strings.Repeat("no cedar, typed. ", 60<<10/17))
	if w := admin.submit("/do/setPolicy", form); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), form.Get("cedar")) {
		t.Errorf("a long form that can be compressed: %d %.300s", w.Code, w.Body)
	}
	form.Set("cedar", strings.Repeat("x", 600<<10))
	if w := admin.submit("/do/setPolicy", form); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "cannot be read, or is longer than 524288 bytes") {
		t.Errorf("a form that is longer than any: %d %.300s", w.Code, w.Body)
	}
	if p, err := r.Appliance.Policy(t.Context(), "bank"); err != nil || p != "" {
		t.Errorf("the policy is %.40q, %v", p, err)
	}
}

// TestKeptForTenMinutes: what is kept for a page is there for ten minutes, and not longer, whatever
// it is kept for.
func TestKeptForTenMinutes(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	invalid := confirmed(things, "setPolicy", admin.version(""))
	invalid.Set("cedar", "no cedar, typed")
	invalid.Set("back", "/keystores/bank/grants")
	unconfirmed := confirmed(things, "disableKey", admin.version(""))
	unconfirmed.Del("confirm")
	to := map[string]string{}
	post := func(what, op string, form url.Values) {
		t.Helper()
		if to[what] = admin.do(http.MethodPost, "/do/"+op, form, nil).Header().Get("Location"); to[what] == "" {
			t.Fatalf("%s leads nowhere", op)
		}
	}
	r.pass(operation.PresenceTime + time.Second)
	post("kept=", "setPolicy", invalid)
	post("/confirm/", "disableKey", unconfirmed)
	post("/prove/", "createToken", confirmed(things, "createToken", admin.version("")))
	post("/answers/", "renderGrant", confirmed(things, "renderGrant", admin.version("")))
	status := func() map[string]int {
		all := map[string]int{}
		for what, at := range to {
			if !strings.Contains(at, what) {
				t.Fatalf("%s is %s", what, at)
			}
			all[what] = admin.do(http.MethodGet, at, nil, nil).Code
		}
		return all
	}
	r.pass(10*time.Minute - time.Second)
	for what, got := range status() {
		if want := map[string]int{"kept=": 422, "/confirm/": 200, "/prove/": 403, "/answers/": 200}[what]; got != want {
			t.Errorf("%s, after 9 minutes and 59 seconds: %d, want %d", what, got, want)
		}
	}
	r.pass(time.Second)
	for what, got := range status() {
		if want := map[string]int{"kept=": 200, "/confirm/": 410, "/prove/": 410, "/answers/": 410}[what]; got != want {
			t.Errorf("%s, after ten minutes: %d, want %d", what, got, want)
		}
	}
}
