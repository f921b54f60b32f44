package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"sync"

	"holdfast/appliance"
	"holdfast/appliance/keyring/scrub"
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
		return nil, &appliance.Error{Code: appliance.CodeCiphertext, Message: "the ciphertext does not authenticate"}
	}
	return plaintext, nil
}

func (c *cachedKey) Wipe() { c.ring.takeBack(c.key) }

// tokenKey is a key that never leaves the token.
type tokenKey struct {
	token Token
	label string
}

func (t *tokenKey) Encrypt(ctx context.Context, plaintext, aad []byte) (iv, ciphertext, tag []byte, err error) {
	iv, ciphertext, tag, err = t.token.Encrypt(ctx, t.label, plaintext, aad)
	if err != nil {
		return nil, nil, nil, tokenError(err, "encrypt in the token")
	}
	return iv, ciphertext, tag, nil
}

func (t *tokenKey) Decrypt(ctx context.Context, iv, ciphertext, tag, aad []byte) ([]byte, error) {
	if err := checkLengths(iv, tag); err != nil {
		return nil, err
	}
	plaintext, err := t.token.Decrypt(ctx, t.label, iv, ciphertext, tag, aad)
	if err != nil {
		return nil, tokenError(err, "decrypt in the token")
	}
	return plaintext, nil
}

// Wipe does nothing: no key material is here.
func (t *tokenKey) Wipe() {}

// checkLengths stands before IV, ciphertext and tag are joined anywhere: else a
// byte moved from one to the other would go unnoticed.
func checkLengths(iv, tag []byte) error {
	if len(iv) != 12 && len(iv) != 16 {
		return appliance.Errorf(appliance.CodeCiphertext, "the initialization vector has %d bytes; 12 or 16 are allowed", len(iv))
	}
	if len(tag) != tagBytes {
		return appliance.Errorf(appliance.CodeCiphertext, "the authentication tag has %d bytes; it must have %d", len(tag), tagBytes)
	}
	return nil
}

// signingKeys is a SigV4 secret with the signing keys derived from it lately.
// KMS signs with one scope a day and Region, so few are kept.
type signingKeys struct {
	ring   *Keyring
	secret *guarded

	mu      sync.RWMutex
	derived [4]derivedKey
	next    int
}

type derivedKey struct {
	date, region, service string
	key                   *guarded
}

// Sign implements [appliance.UnlockedCredential].
func (s *signingKeys) Sign(date, region, service string, stringToSign []byte) (sum [32]byte, err error) {
	// A key may be displaced between derive and use, when requests with many
	// scopes come at once; then it is derived again.
	for range 10 {
		key, err := s.derive(date, region, service)
		if err != nil {
			return sum, err
		}
		if key.use(func(k []byte) {
			scrub.Do(func() { hmacSHA256(k, stringToSign, sum[:]) })
		}) {
			return sum, nil
		}
	}
	return sum, errLocked()
}

// derive gives the signing key of the scope: AWS Signature Version 4, "Calculate
// the signature".
func (s *signingKeys) derive(date, region, service string) (*guarded, error) {
	s.mu.RLock()
	for _, d := range s.derived {
		if d.key != nil && d.date == date && d.region == region && d.service == service {
			s.mu.RUnlock()
			return d.key, nil
		}
	}
	s.mu.RUnlock()

	k := make([]byte, sha256.Size)
	if !s.secret.use(func(secret []byte) {
		scrub.Do(func() {
			first := append([]byte("AWS4"), secret...)
			hmacSHA256(first, []byte(date), k)
			hmacSHA256(k, []byte(region), k)
			hmacSHA256(k, []byte(service), k)
			hmacSHA256(k, []byte("aws4_request"), k)
			clear(first)
		})
	}) {
		return nil, errLocked()
	}
	key, err := s.ring.hand("", k)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	old := s.derived[s.next]
	s.derived[s.next] = derivedKey{date, region, service, key}
	s.next = (s.next + 1) % len(s.derived)
	s.mu.Unlock()
	if old.key != nil {
		s.ring.takeBack(old.key)
	}
	return key, nil
}

// Wipe implements [appliance.UnlockedCredential].
func (s *signingKeys) Wipe() {
	s.ring.takeBack(s.secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.derived {
		if d.key != nil {
			s.ring.takeBack(d.key)
			s.derived[i] = derivedKey{}
		}
	}
}

func hmacSHA256(key, message, out []byte) {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	h.Sum(out[:0])
}
