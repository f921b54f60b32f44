package web_test

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// documented fails if the API answers a request with a status that its document does not list
// for the operation. With STATUS_REPORT=FILE each pair that was seen is written there.
func documented(t testing.TB, method, path string, status int) {
	path, _, _ = strings.Cut(strings.TrimPrefix(path, operation.Prefix), "?")
	route := routeOf(method, path)
	if route == nil {
		return
	}
	if !slices.Contains(route.Statuses(), status) {
		t.Errorf("%s: %s %s: the status %d is not in the document", route.ID, method, path, status)
	}
	if name := os.Getenv("STATUS_REPORT"); name != "" {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintln(f, route.ID, status)
	}
}

// routeOf gives the operation that a request is for; nil if it is none.
func routeOf(method, path string) *operation.Route {
	for _, r := range operation.Table() {
		if r.Method == method && ofPath()[r.Path].MatchString(path) {
			return r
		}
	}
	return nil
}

// ofPath matches what is asked for, by the paths of routes.
var ofPath = sync.OnceValue(func() map[string]*regexp.Regexp {
	all := map[string]*regexp.Regexp{}
	for _, r := range operation.Table() {
		all[r.Path] = regexp.MustCompile("^" + inPath.ReplaceAllString(r.Path, "[^/]+") + "$")
	}
	return all
})

// TestStatuses: each operation answers with each status that its entry promises, and that does not
// depend on the state of the appliance; the document lists those of the entry.
func TestStatuses(t *testing.T) {
	b := newBank(t)
	d := b.document()
	viewer := identity.Principal{Name: "viewer", Role: identity.RoleViewer, UserID: "v", Session: "s", ProvenAt: time.Now()}
	for _, route := range operation.Table() {
		path, body := b.names.Replace(route.Path), samples[route.ID]
		header := func(name, value string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set(name, value) }
		}
		is := func(status int, who *identity.Principal, path, body string, change ...func(*http.Request)) {
			t.Helper()
			if w := b.call(who, route.Method, path, body, change...); w.Code != status {
				t.Errorf("%s %.60s: %d %.300s, want %d", route.ID, path, w.Code, w.Body, status)
			}
		}
		is(401, nil, path, body)
		if !identity.RoleViewer.May(route.Capability) {
			is(403, &viewer, path, body)
		}
		is(400, &root, path+"?nobody=1", body)
		is(406, &root, path, body, header("Accept", "image/png, application/json;q=0, */*;q=0"))
		if route.BodyType() == "" {
			is(400, &root, path, strings.Repeat(" ", operation.MaxBody+1))
		} else {
			is(415, &root, path, body, header("Content-Type", "application/x-www-form-urlencoded"))
			is(415, &root, path, body, header("Content-Type", "application; json"))
			is(413, &root, path, body, func(r *http.Request) { r.ContentLength = operation.MaxBackup + 1 })
		}
		if route.TakesBody() {
			is(413, &root, path, strings.Repeat(" ", int(route.MaxBody())+1), func(r *http.Request) { r.ContentLength = -1 })
		}
		if strings.Contains(route.Path, "{") {
			nowhere := inPath.ReplaceAllString(strings.ReplaceAll(route.Path, "{seq}", "999999"), "nobody")
			status, who := 404, &b.alice
			switch {
			case strings.Contains(route.Path, "{node}"):
				status = 409 // the appliance is in no fleet
			case route.Mutates() && !strings.HasPrefix(route.Path, "/account/"):
				who = &root
			}
			is(status, who, nowhere, body)
		}
		if route.Mutates() {
			is(412, &root, path, body, header("If-Match", `"0000"`), header("Content-Type", route.BodyType()))
			is(400, &root, path, body, header("If-Match", "0000"))
		}
		var listed []int
		for text := range d.Paths[route.Path][strings.ToLower(route.Method)].Responses {
			var status int
			if _, err := fmt.Sscan(text, &status); err != nil {
				t.Fatal(err)
			}
			listed = append(listed, status)
		}
		slices.Sort(listed)
		if !slices.Equal(listed, route.Statuses()) {
			t.Errorf("%s: the document lists %v, want %v", route.ID, listed, route.Statuses())
		}
	}
}

// TestAccept: what a caller accepts is read as RFC 9110 section 12.5.1 says.
func TestAccept(t *testing.T) {
	c, _ := newCaller(t)
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/json": 200, "application/*": 200, "text/html, */*;q=0.1": 200, "Application/JSON;q=0.5": 200, "application/json;q=x": 200,
		"text/html": 406, "application/json;q=0": 406, "*/*, application/json;q=0.0": 406, "application/*;q=0, */*": 406, "json": 406, ";": 406, "text/csv": 406,
	} {
		if w := c.call(&root, "GET", "/keystores", "", func(r *http.Request) { r.Header.Set("Accept", accept) }); w.Code != status {
			t.Errorf("Accept %q: %d, want %d", accept, w.Code, status)
		}
	}
	for kind, status := range map[string]int{"": 201, "application/json": 201, "Application/JSON; charset=utf-8": 201, "text/json": 415, "application/problem+json": 415, "x": 415} {
		name := "s" + fmt.Sprint(len(kind))
		if w := c.call(&root, "POST", "/keystores", `{"name": "`+name+`", "uri_path_prefix": "/`+name+`"}`, func(r *http.Request) { r.Header["Content-Type"] = []string{kind} }); w.Code != status {
			t.Errorf("Content-Type %q: %d %s, want %d", kind, w.Code, w.Body, status)
		}
	}
	for path, allow := range map[string]string{"/keystores": "GET, POST", "/keystores/p": "GET, DELETE", "/keystores/a%2Fb/quota": "PUT", "/block": "POST"} {
		w := c.call(&root, "PATCH", path, "")
		if w.Code != 405 || w.Header().Get("Allow") != allow || code(t, w) != "no_method" {
			t.Errorf("%s: %d, Allow %q, %s", path, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}

// TestRequestIDIsOnRecord: each record of what a request did, or was refused, has the ID that its
// answer has; that of an operation that was approved has the approver's.
func TestRequestIDIsOnRecord(t *testing.T) {
	b := newBank(t)
	for _, route := range operation.Table() {
		for _, who := range []*identity.Principal{&root, {Name: "nobody", Role: identity.RoleViewer, Token: "t", Scope: &identity.Scope{}}} {
			before := len(b.audit.Records)
			w := b.call(who, route.Method, b.names.Replace(route.Path), samples[route.ID], func(r *http.Request) { r.Header.Set("If-Match", `"0000"`) })
			if len(b.audit.Records) == before && (route.Mutates() || who != &root) {
				t.Errorf("%s: nothing is recorded: %d %s", route.ID, w.Code, w.Body)
			}
			for _, rec := range b.audit.Records[before:] {
				if id := w.Header().Get(operation.RequestIDHeader); rec.RequestID != id || id == "" {
					t.Errorf("%s: the record has the ID %q, the answer %q", route.ID, rec.RequestID, id)
				}
			}
		}
	}
}
