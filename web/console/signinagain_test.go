package console_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/appliance/identity/oidctest"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// TestFormSurvivesOpenID: a form that met the end of its session is there, with what was typed, for
// a user who comes back from the OpenID provider, and can be sent; not for another one.
func TestFormSurvivesOpenID(t *testing.T) {
	provider := oidctest.New(t)
	r := startSealed(t, xkstest.Options{}, sealed, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: provider.URL, ClientID: "console", HTTP: provider.Client()}
	})
	users := map[string]*session{}
	root := identity.Principal{Name: "local", Role: identity.RoleAdministrator}
	for _, name := range []string{"alice", "bob"} {
		users[name] = r.enrol(name, identity.RoleAdministrator)
		if _, err := r.users.BindOIDC(t.Context(), root, users[name].principal.UserID, name+"@example.com"); err != nil {
			t.Fatal(err)
		}
	}
	things := r.things(users["alice"])
	const typed = "arn:aws:iam::123456789012:role/typed-by-alice"
	link := regexp.MustCompile(`id="go" href="([^"]+)"`)
	next := regexp.MustCompile(`action="/signin/oidc/begin">\s*<input type="hidden" name="next" value="([^"]+)"`)
	for _, name := range []string{"bob", "alice"} {
		b := (&session{r: r, token: "ended"}).browser(t)
		form := confirmed(things, operation.CreateGrant.ID, users["alice"].version(""))
		form.Set("author", users["alice"].principal.UserID)
		form.Set("back", "/keystores/bank/grants")
		form.Set("principal", typed)
		_, page, at := visit(t, b, "/do/createGrant", form)
		to := next.FindStringSubmatch(page)
		if !strings.HasPrefix(at, "/signin?") || to == nil {
			t.Fatalf("%s: %s", at, page)
		}
		_, page, _ = visit(t, b, "/signin/oidc/begin", url.Values{"next": {to[1]}})
		away := link.FindStringSubmatch(page)
		if away == nil {
			t.Fatalf("no way to the provider: %s", page)
		}
		asked, err := url.Parse(away[1])
		if err != nil {
			t.Fatal(err)
		}
		q := asked.Query()
		provider.Challenge = q.Get("code_challenge")
		provider.Claims = map[string]any{"iss": provider.URL, "aud": "console", "sub": name, "email": name + "@example.com", "email_verified": true, "nonce": q.Get("nonce"),
			"iat": r.clock().Unix(), "exp": r.clock().Add(time.Minute).Unix()}
		status, page, at := visit(t, b, identity.CallbackPath+"?"+url.Values{"state": {q.Get("state")}, "code": {"good"}}.Encode(), nil)
		if status != http.StatusOK || !strings.HasPrefix(at, "/keystores/bank/grants?") {
			t.Fatalf("%s: back from the provider: %d at %s: %s", name, status, at, page)
		}
		mine := name == "alice"
		if strings.Contains(page, typed) != mine || strings.Contains(page, "Your session had ended") != mine || strings.Contains(page, "another user filled it in") == mine {
			t.Errorf("%s sees the form otherwise: %s", name, page)
		}
		if !mine {
			continue
		}
		for _, f := range formsOf(at, page, operation.CreateGrant.ID) {
			if f.values.Get("principal") != typed {
				t.Errorf("the form has the principal %q", f.values.Get("principal"))
			}
			before := r.done()
			if status, page, _ = visit(t, b, "/do/createGrant", f.values); status != http.StatusOK || r.done() != before+1 {
				t.Errorf("sent again: %d, done %d times: %s", status, r.done()-before, page)
			}
		}
	}
	grants, err := r.Appliance.Grants(t.Context(), "bank")
	if err != nil || len(grants) != 2 || grants[0].Principal != typed && grants[1].Principal != typed {
		t.Errorf("%d grants: %v", len(grants), err)
	}
}
