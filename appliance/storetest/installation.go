package storetest

import (
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

func testInstallation(t *testing.T, s Engine) {
	ctx := t.Context()
	_, err := s.Installation(ctx)
	Wants(t, err, fault.NotFound, "no installation")
	in := &appliance.Installation{ID: ID(1), WrappedStateKey: []byte("wrapped"), CreatedAt: At(1)}
	Must(t, s.CreateInstallation(ctx, in))
	Equal(t, Got(s.Installation(ctx))(t), in)
	Wants(t, s.CreateInstallation(ctx, &appliance.Installation{ID: ID(2), CreatedAt: At(2)}), fault.Exists, "already")
	Equal(t, Got(s.Installation(ctx))(t), in)
}

func testBlocks(t *testing.T, s Engine) {
	ctx := t.Context()
	b := appliance.Block{By: "alice", Reason: "a test", Since: At(2)}
	Wants(t, s.SetBlock(ctx, b, []byte("seal"), nil), fault.NotFound, "no installation")
	Must(t, s.CreateInstallation(ctx, &appliance.Installation{ID: ID(1), WrappedStateKey: []byte("wrapped"), CreatedAt: At(1)}))
	Must(t, s.SetBlock(ctx, b, []byte("seal"), nil))
	Equal(t, Got(s.Installation(ctx))(t), &appliance.Installation{ID: ID(1), WrappedStateKey: []byte("wrapped"), CreatedAt: At(1), Blocked: b, BlockSeal: []byte("seal")})

	ks := KeyStore(1)
	Wants(t, s.UpdateKeyStore(ctx, ks, ks.Seal), fault.NotFound, "no key store")
	Must(t, s.CreateKeyStore(ctx, ks))
	was := ks.Seal
	ks.Blocked, ks.Policy, ks.Seal = b, "a policy", []byte("another")
	Wants(t, s.UpdateKeyStore(ctx, ks, []byte("stale")), fault.Changed, "another operation")
	Must(t, s.UpdateKeyStore(ctx, ks, was))
	Equal(t, Got(s.KeyStores(ctx))(t), []*appliance.KeyStore{ks})

	k := NewKey(ks, "a")
	k.Key.Blocked = b
	Must(t, s.CreateKeys(ctx, k))
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k.Key)
	k.Key.Blocked = appliance.Block{}
	Must(t, s.UpdateKey(ctx, k.Key, k.Key.Seal))
	Equal(t, &Got(s.Key(ctx, ks.ID, "a"))(t).ExternalKey, k.Key)
}
