package identity

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// What a browser carries from one request to the next is sealed: under a key that every
// unlocked node of the installation has, so that each request may go to another node; and
// while the appliance is locked, or has no installation, under a key of this process.

// processKey is a random key that ends with the process.
type processKey [sha256.Size]byte

func newProcessKey() (k processKey) {
	_, _ = rand.Read(k[:]) // never fails (crypto/rand)
	return k
}

// mac gives the 32 bytes of this process for a place.
func (k *processKey) mac(b appliance.Binding) []byte {
	mac := hmac.New(sha256.New, k[:])
	mac.Write(b.AAD())
	return mac.Sum(nil)
}

// cipher gives the cipher of a purpose.
func (k *processKey) cipher(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(k.mac(appliance.Binding{Purpose: "key", Fields: []string{purpose}}))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// What seals something that a browser carries.
const (
	byProcess   = 'p'
	byStateKey  = 's'
	maxCarried  = MaxCarried + 64 // bytes of it
	sealedBytes = 28              // of IV and tag
)

// carry seals what a browser is to carry.
func (r *rows) carry(b appliance.Binding, secret []byte) ([]byte, error) {
	sealed, err := r.seals.SealShared(b, secret)
	if fault.CodeOf(err) == fault.Locked {
		return r.process.cipher(b.Purpose).Seal([]byte{byProcess}, nil, secret, b.AAD()), nil
	}
	if err != nil {
		return nil, err
	}
	return append([]byte{byStateKey}, sealed...), nil
}

// carried opens what a browser has carried, and says whether it is of this process alone.
// fault.Tampered; fault.Locked if the appliance was locked meanwhile.
func (r *rows) carried(b appliance.Binding, sealed []byte) (secret []byte, ofProcess bool, err error) {
	if len(sealed) < 1+sealedBytes || len(sealed) > maxCarried {
		return nil, false, fault.Errorf(fault.Tampered, "it has not the length of a sealed %s", b.Purpose)
	}
	switch sealed[0] {
	case byStateKey:
		secret, err = r.seals.OpenShared(b, sealed[1:])
		return secret, false, err
	case byProcess:
		if secret, err = r.process.cipher(b.Purpose).Open(nil, nil, sealed[1:], b.AAD()); err == nil {
			return secret, true, nil
		}
	}
	return nil, false, fault.Errorf(fault.Tampered, "it is no sealed %s of this appliance", b.Purpose)
}

// derived gives 32 bytes that belong to a place: those of all unlocked nodes first, if there
// are any now, and those of this process.
func (r *rows) derived(b appliance.Binding) ([][]byte, error) {
	own := r.process.mac(b)
	shared, err := r.seals.MACShared(b)
	if fault.CodeOf(err) == fault.Locked {
		return [][]byte{own}, nil
	}
	if err != nil {
		return nil, err
	}
	return [][]byte{shared, own}, nil
}

// spend says that something with that ID is used up: on every node if it is theirs too,
// otherwise in this process. fault.Exists if it was before.
func (r *rows) spend(ctx context.Context, u Spent, ofProcess bool) error {
	if !ofProcess {
		return r.Store.Spend(ctx, u)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, other := range r.spent {
		if !u.At.Before(other.ExpiresAt) {
			delete(r.spent, id)
		}
	}
	if _, before := r.spent[u.ID]; before {
		return fault.Errorf(fault.Exists, "it was used before")
	}
	r.spent[u.ID] = u
	return nil
}
