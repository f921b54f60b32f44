package storetest

import "testing"

func testTokenObjects(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Equal(t, len(Got(s.TokenObjects(ctx))(t)), 0)
	Must(t, s.NoteTokenObjects(ctx, TokenObject("b")))
	Must(t, s.NoteTokenObjects(ctx, TokenObject("a"), TokenObject("c")))
	forged := TokenObject("a")
	forged.KeyStore, forged.KeyID, forged.Version, forged.Seal = ID(9), "other", 1, nil
	Must(t, s.NoteTokenObjects(ctx, forged))
	Must(t, s.NoteTokenObjects(ctx, TokenObject("a"))) // it replaces what was noted
	Must(t, s.StrikeTokenObject(ctx, "b", TokenObject("b").Seal))
	Must(t, s.StrikeTokenObject(ctx, "unknown", nil))
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("a", "c"))
	k := NewKey(ks, "k")
	k.TokenObject = "a"
	Must(t, s.CreateKeys(ctx, k))
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("c"))
}
