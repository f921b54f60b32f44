package keyring_test

import (
	"testing"

	"holdfast/appliance"
)

// onUnlocked gives what requests need of unlocked keys.
func onUnlocked(t testing.TB) map[string]func() error {
	k, _ := newRing(t, openToken(t))
	v := version(1, appliance.CustodyCached)
	if err := k.Generate(ctx, v, ""); err != nil {
		t.Fatal(err)
	}
	key, err := k.Unlock(v)
	if err != nil {
		t.Fatal(err)
	}
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	if c.Secret, err = k.Seal(c.Binding(), []byte("0123456789012345678901234567890123456789012")); err != nil {
		t.Fatal(err)
	}
	credential, err := k.UnlockCredential(c)
	if err != nil {
		t.Fatal(err)
	}
	plaintext, aad, text := make([]byte, 32), make([]byte, 100), make([]byte, 130)
	iv, ciphertext, tag, err := key.Encrypt(ctx, plaintext, aad)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func() error{
		"Encrypt": func() error { _, _, _, err := key.Encrypt(ctx, plaintext, aad); return err },
		"Decrypt": func() error { _, err := key.Decrypt(ctx, iv, ciphertext, tag, aad); return err },
		"Sign":    func() error { _, err := credential.Sign(date, awsRegion, service, text); return err },
	}
}

func BenchmarkKeyring(b *testing.B) {
	for name, do := range onUnlocked(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
