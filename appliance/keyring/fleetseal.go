package keyring

import (
	"crypto/cipher"
	"crypto/sha256"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// sharedFormat is the first byte of what SealShared gives; IV, ciphertext and tag follow.
const sharedFormat = 2

// maxShared bounds what SealShared takes, in bytes: a certificate with its chain is the
// longest.
const maxShared = 64 << 10

// SealShared implements [appliance.Keyring]: AES-256-GCM with a random IV.
func (k *Keyring) SealShared(b appliance.Binding, secret []byte) ([]byte, error) {
	if len(secret) > maxShared {
		return nil, fault.Errorf(fault.TooLarge, "a %s of %d bytes; at most %d are sealed", b.Purpose, len(secret), maxShared)
	}
	out := make([]byte, 1, sealOverhead+len(secret))
	out[0] = sharedFormat
	err := k.shared(b, func(key []byte) error {
		withGCM(key, cipher.NewGCMWithRandomNonce, func(aead cipher.AEAD) { out = aead.Seal(out, nil, secret, b.AAD()) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// OpenShared implements [appliance.Keyring].
func (k *Keyring) OpenShared(b appliance.Binding, sealed []byte) (secret []byte, err error) {
	if len(sealed) < sealOverhead || len(sealed) > sealOverhead+maxShared || sealed[0] != sharedFormat {
		return nil, tampered(b)
	}
	err = k.shared(b, func(key []byte) (err error) {
		withGCM(key, cipher.NewGCMWithRandomNonce, func(aead cipher.AEAD) { secret, err = aead.Open(nil, nil, sealed[1:], b.AAD()) })
		if err != nil {
			return tampered(b)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return secret, nil
}

// MACShared implements [appliance.Keyring]: HMAC-SHA256.
func (k *Keyring) MACShared(b appliance.Binding) (mac []byte, err error) {
	err = k.shared(b, func(key []byte) error {
		mac = hmacSHA256(key, b.AAD(), make([]byte, 0, sha256.Size))
		return nil
	})
	return mac, err
}

// shared calls f with the key of a purpose, which is bound to the installation. The key is
// derived for each use, so that none lies ready; that takes some microseconds, and no
// request of KMS does it.
func (k *Keyring) shared(b appliance.Binding, f func(key []byte) error) error {
	k.mu.RLock()
	state, installation := k.stateKey, k.installation
	k.mu.RUnlock()
	if state == nil {
		return errLocked()
	}
	var err error
	if !state.use(func(raw []byte) {
		key := deriveKey(raw, "holdfast/shared/v1/"+installation+"/"+b.Purpose)
		defer clear(key)
		err = f(key)
	}) {
		return errLocked()
	}
	return err
}

// deriveKey gives 32 bytes by HKDF-SHA256 without a salt (RFC 5869). Package hkdf does the
// same, and leaves copies of the key in the heap. It is called inside of scrub.Do.
func deriveKey(key []byte, info string) []byte {
	extracted := hmacSHA256(make([]byte, sha256.Size), key, make([]byte, 0, sha256.Size))
	defer clear(extracted)
	return hmacSHA256(extracted, append([]byte(info), 1), make([]byte, 0, sha256.Size))
}
