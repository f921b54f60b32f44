package storetest

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

func testSubscribe(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	var mu sync.Mutex
	var heard []appliance.Change
	s.Subscribe(func(c appliance.Change) {
		// The change can be read already, from within the function.
		if c == (appliance.Change{KeyStore: ks.ID, KeyID: "a"}) {
			if _, err := s.Key(context.Background(), ks.ID, "a"); err != nil && fault.CodeOf(err) != fault.NotFound {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, c)
	})
	onStore, onKey := appliance.Change{KeyStore: ks.ID}, appliance.Change{KeyStore: ks.ID, KeyID: "a"}
	k := NewKey(ks, "a").Key
	k.CurrentVersion = 2
	cr := Credential(ks, 1)
	for _, step := range []struct {
		what string
		do   func() error
		want []appliance.Change
	}{
		{"installation", func() error {
			return s.CreateInstallation(ctx, &appliance.Installation{ID: ID(1), CreatedAt: At(1)})
		}, []appliance.Change{{}}},
		{"block", func() error { return s.SetBlock(ctx, appliance.Block{}, nil, nil) }, []appliance.Change{{}}},
		{"setting", func() error { return s.SetSetting(ctx, oneSetting, nil) }, []appliance.Change{{Setting: oneSetting.Name}}},
		{"key store", func() error { return s.CreateKeyStore(ctx, ks) }, []appliance.Change{onStore}},
		{"key store update", func() error { return s.UpdateKeyStore(ctx, ks, ks.Seal) }, []appliance.Change{onStore}},
		{"keys", func() error { return s.CreateKeys(ctx, NewKey(ks, "a"), NewKey(ks, "b")) },
			[]appliance.Change{onKey, {KeyStore: ks.ID, KeyID: "b"}}},
		{"update", func() error { return s.UpdateKey(ctx, k, k.Seal) }, []appliance.Change{onKey}},
		{"version", func() error { return s.AddKeyVersion(ctx, k, Version(ks, "a", 2), k.Seal, "") }, []appliance.Change{onKey}},
		{"reserve", func() error { _, err := s.ReserveEncryptions(ctx, ks.ID, "a", 1, 1); return err }, nil},
		{"note", func() error { return s.NoteTokenObjects(ctx, TokenObject("x")) }, nil},
		{"strike", func() error { return s.StrikeTokenObject(ctx, "x", TokenObject("x").Seal) }, nil},
		{"credential", func() error { return s.CreateCredential(ctx, cr) }, []appliance.Change{onStore}},
		{"credential update", func() error { return s.UpdateCredential(ctx, cr, cr.Secret) }, []appliance.Change{onStore}},
		{"use", func() error { return s.RecordCredentialUse(ctx, map[string]time.Time{cr.AccessKeyID: At(1)}) }, nil},
		{"credential delete", func() error { return s.DeleteCredential(ctx, ks.ID, cr.AccessKeyID, cr.Secret) }, []appliance.Change{onStore}},
		{"key store grant", func() error { return s.CreateGrants(ctx, Grant(ks, 1, "")) }, []appliance.Change{onStore}},
		{"key grant", func() error { return s.CreateGrants(ctx, Grant(ks, 2, "a")) }, []appliance.Change{onKey}},
		{"key store grant delete", func() error { return s.DeleteGrant(ctx, ks.ID, ID(1), Grant(ks, 1, "").Seal) }, []appliance.Change{onStore}},
		{"key grant delete", func() error { return s.DeleteGrant(ctx, ks.ID, ID(2), Grant(ks, 2, "a").Seal) }, []appliance.Change{onKey}},
		{"delete a", func() error { return s.DeleteKey(ctx, ks.ID, "a", k.Seal, nil) }, []appliance.Change{onKey}},
		{"delete b", func() error { return s.DeleteKey(ctx, ks.ID, "b", []byte("seal of b"), nil) },
			[]appliance.Change{{KeyStore: ks.ID, KeyID: "b"}}},
		{"delete", func() error { return s.DeleteKeyStore(ctx, ks.ID, ks.Seal) }, []appliance.Change{onStore}},
	} {
		heard = nil
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if !reflect.DeepEqual(heard, step.want) {
			t.Errorf("%s announced %v; want %v", step.what, heard, step.want)
		}
	}
}

func testSubscribeRefused(t *testing.T, s Engine) {
	ctx := t.Context()
	Must(t, s.CreateKeyStore(ctx, KeyStore(1)))
	s.Subscribe(func(c appliance.Change) { t.Errorf("a refused change was announced: %v", c) })
	Wants(t, s.CreateKeyStore(ctx, KeyStore(1)), fault.Exists, "already")
	Wants(t, s.DeleteKeyStore(ctx, ID(2), nil), fault.NotFound, "no key store")
}

func testSubscriberWrites(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	s.Subscribe(func(c appliance.Change) {
		if err := s.NoteTokenObjects(context.Background(), TokenObject("heard "+c.KeyStore)); err != nil {
			t.Error(err)
		}
	})
	Must(t, s.CreateKeyStore(ctx, ks))
	Equal(t, Got(s.TokenObjects(ctx))(t), tokenObjects("heard "+ks.ID))
}
