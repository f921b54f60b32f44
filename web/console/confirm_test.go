package console_test

import (
	"crypto/sha256"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// asked is what the console asks before an operation.
type asked struct{ typed, presence bool }

// typedNames finds what a page has typed.
var typedNames = regexp.MustCompile(`Type <code>([^<]*)</code> to confirm`)

// notReached are operations whose form is refused in this test before something is asked, and why.
var notReached = map[string]string{
	"discardKeyStore":    "nothing is damaged here",
	"discardKey":         "nothing is damaged here",
	"discardCredential":  "nothing is damaged here",
	"discardGrant":       "nothing is damaged here",
	"discardSetting":     "nothing is damaged here",
	"removePasskey":      "the user has none",
	"unshareCertificate": "no certificate is shared here",
	"restoreCertificate": "no certificate of before is kept here",
	"confirmTime":        "no time waits to be confirmed here",
}

// ask posts a form of an operation, and says what the console asks before it is done. What is
// asked for is given: a wrong name, then the right one; the proof is not.
func (s *session) ask(t *testing.T, op string, form url.Values) (a asked, to string) {
	t.Helper()
	r := s.r
	recorded := len(r.audit.Records)
	w := s.do(http.MethodPost, "/do/"+op, form, nil)
	to = w.Header().Get("Location")
	for step := 0; strings.HasPrefix(to, "/confirm/"); step++ {
		a.typed = true
		page := s.do(http.MethodGet, to, nil, nil)
		name := typedNames.FindStringSubmatch(page.Body.String())
		if name == nil || step > 2 {
			t.Fatalf("%s: no name is asked for: %d %s", op, page.Code, page.Body)
		}
		invalid := regexp.MustCompile(`name="confirm"[^>]*aria-invalid="true"[^>]*autofocus`).MatchString(page.Body.String())
		if wrong := step > 0; wrong != invalid || wrong != (page.Code == http.StatusUnprocessableEntity) {
			t.Errorf("%s, name typed %d times: %d, marked as wrong: %t", op, step, page.Code, invalid)
		}
		typed := []string{"", "x" + html.UnescapeString(name[1]), html.UnescapeString(name[1])}[step]
		to = s.do(http.MethodPost, to, url.Values{"confirm": {typed}}, nil).Header().Get("Location")
	}
	if strings.Contains(to, "kept=") { // a form with a secret, or a file, has the name typed in itself
		page := s.do(http.MethodGet, to, nil, nil).Body.String()
		if name := regexp.MustCompile(`(?s)action="/do/` + op + `".*?Type <code>([^<]*)</code> to confirm.*?aria-invalid="true"`).FindStringSubmatch(page); name != nil && !form.Has("confirm") {
			a.typed = true
			form = maps.Clone(form)
			form.Set("confirm", html.UnescapeString(name[1]))
			_, to = s.ask(t, op, form)
		}
	}
	a.presence = strings.HasPrefix(to, "/prove/")
	for _, rec := range r.audit.Records[recorded:] {
		if a.presence && rec.Result == audit.Allowed {
			t.Errorf("%s was done before the proof", op)
		}
	}
	return a, to
}

// TestFormsAskWhatTheTableSays walks the operations that have a form: before each, the console asks
// what docs/operations-table.md says. A new operation is among them by itself.
func TestFormsAskWhatTheTableSays(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.enrol("another", identity.RoleAdministrator)
	things := r.things(admin)
	ctx := t.Context()
	empty, err := r.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "empty", URIPathPrefix: "/empty"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Appliance.SetQuota(ctx, "bank", 100); err != nil {
		t.Fatal(err)
	}
	if err := r.Appliance.SetPolicy(ctx, "bank", appliance.Policies{Cedar: "permit (principal, action, resource);"}); err != nil {
		t.Fatal(err)
	}
	guest := r.enrol("guest-2", identity.RoleKeyAdministrator)
	leaving := r.enrol("leaving", identity.RoleViewer)
	of := map[string]url.Values{"revokeSession": {"session": {leaving.principal.Session}}, "revokeOwnSession": {"session": {leaving.principal.Session}}, "deleteKeyStore": {"keystore": {empty.Name}}, "drainNode": {"drained": {"true"}},
		"disableUser": {"user": {guest.principal.UserID}}, "deleteUser": {"user": {guest.principal.UserID}}, "setRole": {"user": {guest.principal.UserID}}}
	before := map[string]func() error{"unblock": func() error {
		_, err := r.Appliance.Block(ctx, appliance.BlockTarget{KeyStore: "bank", KeyID: "k"}, "why", "alice")
		return err
	}}
	routes := map[string]*operation.Route{}
	for _, route := range operation.Table() {
		routes[route.ID] = route
	}
	r.pass(operation.PresenceTime + time.Minute)
	of["installCertificate"] = url.Values{"chain": {"good"}, "own_authority": {""}, "other_name": {""}, "back": {"/settings"}}
	of["shareCertificate"] = of["installCertificate"]
	of["createGrant"] = url.Values{"effect": {"forbid"}}
	const forbids = "principal,operations,effect\n*,Encrypt,forbid\n"
	of["createGrants"] = url.Values{"file": {forbids}, "rows": {"1"}, "sha256": {fmt.Sprintf("%x", sha256.Sum256([]byte(forbids)))}}
	for _, op := range console.Operations() {
		if op == operation.Backup.ID {
			continue // without a second person it is a download, and has no form
		}
		form := maps.Clone(entered)
		maps.Copy(form, things)
		maps.Copy(form, of[op])
		if f := before[op]; f != nil {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		by := admin
		if op == "signOutEverywhere" {
			by = guest
		}
		form.Set("version", by.version(""))
		got, to := by.ask(t, op, form)
		g := routes[op].Guards()
		if why := notReached[op]; why != "" {
			if !strings.Contains(to, "kept=") || !g.Confirmed {
				t.Errorf("%s: %s; and it goes to %s", op, why, to)
			}
			continue
		}
		if want := (asked{g.Confirmed, g.Presence}); got != want {
			t.Errorf("%s: the console asks %+v, and the table says %+v: %s", op, got, want, to)
		}
	}
}

// TestNoNameForWhatIsNoOutage: where the table says which inputs are confirmed, the others are not.
func TestNoNameForWhatIsNoOutage(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	if _, err := r.Appliance.SetQuota(t.Context(), "bank", 5); err != nil {
		t.Fatal(err)
	}
	const forbids = "forbid (principal, action, resource);"
	if err := r.Appliance.SetPolicy(t.Context(), "bank", appliance.Policies{Cedar: forbids}); err != nil {
		t.Fatal(err)
	}
	guest := r.enrol("guest-2", identity.RoleAuditor)
	for _, c := range []struct {
		op    string
		form  url.Values
		typed bool
	}{
		{"setQuota", url.Values{"requests_per_second": {"6"}}, false},
		{"setQuota", url.Values{"requests_per_second": {"0"}}, false},
		{"setQuota", url.Values{"requests_per_second": {"7"}}, true},
		{"setPolicy", url.Values{"cedar": {"@id(\"x\")\n" + forbids + "\npermit (principal, action, resource);"}}, false},
		{"setPolicy", url.Values{"cedar": {"permit (principal, action, resource);"}}, false},
		{"setPolicy", url.Values{"cedar": {""}}, true},
		{"createGrant", url.Values{"effect": {"allow"}}, false},
		{"createGrant", url.Values{"effect": {"forbid"}}, true},
		{"drainNode", url.Values{"drained": {"false"}}, false},
		{"drainNode", url.Values{"drained": {"true"}}, true},
		{"setRole", url.Values{"user": {guest.principal.UserID}, "role": {"administrator"}}, false},
		{"setRole", url.Values{"user": {guest.principal.UserID}, "role": {"viewer"}}, true},
	} {
		form := maps.Clone(entered)
		maps.Copy(form, things)
		maps.Copy(form, c.form)
		form.Set("version", admin.version(""))
		if got, to := admin.ask(t, c.op, form); got.typed != c.typed {
			t.Errorf("%s %v: a name is typed: %t, want %t: %s", c.op, c.form, got.typed, c.typed, to)
		}
	}
}

// TestFormsAskWhy: each form of an operation that waits for a second person asks why, or the page
// that has the name typed does, and no other form.
func TestFormsAskWhy(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.enrol("another", identity.RoleAdministrator)
	things := r.things(admin)
	var approvable []string
	guards := map[string]operation.Guards{}
	always := map[string]bool{} // confirmed with each input
	for _, route := range operation.Table() {
		guards[route.ID] = route.Guards()
		always[route.ID] = route.Guards().Confirmed && route.ConfirmedIf == ""
		if route.Guards().FourEyes && !route.Guards().WithAny {
			approvable = append(approvable, fmt.Sprintf("%q", route.ID))
		}
	}
	if err := r.Appliance.SetSetting(t.Context(), appliance.SettingFourEyes, `{"operations":[`+strings.Join(approvable, ",")+`]}`); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	forms := regexp.MustCompile(`(?s)<form[^>]* action="/do/(\w+)".*?</form>`)
	for _, path := range console.Pages() {
		if strings.HasPrefix(path, "/signin") || strings.HasPrefix(path, "/invitation") || strings.Contains(path, "{id}") || path == "/setup" || path == "/prove" {
			continue
		}
		path = regexp.MustCompile(`\{(\w+)\}`).ReplaceAllStringFunc(path, func(name string) string { return things.Get(strings.Trim(name, "{}")) })
		for _, m := range forms.FindAllStringSubmatch(admin.do(http.MethodGet, path, nil, nil).Body.String(), -1) {
			op := m[1]
			seen[op] = true
			if why := strings.Contains(m[0], `name="why"`); why != (guards[op].FourEyes && !always[op]) {
				t.Errorf("%s, %s: it asks why: %t", path, op, why)
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only the forms of %v were found", slices.Sorted(maps.Keys(seen)))
	}
	form := maps.Clone(things)
	form.Set("version", admin.version(""))
	to := admin.do(http.MethodPost, "/do/disableKey", form, nil).Header().Get("Location")
	if page := admin.do(http.MethodGet, to, nil, nil).Body.String(); !strings.Contains(page, `name="why"`) {
		t.Errorf("the page before an outage does not ask why: %s", page)
	}
	// A wrong name loses no reason; the right one asks for approval.
	to = admin.do(http.MethodPost, to, url.Values{"confirm": {"x"}, "why": {"because"}}, nil).Header().Get("Location")
	if page := admin.do(http.MethodGet, to, nil, nil).Body.String(); !strings.Contains(page, `value="because"`) {
		t.Errorf("the reason is lost: %s", page)
	}
	if to = admin.do(http.MethodPost, to, url.Values{"confirm": {"k"}, "why": {"because"}}, nil).Header().Get("Location"); to != "/approvals" {
		t.Errorf("it does not wait for approval: %s", to)
	}
}

// TestApprovalSaysWhoUsesIt: who decides about an operation that is confirmed sees, in words and
// open, what relies on the thing and who has used it in the last 24 hours and in the last 7 days;
// of another operation there is no such count.
func TestApprovalSaysWhoUsesIt(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	another := r.enrol("another", identity.RoleAdministrator)
	auditor := r.enrol("auditor", identity.RoleAuditor)
	things := r.things(admin)
	if err := r.Appliance.SetSetting(t.Context(), appliance.SettingFourEyes, `{"operations":["disableKey","createCredential"]}`); err != nil {
		t.Fatal(err)
	}
	begun := r.clock()
	used := func(key, principal string, ago time.Duration, result audit.Result) {
		t.Helper()
		if err := r.audit.Record(t.Context(), &audit.Record{Kind: audit.KindXKS, Time: begun.Add(-ago), KeyStore: "bank", Key: key, Principal: principal, Result: result}); err != nil {
			t.Fatal(err)
		}
	}
	const pay, batch = "arn:aws:iam::123456789012:role/pay", "arn:aws:iam::123456789012:role/batch"
	used("k", batch, 100*time.Hour, audit.Allowed)
	used("k", pay, 3*time.Hour, audit.Allowed)
	used("k", pay, 2*time.Hour, audit.Allowed)
	used("k", "arn:aws:iam::123456789012:role/refused", time.Hour, audit.Denied)
	used("other", "arn:aws:iam::123456789012:role/elsewhere", time.Hour, audit.Allowed)
	page := func(op string, typed bool) string {
		t.Helper()
		form := maps.Clone(entered)
		maps.Copy(form, things)
		form.Set("version", admin.version(""))
		form.Set("why", "because")
		r.pass(time.Second) // the newest request is the one that is made now
		to := admin.do(http.MethodPost, "/do/"+op, form, nil).Header().Get("Location")
		if typed {
			admin.do(http.MethodPost, to, url.Values{"confirm": {"k"}, "why": {"because"}}, nil)
		}
		list, err := r.api.Approvals.Approvals(t.Context(), 10)
		if err != nil || len(list) == 0 || list[0].Operation != op {
			t.Fatalf("%s: %v %v", op, list, err)
		}
		if body := auditor.do(http.MethodGet, "/approvals/"+list[0].ID, nil, nil).Body.String(); strings.Contains(body, pay) {
			t.Errorf("%s: who may not ask for the dependents is shown them", op)
		}
		return html.UnescapeString(another.do(http.MethodGet, "/approvals/"+list[0].ID, nil, nil).Body.String())
	}
	body := page("disableKey", true)
	for _, want := range []string{"What relies on it", "KMS used it last on " + begun.Add(-2*time.Hour).UTC().Format("2006-01-02 15:04"), "Requests answered: 2 in the last 24 hours, 3 in the last seven days.", pay, batch} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q: %s", want, body)
		}
	}
	for _, not := range []string{"role/refused", "role/elsewhere", "<details"} {
		if main := body[strings.Index(body, "<main"):]; strings.Contains(main, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if body = page("createCredential", false); strings.Contains(body, "Requests answered") || !strings.Contains(body, "Grants of the key store") {
		t.Errorf("of an operation that is not confirmed: %s", body)
	}
}

// TestOneselfOut: who takes themselves out is told so in words of its own; the last administrator
// cannot.
func TestOneselfOut(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	post := func(op string, form url.Values) string {
		t.Helper()
		all := maps.Clone(things)
		maps.Copy(all, form)
		all.Set("version", admin.version(""))
		w := admin.submit("/do/"+op, all)
		return html.UnescapeString(w.Body.String())
	}
	for _, op := range []string{"disableUser", "deleteUser"} {
		if page := post(op, nil); !strings.Contains(page, "no administrator would be left") || strings.Contains(page, `name="confirm"`) {
			t.Errorf("%s, the last administrator: %s", op, page)
		}
	}
	r.enrol("another", identity.RoleAdministrator)
	for op, form := range map[string]url.Values{"disableUser": nil, "deleteUser": nil, "setRole": {"role": {"viewer"}}} {
		page := post(op, form)
		want := "This is you. You will be signed out and cannot sign in again."
		if op == "setRole" {
			want = "This is you. You will be signed out, and may do only what viewer may when you sign in again."
		}
		if !strings.Contains(page, want) || !strings.Contains(page, `name="confirm"`) || !strings.Contains(page, "<h3>Sessions, which end: 1</h3>") {
			t.Errorf("%s: %s", op, page)
		}
	}
}

// TestConfirmationOfAnotherSession: the page that has a name typed is its user's, also in another
// session, and nobody else's.
func TestConfirmationOfAnotherSession(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	eve := r.enrol("eve", identity.RoleAdministrator)
	things := r.things(admin)
	things.Set("version", admin.version(""))
	to := admin.do(http.MethodPost, "/do/disableKey", things, nil).Header().Get("Location")
	eve.jar = admin.jar
	if w := eve.do(http.MethodGet, to, nil, nil); w.Code != http.StatusGone {
		t.Errorf("another user sees it: %d", w.Code)
	}
	if w := eve.do(http.MethodPost, to, url.Values{"confirm": {"k"}}, nil); !strings.HasPrefix(w.Header().Get("Location"), "/confirm/") {
		t.Errorf("another user goes on with it: %d %s", w.Code, w.Header().Get("Location"))
	}
	ended := &session{r: r, name: "admin", token: "ended", jar: admin.jar}
	// What was typed there is there after the sign-in, for its user.
	later, err := url.Parse(ended.do(http.MethodPost, to, url.Values{"confirm": {"k, as typed"}, "author": {admin.principal.UserID}}, nil).Header().Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	next := later.Query().Get("next")
	if later.Path != "/signin" || !strings.HasPrefix(next, to+"?kept=") {
		t.Errorf("without a session: %s", later)
	}
	if k, err := r.Appliance.ShowKey(t.Context(), "bank", "k"); err != nil || k.State != appliance.KeyEnabled {
		t.Errorf("%v %v", k, err)
	}
	jar := admin.jar
	for _, s := range []*session{admin, eve} {
		s.jar = jar
		w := s.do(http.MethodGet, next, nil, nil)
		if got := strings.Contains(w.Body.String(), "k, as typed"); got != (s == admin) {
			t.Errorf("%s, signed in again, sees what was typed: %t: %d", s.name, got, w.Code)
		}
		if s == admin && (w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Your session had ended")) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	admin.do(http.MethodPost, to, url.Values{"confirm": {"k"}}, nil)
	if k, err := r.Appliance.ShowKey(t.Context(), "bank", "k"); err != nil || k.State != appliance.KeyDisabled {
		t.Errorf("signed in again, it cannot be done: %v %v", k, err)
	}
}

// TestStaleBeforeAnOutage: when another person was faster, the page that has a name typed leads to
// the form, with all that was typed: the fields, and the reason for the one who approves.
func TestStaleBeforeAnOutage(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.enrol("another", identity.RoleAdministrator)
	things := r.things(admin)
	ctx := t.Context()
	if err := r.Appliance.SetSetting(ctx, appliance.SettingFourEyes, `{"operations":["disableKey","setQuota"]}`); err != nil {
		t.Fatal(err)
	}
	for op, c := range map[string]struct {
		page   string
		form   url.Values
		change func() error
		want   []string
	}{
		"setQuota": {"/keystores/bank", url.Values{"requests_per_second": {"3"}, "why": {"as I said"}}, func() error { _, err := r.Appliance.SetQuota(ctx, "bank", 77); return err },
			[]string{"<del>− 77</del>", "<ins>+ 3</ins>", `value="as I said"`}},
		"disableKey": {"/keystores/bank/keys/k", url.Values{}, func() error {
			_, err := r.Appliance.Block(ctx, appliance.BlockTarget{KeyStore: "bank", KeyID: "k"}, "a leak", "alice")
			return err
		}, []string{`name="why" value="as I said"`}},
	} {
		page := admin.do(http.MethodGet, c.page, nil, nil).Body.String()
		version := html.UnescapeString(regexp.MustCompile(`(?s)action="/do/` + op + `".*?name="version" value="([^"]*)"`).FindStringSubmatch(page)[1])
		form := maps.Clone(things)
		maps.Copy(form, c.form)
		form.Set("version", version)
		form.Set("back", c.page)
		to := admin.do(http.MethodPost, "/do/"+op, form, nil).Header().Get("Location")
		to = admin.do(http.MethodPost, to, url.Values{"confirm": {"x"}, "why": {"as I said"}}, nil).Header().Get("Location")
		if w := admin.do(http.MethodGet, to, nil, nil); w.Code != http.StatusUnprocessableEntity || !strings.HasPrefix(to, "/confirm/") {
			t.Fatalf("%s: %s: %d", op, to, w.Code)
		}
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		w := admin.do(http.MethodGet, to, nil, nil)
		if back := w.Header().Get("Location"); w.Code != http.StatusSeeOther || !strings.HasPrefix(back, c.page+"?kept=") {
			t.Errorf("%s: another was faster: %d %s", op, w.Code, back)
			continue
		}
		w = admin.do(http.MethodGet, w.Header().Get("Location"), nil, nil)
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: the page has not %q: %d %s", op, want, w.Code, w.Body)
			}
		}
	}
}
