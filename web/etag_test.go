package web_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// TestETag: what a GET answers with is, sent as If-Match, what a change of the same thing
// compares; after a change by somebody else it is refused. A GET with the tag as
// If-None-Match is answered with 304.
func TestETag(t *testing.T) {
	c, _ := newCaller(t)
	do := func(status int, method, path, body string, header ...string) http.Header {
		t.Helper()
		w := c.call(&root, method, path, body, func(r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
		})
		if w.Code != status {
			t.Fatalf("%s %s %v: %d %s, want %d", method, path, header, w.Code, w.Body, status)
		}
		return w.Header()
	}
	if at := do(201, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`).Get("Location"); at != "/api/v1/keystores/p" {
		t.Errorf("Location %q", at)
	}
	do(201, "POST", "/keystores/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached"}`)
	for _, tt := range []struct{ shows, method, path, body, otherMethod, otherPath, other string }{
		{"/keystores/p", "PUT", "/keystores/p/quota", `{"requests_per_second": 5}`, "PUT", "/keystores/p/quota", `{"requests_per_second": 6}`},
		{"/keystores/p/keys/k", "POST", "/keystores/p/keys/k/disable", "", "POST", "/keystores/p/keys/k/enable", ""},
		{"/keystores/p/policy", "POST", "/keystores/p/policy", `{"cedar": ""}`, "POST", "/keystores/p/policy", `{"cedar": "forbid (principal, action, resource);"}`},
		{"/settings", "PUT", "/settings", `{"four_eyes": []}`, "", "", ""},
		{"/certificate", "DELETE", "/certificate/shared", "", "", "", ""},
	} {
		tag := do(200, "GET", tt.shows, "").Get("ETag")
		if !regexp.MustCompile(`^"[0-9a-f]{32}-[0-9a-f]{32}"$`).MatchString(tag) {
			t.Fatalf("%s: ETag %q", tt.shows, tag)
		}
		do(304, "GET", tt.shows, "", "If-None-Match", tag)
		do(304, "GET", tt.shows, "", "If-None-Match", `"x", W/`+tag)
		do(200, "GET", tt.shows, "", "If-None-Match", `"x"`)
		for _, wrong := range []string{`"00000000000000000000000000000000"`, "W/" + tag, `"a", "b"`} {
			do(412, tt.method, tt.path, tt.body, "If-Match", wrong)
		}
		if tt.other == "" && tt.otherPath == "" {
			continue // what the appliance of this test cannot change
		}
		do(200, tt.otherMethod, tt.otherPath, tt.other)
		if tt.shows != "/keystores/p/keys/k" { // to enable what is enabled changes nothing
			do(412, tt.method, tt.path, tt.body, "If-Match", tag)
		}
		now := do(200, "GET", tt.shows, "").Get("ETag")
		do(200, tt.method, tt.path, tt.body, "If-Match", `"a", `+now)
		if tt.shows == "/keystores/p/keys/k" {
			do(412, tt.method, tt.path, tt.body, "If-Match", now)
		}
		do(200, tt.method, tt.path, tt.body, "If-Match", operation.Exists)
	}
	do(412, "POST", "/keystores/nobody/policy", `{"cedar": ""}`, "If-Match", operation.Exists)
}

// TestEveryAnswerIsNamed: each answer, also of a failure, has an ID, which the problem names;
// what is to be tried again says when.
func TestEveryAnswerIsNamed(t *testing.T) {
	c, _ := newCaller(t)
	seen := map[string]bool{}
	for _, route := range operation.Table() {
		w := c.call(nil, route.Method, inPath.ReplaceAllString(route.Path, "x"), "")
		id := w.Header().Get(operation.RequestIDHeader)
		if id == "" || seen[id] || !strings.Contains(w.Body.String(), `"request_id":"`+id+`"`) {
			t.Errorf("%s: ID %q: %s", route.ID, id, w.Body)
		}
		seen[id] = true
	}
	for _, r := range []struct{ method, path string }{{"GET", "/nowhere"}, {"PATCH", "/keystores"}} {
		w := c.call(&root, r.method, r.path, "")
		if w.Header().Get(operation.RequestIDHeader) == "" || w.Header().Get("Content-Type") != operation.ProblemType {
			t.Errorf("%s %s: %v", r.method, r.path, w.Header())
		}
	}
}

// TestIfNoneMatch: each GET whose answer is JSON is answered with 304 and no body if the caller has
// the answer, or any. What has changed since is given again.
func TestIfNoneMatch(t *testing.T) {
	p := newPair(t)
	tested := 0
	for _, route := range operation.Table() {
		if !route.Tagged() {
			continue
		}
		path := p.names.Replace(route.Path)
		if slices.ContainsFunc(route.Query, func(q operation.Parameter) bool { return q.Name == "nonce" }) {
			path += "?nonce=" + nonce
		}
		ask := func(tags string) *httptest.ResponseRecorder {
			return p.call(&p.alice, "GET", path, "", func(r *http.Request) { r.Header.Set("If-None-Match", tags) })
		}
		w := ask(`"none"`)
		if w.Code != 200 {
			if notShown[route.ID] == "" {
				t.Errorf("%s: %d %s", route.ID, w.Code, w.Body)
			}
			continue
		}
		tested++
		tag := w.Header().Get("ETag")
		for _, tags := range []string{tag, `"x", W/` + tag} {
			if again := ask(tags); again.Code != 304 && again.Header().Get("ETag") == tag || again.Code == 304 && again.Body.Len() > 0 {
				t.Errorf("%s, If-None-Match %s: %d %s", route.ID, tags, again.Code, again.Body)
			}
		}
		if again := ask("*"); again.Code != 304 {
			t.Errorf("%s, If-None-Match *: %d", route.ID, again.Code)
		}
	}
	if tested < 35 {
		t.Errorf("only %d operations were tested", tested)
	}
}

// notShown are operations of which the appliance of these tests has nothing to show, and why.
var notShown = map[string]string{
	"showNode": "it is in no fleet; see TestNodeRevision",
	"releases": "no broker releases its PIN; see TestBrokersRecords",
}

// notTagged are operations about a thing that a GET shows, and that no caller of TestRevisions can
// have, and why.
var notTagged = map[string]string{
	"drainNode":  "nodes of this test have no membership; TestNodeRevision compares what showNode and the change name",
	"removeNode": "nodes of this test have no membership; TestNodeRevision compares what showNode and the change name",
}

// TestRevisions: the ETag of the GET that shows what a change is about is what If-Match of the change
// accepts (RFC 9110 section 13.1.1), and only that: a stale, weak or absent one is refused with 412,
// and what is no entity tag with 400. Each change of a thing that a GET shows is asked; a new one is
// among them by itself, and may need a start.
func TestRevisions(t *testing.T) {
	routes := slices.DeleteFunc(operation.Table(), func(r *operation.Route) bool { return r.Shown() == nil || notTagged[r.ID] != "" })
	slices.SortStableFunc(routes, func(a, b *operation.Route) int { // what removes a thing comes last
		return strings.Count(a.Method, "DELETE") - strings.Count(b.Method, "DELETE")
	})
	if len(routes) < 20 {
		t.Errorf("only %d operations are about a thing that a GET shows", len(routes))
	}
	for what, match := range map[string]func(tag string) string{
		"the tag":            func(tag string) string { return tag },
		"the tag of several": func(tag string) string { return `"x",` + tag },
		"*":                  func(string) string { return "*" },
		"no header":          func(string) string { return "" },
	} {
		p := newPair(t)
		p.api.(*web.API).Site = webtest.Site{Served: operation.Certificate{Names: []string{}, Shared: true, Previous: &operation.PreviousCertificate{Names: []string{}}}}
		for _, route := range routes {
			who, path, body := &root, p.names.Replace(strings.ReplaceAll(route.Path, "{user}", p.dave.UserID)), samples[route.ID]
			if start := starts[route.ID]; start != nil {
				other, at := start(p)
				who, path = cmp.Or(other, who), cmp.Or(at, path)
			}
			if route.ID == "performApproved" { // of a request that takes no secret
				body = "{}"
			}
			if route.ID == "revokeOwnSession" { // of somebody whose session nothing has ended
				erin := p.enrol(p.api.(*web.API).Identity, "erin")
				who, path = &erin, "/account/sessions/"+erin.Session
			}
			get := path
			if extra := strings.Count(route.Path, "/") - strings.Count(route.Shown().Path, "/"); extra > 0 {
				get = get[:strings.LastIndex(get, "/")]
			}
			w := p.call(who, "GET", get, "")
			tag := w.Header().Get("ETag")
			if w.Code != 200 || tag == "" {
				t.Errorf("%s: GET %s: %d %s", route.ID, get, w.Code, w.Body)
				continue
			}
			do := func(path, tags string) *httptest.ResponseRecorder {
				return p.call(who, route.Method, path, body, func(r *http.Request) {
					if tags != "" {
						r.Header.Set("If-Match", tags)
					}
				})
			}
			for _, wrong := range []string{`"` + strings.Repeat("0", 32) + `"`, "W/" + tag, `"a", W/` + tag} {
				if w := do(path, wrong); w.Code != 412 || code(t, w) != "stale" {
					t.Errorf("%s, If-Match %s: %d %s", route.ID, wrong, w.Code, w.Body)
				}
			}
			for _, malformed := range []string{"x", strings.Trim(tag, `"`), "'x'", tag + " " + tag, "*, " + tag} {
				if w := do(path, malformed); w.Code != 400 {
					t.Errorf("%s, If-Match %s: %d %s", route.ID, malformed, w.Code, w.Body)
				}
			}
			if strings.Contains(route.Shown().Path, "{") {
				nowhere := inPath.ReplaceAllString(route.Path, "nobody")
				if w := do(nowhere, "*"); w.Code != 412 {
					t.Errorf("%s of what is not there, If-Match *: %d %s", route.ID, w.Code, w.Body)
				}
				if w := do(nowhere, ""); w.Code != 404 {
					t.Errorf("%s of what is not there: %d %s", route.ID, w.Code, w.Body)
				}
			}
			if w := do(path, match(tag)); w.Code != 200 {
				t.Errorf("%s with %s: %d %s", route.ID, what, w.Code, w.Body)
			}
		}
	}
}

// TestMadeThings: the Location of each 201 can be followed, and shows what was made; that of each
// 202 shows the request for approval. Answers are as the document says.
func TestMadeThings(t *testing.T) {
	b := newBank(t)
	d := b.document()
	follow := func(who *identity.Principal, route *operation.Route, w *httptest.ResponseRecorder, status int, ignored ...string) {
		t.Helper()
		at, found := strings.CutPrefix(w.Header().Get("Location"), operation.Prefix)
		if w.Code != status || !found {
			t.Errorf("%s: %d %s, Location %q", route.ID, w.Code, w.Body, w.Header().Get("Location"))
			return
		}
		got := b.call(who, "GET", at, "")
		if got.Code != 200 || got.Header().Get("ETag") == "" {
			t.Errorf("%s: %s: %d %s", route.ID, at, got.Code, got.Body)
			return
		}
		shows := routeOf("GET", at)
		if err := d.validate(d.Paths[shows.Path]["get"].Responses["200"].Content[operation.MediaType].Schema, got.Body.Bytes()); err != nil {
			t.Errorf("%s: %v: %s", shows.ID, err, got.Body)
		}
		var made, shown map[string]any
		if json.Unmarshal(w.Body.Bytes(), &made) != nil || json.Unmarshal(got.Body.Bytes(), &shown) != nil {
			t.Fatalf("%s: %s, %s", route.ID, w.Body, got.Body)
		}
		same := 0
		for name, value := range shown {
			if was, there := made[name]; there && !slices.Contains(ignored, name) {
				same++
				if fmt.Sprint(was) != fmt.Sprint(value) {
					t.Errorf("%s: %s was made with %q %v, and shows %v", route.ID, at, name, was, value)
				}
			}
		}
		if same < 3 {
			t.Errorf("%s: %s shows %s, which has little of %s", route.ID, at, got.Body, w.Body)
		}
	}
	for _, route := range operation.Table() {
		path := b.names.Replace(route.Path)
		if route.Makes != "" && route.ID != "addPasskey" { // for which an authenticator is needed
			follow(&b.alice, route, b.call(&b.alice, route.Method, path, samples[route.ID]), 201)
		}
	}
	b.fourEyes("removeGrant")
	follow(&b.alice, operation.RemoveGrant.Entry(), b.call(&b.alice, "DELETE", b.names.Replace("/keystores/{keystore}/grants/{grant}"), ""), 202)
}

// TestShowPasskey: a user's passkey is shown to them alone.
func TestShowPasskey(t *testing.T) {
	p := newPair(t)
	path := p.anotherPasskey(&p.alice)
	w := p.call(&p.alice, "GET", path, "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "another") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := p.call(&p.bob, "GET", path, ""); w.Code != 404 {
		t.Errorf("another user sees it: %d %s", w.Code, w.Body)
	}
	match := func(tag string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("If-Match", tag) } }
	if w := p.call(&p.alice, "DELETE", path, "", match(`"0000"`)); w.Code != 412 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := p.call(&p.alice, "DELETE", path, "", match(w.Header().Get("ETag"))); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
