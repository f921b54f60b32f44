package console_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/passkeytest"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/web"
	"holdfast/web/console"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// serving is a boot without a platform, and its appliance serves.
func serving() *webtest.Boot {
	return &webtest.Boot{State: progress.Status{State: progress.Serving}, Err: progress.ErrNoPlatform}
}

// evilBoot says what nobody should.
func evilBoot() *webtest.Boot {
	return &webtest.Boot{Err: progress.ErrNoPlatform,
		State: progress.Status{State: progress.Degraded, Code: evil, Reason: evil, Attestation: &progress.Attestation{Reference: evil, Policy: evil, Unproven: evil}}}
}

// evilSite says so as well.
func evilSite() webtest.Site {
	return webtest.Site{Release: evil, Effective: evil,
		On:     instance.Identity{ID: "i-1234567890abcdef0", Type: "m6a.large", Image: "ami-5fb8c835", Region: "eu-central-1", Zone: "eu-central-1a", Account: "123456789012"},
		Served: operation.Certificate{Names: []string{evil}, Subject: evil, Issuer: evil, Chain: evil, NotAfter: evilEnd}}
}

// evilPolicies say so, too.
func evilPolicies() *webtest.Policies {
	return &webtest.Policies{Now: operation.AppraisalPolicy{Name: evil, Version: 3, SHA256: evil, Signer: evil, Unproven: evil, Admits: []string{evil}, Ignored: evil}}
}

// evilLaunches say so, too.
func evilLaunches() *webtest.Launches {
	file := &operation.LaunchFile{SHA256: evil, Version: 3, Owner: evil, Sets: []string{evil}}
	return &webtest.Launches{Now: operation.LaunchDetail{Required: true, InForce: file, Next: file, Why: evil, Ignored: evil}}
}

var evilEnd = time.Now().Add(1000 * time.Hour) // the same for each that is asked

// rig is a console of a real appliance, with users in a real database.
type rig struct {
	performers []*operation.Performer // of the nodes
	*xkstest.Bed
	t       testing.TB
	rows    *sqlite.DB // of users
	users   *identity.Directory
	api     *web.API
	console http.Handler
	audit   *webtest.Audit
	mu      sync.Mutex
	now     time.Time
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func start(t testing.TB) *rig {
	t.Helper()
	return startSealed(t, xkstest.Options{}, sealed)
}

// startOn starts it on a token, and locked by that code.
func startOn(t testing.TB, token hsm.Config, locked fault.Code) *rig {
	t.Helper()
	return startSealed(t, xkstest.Options{Token: token, Locked: locked}, sealed)
}

// startUnsealed starts one that takes users, tokens and requests for approval as
// they are in the database.
func startUnsealed(t testing.TB) *rig {
	t.Helper()
	return startSealed(t, xkstest.Options{}, func(r *rig) seals { return trusting{r.Appliance.Seals()} })
}

// seals authenticate the rows of a rig.
type seals interface {
	identity.Seals
	approval.Seals
}

// trusting takes each row for good.
type trusting struct{ *appliance.Seals }

func (trusting) Verify(context.Context, appliance.Binding, []byte) error { return nil }

func sealed(r *rig) seals { return r.Appliance.Seals() }

// startSealed starts one with the options of its bed; changes are those of who may sign in.
func startSealed(t testing.TB, o xkstest.Options, by func(*rig) seals, changes ...func(*identity.Config)) *rig {
	t.Helper()
	r := &rig{Bed: xkstest.Start(t, o), t: t, audit: &webtest.Audit{}, now: time.Now()}
	dir := t.TempDir()
	rows, err := appliancetest.OpenRows(t.Context(), filepath.Join(dir, "users.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	r.rows = rows
	log := slog.New(slog.NewTextHandler(r.Log, nil))
	checked := by(r)
	// Two nodes of a fleet, over one store, answer in turn: what one of them remembers alone
	// is missing in every second request.
	nodes, policies, launches := &balancer{}, evilPolicies(), evilLaunches()
	for range 2 {
		config := identity.Config{Store: rows, Seals: checked, Settings: r.Appliance, Log: log, Now: r.clock, URL: "https://console.test", SetupFile: filepath.Join(dir, "setup-code"), Nodes: func() int { return 2 }}
		for _, change := range changes {
			change(&config)
		}
		users, err := identity.New(config)
		if err != nil {
			t.Fatal(err)
		}
		api := web.NewAPI(operation.Options{Domain: r.Appliance, Boot: serving(), Audit: r.audit, Journal: rows.Machine(), Identity: users, Approvals: approval.Sealed(rows, checked), Settings: r.Appliance, Answers: r.Store, Seals: r.Appliance.Seals(),
			Activity: activity.New(r.clock), Site: evilSite(), Policies: policies, Launches: launches, Log: log, Now: r.clock})
		pages := console.New(console.Options{Performer: api.Performer, Identity: users, Boot: serving(), Version: "test", Log: log, Now: r.clock,
			Changes: func() uint64 { return rows.Changes() + r.Store.Changes() }})
		if nodes.routes == nil {
			nodes.routes, r.users, r.api = pages.(chi.Routes), users, api
		}
		nodes.all = append(nodes.all, pages)
		r.performers = append(r.performers, api.Performer)
	}
	r.console = nodes
	return r
}

// routes are those of one node, which all have.
type routes = chi.Routes

// balancer sends each request to another node.
type balancer struct {
	routes
	all  []http.Handler
	next atomic.Uint64
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.all[b.next.Add(1)%uint64(len(b.all))].ServeHTTP(w, r)
}

// session is somebody's browser.
type session struct {
	r         *rig
	name      string
	token     string
	principal identity.Principal
	passkey   *passkeytest.Authenticator // nil if they enrolled by password
	jar       http.CookieJar             // what pages have it carry
}

func (r *rig) invite(name string, role identity.Role) (link string) {
	r.t.Helper()
	root := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	_, link, err := r.users.Invite(r.t.Context(), root, name, role)
	if err != nil {
		r.t.Fatal(err)
	}
	return link
}

// enrol makes a user with a passkey, and signs in.
func (r *rig) enrol(name string, role identity.Role) *session {
	r.t.Helper()
	in, key := passkeytest.Enrol(r.t, r.users, r.invite(name, role), identity.Client{Address: "192.0.2.1:1"})
	return &session{r: r, name: name, token: in.Token, principal: in.Principal, passkey: key}
}

// enrolByPassword makes a user whose password the test is about.
func (r *rig) enrolByPassword(name string, role identity.Role) *session {
	r.t.Helper()
	invitation := r.invite(name, role)
	secret, err := r.users.BeginEnrolPassword(r.t.Context(), invitation, identity.Client{})
	if err != nil {
		r.t.Fatal(err)
	}
	code, err := totp.GenerateCode(secret.Secret, r.clock())
	if err != nil {
		r.t.Fatal(err)
	}
	in, err := r.users.FinishEnrolPassword(r.t.Context(), invitation, "a long enough sentence", code, identity.Client{Address: "192.0.2.1:1"})
	if err != nil {
		r.t.Fatal(err)
	}
	return &session{r: r, name: name, token: in.Token, principal: in.Principal}
}

// do sends a request; change may change it.
func (s *session) do(method, path string, form url.Values, change func(*http.Request)) *httptest.ResponseRecorder {
	s.r.t.Helper()
	q := httptest.NewRequest(method, "https://console.test"+path, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if s.token != "" {
		q.AddCookie(&http.Cookie{Name: "__Host-holdfast", Value: s.token})
	}
	if s.jar == nil {
		s.jar, _ = cookiejar.New(nil) // fails never
	}
	for _, k := range s.jar.Cookies(q.URL) {
		q.AddCookie(k)
	}
	if change != nil {
		change(q)
	}
	w := httptest.NewRecorder()
	s.r.console.ServeHTTP(w, q)
	s.jar.SetCookies(q.URL, slices.DeleteFunc(w.Result().Cookies(), func(k *http.Cookie) bool { return !strings.HasPrefix(k.Name, "__Secure-") }))
	return w
}

// submit posts a form, and gives the page to which the post leads, as a browser does. That it is
// answered by a redirect is asked here of every form that a test posts.
func (s *session) submit(path string, form url.Values) *httptest.ResponseRecorder {
	s.r.t.Helper()
	w := s.do(http.MethodPost, path, form, nil)
	if w.Code != http.StatusSeeOther {
		s.r.t.Errorf("%s is answered by %d, and not by a redirect: %s", path, w.Code, w.Body)
		return w
	}
	if strings.Contains(w.Header().Get("Location"), "kept=") || strings.HasPrefix(w.Header().Get("Location"), "/confirm/") || strings.HasPrefix(w.Header().Get("Location"), "/prove/") || strings.HasPrefix(w.Header().Get("Location"), "/answers/") {
		return s.do(http.MethodGet, w.Header().Get("Location"), nil, nil)
	}
	return w
}

func (s *session) version(revision string) string { return s.principal.Session + " " + revision }

// things are what forms name, all of them there.
func (r *rig) things(admin *session) url.Values {
	r.t.Helper()
	return r.thingsOf("bank", "", admin)
}

// thingsOf are such things, of a key store of that name; what is in none has the ending.
func (r *rig) thingsOf(keyStore, ending string, admin *session) url.Values {
	r.t.Helper()
	c, ctx := r.Appliance, r.t.Context()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	_, err := c.CreateKeyStore(ctx, appliance.KeyStore{Name: keyStore, URIPathPrefix: "/" + keyStore})
	must(err)
	_, err = c.CreateKey(ctx, keyStore, appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached})
	must(err)
	credential, _, err := c.CreateCredential(ctx, keyStore, appliance.NewCredential{})
	must(err)
	grant, err := c.AddGrant(ctx, keyStore, appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}})
	must(err)
	root := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	i, _, err := r.users.Invite(ctx, root, "guest"+ending, identity.RoleViewer)
	must(err)
	token, _, err := r.users.CreateToken(ctx, root, identity.NewToken{Name: "robot" + ending, Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	must(err)
	return url.Values{"keystore": {keyStore}, "key": {"k"}, "credential": {credential.AccessKeyID}, "grant": {grant.ID}, "invitation": {i.ID}, "token": {token.ID},
		"user": {admin.principal.UserID}, "user_name": {admin.name}, "session": {admin.principal.Session}, "approval": {strings.Repeat("0", 32)}, "passkey": {"AAAA"}, "node": {strings.Repeat("1", 32)}, "back": {"/keystores"}}
}

// entered is what people enter into forms: a value for each field of each form.
var entered = url.Values{"name": {"new"}, "uri_path_prefix": {"/new"}, "requests_per_second": {"5"}, "reason": {"why"}, "id": {"new"}, "usage": {"", "encrypt"}, "custody": {"cached"},
	"material": {""}, "framing": {""}, "reversible": {""}, "days": {"7"}, "principal": {"*"}, "operations": {"", "Encrypt"}, "effect": {"allow"}, "force": {""}, "own_authority": {""}, "other_name": {""}, "key_id": {""}, "not_after": {""}, "until": {"2026-11-28T03:04:05Z"}, "via_services": {""},
	"calling_accounts": {""}, "source_vpcs": {""}, "source_vpces": {""}, "kms_key_arns": {""}, "kms_key_regions": {""}, "kms_key_accounts": {""}, "kms_operations": {""}, "cedar": {""},
	"operation_name": {"Encrypt"}, "via_service": {""}, "source_vpc": {""}, "source_vpce": {""}, "kms_key_arn": {""}, "kms_operation": {""}, "access_key_id": {"ABCDEFGHIJKLMNOPQRST"}, "secret_access_key": {strings.Repeat("a", 44)},
	"pin": {"4711"}, "private_key": {"no key"}, "below": {"1"}, "role": {"viewer"}, "email": {"guest@example.com"}, "password": {"a long enough sentence"}, "code": {"123456"}, "four_eyes": {"", "deleteUser"}, "approval_hours": {"72"},
	"keys": {"1"}, "key_version": {"0"}, "setting": {"four_eyes"}, "time": {"2020-01-01T00:00"}, "admission": {strings.Repeat("0", 64)},
	"key_stores": {"", "*"}, "networks": {"*"}, "names": {"localhost"}, "chain": {"x"}, "file": {"id,usage,custody\nnew,encrypt,cached\n"}, "document": {"good"}, "policy": {"good"}, "authorizations": {""}, "approvals": {"good"}}

// confirmed are the form's values with what people enter, and whatever has to be
// typed once more.
func confirmed(v url.Values, operation, version string) url.Values {
	c := maps.Clone(entered)
	maps.Copy(c, v)
	c.Set("version", version)
	c.Set("confirm", typedName(c, operation))
	return c
}

// typedName is what has to be typed before an operation, if a name has.
func typedName(v url.Values, operation string) string {
	fields := map[string]string{"block": "key", "unblock": "key", "deleteKeyStore": "keystore", "setQuota": "keystore", "setPolicy": "keystore", "discardKeyStore": "keystore",
		"disableKey": "key", "scheduleKeyDeletion": "key", "discardKey": "key", "deactivateCredential": "credential", "deleteCredential": "credential", "discardCredential": "credential",
		"discardGrant": "grant", "discardSetting": "setting", "disableUser": "user_name", "deleteUser": "user_name", "setRole": "user_name", "drainNode": "node", "removeNode": "node"}
	words := map[string]string{"removeGrant": "*", "confirmTime": "Confirm time", "installCertificate": "Install certificate", "restoreCertificate": "Restore previous certificate", "shareCertificate": "Share certificate", "unshareCertificate": "Stop sharing certificate", "installPolicy": "Install appraisal policy", "installLaunch": "Install launch file", "revokePolicies": "Revoke older policies"}
	return cmp.Or(v.Get(fields[operation]), words[operation], "nothing is typed")
}

// TestEveryPost walks over everything that the console lets a browser post. A new
// route is among them by itself. Each refuses what comes from another site, who is
// not signed in, whose role does not reach, and a form of another session or of a
// state that is no more.
func TestEveryPost(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	byRole := map[identity.Role]*session{identity.RoleAdministrator: admin}
	for _, role := range identity.Roles[:3] {
		byRole[role] = r.enrol(string(role), role)
	}
	nobody := &session{r: r}
	things := r.things(admin)

	// Posts of those who are not signed in: what lets them in is a proof.
	open := []string{"/signin", "/signin/passkey/begin", "/signin/passkey/finish", "/signin/oidc/begin", "/setup", "/setup/check", "/setup/launch.toml", "/setup/hsm", "/theme", "/shortcuts",
		"/invitation/{token}/password", "/invitation/{token}/passkey/begin", "/invitation/{token}/passkey/finish"}
	// Posts that can be of no state that is no more: why.
	timeless := map[string]string{
		"/signout":              "ends the session of whoever posts, and nothing else",
		"/confirm/{id}":         "goes on with a form that is sealed for its user, and of its version",
		"/standing":             "says that the session is used, and nothing else",
		"/prove":                "proves, and goes on with nothing",
		"/prove/{id}":           "goes on with a form that is sealed for its user, and of its version",
		"/passkeys/begin":       "changes nothing",
		"/passkeys/finish":      "answers a challenge that is good once",
		"/prove/passkey/begin":  "changes nothing",
		"/prove/passkey/finish": "answers a challenge that is good once",
	}
	posts := 0
	err := chi.Walk(r.console.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == http.MethodGet || strings.HasPrefix(route, "/assets/") {
			return nil
		}
		posts++
		path := strings.NewReplacer("{operation}", "disableKey", "{token}", "x").Replace(route)
		for name, change := range map[string]func(*http.Request){
			"Sec-Fetch-Site: cross-site": func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") },
			"Sec-Fetch-Site: same-site":  func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "same-site") },
			"Origin": func(q *http.Request) {
				q.Header.Del("Sec-Fetch-Site")
				q.Header.Set("Origin", "https://evil.test")
			},
		} {
			if w := admin.do(method, path, things, change); w.Code != http.StatusForbidden {
				t.Errorf("%s %s, %s: %d", method, path, name, w.Code)
			}
		}
		if route == "/do/{operation}" {
			return nil // each operation is asked below
		}
		w := nobody.do(method, path, things, nil)
		if slices.Contains(open, route) {
			for _, k := range w.Result().Cookies() {
				if k.Name == "__Host-holdfast" && k.Value != "" {
					t.Errorf("%s %s lets somebody in who has proved nothing", method, path)
				}
			}
			return nil
		}
		if to := w.Header().Get("Location"); route == "/standing" && w.Code != http.StatusUnauthorized || // a page's script asks, and shows a dialog
			route != "/standing" && (w.Code != http.StatusSeeOther || !strings.HasPrefix(to, "/signin")) {
			t.Errorf("%s %s, not signed in: %d %s", method, path, w.Code, w.Header().Get("Location"))
		}
		if timeless[route] == "" {
			if w := admin.do(method, path, things, nil); w.Code != http.StatusConflict {
				t.Errorf("%s %s, without a version: %d %s", method, path, w.Code, w.Body)
			}
		}
		return nil
	})
	if err != nil || posts < 15 {
		t.Fatalf("%d routes: %v", posts, err)
	}

	routes := map[string]*operation.Route{}
	for _, route := range operation.Table() {
		routes[route.ID] = route
	}
	recorded := len(r.audit.Records)
	// The API does not know browsers: whatever site their post is from, it is nobody's.
	listener := web.NewHandler(web.Public{API: r.api, Boot: serving(), Ready: func(context.Context) (bool, string) { return true, "" }, Metrics: http.NotFoundHandler(), Identity: r.users, Console: r.console, Log: slog.New(slog.DiscardHandler)})
	for _, route := range routes {
		if !route.Mutates() {
			continue
		}
		for _, site := range []string{"cross-site", "same-site", "same-origin", "none"} {
			q := httptest.NewRequest(route.Method, "https://console.test"+operation.Prefix+strings.NewReplacer("{keystore}", "bank", "{key}", "k").Replace(route.Path), nil)
			q.Header.Set("Sec-Fetch-Site", site)
			q.AddCookie(&http.Cookie{Name: "__Host-holdfast", Value: admin.token})
			w := httptest.NewRecorder()
			if listener.ServeHTTP(w, q); w.Code != http.StatusUnauthorized {
				t.Errorf("the API's %s %s by the cookie of a session, %s: %d", route.Method, route.Path, site, w.Code)
			}
		}
	}
	for _, op := range console.Operations() {
		route := routes[op]
		if route == nil {
			t.Errorf("%s is no operation of the API", op)
			continue
		}
		path := "/do/" + op
		if w := nobody.submit(path, things); w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), "/signin") {
			t.Errorf("%s, not signed in: %d %s", op, w.Code, w.Header().Get("Location"))
		}
		for role, s := range byRole {
			if !role.May(route.Capability) {
				if w := s.submit(path, confirmed(things, op, s.version(""))); w.Code != http.StatusForbidden {
					t.Errorf("%s as %s: %d", op, role, w.Code)
				}
			}
		}
		for name, version := range map[string]string{"none": "", "of another session": byRole[identity.RoleViewer].version(""), "of another state": admin.version(`"0123"`)} {
			if w := admin.submit(path, confirmed(things, op, version)); w.Code != http.StatusConflict {
				t.Errorf("%s, version %s: %d %s", op, name, w.Code, w.Body)
			}
		}
	}
	for _, rec := range r.audit.Records[recorded:] {
		if rec.Result == audit.Allowed {
			t.Errorf("%s was done", rec.Operation)
		}
	}
}

// TestFormsAreWhole: a form that lacks a field, or has one twice, does nothing: no
// field that is absent is taken for one that is empty.
func TestFormsAreWhole(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	if err := r.Appliance.SetPolicy(t.Context(), "bank", appliance.Policies{Cedar: "forbid (principal, action, resource);"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Appliance.SetQuota(t.Context(), "bank", 5); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Appliance.Block(t.Context(), appliance.BlockTarget{Everything: true}, "why", "alice"); err != nil {
		t.Fatal(err)
	}
	if err := r.Appliance.SetSetting(t.Context(), appliance.SettingFourEyes, `{"operations":["deleteUser"]}`); err != nil {
		t.Fatal(err)
	}
	recorded, asked := len(r.audit.Records), 0
	for op, fields := range console.Fields() {
		for _, name := range fields {
			for what, values := range map[string][]string{"missing": nil, "twice": {"1", "2"}} {
				form := confirmed(things, op, admin.version(""))
				form.Del("everything")
				if form[name] = values; values == nil {
					delete(form, name)
				}
				if len(entered[name]) > 1 && values != nil {
					continue // boxes
				}
				asked++
				if w := admin.submit("/do/"+op, form); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), name) {
					t.Errorf("%s, %s %s: %d", op, name, what, w.Code)
				}
			}
		}
	}
	// Of what to unblock, nothing is not everything.
	form := confirmed(things, "unblock", admin.version(""))
	form.Del("keystore")
	form.Del("key")
	form.Set("confirm", "everything")
	if w := admin.submit("/do/unblock", form); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("unblock without a target: %d", w.Code)
	}
	form = confirmed(things, "createCredential", admin.version(""))
	form.Set("access_key_id", "")
	form.Set("secret_access_key", "")
	if w := admin.submit("/do/createCredential", form); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("to import an empty credential: %d", w.Code)
	}
	if asked < 80 {
		t.Errorf("only %d forms were tried", asked)
	}
	for _, rec := range r.audit.Records[recorded:] {
		if rec.Result == audit.Allowed {
			t.Errorf("%s was done", rec.Operation)
		}
	}
	if !strings.Contains(admin.do("GET", "/", nil, nil).Body.String(), "Unblock everything") {
		t.Error("nothing is blocked any more")
	}
}

// TestPagesAreListed: what the router has for browsers to open is in the list of
// pages, by which other tests look at each.
func TestPagesAreListed(t *testing.T) {
	pages, found := console.Pages(), 0
	files := []string{"/assets/*", "/download/{what}", "/standing", identity.CallbackPath} // a part of each page; the last sends on
	err := chi.Walk(start(t).console.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == http.MethodGet && !slices.Contains(files, route) {
			found++
			if !slices.Contains(pages, route) {
				t.Errorf("%s is not in the list of pages", route)
			}
		}
		return nil
	})
	if err != nil || found < 20 {
		t.Errorf("%d pages: %v", found, err)
	}
}

// TestPresence: what is dangerous asks for a proof when the last is old, keeps what
// was entered, and goes on with it.
func TestPresence(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	r.pass(6 * time.Minute)
	form := confirmed(things, "scheduleKeyDeletion", admin.version(""))
	form.Set("days", "7")
	form.Set("back", "/keystores/bank/keys/k")
	w := admin.submit("/do/scheduleKeyDeletion", form)
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "Prove that it is you") || !strings.Contains(w.Body.String(), operation.ScheduleKeyDeletion.Words) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	page := proofPath(w)
	w = admin.submit(page, url.Values{"password": {"wrong, all of it"}, "code": {"000000"}})
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "did not prove") {
		t.Fatalf("wrong password: %d %s", w.Code, w.Body)
	}
	codes, err := r.users.NewRecoveryCodes(t.Context(), admin.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	w = admin.submit(proofPath(w), url.Values{"password": {"a long enough sentence"}, "code": {codes[0]}})
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/keystores/bank/keys/k" {
		t.Fatalf("%d %s %s", w.Code, w.Header().Get("Location"), w.Body)
	}
	if k, err := r.Appliance.ShowKey(t.Context(), "bank", "k"); err != nil || k.State != appliance.KeyPendingDeletion {
		t.Errorf("%v %v", k, err)
	}
}

// proofPath is where the forms of a page that asks for a proof are posted to.
func proofPath(w *httptest.ResponseRecorder) string {
	return regexp.MustCompile(`/prove/[0-9a-f]+`).FindString(w.Body.String())
}

// TestSuspendedDeletion: pages say what a suspended deletion is, list it, and offer
// to cancel it or to schedule it again, and nothing else.
func TestSuspendedDeletion(t *testing.T) {
	r := start(t)
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		if _, err := r.Appliance.CreateKeyStore(t.Context(), appliance.KeyStore{Name: "bank", URIPathPrefix: "/bank"}); err != nil && fault.CodeOf(err) != fault.Exists {
			t.Fatal(err)
		}
		if _, err := r.Appliance.CreateKey(t.Context(), "bank", appliance.NewExternalKey{ID: string(custody), Usage: appliance.Usage{Encrypt: true}, Custody: custody}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Appliance.ScheduleDeletion(t.Context(), "bank", string(custody), 7); err != nil {
			t.Fatal(err)
		}
	}
	var backup bytes.Buffer
	made, err := r.Appliance.Backup(t.Context(), "")
	if err == nil {
		_, err = made.WriteTo(&backup)
		err = errors.Join(err, made.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Bed.Stop()
	token := r.Bed.Config
	r = startOn(t, token, fault.StateMissing)
	if _, err := r.Appliance.Restore(t.Context(), &backup, appliance.Restoration{}); err != nil {
		t.Fatal(err)
	}
	admin := r.enrol("admin", identity.RoleAdministrator)
	page := func(path string) string {
		t.Helper()
		w := admin.do("GET", path, nil, nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	if list := page("/keystores/bank/keys?standing=deletion_suspended"); !strings.Contains(list, "Deletion suspended") || strings.Count(list, "/do/cancelKeyDeletion") != 2 || strings.Contains(list, "/do/enableKey") {
		t.Errorf("the list is %s", list)
	}
	if list := page("/keystores/bank/keys?standing=pending_deletion"); strings.Contains(list, "/do/cancelKeyDeletion") {
		t.Errorf("keys are still pending deletion: %s", list)
	}
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		text := page("/keystores/bank/keys/" + string(custody))
		for part, want := range map[string]bool{"The deletion of this key is suspended": true, "/do/cancelKeyDeletion": true, "/do/scheduleKeyDeletion": true,
			"/do/enableKey": false, "/do/disableKey": false, "/do/rotateKey": false, "This key will be destroyed": false,
			"it is destroyed there": custody == appliance.CustodyHSM} {
			if strings.Contains(text, part) != want {
				t.Errorf("%s: %q is on the page: %t", custody, part, !want)
			}
		}
	}
	if text := page("/settings"); !strings.Contains(text, "what was revoked since then is valid again") {
		t.Error("the settings do not say what a restore brings back")
	}
}

// evil is what should be a text and nothing more.
const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>{{7+7}}'`

// storeEvil puts it wherever a page may find it, past all that checks what comes in.
func (r *rig) storeEvil(user string) {
	r.t.Helper()
	ctx, now := r.t.Context(), r.clock()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	for _, target := range []appliance.BlockTarget{{KeyStore: "bank", KeyID: "k"}, {KeyStore: "bank"}, {Everything: true}} {
		_, err := r.Appliance.Block(ctx, target, evil, "alice")
		must(err)
	}
	all := []string{evil}
	stores, err := r.Store.KeyStores(ctx)
	must(err)
	bank := stores[slices.IndexFunc(stores, func(ks *appliance.KeyStore) bool { return ks.Name == "bank" })]
	must(r.Store.CreateGrants(ctx, &appliance.Grant{ID: strings.Repeat("e", 32), KeyStore: bank.ID, Effect: appliance.EffectAllow, CreatedAt: time.Now(), Seal: []byte("none"),
		Principal: evil, KeyID: "k", Operations: []appliance.Operation{appliance.OpEncrypt},
		Conditions: appliance.Conditions{ViaServices: all, SourceVPCs: all, SourceVPCEs: all, KMSKeyARNs: all, KMSKeyRegions: all, KMSOperations: all}}))
	must(r.Appliance.SetPolicy(ctx, "bank", appliance.Policies{Cedar: "// " + evil + "\npermit (principal, action, resource);"}))
	must(r.audit.Record(ctx, &audit.Record{Kind: audit.KindXKS, Operation: evil, Principal: evil, KMSRequestID: evil, KMSKeyARN: evil, KMSOperation: evil, ViaService: evil, Actor: evil, Detail: evil,
		Key: evil, KeyStore: evil, Error: evil, Remote: evil, Policies: all, Before: []byte(`{"x": "` + strings.ReplaceAll(evil, `"`, `\"`) + `"}`)}))
	_, err = r.rows.UpdateAccount(ctx, user, func(a *identity.Account) error {
		a.Name, a.OIDC = evil, evil
		a.Passkeys = append(a.Passkeys, identity.StoredPasskey{Name: evil})
		return nil
	}, nil)
	must(err)
	must(r.rows.CreateInvitation(ctx, &identity.Invitation{ID: strings.Repeat("1", 32), Name: evil, Role: identity.RoleViewer, InvitedBy: evil, CreatedAt: now, ExpiresAt: now.Add(time.Hour), Digest: []byte("1")}))
	must(r.rows.CreateToken(ctx, &identity.Token{ID: strings.Repeat("2", 32), Name: evil, Role: identity.RoleViewer, CreatedBy: evil, CreatedAt: now, ExpiresAt: now.Add(time.Hour), Digest: []byte("2")}))
	for i, state := range []approval.State{approval.Pending, approval.Failed} {
		must(r.rows.CreateApproval(ctx, &approval.Request{ID: strings.Repeat(string(rune('3'+i)), 32), Operation: "removeGrant", Method: "DELETE", Path: evil, Body: []byte(`{"principal": "` + strings.ReplaceAll(evil, `"`, `\"`) + `"}`),
			UserID: "u", RequestedBy: evil, CreatedAt: now, ExpiresAt: now.Add(time.Hour), State: state, DecidedBy: evil, Outcome: evil}))
	}
	must(r.rows.Machine().RecordBootStep(ctx, progress.Step{Boot: strings.Repeat("5", 32), Seq: 1, State: evil, Code: evil, Reason: evil, Began: now}))
}

// TestStoredStaysText: strings that are stored stay text on every page that is
// opened, and no page has a policy that would let them be more.
func TestStoredStaysText(t *testing.T) {
	r := startUnsealed(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	r.storeEvil(admin.principal.UserID)
	r.console = console.New(console.Options{Performer: r.api.Performer, Identity: r.users, Boot: evilBoot(), Version: evil, Log: slog.New(slog.DiscardHandler), Now: r.clock})
	seq := -1
	for i, rec := range r.audit.Records {
		if rec.Operation == evil {
			seq = i
		}
	}
	r.audit.Records = r.audit.Records[seq:]
	r.audit.Records[0].Seq = 0
	if w := admin.do("POST", "/theme", url.Values{"theme": {evil}, "back": {"//evil.test/"}}, nil); w.Header().Get("Location") != "/" {
		t.Errorf("sent to %s", w.Header().Get("Location"))
	}
	agent := func(q *http.Request) { q.Header.Set("User-Agent", evil) }
	text := url.QueryEscape(evil)
	paths := []string{"/audit?principal=" + text, "/keystores/bank/keys?prefix=" + text, "/attestation/report?nonce=" + text, "/" + url.PathEscape(evil), "/signin?next=" + text}
	for _, page := range console.Pages() {
		paths = append(paths, strings.NewReplacer("{keystore}", "bank", "{key}", "k", "{seq}", "0", "{user}", admin.principal.UserID, "{token}", url.PathEscape(evil)).Replace(page))
	}
	look := func(path string, w *httptest.ResponseRecorder) {
		t.Helper()
		body := w.Body.String()
		for _, bad := range []string{"<script>alert", "<img src=x", " onerror=alert(2)>", " style="} {
			if strings.Contains(body, bad) {
				t.Errorf("%s has %s", path, bad)
			}
		}
		// The frame of those who are signed in has the user's name.
		if w.Code == http.StatusOK && strings.Contains(body, "sign-out") && !strings.Contains(body, "&lt;script&gt;alert") {
			t.Errorf("%s shows the string nowhere", path)
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'self'") || strings.Contains(csp, "unsafe") || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: policy %q, cache %q", path, csp, w.Header().Get("Cache-Control"))
		}
	}
	for _, path := range paths {
		if w := admin.do("GET", path, nil, agent); w.Code != http.StatusMethodNotAllowed { // only posts have it
			look(path, w)
		}
	}
	for operation, form := range map[string]url.Values{
		"renderGrant": {"principal": {evil}, "operations": {"Encrypt"}},
		"testGrants":  {"principal": {evil}, "operation_name": {"Encrypt"}, "key": {"k"}, "via_service": {evil}},
		"createKey":   {"id": {evil}, "back": {"/keystores/bank/keys"}},
		"setPolicy":   {"cedar": {evil}, "back": {"/keystores/bank/grants"}},
		"disableKey":  {"key": {evil}, "back": {"/" + evil}},
	} {
		for name, values := range entered {
			if !form.Has(name) {
				form[name] = values
			}
		}
		form.Set("version", admin.version(""))
		form.Set("keystore", "bank")
		w := admin.do("GET", admin.do("POST", "/do/"+operation, form, agent).Header().Get("Location"), nil, agent)
		look("/do/"+operation, w)
		if w.Code == http.StatusSeeOther || !strings.Contains(w.Body.String(), "&lt;script&gt;alert") {
			t.Errorf("/do/%s: %d, and the string is not shown", operation, w.Code)
		}
	}
	// Each is on the page where it belongs, so that the test is of something.
	for path, times := range map[string]int{"/": 6, "/keystores/bank": 3, "/keystores/bank/keys/k": 5, "/keystores/bank/grants": 6, "/audit": 4, "/audit/0": 12, "/users": 5,
		"/users/" + admin.principal.UserID: 4, "/account": 4, "/approvals": 6, "/attestation/history": 5, "/settings": 4} {
		if n := strings.Count(admin.do("GET", path, nil, agent).Body.String(), "&lt;script&gt;alert"); n < times {
			t.Errorf("%s has it %d times, want %d", path, n, times)
		}
	}
}

// TestSecretsNotInTheLog: what people enter to prove who they are is nowhere in
// the program's log or the audit log.
func TestSecretsNotInTheLog(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	admin.do("POST", "/signin", url.Values{"name": {"admin"}, "password": {"my secret sentence 4711"}, "code": {"123456"}}, nil)
	admin.do("POST", "/setup", url.Values{"name": {"eve"}, "setup_code": {"SECRET-SETUP"}}, nil)
	admin.submit("/do/seal", url.Values{"version": {admin.version("")}, "pin": {"secret-pin-4711"}})
	w := admin.submit("/do/createToken", url.Values{"version": {admin.version("")}, "name": {"t"}, "role": {"viewer"}, "days": {"1"}, "key_stores": {"", "*"}, "operations": {"", "*"}, "networks": {"*"}})
	i := strings.Index(w.Body.String(), "hf_")
	if i < 0 {
		t.Fatalf("no token: %d %s", w.Code, w.Body)
	}
	secret := w.Body.String()[i : i+46]
	var all bytes.Buffer
	all.WriteString(r.Log.String())
	for _, rec := range r.audit.Records {
		line, err := rec.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(line)
	}
	for _, s := range []string{"my secret sentence 4711", "123456\"", "SECRET-SETUP", "secret-pin-4711", secret, admin.token} {
		if strings.Contains(all.String(), s) {
			t.Errorf("%s is in a log", s)
		}
	}
}
