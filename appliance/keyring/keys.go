package keyring

import (
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
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
	key  *guarded
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
	derived [4]*signingKey
	next    int
	wiped   bool
}

// scope is what a signing key is good for. Date is YYYYMMDD.
type scope struct{ date, region, service string }

// signingKey is the one of a scope, in locked memory as the secret is.
type signingKey struct {
	scope
	key *guarded
}

// Sign implements [appliance.UnlockedCredential].
func (s *signingKeys) Sign(date, region, service string, stringToSign []byte) (sum [32]byte, err error) {
	sc := scope{date, region, service}
	if s.signReady(sc, stringToSign, &sum) {
		return sum, nil
	}
	key, err := s.derive(sc) // fails when the secret is wiped, or the keyring locked
	if err != nil {
		return sum, err
	}
	defer s.keep(&signingKey{sc, key})
	if !key.use(func(key []byte) { scrub.Do(func() { hmacSHA256(key, stringToSign, sum[:0]) }) }) {
		return sum, errLocked()
	}
	return sum, nil
}

// signReady signs with the signing key of the scope, if it is among those of late.
func (s *signingKeys) signReady(sc scope, stringToSign []byte, sum *[32]byte) (done bool) {
	s.mu.RLock() // so that it is not exchanged for another one meanwhile
	defer s.mu.RUnlock()
	for _, d := range s.derived {
		if d != nil && d.scope == sc {
			return d.key.use(func(key []byte) { scrub.Do(func() { hmacSHA256(key, stringToSign, sum[:0]) }) })
		}
	}
	return false
}

// derive gives the signing key of the scope: AWS Signature Version 4, "Calculate the
// signature".
func (s *signingKeys) derive(sc scope) (*guarded, error) {
	key := make([]byte, 0, sha256.Size)
	if !s.secret.use(func(secret []byte) {
		scrub.Do(func() {
			first := append([]byte("AWS4"), secret...)
			defer clear(first)
			key = hmacSHA256(first, []byte(sc.date), key)
			for _, part := range []string{sc.region, sc.service, "aws4_request"} {
				key = hmacSHA256(key, []byte(part), key[:0])
			}
		})
	}) {
		return nil, errLocked()
	}
	return s.ring.hand("", key)
}

// hmacSHA256 appends the HMAC of the message to out, which has the capacity. It is
// called inside of scrub.Do; what the library puts into the heap is erased at once.
func hmacSHA256(key, message, out []byte) []byte {
	if len(key) > sha256.BlockSize {
		// Package hmac would do that (RFC 2104), and leave the hash behind.
		h := sha256.New()
		defer scrub.Erase(h)
		h.Write(key)
		key = h.Sum(make([]byte, 0, sha256.Size))
		defer clear(key)
	}
	mac := hmac.New(sha256.New, key)
	defer scrub.Erase(mac)
	mac.Write(message)
	return mac.Sum(out)
}

// keep puts a signing key among those of late, in the place of the scope's own, which
// another request made at the same time, or of the oldest.
func (s *signingKeys) keep(d *signingKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wiped {
		s.ring.takeBack(d.key)
		return
	}
	at := slices.IndexFunc(s.derived[:], func(old *signingKey) bool { return old != nil && old.scope == d.scope })
	if at < 0 {
		at, s.next = s.next, (s.next+1)%len(s.derived)
	}
	if old := s.derived[at]; old != nil {
		s.ring.takeBack(old.key)
	}
	s.derived[at] = d
}

// Wipe implements [appliance.UnlockedCredential].
func (s *signingKeys) Wipe() {
	s.ring.takeBack(s.secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.derived {
		if d != nil {
			s.ring.takeBack(d.key)
		}
	}
	s.derived, s.wiped = [4]*signingKey{}, true
}
