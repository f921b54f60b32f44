package web_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/sqlite"
	"holdfast/hsm/hsmtest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// api is the admin API of a running appliance, on a Unix socket.
type api struct {
	*xkstest.Bed
	t      *testing.T
	socket string
	http   *http.Client
	audit  *webtest.Audit
	api    *web.API
	// injected says that the domain fails as no operation does.
	injected bool
}

// root is who may open the socket.
var root = identity.Principal{Name: "local", Role: identity.RoleAdministrator}

// as has requests come from somebody.
func as(who identity.Principal, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), who)))
	})
}

// journal is that of an API, with the database that it is in.
type journal struct {
	*sqlite.Machine
	rows *sqlite.DB
}

// options are those of an API with a database of its own for users and approvals.
func options(t testing.TB, domain operation.Domain, b operation.Boot, audit operation.Audit, log *slog.Logger) operation.Options {
	t.Helper()
	rows, err := appliancetest.OpenRows(t.Context(), filepath.Join(t.TempDir(), "users.db"), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	return optionsOn(t, rows, domain, b, audit, log)
}

// optionsOn are those of an API with users and approvals in the database.
func optionsOn(t testing.TB, rows *sqlite.DB, domain operation.Domain, b operation.Boot, audit operation.Audit, log *slog.Logger) operation.Options {
	t.Helper()
	a, ok := domain.(*appliance.Appliance)
	if !ok { // one without an installation, which takes rows as they are
		a = appliance.New(appliance.Options{Store: rows})
	}
	users, err := identity.New(identity.Config{Store: rows, Seals: a.Seals(), Settings: a, FourEyes: func(ctx context.Context) (bool, error) {
		f, err := approval.Chosen(ctx, a)
		return f.On(), err
	}, Log: log, URL: "https://console.test", SetupFile: filepath.Join(t.TempDir(), "setup-code")})
	if err != nil {
		t.Fatal(err)
	}
	return operation.Options{Domain: domain, Boot: b, Audit: audit, Journal: &journal{rows.Machine(), rows}, Identity: users, Approvals: approval.Sealed(rows, a.Seals()), Settings: a, Answers: rows, Seals: a.Seals(),
		Activity: activity.New(nil), Site: webtest.Site{Release: "test", Endpoint: "https://xks.test", On: instance.Identity{ID: "i-1234567890abcdef0"}, Served: operation.Certificate{Names: []string{}}}, Policies: &webtest.Policies{}, Launches: &webtest.Launches{Now: operation.LaunchDetail{Required: true}}, Log: log, Still: asBefore}
}

// asBefore takes callers that are no users.
func asBefore(_ context.Context, was identity.Principal) (identity.Principal, error) { return was, nil }

// start starts an appliance and its admin API; wrap, if given, is put before
// the domain.
func start(t *testing.T, wrap func(operation.Domain) operation.Domain) *api {
	t.Helper()
	a := &api{Bed: xkstest.Start(t, xkstest.Options{}), t: t, socket: filepath.Join(t.TempDir(), "s"), audit: &webtest.Audit{}}
	var domain operation.Domain = a.Appliance
	if wrap != nil {
		domain = wrap(domain)
	}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	a.api = web.NewAPI(options(t, domain, &webtest.Boot{}, a.audit, slog.New(slog.NewTextHandler(a.Log, nil))))
	server := &http.Server{Handler: as(root, a.api), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	a.http = &http.Client{Timeout: time.Minute, Transport: transport}
	return a
}

// call sends a request as it is and gives the answer's status, header and body.
func (a *api) call(method, route, body string) (int, http.Header, string) {
	a.t.Helper()
	r, err := http.NewRequest(method, "http://holdfast"+route, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := a.http.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	want := "application/json"
	if res.StatusCode/100 != 2 {
		want = "application/problem+json"
	}
	if got := res.Header.Get("Content-Type"); got != want {
		a.t.Errorf("%s %s: Content-Type %q", method, route, got)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		a.t.Errorf("%s %s: Cache-Control %q", method, route, got)
	}
	if !a.injected {
		documented(a.t, method, route, res.StatusCode)
	}
	return res.StatusCode, res.Header, string(answer)
}

// ok sends a request that must succeed.
func (a *api) ok(method, route, body string) string {
	a.t.Helper()
	status, _, answer := a.call(method, route, body)
	if status != success(method, strings.TrimPrefix(route, operation.Prefix)) {
		a.t.Fatalf("%s %s: %d %s", method, route, status, answer)
	}
	return answer
}

// success is the status of an answer that says that a request is done: that of its route.
func success(method, path string) int {
	path, _, _ = strings.Cut(path, "?")
	for _, r := range operation.Table() {
		if r.Method == method && regexp.MustCompile("^"+inPath.ReplaceAllString(r.Path, "[^/]*")+"$").MatchString(path) {
			return r.Success()
		}
	}
	return http.StatusOK
}

// fails sends a request that must fail with the status, and a body of the one
// shape that all failures have; it gives the message.
func (a *api) fails(method, route, body string, status int, code fault.Code) string {
	a.t.Helper()
	got, _, answer := a.call(method, route, body)
	var p web.Problem
	d := json.NewDecoder(strings.NewReader(answer))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Message == "" || strings.Contains(p.Message, "\n") || p.Detail != p.Message || p.Status != got ||
		p.Type != "/codes#"+string(p.Code) || p.Title == "" || p.WhatToDo == "" || (p.Reference != "") != (p.Code.Entry().Class == fault.ClassInternal) {
		a.t.Fatalf("%s %s: the failure is %s", method, route, answer)
	}
	if got != status || p.Code != code {
		a.t.Errorf("%s %s %.100s: got %d %s, want %d %s", method, route, body, got, answer, status, code)
	}
	return p.Message
}

const (
	get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	stores         = "/api/v1/keystores"
)

// TestStatusCodes: each code of the domain has a status of HTTP.
func TestStatusCodes(t *testing.T) {
	a := start(t, nil)
	a.ok(post, stores, `{"name": "p"}`)
	a.ok(post, stores+"/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`)

	a.fails(post, stores, `{"name": "not a name"}`, 400, fault.Invalid)
	a.fails(post, stores+"/p/keys", `{"id": "x", "usage": {"encrypt": true, "decrypt": false}, "custody": "paper"}`, 400, fault.Invalid)
	a.fails(post, stores+"/p/keys/k/delete", `{"days": 3}`, 400, fault.Invalid)
	a.fails(get, stores+"/p/keys?limit=many", "", 400, fault.Invalid)
	a.fails(get, stores+"/p/keys?limit=1001", "", 400, fault.Invalid)
	a.fails(get, stores+"/nobody", "", 404, fault.NotFound)
	a.fails(get, stores+"/p/keys/nobody", "", 404, fault.NotFound)
	a.fails(del, stores+"/p/grants/nobody", "", 404, fault.NotFound)
	a.fails(post, stores+"/p/credentials/NOBODY/activate", "", 404, fault.NotFound)
	a.fails(post, stores, `{"name": "p", "uri_path_prefix": "/other"}`, 409, fault.Exists)
	a.fails(post, stores+"/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`, 409, fault.Exists)
	a.fails(del, stores+"/p", "", 409, fault.Conflict)
	a.fails(post, stores+"/p/keys/k/cancel-deletion", "", 409, fault.Conflict)

	// A row that somebody edited does not open, and the log says so.
	a.edit(`UPDATE external_keys SET can_decrypt = 1`)
	a.fails(get, stores+"/p/keys/k", "", 500, fault.Tampered)
	if log := a.Log.String(); !strings.Contains(log, "level=ERROR msg=admin method=GET path=/api/v1/keystores/p/keys/k") {
		t.Errorf("the log has no line of the failure:\n%s", log)
	}

	a.Appliance.Lock()
	a.fails(post, stores, `{"name": "q"}`, 503, fault.Locked)
	a.fails(get, stores+"/p", "", 503, fault.Locked)
	if status := a.ok(get, "/api/v1/status", ""); !strings.Contains(status, `"locked":true`) {
		t.Errorf("the status while locked is %s", status)
	}
}

// edit changes the database behind the appliance's back.
func (a *api) edit(statement string) {
	a.t.Helper()
	db, err := sql.Open("sqlite", "file:"+a.DB+"?_pragma=busy_timeout(5000)")
	if err != nil {
		a.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		a.t.Fatal(err)
	}
}

// failing is a domain whose status cannot fail, and whose list always does.
type failing struct {
	operation.Domain
	err error
}

func (f *failing) KeyStores(context.Context) ([]*appliance.KeyStore, error) { return nil, f.err }

// TestRareStatusCodes are those that a sound appliance does not give.
func TestRareStatusCodes(t *testing.T) {
	f := &failing{}
	a := start(t, func(d operation.Domain) operation.Domain { f.Domain = d; return f })
	for _, tt := range []struct {
		err    error
		status int
		code   fault.Code
	}{
		{&fault.Fault{Code: fault.Timeout, Message: "late", Err: errors.New("the cause")}, 503, fault.Timeout},
		{&fault.Fault{Code: fault.TooLarge, Message: "large", Err: errors.New("the cause")}, 400, fault.TooLarge},
		{&fault.Fault{Code: fault.Internal, Message: "broken", Err: errors.New("the cause")}, 500, fault.Internal},
		{errors.New("the cause"), 500, fault.Internal},
	} {
		f.err = tt.err
		if message := a.fails(get, stores, "", tt.status, tt.code); strings.Contains(message, "the cause") {
			t.Errorf("%v: the caller learns the cause: %s", tt.err, message)
		}
	}
	if log := a.Log.String(); strings.Count(log, "the cause") != 2 {
		t.Errorf("the causes of the two internal errors are not in the log:\n%s", log)
	}
}

// TestBodies: one JSON object that the route knows, and no more than 256 KiB.
func TestBodies(t *testing.T) {
	a := start(t, nil)
	large := strings.Repeat("a", 256<<10)
	for _, body := range []string{
		`{"name": "p", "colour": "red"}`,
		`{"name": "p"} {"name": "q"}`,
		`{"name": "p"} x`,
		`{"name": "p"`,
		`{"name": 1}`,
		`["p"]`,
		`name=p`,
	} {
		a.fails(post, stores, body, 400, fault.Invalid)
	}
	for _, long := range []string{`{"name": "p", "uri_path_prefix": "/` + large + `"}`, `{"name": "p"}` + strings.Repeat(" ", 256<<10)} {
		a.fails(post, stores, long, 413, fault.BodyTooLong)
	}
	a.fails(post, stores, "", 400, fault.Invalid)
	if list := a.ok(get, stores, ""); list != `{"items":[]}`+"\n" {
		t.Errorf("a body that was refused made %s", list)
	}
	a.ok(post, stores, `{"name": "p"}`)
	for route, body := range map[string]string{
		"/p/keys":        `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached", "colour": "red"}`,
		"/p/credentials": `{"secret": "x"}`,
		"/p/grants":      `{"principal": "*", "operations": ["Encrypt"], "colour": "red"}`,
	} {
		a.fails(post, stores+route, body, 400, fault.Invalid)
	}
	a.ok(post, stores+"/p/keys", `{"id": "k", "usage": {"encrypt": false, "decrypt": false}, "custody": "cached"}`)
	a.fails(post, stores+"/p/keys/k/rotate", `{"material": "AAAA"}`, 400, fault.Invalid)
	a.fails(post, stores+"/p/keys/k/rotate", `{"colour": "red"}`, 400, fault.Invalid)
	a.fails(post, stores+"/p/keys/k/delete", `{"days": 7, "hours": 3}`, 400, fault.Invalid)
	a.fails(post, stores+"/p/keys/k/rotate", "", 400, fault.Invalid)
	a.ok(post, stores+"/p/keys/k/rotate", "{}")
}

// TestRoutes: what is not there has the shape of all failures, too.
func TestRoutes(t *testing.T) {
	a := start(t, nil)
	for _, route := range []string{"/", "/api", "/api/v1", "/api/v2/status", "/api/v1/nothing", stores + "/p/nothing", stores + "/p/keys/k/nothing",
		stores + "/", "/healthz", "/readyz"} {
		for _, method := range []string{get, post} {
			a.fails(method, route, "", 404, fault.NotFound)
		}
	}
	for route, allowed := range map[string]string{
		"/api/v1/status":                     "GET",
		stores:                               "GET, POST",
		stores + "/p":                        "GET, DELETE",
		stores + "/p/credentials":            "GET, POST",
		stores + "/p/credentials/A/activate": "POST",
		stores + "/p/keys/k":                 "GET",
		stores + "/p/keys/k/rotate":          "POST",
		stores + "/p/grants/g":               "GET, DELETE",
	} {
		for _, method := range []string{get, post, del, http.MethodPut, http.MethodPatch, http.MethodOptions} {
			if strings.Contains(allowed, method) {
				continue
			}
			a.fails(method, route, "", 405, fault.NoMethod)
			if _, header, _ := a.call(method, route, ""); strings.Join(header.Values("Allow"), ", ") != allowed {
				t.Errorf("%s %s: Allow: %q, want %s", method, route, header.Values("Allow"), allowed)
			}
		}
	}
}

// TestNoSecretInAnswers: of what is secret only the answer that made it speaks.
func TestNoSecretInAnswers(t *testing.T) {
	a := start(t, nil)
	material := []byte("this is the material of one key.")
	a.ok(post, stores, `{"name": "p", "uri_path_prefix": "/p"}`)
	var made operation.CreatedCredential
	if err := json.Unmarshal([]byte(a.ok(post, stores+"/p/credentials", "{}")), &made); err != nil || len(made.SecretAccessKey) < 43 || made.URIPathPrefix != "/p" {
		t.Fatalf("%+v: %v", made, err)
	}
	key := a.ok(post, stores+"/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached", "material": "`+base64.StdEncoding.EncodeToString(material)+`"}`)
	a.ok(post, stores+"/p/grants", `{"principal": "*", "operations": ["Encrypt"], "key_id": "k"}`)

	answers := map[string]string{"POST keys": key}
	for _, route := range []string{"/api/v1/status", stores, stores + "/p", stores + "/p/credentials", stores + "/p/keys", stores + "/p/keys/k", stores + "/p/grants"} {
		answers[route] = a.ok(get, route, "")
	}
	answers["deactivate"] = a.ok(post, stores+"/p/credentials/"+made.AccessKeyID+"/deactivate", "")
	answers["import once more"] = a.fails(post, stores+"/p/credentials", `{"access_key_id": "`+made.AccessKeyID+`", "secret_access_key": "`+made.SecretAccessKey+`"}`, 409, fault.Exists)
	answers["log"] = a.Log.String()
	raw, err := base64.StdEncoding.DecodeString(made.SecretAccessKey)
	if err != nil {
		t.Fatal(err)
	}
	for where, answer := range answers {
		for _, secret := range [][]byte{[]byte(made.SecretAccessKey), raw, material, a.Config.PIN} {
			for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)} {
				if strings.Contains(answer, form) {
					t.Errorf("%s has a secret: %s", where, answer)
				}
			}
		}
		for _, word := range []string{"secret", "seal", "wrapped", "material", "pin"} {
			if where != "log" && strings.Contains(strings.ToLower(answer), `"`+word) {
				t.Errorf("%s has a field %s: %s", where, word, answer)
			}
		}
	}
}

// TestClient: the API's refusals come back as errors of the domain, and what is
// not an appliance is told apart.
func TestClient(t *testing.T) {
	a := start(t, nil)
	c := web.NewClient(a.socket)
	var ks appliance.KeyStore
	if err := c.Do(t.Context(), post, "keystores", operation.NewKeyStore{Name: "p"}, &ks); err != nil || ks.Name != "p" || ks.ID == "" {
		t.Errorf("%+v: %v", ks, err)
	}
	err := c.Do(t.Context(), get, web.Path("keystores", "no/body?"), nil, &ks)
	var refused *fault.Fault
	if !errors.As(err, &refused) || refused.Code != fault.NotFound || !strings.Contains(refused.Message, "no key store") {
		t.Errorf("got %v", err)
	}
	if err := web.NewClient(a.socket+"-other").Do(t.Context(), get, "status", nil, nil); err == nil || !strings.Contains(err.Error(), "no appliance listens there") {
		t.Errorf("no socket: %v", err)
	}
	stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
	stranger.Listener.Close()
	if stranger.Listener, err = net.Listen("unix", filepath.Join(t.TempDir(), "s")); err != nil {
		t.Fatal(err)
	}
	stranger.Start()
	defer stranger.Close()
	if err := web.NewClient(stranger.Listener.Addr().String()).Do(t.Context(), get, "status", nil, nil); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("another program: %v", err)
	}
}

// TestPublicHandler answers whether the appliance lives and is ready, and
// nothing of the admin API.
func TestPublicHandler(t *testing.T) {
	a := start(t, nil)
	server := httptest.NewServer(web.NewHandler(web.Public{API: a.api, Boot: &webtest.Boot{}, Ready: a.Appliance.Ready, Metrics: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}))
	defer server.Close()
	ask := func(method, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b.String()
	}
	expect := func(method, path string, want int) {
		t.Helper()
		if status, text := ask(method, path); status != want {
			t.Errorf("%s %s: %d %s, want %d", method, path, status, text, want)
		}
	}
	expect(get, "/healthz", 200)
	expect(get, "/readyz", 200)
	expect(post, "/healthz", 405)
	expect(post, "/readyz", 405)
	for _, path := range []string{"/kms/xks/v1/health", "/metrics", "/debug/pprof/"} {
		expect(get, path, 404)
	}
	for _, path := range []string{"/api/v1/status", stores, stores + "/p"} {
		expect(get, path, 401)
	}
	a.Appliance.Lock()
	expect(get, "/readyz", 503)
	expect(get, "/healthz", 200)
}
