package keyring

import (
	"context"
	"crypto/cipher"
	"errors"

	"holdfast/appliance/fault"
	"holdfast/hsm"
)

const (
	ivBytes  = 12
	tagBytes = 16
)

// cachedKey is a key in the appliance's memory. The key schedule is made for each
// operation, and erased after it: kept ready it would lie in the heap.
type cachedKey struct {
	ring *Keyring
	key  guarded // a part of it: there may be a million
}

func (c *cachedKey) Encrypt(_ context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	// Made outside: inside of scrub.Do each allocation costs several times as much.
	out := make([]byte, 0, ivBytes+len(plaintext)+tagBytes)
	if !c.key.use(func(key []byte) {
		withGCM(key, cipher.NewGCMWithRandomNonce, func(aead cipher.AEAD) { out = aead.Seal(out, nil, plaintext, aad) })
	}) {
		return nil, nil, nil, errLocked()
	}
	tagAt := len(out) - tagBytes
	return out[:ivBytes:ivBytes], out[ivBytes:tagAt:tagAt], out[tagAt:], nil
}

func (c *cachedKey) Decrypt(_ context.Context, iv, ciphertext, tag, aad []byte) (plaintext []byte, err error) {
	if err := checkLengths(iv, tag); err != nil {
		return nil, err
	}
	sealed := make([]byte, 0, len(ciphertext)+len(tag))
	sealed = append(append(sealed, ciphertext...), tag...)
	plaintext = make([]byte, 0, len(ciphertext)) // outside, as in Encrypt
	if !c.key.use(func(key []byte) {
		withGCM(key, func(block cipher.Block) (cipher.AEAD, error) { return cipher.NewGCMWithNonceSize(block, len(iv)) },
			func(aead cipher.AEAD) { plaintext, err = aead.Open(plaintext, iv, sealed, aad) })
	}) {
		return nil, errLocked()
	}
	if err != nil {
		return nil, &fault.Fault{Code: fault.Ciphertext, Message: "the ciphertext does not authenticate"}
	}
	return plaintext, nil
}

func (c *cachedKey) Wipe() { c.ring.takeBack(&c.key) }

func (c *cachedKey) Evict() { c.ring.evict(&c.key) }

// tokenKey is a key that never leaves the token.
type tokenKey struct {
	ring  *Keyring
	label string
	// leave holds no secret: it is wiped when the key must not be used any more.
	leave *guarded
}

func (t *tokenKey) Encrypt(ctx context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	if !t.leave.use(func([]byte) {}) {
		return nil, nil, nil, errLocked()
	}
	iv, ciphertext, tag, err = t.ring.token.Encrypt(ctx, t.label, plaintext, aad)
	if err != nil {
		return nil, nil, nil, t.failed(err, "encrypt in the token")
	}
	return iv, ciphertext, tag, nil
}

func (t *tokenKey) Decrypt(ctx context.Context, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	if err := checkLengths(iv, tag); err != nil {
		return nil, err
	}
	if !t.leave.use(func([]byte) {}) {
		return nil, errLocked()
	}
	plaintext, err := t.ring.token.Decrypt(ctx, t.label, iv, ciphertext, tag, aad)
	if err != nil {
		return nil, t.failed(err, "decrypt in the token")
	}
	return plaintext, nil
}

// failed tells a key object that is not there from an HSM that failed.
func (t *tokenKey) failed(err error, doing string) error {
	if errors.Is(err, hsm.ErrNotFound) {
		return &fault.Fault{Code: fault.Gone, Message: "the HSM has no key object " + t.label, Err: err}
	}
	return tokenError(err, doing)
}

func (t *tokenKey) Wipe() { t.ring.takeBack(t.leave) }

func (t *tokenKey) Evict() { t.ring.evict(t.leave) }

// checkLengths stands before IV, ciphertext and tag are joined anywhere: else a
// byte moved from one to the other would go unnoticed.
func checkLengths(iv, tag []byte) error {
	if len(iv) != 12 && len(iv) != 16 {
		return fault.Errorf(fault.Ciphertext, "the initialization vector has %d bytes; 12 or 16 are allowed", len(iv))
	}
	if len(tag) != tagBytes {
		return fault.Errorf(fault.Ciphertext, "the authentication tag has %d bytes; it must have %d", len(tag), tagBytes)
	}
	return nil
}
