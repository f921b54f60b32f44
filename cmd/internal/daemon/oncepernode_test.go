package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// answer is what a node has answered to a browser.
type answer struct {
	status  int
	text    string
	cookies []*http.Cookie
}

// send sends a form, or asks for a page if that is nil, and follows nothing.
func (r *running) send(path string, form url.Values, cookies []*http.Cookie) (answer, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	q, err := http.NewRequest(method, "https://"+r.Admin.String()+path, body)
	if err != nil {
		return answer{}, err
	}
	if form != nil {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, c := range cookies {
		q.AddCookie(c)
	}
	c := r.s.client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(text), res.Cookies()}, err
}

// atBoth sends the form to both nodes at once.
func atBoth(t *testing.T, a, b *running, path string, form url.Values) (answers []answer) {
	t.Helper()
	got, failed := make(chan answer, 2), make(chan error, 2)
	for _, r := range []*running{a, b} {
		go func() {
			one, err := r.send(path, form, nil)
			got <- one
			failed <- err
		}()
	}
	for range 2 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		answers = append(answers, <-got)
	}
	return answers
}

// one fails the test unless one of the answers alone is what was wanted.
func one(t *testing.T, what string, answers []answer, good func(answer) bool) (won answer) {
	t.Helper()
	n := 0
	for _, a := range answers {
		if good(a) {
			won = a
			n++
		}
	}
	if n != 1 {
		t.Errorf("%s: %d of two nodes take it: %d and %d", what, n, answers[0].status, answers[1].status)
	}
	return won
}

// TestWhatIsGoodOnce: an invitation and a recovery code that two nodes get at once are taken by
// one of them.
func TestWhatIsGoodOnce(t *testing.T) {
	a, b := twoNodes(t)
	for round := range 3 {
		name := fmt.Sprint("user", round)
		var link operation.CreatedInvitation
		a.ok("POST", "invitations", operation.NewInvitation{Name: name, Role: identity.RoleViewer}, &link)
		page, err := b.send("/invitation/"+link.Token, nil, nil)
		secret := strings.ReplaceAll(between(page.text, `id="totp-secret">`, `<`), " ", "")
		if err != nil || secret == "" {
			t.Fatalf("%v: %d %.300s", err, page.status, page.text)
		}
		code, err := totp.GenerateCode(secret, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		won := one(t, "an invitation", atBoth(t, a, b, "/invitation/"+link.Token+"/password", url.Values{"password": {sentence}, "code": {code}}),
			func(a answer) bool { return a.status == http.StatusOK && strings.Contains(a.text, "Recovery codes") })
		for _, r := range []*running{a, b} {
			eventually(t, func() error {
				var users operation.List[identity.User]
				if err := r.do("GET", "users", nil, &users); err != nil {
					return err
				}
				if len(users.Items) != round+1 {
					return fmt.Errorf("there are %d users in round %d", len(users.Items), round)
				}
				return nil
			})
		}
		for _, code := range recoveryCodes.FindAllString(won.text, 1) { // an address has few attempts
			in := one(t, "a recovery code", atBoth(t, a, b, "/signin", url.Values{"name": {name}, "password": {sentence}, "code": {code}}),
				func(a answer) bool { return a.status == http.StatusSeeOther })
			if len(in.cookies) == 0 {
				t.Error("nobody is signed in")
			}
			for _, r := range []*running{a, b} { // and never again
				if again, err := r.send("/signin", url.Values{"name": {name}, "password": {sentence}, "code": {code}}, nil); err != nil || again.status != http.StatusUnauthorized {
					t.Errorf("the recovery code once more: %v %d", err, again.status)
				}
			}
		}
	}
}

// TestWhatOneNodeEndsEndsAtAll: a token that was revoked at one node, and a session that was
// ended there, are refused by the other as soon as the first has answered.
func TestWhatOneNodeEndsEndsAtAll(t *testing.T) {
	a, b := twoNodes(t)
	for round := range 5 {
		var token operation.CreatedToken
		a.ok("POST", "tokens", operation.NewToken{Name: fmt.Sprint("robot", round), Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, &token)
		for name, r := range map[string]*running{"where it was made": a, "the other": b} {
			if got := r.bearer(token.Secret, "GET", "/keystores", ""); got != http.StatusOK {
				t.Errorf("a token at the node %s: %d", name, got)
			}
		}
		a.ok("DELETE", "tokens/"+token.ID, nil, nil)
		if got := b.bearer(token.Secret, "GET", "/keystores", ""); got != http.StatusUnauthorized {
			t.Errorf("a token that was revoked at the other node: %d", got)
		}
	}

	var link operation.CreatedInvitation
	a.ok("POST", "invitations", operation.NewInvitation{Name: "alice", Role: identity.RoleAdministrator}, &link)
	page, err := a.send("/invitation/"+link.Token, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	code, err := totp.GenerateCode(strings.ReplaceAll(between(page.text, `id="totp-secret">`, `<`), " ", ""), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.send("/invitation/"+link.Token+"/password", url.Values{"password": {sentence}, "code": {code}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	shows := func(when string, r *running, want int) {
		t.Helper()
		if got, err := r.send("/account", nil, in.cookies); err != nil || got.status != want {
			t.Errorf("%s: %v %d", when, err, got.status)
		}
	}
	shows("where they signed in", a, http.StatusOK)
	shows("at the other node", b, http.StatusOK)
	if out, err := a.send("/signout", url.Values{}, in.cookies); err != nil || out.status != http.StatusSeeOther {
		t.Errorf("signing out: %v %d", err, out.status)
	}
	shows("at the other node, after they have signed out", b, http.StatusSeeOther)
}
