package console_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance/identity"
	"holdfast/web/console"
)

// TestSecondWay: a user with one way to sign in is told so on the overview and their own page, and
// nowhere else, until there is a second one.
func TestSecondWay(t *testing.T) {
	r := startUnsealed(t) // the test changes rows
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	change := func(f func(a *identity.Account)) {
		t.Helper()
		_, err := r.rows.UpdateAccount(t.Context(), admin.principal.UserID, func(a *identity.Account) error { f(a); return nil }, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	says := func(what string, want bool) {
		t.Helper()
		for _, page := range console.Pages() {
			if strings.Contains(page, "{token}") || strings.HasPrefix(page, "/sign") || page == "/setup" {
				continue
			}
			path := strings.NewReplacer("{keystore}", "bank", "{key}", "k", "{user}", admin.principal.UserID, "{seq}", "0").Replace(page)
			body := admin.do(http.MethodGet, path, nil, nil).Body.String()
			if got, mine := strings.Contains(body, "You have one way to sign in"), page == "/" || page == "/account"; got != (want && mine) {
				t.Errorf("%s: %s says it: %t", what, page, got)
			}
		}
	}
	passkey := func(name string) identity.StoredPasskey {
		p := identity.StoredPasskey{Name: name, CreatedAt: r.clock()}
		p.Credential.ID = []byte(name)
		return p
	}
	says("a password with recovery codes", false)
	change(func(a *identity.Account) { a.UsedRecovery = a.Recovery })
	says("a password, and no code left", true)
	change(func(a *identity.Account) { a.Passkeys = append(a.Passkeys, passkey("laptop")) })
	says("a password and a passkey", false)
	change(func(a *identity.Account) { a.Password, a.TOTP, a.Recovery, a.UsedRecovery = "", "", nil, nil })
	says("a passkey alone", true)
	change(func(a *identity.Account) { a.Passkeys = append(a.Passkeys, passkey("blue key")) })
	says("two passkeys", false)
}

// TestRecoveryCodeUsed: the user is told at each sign-in that a recovery code was used, when and
// from where, until they say that they know; the audit log has it; and of few codes there is a
// warning.
func TestRecoveryCodeUsed(t *testing.T) {
	r := start(t)
	ctx := t.Context()
	_, invitation, err := r.users.Invite(ctx, identity.Principal{Name: "local", Role: identity.RoleAdministrator}, "alice", identity.RoleAdministrator)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := r.users.BeginEnrolPassword(ctx, invitation, identity.Client{})
	if err != nil {
		t.Fatal(err)
	}
	code, _ := totp.GenerateCode(secret.Secret, r.clock())
	in, err := r.users.FinishEnrolPassword(ctx, invitation, "a long enough sentence", code, identity.Client{Address: "192.0.2.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	signIn := func(code, address string) *session {
		t.Helper()
		r.pass(time.Minute)
		s := &session{r: r}
		w := s.do(http.MethodPost, "/signin", url.Values{"name": {"alice"}, "password": {"a long enough sentence"}, "code": {code}}, func(q *http.Request) { q.RemoteAddr = address })
		for _, k := range w.Result().Cookies() {
			if k.Name == "__Host-holdfast" {
				s.token = k.Value
			}
		}
		if w.Code != http.StatusSeeOther || s.token == "" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return s
	}
	now := func() string {
		t.Helper()
		c, err := totp.GenerateCode(secret.Secret, r.clock().Add(time.Minute)) // signIn waits that long
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	page := func(s *session, path string) string {
		t.Helper()
		return html.UnescapeString(s.do(http.MethodGet, path, nil, nil).Body.String())
	}
	recorded := func() (n int) {
		for _, rec := range r.audit.Records {
			if rec.Operation == "use a recovery code" && rec.Actor == "alice" && rec.Remote != "" {
				n++
			}
		}
		return n
	}
	const notice = "A recovery code of yours was used"
	if body := page(signIn(now(), "192.0.2.1:1"), "/"); strings.Contains(body, notice) || strings.Contains(body, "recovery codes are left") {
		t.Error("there is a notice, and no code was used")
	}
	thief := signIn(in.RecoveryCodes[0], "203.0.113.66:1")
	if recorded() != 1 {
		t.Errorf("%d records of it", recorded())
	}
	if body := page(thief, "/"); !strings.Contains(body, notice) {
		t.Error("the one who used it is not told")
	}
	var s *session
	for range 2 {
		s = signIn(now(), "192.0.2.1:1")
		for _, path := range []string{"/", "/account"} {
			if body := page(s, path); !strings.Contains(body, notice) || !strings.Contains(body, "203.0.113.66") || !strings.Contains(body, "9 recovery codes are left") {
				t.Errorf("%s does not say it", path)
			}
		}
		if body := page(s, "/keystores"); strings.Contains(body, notice) {
			t.Error("another page says it")
		}
	}
	body := page(s, "/account")
	until := regexp.MustCompile(`name="until" value="([^"]+)"`).FindStringSubmatch(body)
	if until == nil {
		t.Fatal("there is no form")
	}
	signIn(in.RecoveryCodes[1], "203.0.113.77:1") // after the page was made
	s.do(http.MethodPost, "/recovery/known", url.Values{"until": {until[1]}, "back": {"/account"}}, nil)
	if body := page(s, "/"); strings.Contains(body, "203.0.113.66") || !strings.Contains(body, "203.0.113.77") {
		t.Error("what was read is still there, or what was not read is gone")
	}
	if w := s.do(http.MethodPost, "/recovery/known", url.Values{"until": {"x"}}, nil); w.Code != http.StatusBadRequest {
		t.Errorf("a form without a time: %d", w.Code)
	}
	if body := page(signIn(in.RecoveryCodes[2], "192.0.2.1:1"), "/"); strings.Contains(body, "before you need them") {
		t.Error("seven codes are said to be few")
	}
	for _, code := range in.RecoveryCodes[3:7] {
		s = signIn(code, "192.0.2.1:1")
	}
	if body := page(s, "/"); !strings.Contains(body, "3 recovery codes are left") || !strings.Contains(body, "before you need them") {
		t.Error("there is no warning that three codes are few")
	}
	// A proof of presence uses one up as well.
	before := recorded()
	if w := s.do(http.MethodPost, "/prove", url.Values{"password": {"a long enough sentence"}, "code": {in.RecoveryCodes[7]}, "back": {"/account"}}, func(q *http.Request) { q.RemoteAddr = "198.51.100.9:1" }); w.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if body := page(s, "/account"); !strings.Contains(body, "198.51.100.9") || recorded() != before+1 {
		t.Error("the code of a proof of presence is not told of, or not recorded")
	}
}
