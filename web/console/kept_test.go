package console_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// typedIn has an own text in each field of a form that takes any, and none of them is a secret.
func typedIn(op string, form url.Values) (marks []string) {
	for _, name := range console.Fields()[op] {
		if slices.Contains([]string{"name", "reason", "cedar", "chain", "email", "principal", "setting", "names", "id"}, name) {
			mark := fmt.Sprintf("typed-%s-%s", op, name)
			form.Set(name, mark)
			marks = append(marks, mark)
		}
	}
	return marks
}

// TestSessionEndsInAForm: a form that is sent when its session has ended is there after the
// sign-in, with what was typed, for each form of the table; but not for another user, and without
// its secrets.
func TestSessionEndsInAForm(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	other := r.enrol("other", identity.RoleAdministrator)
	things := r.things(admin)
	ended := &session{r: r, name: "admin", token: "ended", principal: admin.principal}
	recorded, looked := len(r.audit.Records), 0
	for _, op := range console.Operations() {
		form := confirmed(things, op, ended.version(""))
		form.Set("author", admin.principal.UserID)
		for name, secret := range secretFields {
			if form.Has(name) {
				form.Set(name, secret)
			}
		}
		marks := typedIn(op, form)
		ended.jar = nil
		w := ended.do("POST", "/do/"+op, form, nil)
		to, err := url.Parse(w.Header().Get("Location"))
		if err != nil || w.Code != http.StatusSeeOther || to.Path != "/signin" {
			t.Errorf("%s: %d %s", op, w.Code, w.Header().Get("Location"))
			continue
		}
		next := to.Query().Get("next")
		for _, s := range []*session{admin, other} {
			s.jar = ended.jar
			page := s.do("GET", next, nil, nil)
			for name, secret := range secretFields {
				if len(secret) > 8 && slices.Contains(console.Fields()[op], name) && strings.Contains(page.Body.String(), secret) {
					t.Errorf("%s: %s sees the secret %s", op, s.name, name)
				}
			}
			for _, mark := range marks {
				looked++
				if got := strings.Contains(page.Body.String(), mark); got != (s == admin) {
					t.Errorf("%s: %s sees %s: %t", op, s.name, mark, got)
				}
			}
			if want := "Your session had ended"; s == admin && !strings.Contains(page.Body.String(), want) {
				t.Errorf("%s: the page does not say %q: %d", op, want, page.Code)
			}
			if want := "another user filled it in"; s == other && !strings.Contains(page.Body.String(), want) {
				t.Errorf("%s: the page does not say %q: %d", op, want, page.Code)
			}
		}
	}
	if looked < 30 {
		t.Errorf("only %d texts were looked for", looked)
	}
	for _, rec := range r.audit.Records[recorded:] {
		if rec.Result == audit.Allowed {
			t.Errorf("%s was done", rec.Operation)
		}
	}
}

// TestKeptFormExpires: after ten minutes a kept form is gone, and the page says so.
func TestKeptFormExpires(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	form := confirmed(things, "setPolicy", admin.version(""))
	form.Set("cedar", "no cedar, typed")
	form.Set("back", "/keystores/bank/grants")
	to := admin.do("POST", "/do/setPolicy", form, nil).Header().Get("Location")
	if w := admin.do("GET", to, nil, nil); w.Code != 422 || !strings.Contains(w.Body.String(), "no cedar, typed") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	r.pass(10 * time.Minute)
	if w := admin.do("GET", to, nil, nil); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "no cedar, typed") || !strings.Contains(w.Body.String(), "ten minutes have passed") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestSecretShownOnce: the page with a secret shows it once; loading it again makes nothing, also
// with the cookies of before, at each node.
func TestSecretShownOnce(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	secrets := regexp.MustCompile(`data-secret|aria-label="Recovery codes"|totp-secret`)
	for op, change := range map[string]map[string]string{
		"createCredential": {"generate": "true"}, "createToken": {"name": "once", "role": "viewer", "days": "1", "key_stores": "*", "operations": "*", "networks": "*"},
		"createInvitation": {"name": "once", "role": "viewer"}, "newRecoveryCodes": {}, "beginPassword": {},
	} {
		form := confirmed(things, op, admin.version(""))
		for name, value := range change {
			form.Set(name, value)
		}
		recorded := len(r.audit.Records)
		w := admin.do("POST", "/do/"+op, form, nil)
		page := w.Header().Get("Location")
		if w.Code != http.StatusSeeOther || !strings.HasPrefix(page, "/answers/") {
			t.Errorf("%s: %d %s", op, w.Code, page)
			continue
		}
		brought := w.Result().Cookies()
		if w = admin.do("GET", page, nil, nil); w.Code != http.StatusOK || !secrets.MatchString(w.Body.String()) {
			t.Errorf("%s: %d %s", op, w.Code, w.Body)
		}
		again := func(q *http.Request) {
			for _, k := range brought {
				q.AddCookie(k)
			}
		}
		for range 2 {
			for _, change := range []func(*http.Request){nil, again} {
				if w = admin.do("GET", page, nil, change); w.Code != http.StatusGone || secrets.MatchString(w.Body.String()) || !strings.Contains(w.Body.String(), "make another") {
					t.Errorf("%s, loaded again: %d %s", op, w.Code, w.Body)
				}
			}
		}
		if n := len(r.audit.Records) - recorded; n != 1 {
			t.Errorf("%s: %d records", op, n)
		}
	}
}

// TestSentTwice: a form that is sent twice, as by a double click, makes one thing, also if the two
// reach two nodes, and the page says so. A form that is filled in again makes another.
func TestSentTwice(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	for op, change := range map[string]map[string]string{
		"createGrant": {"principal": "arn:aws:iam::123456789012:role/app"}, "createCredential": {"generate": "true"}, "rotateKey": {}, "newRecoveryCodes": {},
	} {
		form := confirmed(things, op, admin.version(""))
		for name, value := range change {
			form.Set(name, value)
		}
		form.Set("once", "a form")
		done := func() (n int) {
			for _, rec := range r.audit.Records {
				if rec.Result == audit.Allowed {
					n++
				}
			}
			return n
		}
		before := done()
		for range 3 {
			if w := admin.do("POST", "/do/"+op, maps.Clone(form), nil); w.Code != http.StatusSeeOther {
				t.Errorf("%s: %d %s", op, w.Code, w.Body)
			}
		}
		if n := done() - before; n != 1 {
			t.Errorf("%s, sent three times, was done %d times", op, n)
		}
		form.Set("once", "another form")
		admin.do("POST", "/do/"+op, form, nil)
		if n := done() - before; n != 2 {
			t.Errorf("%s, sent by another form, was done %d times", op, n)
		}
	}
}

// TestConflict: whoever was slower sees what is there now and what they typed, with the
// difference, and decides by a form of the present state.
func TestConflict(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	second := r.enrol("second", identity.RoleAdministrator)
	things := r.things(admin)
	const stale = `"0123456789abcdef0123456789abcdef"`
	fields := regexp.MustCompile(`name="version" value="([^"]*)"`)
	for op, c := range map[string]struct {
		back string
		now  func() error
		form map[string][]string
		want []string
	}{
		"setPolicy": {"/keystores/bank/grants", func() error {
			return r.Appliance.SetPolicy(t.Context(), "bank", appliance.Policies{Cedar: "forbid (principal, action, resource);\n// of the first"})
		}, map[string][]string{"cedar": {"forbid (principal, action, resource);\r\n// of the second"}}, []string{"<del>− // of the first</del>", "<ins>+ // of the second</ins>"}},
		"setQuota": {"/keystores/bank", func() error { _, err := r.Appliance.SetQuota(t.Context(), "bank", 77); return err },
			map[string][]string{"requests_per_second": {"88"}}, []string{"<del>− 77</del>", "<ins>+ 88</ins>"}},
		"setRole": {"/users/" + admin.principal.UserID, func() error { return nil }, map[string][]string{"role": {"viewer"}}, []string{"administrator</del>", "viewer</ins>"}},
	} {
		if err := c.now(); err != nil {
			t.Fatal(err)
		}
		form := confirmed(things, op, second.version(stale))
		maps.Copy(form, c.form)
		form.Set("back", c.back)
		w := second.submit("/do/"+op, form)
		body := w.Body.String()
		if w.Code != http.StatusConflict || !strings.Contains(body, "apply what I typed") || !strings.Contains(body, "Drop what I typed") || !strings.Contains(body, "<title>Error: ") {
			t.Errorf("%s: %d %s", op, w.Code, body)
		}
		for _, want := range c.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page has not %q: %s", op, want, body)
			}
		}
		// The second decision is of the state that was shown.
		start := strings.Index(body, `action="/do/`+op+`"`)
		if start < 0 {
			t.Errorf("%s: there is no form", op)
			continue
		}
		version := strings.ReplaceAll(fields.FindStringSubmatch(body[start:])[1], "&#34;", `"`)
		if version == form.Get("version") {
			t.Errorf("%s: the form is of the state that is no more", op)
		}
		form.Set("version", version)
		if w := second.do("POST", "/do/"+op, form, nil); w.Code != http.StatusSeeOther || strings.Contains(w.Header().Get("Location"), "kept=") {
			t.Errorf("%s, decided again: %d %s", op, w.Code, w.Header().Get("Location"))
		}
	}
}

// TestRefusedField: a field that was wrong says so, is described by what was wrong and has the
// focus; the title says it first.
func TestRefusedField(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	for _, c := range []struct {
		op, back, field, value string
	}{
		{"setQuota", "/keystores/bank", "requests_per_second", "many"},
		{"createToken", "/users", "name", "no name!"},
		{"scheduleKeyDeletion", "/keystores/bank/keys/k", "confirm", "x"},
		{"setPolicy", "/keystores/bank/grants", "cedar", "no cedar"},
	} {
		form := confirmed(things, c.op, admin.version(""))
		form.Set(c.field, c.value)
		form.Set("back", c.back)
		w := admin.submit("/do/"+c.op, form)
		body := w.Body.String()
		input := regexp.MustCompile(`<(input|textarea|select)[^>]* name="` + c.field + `"[^>]*aria-invalid="true"[^>]*>`).FindString(body)
		if w.Code != http.StatusUnprocessableEntity || !strings.Contains(input, "autofocus") || !strings.Contains(body, "<title>Error: ") {
			t.Errorf("%s: %d %q %s", c.op, w.Code, input, body)
		}
		if by := regexp.MustCompile(`aria-describedby="(\S+)-error`).FindStringSubmatch(input); by == nil || !strings.Contains(body, `id="`+by[1]+`-error"`) {
			t.Errorf("%s: %q is not described by its error", c.op, input)
		}
	}
}

// TestIdleEnd: pages know when the session ends if nobody uses it. To ask does not use it; to
// stay does.
func TestIdleEnd(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	end := regexp.MustCompile(`id="standing"[^>]* data-seconds="(-?\d+)"`)
	is := func(w *httptest.ResponseRecorder, want int) {
		t.Helper()
		m := end.FindStringSubmatch(w.Body.String())
		if m == nil {
			t.Fatalf("%d, and no end: %s", w.Code, w.Body)
		}
		if got, _ := strconv.Atoi(m[1]); got != want && got != want-1 {
			t.Errorf("it ends in %d seconds, not in %d", got, want)
		}
	}
	ask := func(method string) *httptest.ResponseRecorder { return admin.do(method, "/standing", nil, nil) }
	is(admin.do(http.MethodGet, "/", nil, nil), 900)
	r.pass(13 * time.Minute)
	for range 2 {
		is(ask(http.MethodGet), 120)
	}
	is(ask(http.MethodPost), 900)
	r.pass(14 * time.Minute)
	is(ask(http.MethodGet), 60)
	r.pass(2 * time.Minute)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if w := ask(method); w.Code != http.StatusUnauthorized {
			t.Errorf("it goes on: %s %d", method, w.Code)
		}
	}
}

// TestNoSecretInAField: no page has a secret in a field: none that can be opened, none that shows
// an answer, and none that asks for a proof of presence, for each operation of the console.
func TestNoSecretInAField(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	inputs := regexp.MustCompile(`<(?:input|textarea)[^>]*>(?:[^<]*</textarea>)?`)
	shown := regexp.MustCompile(`data-secret><code>([^<]+)`)
	look := func(where string, w *httptest.ResponseRecorder) {
		t.Helper()
		secrets := slices.Collect(maps.Values(secretFields))
		for _, m := range shown.FindAllStringSubmatch(w.Body.String(), -1) {
			secrets = append(secrets, m[1])
		}
		for _, input := range inputs.FindAllString(w.Body.String(), -1) {
			for _, secret := range secrets {
				if strings.Contains(input, secret) {
					t.Errorf("%s: a field has a secret: %s", where, input)
				}
			}
		}
	}
	forms := map[string]url.Values{}
	for _, op := range console.Operations() {
		if op == operation.DeleteUser.ID || op == operation.SignOutEverywhere.ID || op == operation.SetRole.ID || op == operation.DisableUser.ID || op == operation.SignOutUser.ID || op == operation.RevokeSession.ID || op == operation.RevokeOwnSession.ID {
			continue // they end the session of this test, and take no secret
		}
		forms[op] = confirmed(things, op, admin.version(""))
		for name, secret := range secretFields {
			if slices.Contains(console.Fields()[op], name) {
				forms[op].Set(name, secret)
			}
		}
	}
	r.pass(6 * time.Minute)
	asked := 0
	for op, form := range forms {
		w := admin.submit("/do/"+op, maps.Clone(form))
		if look(op+", without presence", w); w.Code == http.StatusForbidden {
			asked++
		}
	}
	if asked < 10 {
		t.Errorf("only %d pages asked for a proof", asked)
	}
	fresh := r.enrol("fresh", identity.RoleAdministrator)
	for op, form := range forms {
		form.Set("version", fresh.version(""))
		look(op, fresh.submit("/do/"+op, form))
	}
	for _, page := range console.Pages() {
		look(page, fresh.do("GET", strings.NewReplacer("{keystore}", "bank", "{key}", "k", "{user}", fresh.principal.UserID).Replace(page), nil, nil))
	}
}

// TestProofComesFirst: a form that takes a secret and needs a proof of presence offers to give it
// before the secret is typed, and not once it is given.
func TestProofComesFirst(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	for _, page := range []string{"/keystores/bank/keys", "/keystores/bank/keys/k", "/keystores/bank/credentials"} {
		if strings.Contains(admin.do("GET", page, nil, nil).Body.String(), "Prove it first") {
			t.Errorf("%s asks for a proof that was just given", page)
		}
	}
	r.pass(6 * time.Minute)
	for _, page := range []string{"/keystores/bank/keys", "/keystores/bank/keys/k", "/keystores/bank/credentials"} {
		if body := admin.do("GET", page, nil, nil).Body.String(); !strings.Contains(body, `href="/prove?back=`+url.QueryEscape(page)+`"`) {
			t.Errorf("%s does not offer to prove it first", page)
		}
	}
}
