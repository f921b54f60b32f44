package identity_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/oidctest"
)

// TestGroups: with a mapping the groups of each sign-in by the provider decide about the role, and
// what is no list of groups, or has none that is mapped, lets nobody in and ends their sessions.
func TestGroups(t *testing.T) {
	p := oidctest.New(t)
	var groups identity.Groups
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client(), Groups: identity.Groups{Scopes: []string{"groups"},
			Roles: map[string]identity.Role{"kms-admins": identity.RoleAdministrator, "kms-keys": identity.RoleKeyAdministrator, "kms-readers": identity.RoleViewer, "kms-audit": identity.RoleAuditor}}}
		groups = c.OIDC.Groups
	})
	ctx := t.Context()
	root := root
	a, b := d.enrol("alice", identity.RoleViewer), d.enrol("bob", identity.RoleAdministrator)
	if _, err := d.BindOIDC(ctx, root, a.id, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	as := func(email, sub string, claim any) (identity.SignedIn, error) {
		t.Helper()
		d.pass(time.Minute) // for the limit of attempts
		to, state, err := d.BeginOIDC(ctx, from)
		if err != nil {
			t.Fatal(err)
		}
		q, err := url.Parse(to)
		if err != nil || q.Query().Get("scope") != "openid email groups" {
			t.Fatalf("%s: %v", to, err)
		}
		p.Challenge = q.Query().Get("code_challenge")
		p.Claims = map[string]any{"iss": p.URL, "aud": "console", "sub": sub, "email": email, "email_verified": true, "nonce": q.Query().Get("nonce"),
			"iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix()}
		p.Info = map[string]any{"sub": sub}
		if claim != nil {
			p.Claims["groups"] = claim
		}
		return d.FinishOIDC(ctx, state, "good", from)
	}
	alice := func(claim any) (identity.SignedIn, error) { return as("alice@example.com", "1", claim) }
	role := func() identity.Role {
		t.Helper()
		u, err := d.User(ctx, a.id)
		if err != nil {
			t.Fatal(err)
		}
		return u.Role
	}
	for _, tt := range []struct {
		groups   []string
		was, now identity.Role
	}{
		{[]string{"kms-readers"}, "", identity.RoleViewer},
		{[]string{"other", "kms-keys"}, identity.RoleViewer, identity.RoleKeyAdministrator},
		{[]string{"kms-readers", "kms-admins", "kms-audit", "kms-admins"}, identity.RoleKeyAdministrator, identity.RoleAdministrator},
		{[]string{"kms-admins"}, "", identity.RoleAdministrator},
		{[]string{"kms-audit", "kms-readers"}, identity.RoleAdministrator, identity.RoleAuditor},
	} {
		before, err := alice([]string{"kms-readers"}) // a session of before
		if err == nil && tt.was != "" {
			_, err = d.SetRole(ctx, a.id, tt.was)
		} else if err == nil {
			_, err = d.SetRole(ctx, a.id, tt.now)
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := alice(tt.groups)
		if err != nil || in.Principal.Role != tt.now || in.RoleWas != tt.was || role() != tt.now {
			t.Errorf("%v: role %s, was %q: %v; %s", tt.groups, in.Principal.Role, in.RoleWas, err, role())
		}
		if _, err := d.Session(ctx, before.Token, true); err != identity.ErrProof {
			t.Errorf("%v: a session of before: %v", tt.groups, err)
		}
		if who, err := d.Session(ctx, in.Token, true); err != nil || who.Role != tt.now {
			t.Errorf("%v: the session is %s: %v", tt.groups, who.Role, err)
		}
	}

	many := make([]string, 10000)
	for i := range many {
		many[i] = fmt.Sprintf("group-%d", i)
	}
	for name, claim := range map[string]any{
		"no claim": nil, "no list": "kms-admins", "a list in a text": `["kms-admins"]`, "no group": []string{}, "groups that give nothing": []string{"x", "KMS-ADMINS", "kms-admins ", "kms-admin"},
		"10,000 groups": append(many, "kms-admins"), "numbers": []any{1, "kms-admins"}, "lists": []any{[]string{"kms-admins"}}, "an object": map[string]any{"kms-admins": true}, "a number": 7, "true": true,
		"null": json.RawMessage("null"), "elsewhere (Entra ID)": map[string]any{"_claim_names": "src1"},
	} {
		before, err := alice([]string{"kms-readers"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice(claim); fault.CodeOf(err) != fault.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Session(ctx, before.Token, true); err != identity.ErrProof {
			t.Errorf("%s: a session of before: %v", name, err)
		}
		if role() != identity.RoleViewer {
			t.Errorf("%s: the role is %s", name, role())
		}
	}
	if !strings.Contains(d.log.String(), "gives a role") {
		t.Error("the log does not say why")
	}

	// The last administrator is not lowered, and does not come in either.
	if _, err := alice([]string{"kms-admins"}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetDisabled(ctx, b.id, true); err != nil {
		t.Fatal(err)
	}
	if _, err := alice([]string{"kms-readers"}); fault.CodeOf(err) != fault.Conflict || role() != identity.RoleAdministrator {
		t.Errorf("the last administrator: %v, %s", err, role())
	}
	// While the appliance is locked nothing can be sealed, so no role changes.
	if _, err := d.SetDisabled(ctx, b.id, false); err != nil {
		t.Fatal(err)
	}
	d.vault.set(false, true)
	if in, err := alice([]string{"kms-readers"}); err == nil || role() != identity.RoleAdministrator {
		t.Errorf("locked: %+v, the role is %s", in.Principal, role())
	}
	d.vault.set(false, false)

	groups.Roles["x"] = "root"
	if _, err := identity.New(identity.Config{Store: nil, Seals: d.vault, Settings: d.vault, URL: "https://console.test", OIDC: &identity.OIDC{Groups: groups}}); err == nil || !strings.Contains(err.Error(), `"root"`) {
		t.Errorf("a role that there is not: %v", err)
	}
}

// TestGroupsOfUserInfo: groups that the ID token lacks are those that the provider tells of the same
// user; an address is verified by the document that names it alone.
func TestGroupsOfUserInfo(t *testing.T) {
	p := oidctest.New(t)
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client(), Groups: identity.Groups{Roles: map[string]identity.Role{"kms-audit": identity.RoleAuditor}}}
	})
	ctx := t.Context()
	a, _ := d.enrol("alice", identity.RoleViewer), d.enrol("bob", identity.RoleAdministrator)
	if _, err := d.BindOIDC(ctx, root, a.id, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	whole := map[string]any{"email": "alice@example.com", "email_verified": true}
	for name, tt := range map[string]struct {
		token, info map[string]any
		good        bool
	}{
		"groups are told apart":            {whole, map[string]any{"sub": "1", "groups": []string{"kms-audit"}}, true},
		"the ID token's groups come first": {map[string]any{"email": "alice@example.com", "email_verified": true, "groups": []string{}}, map[string]any{"sub": "1", "groups": []string{"kms-audit"}}, false},
		"of another user":                  {whole, map[string]any{"sub": "2", "groups": []string{"kms-audit"}}, false},
		"nowhere":                          {whole, map[string]any{"sub": "1"}, false},
		"another address is verified":      {map[string]any{"email": "alice@example.com"}, map[string]any{"sub": "1", "email": "eve@example.com", "email_verified": true, "groups": []string{"kms-audit"}}, false},
		"another address is told":          {map[string]any{"email_verified": true}, map[string]any{"sub": "1", "email": "alice@example.com", "groups": []string{"kms-audit"}}, false},
	} {
		d.pass(time.Minute) // for the limit of attempts
		to, state, err := d.BeginOIDC(ctx, from)
		if err != nil {
			t.Fatal(err)
		}
		q, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		p.Challenge, p.Info = q.Query().Get("code_challenge"), tt.info
		p.Claims = map[string]any{"iss": p.URL, "aud": "console", "sub": "1", "nonce": q.Query().Get("nonce"), "iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix()}
		maps.Copy(p.Claims, tt.token)
		in, err := d.FinishOIDC(ctx, state, "good", from)
		if (err == nil) != tt.good || tt.good && in.Principal.Role != identity.RoleAuditor {
			t.Errorf("%s: %+v %v; %s", name, in.Principal, err, d.log.String())
		}
	}
}

// TestNoGroups: without a mapping a claim gives nothing, whatever it says.
func TestNoGroups(t *testing.T) {
	p := oidctest.New(t)
	d := open(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
	})
	ctx := t.Context()
	a, _ := d.enrol("alice", identity.RoleViewer), d.enrol("bob", identity.RoleAdministrator)
	if _, err := d.BindOIDC(ctx, root, a.id, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	to, state, err := d.BeginOIDC(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	q, err := url.Parse(to)
	if err != nil || q.Query().Get("scope") != "openid email" {
		t.Fatalf("%s: %v", to, err)
	}
	p.Challenge = q.Query().Get("code_challenge")
	p.Claims = map[string]any{"iss": p.URL, "aud": "console", "sub": "1", "email": "alice@example.com", "email_verified": true, "nonce": q.Query().Get("nonce"),
		"iat": d.clock().Unix(), "exp": d.clock().Add(time.Minute).Unix(), "groups": []string{"administrator", "kms-admins"}, "role": "administrator"}
	in, err := d.FinishOIDC(ctx, state, "good", from)
	if err != nil || in.Principal.Role != identity.RoleViewer || in.RoleWas != "" {
		t.Errorf("%+v %v", in, err)
	}
}
