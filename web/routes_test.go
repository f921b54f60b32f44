package web_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// caller calls the API in somebody's name.
type caller struct {
	t     testing.TB
	api   http.Handler
	audit *webtest.Audit
}

func (c *caller) call(who *identity.Principal, method, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, operation.Prefix+path, strings.NewReader(body))
	if who != nil {
		r = r.WithContext(identity.WithPrincipal(r.Context(), *who))
	}
	r.Header.Set(operation.ReasonHeader, "a%20test")
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	c.api.ServeHTTP(w, r)
	documented(c.t, method, path, w.Code)
	return w
}

func newCaller(t testing.TB) (*caller, *xkstest.Bed) {
	t.Helper()
	b := xkstest.Start(t, xkstest.Options{})
	a := &webtest.Audit{}
	return &caller{t, web.NewAPI(options(t, b.Appliance, &webtest.Boot{State: progress.Status{State: progress.Serving, Steps: []progress.Step{}}}, a, slog.New(slog.NewTextHandler(b.Log, nil)))), a}, b
}

func code(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var f web.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return string(f.Code)
}

var inPath = regexp.MustCompile(`\{\w+\}`)

// TestEveryRoute: what holds for all routes, asked of each. A new one is among them
// by itself.
func TestEveryRoute(t *testing.T) {
	c, _ := newCaller(t)
	ids := map[string]bool{}
	for _, route := range operation.Table() {
		path := inPath.ReplaceAllString(route.Path, "x")
		name := route.Method + " " + path
		if ids[route.ID] || route.Summary == "" || route.Capability == "" {
			t.Errorf("%s: its ID %s is another's, or it has no summary or capability", name, route.ID)
		}
		ids[route.ID] = true

		if w := c.call(nil, route.Method, path, ""); w.Code != http.StatusUnauthorized || code(t, w) != "unauthenticated" {
			t.Errorf("%s, nobody: %d %s", name, w.Code, w.Body)
		}
		for _, role := range identity.Roles {
			before := len(c.audit.Records)
			who := &identity.Principal{Name: "somebody", Role: role, UserID: "u", Session: "s", ProvenAt: time.Now()}
			if role.May(route.Capability) {
				continue
			}
			if w := c.call(who, route.Method, path, ""); w.Code != http.StatusForbidden || code(t, w) != "forbidden" {
				t.Errorf("%s as %s: %d %s", name, role, w.Code, w.Body)
			}
			if len(c.audit.Records) != before+1 || c.audit.Records[before].Result != audit.Denied {
				t.Errorf("%s as %s: the refusal is not recorded", name, role)
			}
		}
		admin := &identity.Principal{Name: "admin", Role: identity.RoleAdministrator, UserID: "u", Session: "s", ProvenAt: time.Now().Add(-time.Hour)}
		stale := func(r *http.Request) { r.Header.Set("If-Match", `"0000"`) }
		if route.Guards().Presence || route.Changes() {
			w := c.call(admin, route.Method, path, samples[route.ID], stale)
			if asked := w.Code == http.StatusForbidden && code(t, w) == "presence"; asked != route.Guards().Presence {
				t.Errorf("%s, long ago: presence is asked for: %t, %d %s", name, asked, w.Code, w.Body)
			}
		}
		if !route.Mutates() {
			continue
		}
		admin.ProvenAt = time.Now()
		if w := c.call(admin, route.Method, path, samples[route.ID], stale); w.Code != http.StatusPreconditionFailed || code(t, w) != "stale" {
			t.Errorf("%s, stale: %d %s", name, w.Code, w.Body)
		}
	}
	for _, r := range c.audit.Records {
		if r.Result == audit.Allowed {
			t.Errorf("%s was done", r.Operation)
		}
	}
}

// TestIfMatch: the revision of what was seen is the one that is, until somebody
// changes it; that it serves changes nothing.
func TestIfMatch(t *testing.T) {
	c, b := newCaller(t)
	admin := &root
	c.call(admin, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`)
	c.call(admin, "POST", "/keystores/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`)
	var k appliance.StoredKey
	if err := json.Unmarshal(c.call(admin, "GET", "/keystores/p/keys/k", "").Body.Bytes(), &k); err != nil {
		t.Fatal(err)
	}
	seen := operation.Revision(&k)
	var list operation.List[*appliance.ExternalKey]
	if err := json.Unmarshal(c.call(admin, "GET", "/keystores/p/keys", "").Body.Bytes(), &list); err != nil || operation.Revision(list.Items[0]) != seen {
		t.Errorf("in the list it has another revision: %v", err)
	}
	if _, err := b.Store.ReserveEncryptions(t.Context(), storeID(t, b, "p"), "k", 1, 64); err != nil {
		t.Fatal(err)
	}
	match := func(r *http.Request) { r.Header.Set("If-Match", seen) }
	if w := c.call(admin, "POST", "/keystores/p/keys/k/disable", "", match); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := c.call(admin, "POST", "/keystores/p/keys/k/enable", "", match); w.Code != http.StatusPreconditionFailed {
		t.Errorf("it was disabled meanwhile: %d %s", w.Code, w.Body)
	}
}

func storeID(t *testing.T, b *xkstest.Bed, name string) string {
	t.Helper()
	all, err := b.Appliance.KeyStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all[slices.IndexFunc(all, func(k *appliance.KeyStore) bool { return k.Name == name })].ID
}

// TestFourEyes: what was chosen waits, and is done once, in the name of who asked.
func TestFourEyes(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	c, b, users, person := p.caller, p.Bed, p.users, p.user
	ctx := t.Context()
	must := func(w *httptest.ResponseRecorder, status int) *httptest.ResponseRecorder {
		t.Helper()
		if w.Code != status {
			t.Fatalf("%d %s, want %d", w.Code, w.Body, status)
		}
		return w
	}
	_, tokenA, err := users.CreateToken(ctx, *person("alice"), identity.NewToken{Name: "a", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	robot, err := users.Bearer(ctx, tokenA, identity.Client{})
	if err != nil {
		t.Fatal(err)
	}
	must(c.call(&root, "PUT", "/settings", `{"four_eyes": ["nonsense"]}`), 400)
	must(c.call(&root, "PUT", "/settings", `{"four_eyes": ["deleteKeyStore"]}`), 200)
	must(c.call(&root, "POST", "/keystores", `{"name": "p"}`), 201)

	var asked operation.ApprovalDetail
	if err := json.Unmarshal(must(c.call(&robot, "DELETE", "/keystores/p", ""), 202).Body.Bytes(), &asked); err != nil {
		t.Fatal(err)
	}
	must(c.call(&robot, "PUT", "/settings", `{"four_eyes": []}`), 202) // nobody alone takes it back
	must(c.call(&root, "GET", "/keystores/p", ""), 200)
	approve := "/approvals/" + asked.ID + "/approve"
	must(c.call(&robot, "POST", approve, decided), 403)          // no person
	must(c.call(person("alice"), "POST", approve, decided), 403) // whose token it is
	must(c.call(person("bob"), "POST", approve, decided), 200)
	must(c.call(&root, "GET", "/keystores/p", ""), 404)
	must(c.call(person("bob"), "POST", approve, decided), 409)
	done := false
	for _, r := range c.audit.Records {
		done = done || r.Operation == "DELETE keystores/{keystore}" && r.Actor == "token a" && r.ApprovedBy == "bob" && r.Approval != "" && r.Token != ""
	}
	if !done {
		t.Error("the audit log does not say who asked and who approved")
	}

	// Who may not any more when it is approved, is refused.
	must(c.call(&root, "POST", "/keystores", `{"name": "q"}`), 201)
	if err := json.Unmarshal(must(c.call(&robot, "DELETE", "/keystores/q", ""), 202).Body.Bytes(), &asked); err != nil {
		t.Fatal(err)
	}
	if _, err := users.RevokeToken(ctx, robot.Token); err != nil {
		t.Fatal(err)
	}
	must(c.call(person("bob"), "POST", "/approvals/"+asked.ID+"/approve", decided), 409)
	must(c.call(person("bob"), "POST", "/approvals/"+asked.ID+"/reject", decided), 200)
	if _, err := b.Appliance.ShowKeyStore(ctx, "q"); err != nil {
		t.Error(err)
	}
}

// openAPI is what the tests read of the document.
type openAPI struct {
	OpenAPI string
	Paths   map[string]map[string]struct {
		OperationID string
		Parameters  []struct{ Name, In string }
		RequestBody struct {
			Required bool
			Content  map[string]struct{ Schema *jsonschema.Schema }
		}
		Responses map[string]struct {
			Content map[string]struct{ Schema *jsonschema.Schema }
		}
	}
	Components struct{ Schemas map[string]*jsonschema.Schema }

	resolved map[string]*jsonschema.Resolved // by the schema's text
}

func (c *caller) document() *openAPI {
	var d openAPI
	w := c.call(&root, "GET", "/openapi.json", "")
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.OpenAPI != "3.1.0" {
		c.t.Fatalf("%v %.200s", err, w.Body)
	}
	return &d
}

// schema gives what a reference is of.
func (d *openAPI) schema(s *jsonschema.Schema) *jsonschema.Schema {
	if s != nil && s.Ref != "" {
		return d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

// resolve makes a schema ready, with those that it refers to.
func (d *openAPI) resolve(s *jsonschema.Schema) (*jsonschema.Resolved, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if r := d.resolved[string(text)]; r != nil {
		return r, nil
	}
	whole := jsonschema.Schema{AllOf: []*jsonschema.Schema{s}, Defs: map[string]*jsonschema.Schema{}}
	if err := d.define(text, whole.Defs); err != nil {
		return nil, err
	}
	all, err := json.Marshal(&whole)
	if err != nil {
		return nil, err
	}
	var local jsonschema.Schema
	if err := json.Unmarshal(bytes.ReplaceAll(all, []byte("#/components/schemas/"), []byte("#/$defs/")), &local); err != nil {
		return nil, err
	}
	r, err := local.Resolve(nil)
	if err == nil {
		if d.resolved == nil {
			d.resolved = map[string]*jsonschema.Resolved{}
		}
		d.resolved[string(text)] = r
	}
	return r, err
}

var references = regexp.MustCompile(`"#/components/schemas/([^"]+)"`)

// define adds the schemas that a text refers to, and those that they refer to. One that is not
// there fails when it is resolved.
func (d *openAPI) define(text []byte, defs map[string]*jsonschema.Schema) error {
	for _, m := range references.FindAllSubmatch(text, -1) {
		name := string(m[1])
		s := d.Components.Schemas[name]
		if defs[name] != nil || s == nil {
			continue
		}
		defs[name] = s
		more, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := d.define(more, defs); err != nil {
			return err
		}
	}
	return nil
}

// TestOpenAPI: the document has each route and nothing else, and answers are as it
// says.
func TestOpenAPI(t *testing.T) {
	c, _ := newCaller(t)
	d := c.document()
	n := 0
	for path, operations := range d.Paths {
		for method, op := range operations {
			n++
			i := slices.IndexFunc(operation.Table(), func(r *operation.Route) bool {
				return r.ID == op.OperationID && r.Path == path && strings.EqualFold(r.Method, method)
			})
			if i < 0 {
				t.Errorf("%s %s is no route", method, path)
			}
			for _, m := range inPath.FindAllString(path, -1) {
				if !slices.ContainsFunc(op.Parameters, func(p struct{ Name, In string }) bool { return "{"+p.Name+"}" == m && p.In == "path" }) {
					t.Errorf("%s: %s is not described", path, m)
				}
			}
		}
	}
	if n != len(operation.Table()) {
		t.Errorf("the document has %d operations, the API %d", n, len(operation.Table()))
	}
	for name, s := range d.Components.Schemas {
		if _, err := d.resolve(s); err != nil {
			t.Errorf("the schema %s: %v", name, err)
		}
	}

	c.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`)
	c.call(&root, "POST", "/keystores/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`)
	c.call(&root, "POST", "/keystores/p/grants", `{"principal": "*", "operations": ["Encrypt"], "key_id": "k", "not_after": "2099-01-01T00:00:00Z"}`)
	c.call(&root, "POST", "/keystores/p/credentials", `{}`)
	c.call(&root, "POST", "/tokens", `{"name": "t", "role": "viewer", "days": 3, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`)
	c.call(&root, "POST", "/invitations", `{"name": "guest", "role": "viewer"}`)
	c.call(&root, "POST", "/block", `{"key_store": "p", "key_id": "k", "reason": "why"}`)
	c.api.(*web.API).Performer.Boot.(*webtest.Boot).History = &progress.Releases{LogKey: "k", Records: []progress.ReleaseRecord{
		{Number: 2, Time: time.Now(), Result: "refused", Code: "E_BROKER_STOPPED", Reason: "r", Remote: "10.0.0.17:41522", Instance: "i-0123456789abcdef0", Policy: 1, Evidence: strings.Repeat("0", 64)},
		{Number: 1, Time: time.Now(), Result: "added", By: "ann"}}}
	checked := 0
	for path, operations := range d.Paths {
		op, ok := operations["get"]
		if !ok || path == "/account/sessions" {
			continue
		}
		at := strings.NewReplacer("{keystore}", "p", "{key}", "k", "{seq}", "0").Replace(path)
		if strings.Contains(at, "{") {
			continue // TestMadeThings looks at these
		}
		if slices.ContainsFunc(op.Parameters, func(p struct{ Name, In string }) bool { return p.Name == "nonce" }) {
			at += "?nonce=" + nonce
		}
		w := c.call(&root, "GET", at, "")
		media, ok := op.Responses["200"].Content["application/json"]
		if w.Code != 200 || !ok {
			if ok {
				t.Errorf("%s: %d %s", at, w.Code, w.Body)
			}
			continue
		}
		if err := d.validate(media.Schema, w.Body.Bytes()); err != nil {
			t.Errorf("%s: %v: %s", at, err, w.Body)
		}
		checked++
	}
	if checked < 20 {
		t.Errorf("only %d answers were compared with the document", checked)
	}
}

// validate compares an answer with a schema.
func (d *openAPI) validate(s *jsonschema.Schema, body []byte) error {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	if s.Ref == "" && s.Items != nil && s.Items.Ref != "" {
		items, ok := v.([]any)
		if !ok {
			return fmt.Errorf("it is no list")
		}
		for _, item := range items {
			text, _ := json.Marshal(item)
			if err := d.validate(s.Items, text); err != nil {
				return err
			}
		}
		return nil
	}
	resolved, err := d.resolve(s)
	if err != nil {
		return err
	}
	return resolved.Validate(v)
}

var (
	madeUp     = flag.Int("made-up", 60, "how many runs of twenty requests TestMadeUpRequests makes")
	madeUpSeed = flag.Uint64("made-up-seed", 0, "the first seed of TestMadeUpRequests; 0 makes one up")
)

// TestMadeUpRequests sends requests that the document makes up, and such as are nearly so:
// each is answered, none with a failure of the appliance's own. It is no fuzz test: a run is made of a
// seed, and nothing can be learnt of what the seed before it has reached.
func TestMadeUpRequests(t *testing.T) {
	for *madeUpSeed == 0 {
		*madeUpSeed = rand.Uint64()
	}
	t.Logf("-made-up-seed %d", *madeUpSeed)
	shards := runtime.GOMAXPROCS(0)
	for shard := range shards { // each has an appliance of its own
		t.Run("", func(t *testing.T) {
			t.Parallel()
			u := newUser(t)
			for run := shard; run < *madeUp && !t.Failed(); run += shards {
				u.requests(t, *madeUpSeed+uint64(run))
			}
		})
	}
}

// user sends requests that it makes up.
type user struct {
	*caller
	bed *xkstest.Bed
	d   *openAPI
	all []called
	who identity.Principal
}

// called is an operation of the document.
type called struct {
	method, path string
	query        []string
	body         *jsonschema.Schema
}

func newUser(t *testing.T) *user {
	t.Helper()
	c, b := newCaller(t)
	u := &user{caller: c, bed: b, d: c.document(), who: root}
	u.who.UserID, u.who.Session, u.who.ProvenAt = "u", "s", time.Now().Add(1000*time.Hour)
	for path, operations := range u.d.Paths {
		for method, op := range operations {
			o := called{method: strings.ToUpper(method), path: path}
			for _, p := range op.Parameters {
				if p.In == "query" {
					o.query = append(o.query, p.Name)
				}
			}
			if m, ok := op.RequestBody.Content["application/json"]; ok {
				o.body = u.d.schema(m.Schema)
			}
			u.all = append(u.all, o)
		}
	}
	slices.SortFunc(u.all, func(x, y called) int { return strings.Compare(x.path+x.method, y.path+y.method) })
	c.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`)
	c.call(&root, "POST", "/keystores/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`)
	return u
}

// requests sends those of a seed.
func (u *user) requests(t *testing.T, seed uint64) {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	g := &maker{rand.New(rand.NewChaCha8(s)), u.d}
	for range 20 {
		o := u.all[g.IntN(len(u.all))]
		path := inPath.ReplaceAllStringFunc(o.path, func(string) string { return url.PathEscape(g.word()) })
		query := url.Values{}
		for _, name := range o.query {
			if g.IntN(2) == 0 {
				query.Set(name, g.word())
			}
		}
		misspelt := g.IntN(10) == 0
		if misspelt {
			query.Set(strings.ToUpper(g.word())+"_", g.word())
		}
		body := ""
		if o.body != nil && g.IntN(20) > 0 {
			text, err := json.Marshal(g.value(o.body, 0))
			if err != nil {
				t.Fatal(err)
			}
			body = string(text)
		} else if g.IntN(2) == 0 {
			body = g.word()
		}
		if o.path == "/block" && !strings.Contains(body, "key_store") {
			continue // nothing else would be tried
		}
		as := u.who
		if g.IntN(2) == 0 {
			as = root
		}
		w := u.call(&as, o.method, path+"?"+query.Encode(), body)
		if w.Code >= 500 {
			t.Errorf("%d: %s %s?%s %s: %d %s\n%s", seed, o.method, path, query.Encode(), body, w.Code, w.Body, last(u.bed.Log.String()))
		}
		if w.Code >= 400 {
			code(t, w) // every failure is one
		} else if misspelt || o.body != nil && strings.TrimSpace(body) == "" {
			t.Errorf("%d: %s %s?%s %q is done: %d", seed, o.method, path, query.Encode(), body, w.Code)
		}
		if w.Code >= 400 && bytes.Contains(requestID.ReplaceAll(w.Body.Bytes(), nil), []byte("panic")) {
			t.Errorf("%s", w.Body)
		}
	}
}

// requestID is made of letters by chance, and so may have any word in it.
var requestID = regexp.MustCompile(`"request_id": ?"[a-z2-7]+"`)

func last(log string) string { return log[max(0, len(log)-1000):] }

// maker makes values up.
type maker struct {
	*rand.Rand
	d *openAPI
}

var words = []string{"", "p", "k", "p", "k", "x", "0", "1", "-1", "7", "999999999999999999999", "true", "enabled", "viewer", "administrator", "Encrypt", "*", "cached", "hsm",
	"arn:aws:iam::123456789012:role/app", "2026-11-24T00:00:00Z", "/p", "\x00", "é", "../..", "%2f", "'; DROP TABLE users; --", "00112233445566778899aabbccddeeff", strings.Repeat("a", 300), strings.Repeat("9", 5000), "\u202e", "permit (principal, action, resource);", "bob@example.com", "localhost"}

func (g *maker) word() string { return words[g.IntN(len(words))] }

func (g *maker) value(s *jsonschema.Schema, depth int) any {
	s = g.d.schema(s)
	if s == nil || g.IntN(25) == 0 || depth > 6 { // something else
		return []any{nil, 1.5, -1, true, "x", []any{}, map[string]any{}}[g.IntN(7)]
	}
	if len(s.Enum) > 0 {
		return s.Enum[g.IntN(len(s.Enum))]
	}
	kind := s.Type
	if kind == "" && len(s.Types) > 0 {
		kind = s.Types[g.IntN(len(s.Types))]
	}
	switch kind {
	case "object":
		m := map[string]any{}
		for name, p := range s.Properties {
			if g.IntN(8) > 0 {
				m[name] = g.value(p, depth+1)
			}
		}
		if g.IntN(20) == 0 {
			m[g.word()] = g.word()
		}
		return m
	case "array":
		list := []any{}
		for range g.IntN(4) {
			list = append(list, g.value(s.Items, depth+1))
		}
		return list
	case "integer":
		return []any{0, 1, 7, 30, -1, 1 << 40, 2.5}[g.IntN(7)]
	case "boolean":
		return g.IntN(2) == 0
	case "null":
		return nil
	}
	return g.word()
}
