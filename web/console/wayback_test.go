package console_test

import (
	"context"
	"html"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/notice"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// TestSecondWay: a user with one way to sign in is told so on the overview and their own page, and
// nowhere else, until there is a second one.
func TestSecondWay(t *testing.T) {
	r := startUnsealed(t) // the test changes rows
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
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
	// Who has the codes cannot hide it: not in the session that one opened, nor in that of another one.
	confirm := formsOf("/account", s.do(http.MethodGet, "/account", nil, nil).Body.String(), operation.ConfirmRecoveryUses.ID)
	if len(confirm) != 1 {
		t.Fatalf("%d forms", len(confirm))
	}
	form := confirm[0].values
	another := signIn(in.RecoveryCodes[1], "203.0.113.77:1") // after the page was made
	for who, s := range map[string]*session{"who used the code": thief, "who used another": another} {
		if body := page(s, "/account"); strings.Contains(body, "/do/confirmRecoveryUses") || !strings.Contains(body, "you cannot confirm it here") {
			t.Errorf("%s is offered to confirm it", who)
		}
		mine := maps.Clone(form)
		mine.Set("version", r.versionOf(s))
		if body := s.submit("/do/confirmRecoveryUses", mine).Body.String(); !strings.Contains(body, "sign in without a recovery code") {
			t.Errorf("%s, who confirms it all the same: %s", who, body)
		}
	}
	if body := page(s, "/"); !strings.Contains(body, "203.0.113.66") {
		t.Fatal("it is hidden")
	}
	for _, until := range []string{"x", "", "2099-01-01T00:00:00Z", "2026-01-01T00:00:00Z"} {
		other := maps.Clone(form)
		other.Set("until", until)
		if s.submit("/do/confirmRecoveryUses", other); !strings.Contains(page(s, "/"), "203.0.113.66") {
			t.Errorf("uses until %q are hidden", until)
		}
	}
	r.pass(6 * time.Minute)
	if to := s.do(http.MethodPost, "/do/confirmRecoveryUses", form, nil).Header().Get("Location"); !strings.HasPrefix(to, "/prove/") {
		t.Errorf("no proof of presence is asked for: %s", to)
	}
	s = signIn(now(), "192.0.2.1:1")
	form.Set("version", r.versionOf(s))
	if w := s.do(http.MethodPost, "/do/confirmRecoveryUses", form, nil); w.Header().Get("Location") != form.Get("back") {
		t.Errorf("%d %s", w.Code, w.Header().Get("Location"))
	}
	if body := page(s, "/"); strings.Contains(body, "203.0.113.66") || !strings.Contains(body, "203.0.113.77") {
		t.Error("what was read is still there, or what was not read is gone")
	}
	kept := false
	for _, rec := range r.audit.Records {
		kept = kept || rec.Operation == operation.ConfirmRecoveryUses.Operation() && rec.Result == audit.Allowed && rec.Actor == "alice" && strings.Contains(string(rec.Before), "203.0.113.66") && !strings.Contains(string(rec.After), "203.0.113.66")
	}
	if !kept {
		t.Error("it is not on record what was confirmed")
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
	if body := page(s, "/account"); strings.Contains(body, "/do/confirmRecoveryUses") {
		t.Error("a session in which presence was proved by a code is offered to confirm it")
	}
}

// versionOf is what forms of a session have.
func (r *rig) versionOf(s *session) string {
	r.t.Helper()
	who, err := r.users.Session(r.t.Context(), s.token, false)
	if err != nil {
		r.t.Fatal(err)
	}
	return who.Session + " "
}

// outbox is a way by which notices go out: it keeps them.
type outbox chan string

func (outbox) Way() string     { return "email" }
func (outbox) Addressed() bool { return true }
func (o outbox) Send(_ context.Context, n notice.Notice, to string) error {
	o <- to + ": " + n.Title() + "\n" + n.Text()
	return nil
}

// TestRecoveryCodeNotice: the user is told by mail that a recovery code was used, at a sign-in and at
// a proof of presence, and who hears of everything is told as well.
func TestRecoveryCodeNotice(t *testing.T) {
	r := start(t)
	sent := make(outbox, 10)
	q := notice.New(notice.Config{Senders: []notice.Sender{sent}, To: []string{"security@example.com"}, Log: slog.New(slog.DiscardHandler), Console: func() string { return "https://console.test" }})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { q.Run(ctx) })
	defer running.Wait()
	defer stop()
	for _, p := range r.performers {
		p.Notices = q
	}
	alice := r.enrolByPassword("alice", identity.RoleViewer)
	codes, err := r.users.NewRecoveryCodes(ctx, alice.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.users.SetEmail(ctx, alice.principal.UserID, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	told := func(address string) {
		t.Helper()
		for _, to := range []string{"security@example.com", "alice@example.com"} {
			text := <-sent
			for _, want := range []string{to + ": Holdfast: a recovery code of alice was used", "From: " + address + "\n", "https://console.test/account"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in: %s", want, text)
				}
			}
		}
	}
	from := func(address string) func(*http.Request) {
		return func(q *http.Request) { q.RemoteAddr = address + ":1" }
	}
	r.pass(time.Minute)
	w := (&session{r: r}).do(http.MethodPost, "/signin", url.Values{"name": {"alice"}, "password": {"a long enough sentence"}, "code": {codes[0]}}, from("203.0.113.66"))
	if w.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	told("203.0.113.66")
	w = alice.do(http.MethodPost, "/prove", url.Values{"password": {"a long enough sentence"}, "code": {codes[1]}, "back": {"/account"}}, from("203.0.113.67"))
	if w.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	told("203.0.113.67")
}
