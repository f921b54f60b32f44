package storetest

import (
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

func testKeyStores(t *testing.T, s Engine) {
	ctx := t.Context()
	if list := Got(s.KeyStores(ctx))(t); len(list) != 0 {
		t.Fatalf("an empty store has %d key stores", len(list))
	}
	two, one, bare := KeyStore(2), KeyStore(1), KeyStore(3)
	bare.URIPathPrefix = ""
	for _, ks := range []*appliance.KeyStore{two, one, bare} {
		Must(t, s.CreateKeyStore(ctx, ks))
	}
	Equal(t, Got(s.KeyStores(ctx))(t), []*appliance.KeyStore{one, two, bare})

	same := KeyStore(4)
	same.Name = one.Name
	Wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-1"`)
	same = KeyStore(4)
	same.URIPathPrefix = two.URIPathPrefix
	Wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"/p2"`)
	same.URIPathPrefix = ""
	Wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-3"`)
	same = KeyStore(4)
	same.ID = two.ID
	Wants(t, s.CreateKeyStore(ctx, same), fault.Exists, `"store-2"`)
	Equal(t, Got(s.KeyStores(ctx))(t), []*appliance.KeyStore{one, two, bare})
}

func testDeleteKeyStore(t *testing.T, s Engine) {
	ctx := t.Context()
	ks, other := KeyStore(1), KeyStore(2)
	Wants(t, s.DeleteKeyStore(ctx, ks.ID, ks.Seal), fault.NotFound, "no key store")
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeyStore(ctx, other))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a"), NewKey(ks, "b"), NewKey(ks, "c")))
	Must(t, s.CreateCredential(ctx, Credential(ks, 1)))
	Must(t, s.CreateCredential(ctx, Credential(other, 2)))
	Must(t, s.CreateGrants(ctx, Grant(ks, 1, "")))
	Wants(t, s.DeleteKeyStore(ctx, ks.ID, ks.Seal), fault.Conflict, `key store "store-1" has 3 keys; delete them first`)
	Must(t, s.DeleteKey(ctx, ks.ID, "a", []byte("seal of a"), nil))
	Must(t, s.DeleteKey(ctx, ks.ID, "b", []byte("seal of b"), nil))
	Wants(t, s.DeleteKeyStore(ctx, ks.ID, ks.Seal), fault.Conflict, `key store "store-1" has 1 key; delete it first`)
	Must(t, s.DeleteKey(ctx, ks.ID, "c", []byte("seal of c"), nil))
	Must(t, s.DeleteKeyStore(ctx, ks.ID, ks.Seal))

	Equal(t, Got(s.KeyStores(ctx))(t), []*appliance.KeyStore{other})
	if n := len(Got(s.Credentials(ctx, ks.ID))(t)) + len(Got(s.Grants(ctx, ks.ID))(t)); n != 0 {
		t.Fatalf("%d credentials and grants were left behind", n)
	}
	Equal(t, Got(s.Credentials(ctx, other.ID))(t), []*appliance.Credential{Credential(other, 2)})
	Wants(t, s.DeleteKeyStore(ctx, ks.ID, ks.Seal), fault.NotFound, "no key store")
}
