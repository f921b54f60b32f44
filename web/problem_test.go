package web_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

var referenceForm = regexp.MustCompile(`reference=([a-z2-7]{10})\b`)

// onLine wants one line of the log with the reference that a text has, with what it
// is to say.
func onLine(t *testing.T, what, text, log, cause string) string {
	t.Helper()
	m := referenceForm.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s: there is no reference in %s", what, text)
	}
	var found []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "reference="+m[1]) {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], cause) || !strings.Contains(found[0], "level=ERROR") {
		t.Fatalf("%s: the lines of %s are %q, want one with %q", what, m[1], found, cause)
	}
	return m[1]
}

// TestEveryCodeIsAProblem: every code of the registry is answered with its status and
// all members of problem details, and comes back from the client as it was.
func TestEveryCodeIsAProblem(t *testing.T) {
	f := &failing{}
	a := start(t, func(d operation.Domain) operation.Domain { f.Domain = d; return f })
	a.injected = true
	for _, e := range fault.All() {
		cause := errors.New("the cause of " + string(e.Code))
		f.err = fmt.Errorf("while: %w", fault.Wrapf(e.Code, cause, "said to the caller"))
		message := a.fails(get, stores, "", e.Status, e.Code)
		reference := ""
		if e.Class == fault.ClassInternal {
			reference = onLine(t, string(e.Code), message, a.Log.String(), cause.Error())
		}
		if strings.Contains(message, "cause of") || !strings.HasPrefix(message, "said to the caller") {
			t.Errorf("%s: the caller is told %q", e.Code, message)
		}
		var got *fault.Fault
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(e.Status)
		told := fault.Errorf(e.Code, "%s", message)
		told.Reference = reference
		if err := json.NewEncoder(w).Encode(web.NewProblem(told)); err != nil {
			t.Fatal(err)
		}
		client := clientOf(t, http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
			out.WriteHeader(e.Status)
			_, _ = out.Write(w.Body.Bytes())
		}))
		if err := client.Do(t.Context(), get, "keystores", nil, nil); !errors.As(err, &got) || got.Code != e.Code || got.Message != message || got.Reference != reference {
			t.Errorf("%s: the client gives %+v", e.Code, got)
		}
	}
}

// TestProblemOfOthers: the body of an earlier release is understood, and one of
// something in between is no fault.
func TestProblemOfOthers(t *testing.T) {
	for body, want := range map[string]fault.Code{`{"code":"not_found","message":"there is no key"}`: fault.NotFound, `{}`: "", `<html>Bad Gateway`: ""} {
		client := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte(body))
		}))
		err := client.Do(t.Context(), get, "keystores", nil, nil)
		var got *fault.Fault
		if errors.As(err, &got) != (want != "") || (want != "" && (got.Code != want || got.Message != "there is no key")) || err == nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestReferenceEverywhere: what answers with an internal error gives a reference,
// which finds one line of the log.
func TestReferenceEverywhere(t *testing.T) {
	f := &failing{err: errors.New("the disk is on fire")}
	a := start(t, func(d operation.Domain) operation.Domain { f.Domain = d; return f })
	onLine(t, "the API", a.fails(get, stores, "", 500, fault.Internal), a.Log.String(), "on fire")

	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	w := fetch(t, public(&webtest.Boot{Err: errors.New("the TPM is on fire")}, logger), "/attestation?nonce="+nonce)
	if w.Code != 500 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	onLine(t, "evidence for everybody", w.Body.String(), log.String(), "TPM is on fire")

	// What is done and cannot be recorded.
	c, b := newCaller(t)
	c.audit.Failing = errors.New("the audit log is on fire")
	answer := c.call(&identity.Principal{Name: "local", Role: identity.RoleAdministrator}, http.MethodPost, "/keystores", `{"name":"x","uri_path_prefix":"/x"}`)
	if answer.Code != 500 {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	onLine(t, "what cannot be recorded", answer.Body.String(), b.Log.String(), "audit log is on fire")
}

// TestCodesPage: the type of every problem is a place on a page that everybody can open.
func TestCodesPage(t *testing.T) {
	h := public(&webtest.Boot{}, slog.New(slog.DiscardHandler))
	for _, e := range fault.All() {
		path, anchor, _ := strings.Cut(web.NewProblem(fault.Errorf(e.Code, "x")).Type, "#")
		w := fetch(t, h, path)
		if w.Code != 200 || anchor != string(e.Code) || strings.Count(w.Body.String(), `id="`+anchor+`"`) != 1 || !strings.Contains(w.Body.String(), template.HTMLEscapeString(e.Do[:10])) {
			t.Fatalf("%s: %d", e.Code, w.Code)
		}
	}
}
