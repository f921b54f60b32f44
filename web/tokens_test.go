package web_test

import (
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
