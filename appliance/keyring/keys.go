package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"sync"

	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
	"holdfast/hsm"
)

const (
	ivBytes  = 12
	tagBytes = 16
)

// cachedKey is a key in the appliance's memory. The key schedule is made anew
// for each operation, inside of scrub.Do: kept ready it would lie in the heap.
type cachedKey struct {
	ring *Keyring
	key  *guarded
}

func (c *cachedKey) Encrypt(_ context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	// Made outside: inside of scrub.Do each allocation costs several times as much.
	out := make([]byte, 0, ivBytes+len(plaintext)+tagBytes)
	if !c.key.use(func(key []byte) {
		scrub.Do(func() { out = randomIVGCM(key).Seal(out, nil, plaintext, aad) })
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
		scrub.Do(func() {
			block, err2 := aes.NewCipher(key)
			if err2 != nil {
				panic(err2) // the length was checked when the key was unlocked
			}
			aead, err2 := cipher.NewGCMWithNonceSize(block, len(iv))
			if err2 != nil {
				panic(err2) // as was that of the IV, above
			}
			plaintext, err = aead.Open(plaintext, iv, sealed, aad)
		})
	}) {
		return nil, errLocked()
	}
	if err != nil {
		return nil, &fault.Fault{Code: fault.Ciphertext, Message: "the ciphertext does not authenticate"}
	}
	return plaintext, nil
}

func (c *cachedKey) Wipe() { c.ring.takeBack(c.key) }

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

// signingKeys is a SigV4 secret with the signing keys derived from it lately.
// KMS signs with one scope a day and Region, so few are kept.
type signingKeys struct {
	ring   *Keyring
	secret *guarded

	mu      sync.RWMutex
	derived [4]*derivedKey
	next    int
	wiped   bool
}

// derivedKey is the signing key of one scope, in the form of HMACs that are
// ready. Those lie in the heap, other than the secret: they are good for one
// day, Region and service, and the secret does not follow from them. When they
// are dropped, scrub has them erased.
type derivedKey struct {
	date, region, service string
	macs                  sync.Pool // of hash.Hash
}

// Sign implements [appliance.UnlockedCredential].
func (s *signingKeys) Sign(date, region, service string, stringToSign []byte) (sum [32]byte, err error) {
	key, err := s.derive(date, region, service)
	if err != nil {
		return sum, err
	}
	mac, ok := key.macs.Get().(hash.Hash)
	if !ok {
		if mac, err = s.newMAC(date, region, service); err != nil {
			return sum, err
		}
	}
	// Once the secret is wiped, what was derived from it is not used either.
	if !s.secret.use(func([]byte) {
		mac.Reset()
		mac.Write(stringToSign)
		mac.Sum(sum[:0])
	}) {
		return sum, errLocked()
	}
	key.macs.Put(mac)
	return sum, nil
}

// derive finds the signing key of the scope among those of late, or puts it
// there.
func (s *signingKeys) derive(date, region, service string) (*derivedKey, error) {
	s.mu.RLock()
	wiped := s.wiped
	for _, d := range s.derived {
		if d != nil && d.date == date && d.region == region && d.service == service {
			s.mu.RUnlock()
			return d, nil
		}
	}
	s.mu.RUnlock()
	if wiped {
		return nil, errLocked()
	}
	mac, err := s.newMAC(date, region, service) // fails when the keyring is locked
	if err != nil {
		return nil, err
	}
	d := &derivedKey{date: date, region: region, service: service}
	d.macs.Put(mac)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wiped {
		s.derived[s.next] = d
		s.next = (s.next + 1) % len(s.derived)
	}
	return d, nil
}

// newMAC derives the signing key of the scope: AWS Signature Version 4,
// "Calculate the signature".
func (s *signingKeys) newMAC(date, region, service string) (mac hash.Hash, err error) {
	if !s.secret.use(func(secret []byte) {
		scrub.Do(func() {
			k := append([]byte("AWS4"), secret...)
			for _, part := range []string{date, region, service, "aws4_request"} {
				h := hmac.New(sha256.New, k)
				h.Write([]byte(part))
				clear(k)
				k = h.Sum(nil)
			}
			mac = hmac.New(sha256.New, k)
			mac.Reset() // makes what later resets use: in here, so that it is erased
			clear(k)
		})
	}) {
		return nil, errLocked()
	}
	return mac, nil
}

// Wipe implements [appliance.UnlockedCredential].
func (s *signingKeys) Wipe() {
	s.ring.takeBack(s.secret)
	s.forget()
}

// forget drops what was derived.
func (s *signingKeys) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.derived, s.wiped = [4]*derivedKey{}, true
}
