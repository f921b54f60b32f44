package keyring_test

import (
	"testing"

	"holdfast/appliance"
)

// BenchmarkKeyring measures what requests need of unlocked keys.
func BenchmarkKeyring(b *testing.B) {
	k, _ := newRing(b, openToken(b))
	v := version(1, appliance.CustodyCached)
	if err := k.Generate(ctx, v, ""); err != nil {
		b.Fatal(err)
	}
	key, err := k.Unlock(v)
	if err != nil {
		b.Fatal(err)
	}
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	if c.Secret, err = k.Seal(c.Binding(), []byte("0123456789012345678901234567890123456789012")); err != nil {
		b.Fatal(err)
	}
	credential, err := k.UnlockCredential(c)
	if err != nil {
		b.Fatal(err)
	}
	plaintext, aad, text := make([]byte, 32), make([]byte, 100), make([]byte, 130)
	iv, ciphertext, tag, err := key.Encrypt(ctx, plaintext, aad)
	if err != nil {
		b.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"Encrypt": func() error { _, _, _, err := key.Encrypt(ctx, plaintext, aad); return err },
		"Decrypt": func() error { _, err := key.Decrypt(ctx, iv, ciphertext, tag, aad); return err },
		"Sign":    func() error { _, err := credential.Sign(date, awsRegion, service, text); return err },
	} {
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
