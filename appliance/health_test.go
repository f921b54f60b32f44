package appliance_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm/hsmtest"
)

// TestAdministrationWhileAway: what needs the HSM fails wholly; the same works
// when it is back, and nothing is left of the attempts.
func TestAdministrationWhileAway(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(token)})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		b.NewKey(t, "demo", "old-"+string(custody), "encrypt,decrypt", custody)
	}
	attempts := map[string]func() error{
		"key store": func() error {
			_, err := b.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "new", URIPathPrefix: "/new"})
			return err
		},
	}
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		attempts["key, "+string(custody)] = func() error {
			_, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "new-" + string(custody), Custody: custody})
			return err
		}
		attempts["rotation, "+string(custody)] = func() error {
			_, err := b.Appliance.RotateKey(ctx, "demo", "old-"+string(custody), nil)
			return err
		}
	}
	shim.Cut()
	for name, attempt := range attempts {
		want := fault.Internal
		if strings.HasSuffix(name, ", hsm") {
			want = fault.HSMKey // whose key the HSM makes: who asks is told what it said
		}
		if err := attempt(); fault.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys := must(b.Appliance.Keys(ctx, "demo", appliance.Page{Limit: 10}, ""))(t); len(keys) != 2 || keys[0].CurrentVersion != 1 || keys[1].CurrentVersion != 1 {
		t.Errorf("the keys are %+v", keys)
	}
	if stores := must(b.Appliance.KeyStores(ctx))(t); len(stores) != 1 {
		t.Errorf("the key stores are %+v", stores)
	}
	// What needs no HSM works.
	must(b.Appliance.AddGrant(ctx, "demo", appliance.Grant{Principal: "dynamodb.amazonaws.com", Operations: []appliance.Operation{appliance.OpEncrypt}}))(t)
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "old-cached", false))(t)
	k.Fails(appliancetest.Encrypt("old-cached", "x"), fault.Conflict)

	shim.Restore()
	for name, attempt := range attempts {
		var err error
		appliancetest.Eventually(t, name, func() bool { err = attempt(); return err == nil || !strings.Contains(err.Error(), "not available") })
		if err != nil {
			t.Errorf("%s, back: %v", name, err)
		}
	}
	b.DestroyLeftovers(ctx)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("to be destroyed, and not: %+v", left)
	}
	if got := keyObjects(t, b.Device); got != 3 {
		t.Errorf("there are %d key objects in the token, want two of the old key and one of the new", got)
	}
}
