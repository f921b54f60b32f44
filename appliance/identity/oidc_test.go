package identity_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/identity"
	"holdfast/appliance/identity/oidctest"
)

// TestOIDC: a user whom the provider vouches for signs in, and nobody else does.
func TestOIDC(t *testing.T) {
	p := oidctest.New(t)
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
	})
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	if _, err := d.BindOIDC(ctx, root, a.id, "Alice@Example.com"); err != nil {
		t.Fatal(err)
	}
	good := func() map[string]any {
		return map[string]any{"iss": p.URL, "aud": "console", "sub": "1234", "email": "alice@example.com", "email_verified": true,
			"iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix()}
	}
	try := func(change func(map[string]any), code string) error {
		t.Helper()
		d.pass(time.Minute) // for the limit of attempts
		to, state, err := d.BeginOIDC(ctx, from)
		if err != nil {
			t.Fatal(err)
		}
		q, err := url.Parse(to)
		if err != nil || !strings.HasPrefix(to, p.URL+"/auth?") || q.Query().Get("redirect_uri") != "https://console.test/signin/oidc" || q.Query().Get("code_challenge_method") != "S256" {
			t.Fatalf("%s: %v", to, err)
		}
		p.Challenge, p.Claims = q.Query().Get("code_challenge"), good()
		p.Claims["nonce"] = q.Query().Get("nonce")
		if change != nil {
			change(p.Claims)
		}
		in, err := d.FinishOIDC(ctx, state, code, from)
		if err == nil && in.Principal.UserID != a.id {
			t.Errorf("signed in as %+v", in.Principal)
		}
		if _, again := d.FinishOIDC(ctx, state, code, from); again != identity.ErrProof {
			t.Errorf("the state once more: %v", again)
		}
		return err
	}
	if err := try(nil, "good"); err != nil {
		t.Fatalf("vouched for: %v; %s", err, d.log.String())
	}
	set := func(name string, v any) func(map[string]any) { return func(m map[string]any) { m[name] = v } }
	for name, change := range map[string]func(map[string]any){
		"nonce": set("nonce", "other"), "audience": set("aud", "another"), "issuer": set("iss", "https://evil.test"), "expired": set("exp", 1),
		"not verified": set("email_verified", false), "no e-mail": set("email", ""), "nobody's e-mail": set("email", "eve@example.com"),
		"another person, same e-mail": set("sub", "5678"),
		"forged":                      func(map[string]any) { p.Forge = true },
	} {
		if err := try(change, "good"); err != identity.ErrProof {
			t.Errorf("%s: %v", name, err)
		}
		p.Forge = false
	}
	// Where the ID token has no claims of scopes, the provider's endpoint has them, for this user.
	thin := func(m map[string]any) { delete(m, "email"); delete(m, "email_verified") }
	for name, tt := range map[string]struct {
		info map[string]any
		want error
	}{
		"told apart":        {map[string]any{"sub": "1234", "email": "alice@example.com", "email_verified": true}, nil},
		"of another user":   {map[string]any{"sub": "5678", "email": "alice@example.com", "email_verified": true}, identity.ErrProof},
		"not verified":      {map[string]any{"sub": "1234", "email": "alice@example.com"}, identity.ErrProof},
		"verified, as text": {map[string]any{"sub": "1234", "email": "alice@example.com", "email_verified": "yes"}, identity.ErrProof},
		"nothing":           {map[string]any{}, identity.ErrProof},
	} {
		p.Info = tt.info
		if err := try(thin, "good"); err != tt.want {
			t.Errorf("UserInfo %s: %v; %s", name, err, d.log.String())
		}
	}
	if err := try(nil, "bad"); err != identity.ErrProof {
		t.Errorf("a wrong code: %v", err)
	}
	if _, err := d.FinishOIDC(ctx, "made up", "good", from); err != identity.ErrProof {
		t.Errorf("a state made up: %v", err)
	}
	if _, err := d.SetDisabled(ctx, d.enrol("b", identity.RoleAdministrator).id, false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetDisabled(ctx, a.id, true); err != nil {
		t.Fatal(err)
	}
	if err := try(nil, "good"); err != identity.ErrProof {
		t.Errorf("disabled: %v", err)
	}
}
