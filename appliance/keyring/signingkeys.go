package keyring

import (
	"crypto/sha256"
	"slices"
	"sync"
)

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
	key   *guarded
	ready readyHMACs
}

// Sign implements [appliance.UnlockedCredential].
func (s *signingKeys) Sign(date, region, service string, stringToSign []byte) (sum [sha256.Size]byte, err error) {
	sc := scope{date, region, service}
	if s.signReady(sc, stringToSign, &sum) {
		return sum, nil
	}
	d, err := s.derive(sc) // fails when the secret is wiped, or the keyring locked
	if err != nil {
		return sum, err
	}
	defer s.keep(d)
	if !d.sign(stringToSign, &sum) {
		return sum, errLocked()
	}
	return sum, nil
}

// signReady signs with the signing key of the scope, if it is among those of late.
func (s *signingKeys) signReady(sc scope, stringToSign []byte, sum *[sha256.Size]byte) (done bool) {
	s.mu.RLock() // so that it is not exchanged for another one meanwhile
	defer s.mu.RUnlock()
	for _, d := range s.derived {
		if d != nil && d.scope == sc {
			return d.sign(stringToSign, sum)
		}
	}
	return false
}

// sign says whether it did: false once the key is wiped.
func (d *signingKey) sign(stringToSign []byte, sum *[sha256.Size]byte) bool {
	return d.key.use(func(key []byte) {
		mac := d.ready.take(key)
		defer d.ready.giveBack(mac)
		mac.Write(stringToSign)
		mac.Sum(sum[:0])
		mac.Reset()
	})
}

// derive gives the signing key of the scope: AWS Signature Version 4, "Calculate the
// signature".
func (s *signingKeys) derive(sc scope) (*signingKey, error) {
	key := make([]byte, 0, sha256.Size)
	if !s.secret.use(func(secret []byte) {
		first := append([]byte("AWS4"), secret...)
		defer clear(first)
		key = hmacSHA256(first, []byte(sc.date), key)
		for _, part := range []string{sc.region, sc.service, "aws4_request"} {
			key = hmacSHA256(key, []byte(part), key[:0])
		}
	}) {
		return nil, errLocked()
	}
	d := &signingKey{scope: sc}
	var err error
	d.key, err = s.ring.hand("", key, d.ready.erase)
	return d, err
}

// keep puts a signing key among those of late, in the place of the scope's own, which
// another request made at the same time, or of the oldest.
func (s *signingKeys) keep(d *signingKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wiped {
		s.drop(d)
		return
	}
	at := slices.IndexFunc(s.derived[:], func(old *signingKey) bool { return old != nil && old.scope == d.scope })
	if at < 0 {
		at, s.next = s.next, (s.next+1)%len(s.derived)
	}
	s.drop(s.derived[at])
	s.derived[at] = d
}

// drop erases a signing key; nil is none.
func (s *signingKeys) drop(d *signingKey) {
	if d != nil {
		s.ring.takeBack(d.key)
	}
}

// Wipe implements [appliance.UnlockedCredential].
func (s *signingKeys) Wipe() {
	s.ring.takeBack(s.secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.derived {
		s.drop(d)
	}
	s.derived, s.wiped = [4]*signingKey{}, true
}
