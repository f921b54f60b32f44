package identity_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/appliance/identity/oidctest"
	"holdfast/appliance/identity/passkeytest"
)

// interrupted is a store in which something happens between the reading of a user and the change.
type interrupted struct {
	identity.Store
	meanwhile func()
}

func (s *interrupted) UpdateAccount(ctx context.Context, id string, f func(*identity.Account) error, rule identity.Rule) (*identity.Account, error) {
	if meanwhile := s.meanwhile; meanwhile != nil {
		s.meanwhile = nil
		meanwhile()
	}
	return s.Store.UpdateAccount(ctx, id, f, rule)
}

// vouch gives what the provider answers for a sign-in that is begun: its state.
func vouch(t *testing.T, d *directory, p *oidctest.Provider, email, sub string) (state string) {
	t.Helper()
	to, state, err := d.BeginOIDC(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	q, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p.Challenge = q.Query().Get("code_challenge")
	p.Claims = map[string]any{"iss": p.URL, "aud": "console", "sub": sub, "email": email, "email_verified": true, "nonce": q.Query().Get("nonce"),
		"iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix()}
	return state
}

// TestChangedWhileSigningIn: who is disabled, or loses the way by which they sign in, between the look
// at the proof and the session is not let in, and what was changed stays so.
func TestChangedWhileSigningIn(t *testing.T) {
	p := oidctest.New(t)
	s := &interrupted{}
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
		s.Store, c.Store = c.Store, s
	})
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	d.enrol("bob", identity.RoleAdministrator)
	key := passkeytest.New(t, "https://console.test")
	addPasskey := func() {
		t.Helper()
		c, err := d.BeginAddPasskey(ctx, a.id)
		if err == nil {
			_, err = d.FinishAddPasskey(ctx, a.id, c.ID, "laptop", key.Create(c))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	addPasskey()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bind := func(email string) { t.Helper(); must(d.BindOIDC(ctx, root, a.id, email)) }
	account := func() *identity.User {
		t.Helper()
		u, err := d.User(ctx, a.id)
		must(u, err)
		return u
	}
	ways := map[string]func() error{
		"password": func() error { return errorOf(d.SignInPassword(ctx, "alice", password, d.code(a.secret), from)) },
		"passkey": func() error {
			c, err := d.BeginPasskey(ctx)
			must(c, err)
			return errorOf(d.FinishPasskey(ctx, c.ID, key.Get(c), from))
		},
		"OpenID": func() error {
			return errorOf(d.FinishOIDC(ctx, vouch(t, d, p, "alice@example.com", "1"), "good", from))
		},
	}
	type change struct {
		way, what string
		do, undo  func()
	}
	var changes []change
	for way := range ways {
		changes = append(changes, change{way, "disabled", func() { must(d.SetDisabled(ctx, a.id, true)) }, func() { must(d.SetDisabled(ctx, a.id, false)) }})
	}
	changes = append(changes,
		change{"password", "another password", func() {
			secret, err := d.BeginPassword(ctx, a.id)
			must(nil, err)
			must(nil, d.FinishPassword(ctx, a.id, "another sentence, long enough", d.code(secret.Secret)))
		}, func() {
			secret, err := d.BeginPassword(ctx, a.id)
			must(nil, err)
			must(nil, d.FinishPassword(ctx, a.id, password, d.code(secret.Secret)))
			a.secret = secret.Secret
		}},
		change{"passkey", "without the passkey", func() { must(nil, d.RemovePasskey(ctx, a.id, account().Passkeys[0].ID)) }, addPasskey},
		change{"OpenID", "bound to another address", func() { bind("alice@other.example") }, func() { bind("alice@example.com") }},
		change{"OpenID", "not bound", func() { bind("") }, func() { bind("alice@example.com") }},
		change{"OpenID", "bound to another person", func() {
			bind("alice@example.com")
			d.pass(time.Second)
			must(d.FinishOIDC(ctx, vouch(t, d, p, "alice@example.com", "2"), "good", from))
		}, func() { bind("alice@example.com") }},
		change{"OpenID", "with another role", func() { must(d.SetRole(ctx, a.id, identity.RoleViewer)) }, func() { must(d.SetRole(ctx, a.id, identity.RoleAdministrator)) }},
	)
	bind("alice@example.com")
	for _, c := range changes {
		d.pass(2 * time.Minute) // for the limits, and another code
		s.meanwhile = c.do
		if err := ways[c.way](); err != identity.ErrProof {
			t.Errorf("%s, %s meanwhile: %v", c.way, c.what, err)
		}
		if sessions, err := d.Sessions(ctx, a.id); c.what == "disabled" && (err != nil || len(sessions) != 0) {
			t.Errorf("%s: a session of a disabled user: %v", c.way, err)
		}
		if u := account(); c.what == "with another role" && u.Role != identity.RoleViewer {
			t.Errorf("the role is %s again", u.Role)
		}
		c.undo()
		d.pass(2 * time.Minute)
		if err := ways[c.way](); err != nil {
			t.Errorf("%s, with nothing changed after %s: %v; %s", c.way, c.what, err, d.log.String())
		}
	}
}

// TestEmailOfProvider: a user without an e-mail address gets that of the provider with the first
// sign-in by it; what an administrator takes away stays away, and it goes with the binding.
func TestEmailOfProvider(t *testing.T) {
	p := oidctest.New(t)
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
	})
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	for _, step := range []struct {
		bind, set *string
		enter     string // the provider's address
		want      string
	}{
		{bind: new("Alice@example.com"), want: ""},
		{enter: "alice@example.com", want: "alice@example.com"},
		{set: new(""), want: ""},
		{enter: "alice@example.com", want: ""},
		{set: new("oncall@example.com"), want: "oncall@example.com"},
		{enter: "alice@example.com", want: "oncall@example.com"},
		{bind: new("alice@other.example"), want: "oncall@example.com"},
		{set: new(""), want: ""},
		{enter: "alice@other.example", want: "alice@other.example"},
		{bind: new("alice@example.com"), want: ""},
		{enter: "alice@example.com", want: "alice@example.com"},
		{bind: new(""), want: ""},
	} {
		d.pass(time.Minute)
		var err error
		switch {
		case step.bind != nil:
			_, err = d.BindOIDC(ctx, root, a.id, *step.bind)
		case step.set != nil:
			_, err = d.SetEmail(ctx, a.id, *step.set)
		default:
			_, err = d.FinishOIDC(ctx, vouch(t, d, p, step.enter, "1"), "good", from)
		}
		if err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if u, err := d.User(ctx, a.id); err != nil || u.Email != step.want {
			t.Errorf("%+v: notices go to %q: %v", step, u.Email, err)
		}
	}
}
