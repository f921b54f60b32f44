package web_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
)

// TestForgottenTokens: an API token that ended 90 days ago is dropped with the making of another,
// and that is on record.
func TestForgottenTokens(t *testing.T) {
	p := newPeople(t)
	api := p.api.(*web.API)
	api.Identity.Now = func() time.Time { return time.Now().Add(-100 * 24 * time.Hour) }
	for name, lifetime := range map[string]time.Duration{"long-gone": time.Hour, "still-good": 300 * 24 * time.Hour} {
		if _, _, err := api.Identity.CreateToken(t.Context(), root, identity.NewToken{Name: name, Role: identity.RoleViewer, Lifetime: lifetime, Scope: identity.Unlimited()}); err != nil {
			t.Fatal(err)
		}
	}
	api.Identity.Now = time.Now
	before := len(p.audit.Records)
	p.want(p.call(&root, "POST", "/tokens", samples["createToken"]), 201)
	list, err := operation.ListTokens.Do(t.Context(), api.As(root, ""), operation.TokenPage{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range list.Out.Items {
		names = append(names, k.Name)
	}
	if got := strings.Join(names, " "); got != "still-good t" {
		t.Errorf("the tokens are now %s", got)
	}
	recorded := 0
	for _, r := range p.audit.Records[before:] {
		if r.Operation == "forget API token" && r.Result == audit.Allowed && strings.Contains(r.Object, "long-gone") && len(r.Before) > 0 {
			recorded++
		}
	}
	if recorded != 1 {
		t.Errorf("it is on record %d times", recorded)
	}
}

// TestTokensOfNamesake: what relies on a user has the tokens that the user made, and those that such
// a token made, and not those of another who had the name before, or of a user whom they invited.
func TestTokensOfNamesake(t *testing.T) {
	p := newPeople(t, "alice", "carol", "dave")
	p.fourEyes("deleteKeyStore") // from now on it is kept who helped to make a user
	make := func(who *identity.Principal, name string) (secret string) {
		t.Helper()
		_, secret, err := p.users.CreateToken(t.Context(), *who, identity.NewToken{Name: name, Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	make(p.user("alice"), "of-the-old-alice")
	if err := p.users.DeleteUser(t.Context(), p.account("alice").ID); err != nil {
		t.Fatal(err)
	}
	p.enrol("alice")
	robot, err := p.users.Bearer(t.Context(), make(p.user("alice"), "of-the-new-alice"), identity.Client{})
	if err != nil {
		t.Fatal(err)
	}
	make(&robot, "of-her-token")
	_, link, err := p.users.Invite(t.Context(), *p.user("alice"), "bob", identity.RoleAdministrator)
	if err != nil {
		t.Fatal(err)
	}
	p.accept(link)
	make(p.user("bob"), "of-bob")
	make(p.user("carol"), "of-carol")
	found, err := operation.ShowDependents.Do(t.Context(), p.api.(*web.API).As(root, ""), operation.DependentsOf{User: p.account("alice").ID})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range found.Out.Things {
		if strings.Contains(x.Kind, "API tokens") {
			names = append(names, x.Names...)
		}
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "of-her-token of-the-new-alice" {
		t.Errorf("her tokens are said to be: %s", got)
	}
}
