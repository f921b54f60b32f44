package web_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"holdfast/web/operation"
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
