package identity_test

import (
	"slices"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// TestScopeHasAddress: networks are held against the address of the connection, in any form.
func TestScopeHasAddress(t *testing.T) {
	s := &identity.Scope{KeyStores: []string{"*"}, Operations: []string{"*"}, Networks: []string{"192.0.2.0/24", "2001:db8::/32"}}
	for address, want := range map[string]bool{"192.0.2.9:443": true, "192.0.2.9": true, "[::ffff:192.0.2.9]:1": true, "192.0.3.9:443": false,
		"[2001:db8::1]:443": true, "2001:db8::1": true, "[2001:db8::1%eth0]:443": true, "2001:db9::1": false, "": false, "@": false, "localhost:1": false} {
		if s.HasAddress(address) != want {
			t.Errorf("%q: %t", address, !want)
		}
	}
	if !identity.Unlimited().HasAddress("") || !(*identity.Scope)(nil).HasAddress("") {
		t.Error("no limit refuses an address")
	}
}

// TestTokenFromBeforeScopes: its seal is that of before, it has no limit, and says so.
func TestTokenFromBeforeScopes(t *testing.T) {
	old := identity.Token{ID: "1", Name: "t", Role: identity.RoleViewer, CreatedAt: time.Unix(1, 0), ExpiresAt: time.Unix(2, 0), Digest: []byte{1}}
	fields := old.Binding().Fields
	if len(fields) != 9 {
		t.Fatalf("an old token's seal is of %d values; it was made of 9", len(fields))
	}
	scoped := old
	scoped.Scope = identity.Unlimited()
	if slices.Equal(scoped.Binding().Fields, fields) || string(scoped.Binding().AAD()) == string(appliance.Binding{Purpose: "api-token", Fields: fields}.AAD()) {
		t.Error("a scope can be taken away under the same seal")
	}
	if got := old.Scope.String(); got != "everything: made before scopes" {
		t.Error(got)
	}
	if old.Scope.Limits() || !old.Scope.HasOperation("status") || !old.Scope.HasKeyStore("p") {
		t.Error("an old token has a limit")
	}
}
