package console_test

import (
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// TestLastPasskey: who removes the last passkey is told what that means, and types its name before;
// who has another is not asked. The last way to sign in stays, and no name is asked for it.
func TestLastPasskey(t *testing.T) {
	r := startUnsealed(t) // the test makes passkeys without an authenticator
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	const warning = "This is your last passkey. You cannot sign in by passkey again until you add another."
	change := func(f func(a *identity.Account)) {
		t.Helper()
		if _, err := r.rows.UpdateAccount(t.Context(), admin.principal.UserID, func(a *identity.Account) error { f(a); return nil }, nil); err != nil {
			t.Fatal(err)
		}
	}
	passkeys := func() []identity.Passkey {
		t.Helper()
		u, err := r.users.User(t.Context(), admin.principal.UserID)
		if err != nil {
			t.Fatal(err)
		}
		return u.Passkeys
	}
	have := func(names ...string) {
		t.Helper()
		change(func(a *identity.Account) {
			a.Passkeys = nil
			for _, name := range names {
				p := identity.StoredPasskey{Name: name, CreatedAt: r.clock()}
				p.Credential.ID = []byte(name)
				a.Passkeys = append(a.Passkeys, p)
			}
		})
	}
	remove := func() string {
		t.Helper()
		forms := formsOf("/account", admin.do(http.MethodGet, "/account", nil, nil).Body.String(), operation.RemovePasskey.ID)
		if len(forms) != len(passkeys()) {
			t.Fatalf("%d forms for %d passkeys", len(forms), len(passkeys()))
		}
		return admin.do(http.MethodPost, "/do/removePasskey", forms[0].values, nil).Header().Get("Location")
	}

	have("laptop", "blue key")
	if to := remove(); to != "/account" || len(passkeys()) != 1 {
		t.Errorf("one of two: to %s, %d are left", to, len(passkeys()))
	}
	to := remove()
	for _, typed := range []string{"", "laptop"} {
		w := admin.do(http.MethodGet, to, nil, nil)
		if page := html.UnescapeString(w.Body.String()); !strings.HasPrefix(to, "/confirm/") || !strings.Contains(page, warning) || !strings.Contains(page, "Type <code>blue key</code> to confirm") || strings.Contains(page, `aria-invalid="true"`) != (typed == "laptop") {
			t.Fatalf("the last one, before %q is typed: %d at %s: %s", typed, w.Code, to, page)
		}
		if len(passkeys()) != 1 {
			t.Fatal("it was removed before its name was typed")
		}
		to = admin.do(http.MethodPost, to, url.Values{"confirm": {map[string]string{"": "laptop", "laptop": "blue key"}[typed]}}, nil).Header().Get("Location")
	}
	if to != "/account" || len(passkeys()) != 0 {
		t.Errorf("the last one, confirmed: to %s, %d are left", to, len(passkeys()))
	}

	// Another one that comes while the name is asked for makes it not the last one.
	have("laptop")
	to = remove()
	have("laptop", "blue key")
	w := admin.do(http.MethodGet, to, nil, nil)
	if page := html.UnescapeString(w.Body.String()); w.Code != http.StatusOK || strings.Contains(page, warning) {
		t.Errorf("not the last one any more: %d %s", w.Code, page)
	}
	if to = admin.do(http.MethodPost, to, url.Values{"confirm": {""}}, nil).Header().Get("Location"); to != "/account" || len(passkeys()) != 1 {
		t.Errorf("not the last one any more: to %s, %d are left", to, len(passkeys()))
	}

	change(func(a *identity.Account) { a.Password, a.TOTP, a.Recovery, a.UsedRecovery = "", "", nil, nil })
	to = remove()
	if page := html.UnescapeString(admin.do(http.MethodGet, to, nil, nil).Body.String()); !strings.Contains(to, "kept=") || !strings.Contains(page, "it is the only way to sign in; add another one first") || len(passkeys()) != 1 {
		t.Errorf("the last way to sign in: to %s, %d are left: %s", to, len(passkeys()), page)
	}
}
