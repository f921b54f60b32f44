package xks_test

import (
	"context"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// faulty is a keyring whose keys compute wrongly, as with bad memory.
type faulty struct {
	appliance.Keyring
	encrypt, decrypt bool
}

func (f faulty) Unlock(v *appliance.KeyVersion) (appliance.UnlockedKey, error) {
	k, err := f.Keyring.Unlock(v)
	return faultyKey{k, f}, err
}

type faultyKey struct {
	appliance.UnlockedKey
	f faulty
}

func (k faultyKey) Encrypt(ctx context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	iv, ciphertext, tag, err = k.UnlockedKey.Encrypt(ctx, plaintext, aad)
	if k.f.encrypt {
		ciphertext[0] ^= 1
	}
	return iv, ciphertext, tag, err
}

func (k faultyKey) Decrypt(ctx context.Context, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	plaintext, err := k.UnlockedKey.Decrypt(ctx, iv, ciphertext, tag, aad)
	if k.f.decrypt && err == nil {
		plaintext[0] ^= 1
	}
	return plaintext, err
}

// TestIntegrityValueIsNotGivenForDamage: who asks for a CDIV gets none, and no
// ciphertext, when that does not decrypt to the plaintext (spec, Appendix C).
func TestIntegrityValueIsNotGivenForDamage(t *testing.T) {
	for name, tt := range map[string]struct {
		fault faulty
		says  string
	}{
		"in the ciphertext":      {faulty{encrypt: true}, "does not decrypt"},
		"in the plaintext again": {faulty{decrypt: true}, "decrypts to another plaintext"},
	} {
		t.Run(name, func(t *testing.T) {
			b, k := newDemo(t, xkstest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring {
				tt.fault.Keyring = r
				return tt.fault
			}})
			k.OK("/keys/k/encrypt", xkstest.EncryptBody("x")) // nobody asked
			k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x").With("ciphertextDataIntegrityValueAlgorithm", "SHA_256"), 500, "InternalException")
			if !strings.Contains(b.Log.String(), tt.says) {
				t.Error("the log does not say that a ciphertext " + tt.says)
			}
		})
	}
}
