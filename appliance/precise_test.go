package appliance_test

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// TestKeysThatKMSCannotCall: a key whose path is too long, or is taken apart by HTTP
// clients, is not made.
func TestKeysThatKMSCannotCall(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	prefix := "/" + strings.Repeat("p", 128-len(appliance.XKSPath)-1)
	b.NewKeyStore(t, "long", prefix, "")
	b.NewKeyStore(t, "short", "", "")
	room := 256 - 128 - len("/keys/") - len("/metadata")
	for _, tt := range []struct {
		keyStore, id string
		ok           bool
	}{
		{"long", strings.Repeat("k", room), true}, {"long", strings.Repeat("k", room+1), false}, {"long", strings.Repeat("k", 128), false},
		{"short", strings.Repeat("k", 128), true}, {"short", ".", false}, {"short", "..", false}, {"short", "...", true}, {"short", ".k", true}, {"short", "k..", true},
	} {
		_, err := b.Appliance.CreateKey(ctx, tt.keyStore, appliance.NewExternalKey{ID: tt.id, Custody: appliance.CustodyCached})
		if (err == nil) != tt.ok || (err != nil && fault.CodeOf(err) != fault.Invalid) {
			t.Errorf("key %q of %d characters in %s: %v", tt.id, len(tt.id), tt.keyStore, err)
		}
	}
	if keys := must(b.Appliance.Keys(ctx, "short", appliance.Page{Limit: 10, Prefix: "."}, ""))(t); len(keys) != 2 {
		t.Errorf("there are %d keys that begin with a period", len(keys))
	}
}

// TestMaterialThatIsNoKey: material that nobody has written is refused, at the import of a
// key and of a version, in either custody.
func TestMaterialThatIsNoKey(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", "")
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		b.NewKey(t, "demo", "old-"+string(custody), "encrypt,decrypt", custody)
		for _, value := range []byte{0, 0xff} {
			material := func() []byte { return bytes.Repeat([]byte{value}, appliance.KeyBytes) }
			_, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "new", Custody: custody, Material: material()})
			wantCode(t, err, fault.Invalid)
			_, err = b.Appliance.RotateKey(ctx, "demo", "old-"+string(custody), material())
			wantCode(t, err, fault.Invalid)
		}
	}
}

// TestGrantsThatNeverMatch: a new grant names what KMS may send. One that forbids, with a
// mistake in it, would never forbid.
func TestGrantsThatNeverMatch(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", "")
	good := appliance.Grant{Effect: appliance.EffectForbid, Principal: "arn:aws:iam::123456789012:role/app", Operations: []appliance.Operation{appliance.OpEncrypt}}
	must(b.Appliance.AddGrant(ctx, "demo", good))(t)
	for _, principal := range []string{" ", "arn:aws:iam:123456789012:role/app", "12345678901", "ａrn:aws:iam::123456789012:role/app"} {
		g := good
		g.Principal = principal
		_, err := b.Appliance.AddGrant(ctx, "demo", g)
		wantCode(t, err, fault.Invalid)
		wantCode(t, b.Appliance.CheckGrant(ctx, "demo", g), fault.Invalid)
	}
	for _, policy := range []string{`forbid (principal in Account::"12345678901", action, resource);`, `forbid (principal == Principal::"ａrn:aws:iam::123456789012:role/app", action, resource);`} {
		wantCode(t, b.Appliance.SetPolicy(ctx, "demo", appliance.Policies{Cedar: policy}), fault.Invalid)
		wantCode(t, b.Appliance.CheckPolicy(ctx, "demo", appliance.Policies{Cedar: policy}), fault.Invalid)
	}
}
