package appliance

import (
	"context"
	"slices"
	"sync"

	"holdfast/appliance/fault"
)

// liveKey is an external key that has been read, checked against its seal and,
// version by version as they are used, unlocked.
//
// There may be a million, so it has what requests need and no more, in few pieces: the garbage
// collector looks at each.
type liveKey struct {
	ExternalKey // without its seal
	versions    []*KeyVersion
	service     *Service
	ring        Keyring
	grants      liveGrants
	reserve     reserve // of encryptions

	mu       sync.RWMutex
	unlocked []UnlockedKey // nil, or for each of versions; nil for one that is not unlocked
	wiped    bool
}

// loadKey gives a key from memory, or else from the store.
func (s *Service) loadKey(ctx context.Context, ring Keyring, keyStore, id string) (*liveKey, error) {
	name := keyName{keyStore, id}
	for {
		k, generation := s.keys.get(name)
		if k != nil {
			return k, nil
		}
		stored, err := s.store.Key(ctx, keyStore, id)
		if err != nil {
			return nil, err
		}
		if err := checkKey(ring, stored, keyStore, id); err != nil {
			s.log.Error("an external key is refused", "key_store_id", keyStore, "key_id", id, "error", err)
			return nil, err
		}
		k = &liveKey{ExternalKey: stored.ExternalKey, versions: stored.Versions, service: s, ring: ring}
		k.Seal = nil
		if k.tell(); k.Reversible {
			s.log.Warn(reversibleWarning, "key_store_id", keyStore, "key_id", id, "aad_framing", k.Framing)
		}
		k.grants = s.indexGrants(ring, keyStore, id, stored.Grants, liveGrants{})
		k.reserve.total = k.version(k.CurrentVersion).Encryptions
		if k, ok := s.keys.add(keyName{keyStore, k.ID}, generation, k); ok { // not with the caller's id, which may be a part of a request
			return k, nil
		}
		// The key changed while it was read: read it again.
	}
}

// blocked says whether keys of the key store may not be kept unlocked. It is
// asked after a key is in the cache, so that either it sees a block, or the
// block sees the key and wipes it.
func (s *Service) blocked(keyStore string) bool {
	v := s.live.Load()
	return v == nil || !v.blockOf(keyStore).IsZero()
}

// version gives the version of that number, or nil.
func (k *liveKey) version(n uint32) *KeyVersion { return versionOf(k.versions, n) }

// encrypt encrypts under the current version. The encryption is counted already.
func (k *liveKey) encrypt(ctx context.Context, plaintext, aad []byte) (*Ciphertext, error) {
	version := k.version(k.CurrentVersion)
	c := &Ciphertext{Metadata: encodeMetadata(version.Version)}
	err := k.with(version, func(u UnlockedKey) (err error) {
		c.IV, c.Ciphertext, c.Tag, err = u.Encrypt(ctx, plaintext, FrameAAD(aad, c.Metadata))
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// decrypt decrypts what Holdfast has encrypted, and what the proxy has that the key
// was moved from. fault.Ciphertext if nothing fits.
func (k *liveKey) decrypt(ctx context.Context, c *Ciphertext, aad []byte) ([]byte, error) {
	plaintext, err := k.decryptOwn(ctx, c, aad)
	if k.Framing != FramingNone && fault.CodeOf(err) == fault.Ciphertext {
		return k.decryptForeign(ctx, c, aad)
	}
	return plaintext, err
}

// decryptOwn decrypts what Holdfast has encrypted.
func (k *liveKey) decryptOwn(ctx context.Context, c *Ciphertext, aad []byte) (plaintext []byte, err error) {
	number, err := decodeMetadata(c.Metadata)
	if err != nil {
		return nil, err
	}
	version := k.version(number)
	if version == nil {
		return nil, fault.Errorf(fault.Ciphertext, "the ciphertext names a version that the key does not have")
	}
	err = k.with(version, func(u UnlockedKey) (err error) {
		plaintext, err = u.Decrypt(ctx, c.IV, c.Ciphertext, c.Tag, FrameAAD(aad, c.Metadata))
		return err
	})
	return plaintext, err
}

// with calls f with the version ready for use. A request that still holds a key
// which has left the cache meanwhile unlocks it once more, for itself.
func (k *liveKey) with(v *KeyVersion, f func(UnlockedKey) error) error {
	u, err := k.unlock(v)
	if err != nil {
		return err
	}
	if u != nil {
		if err := f(u); fault.CodeOf(err) != fault.Locked {
			return err
		}
	}
	if u, err = k.ring.Unlock(v); err != nil {
		return err
	}
	defer u.Wipe()
	return f(u)
}

// unlock gives the version ready for use, for as long as the key is in the
// cache; nil when it is not.
func (k *liveKey) unlock(v *KeyVersion) (UnlockedKey, error) {
	at := slices.Index(k.versions, v)
	k.mu.RLock()
	u, wiped := k.unlockedAt(at), k.wiped
	k.mu.RUnlock()
	if u != nil || wiped {
		return u, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if u := k.unlockedAt(at); u != nil || k.wiped || k.service.blocked(k.KeyStore) {
		return u, nil
	}
	u, err := k.ring.Unlock(v)
	if err != nil {
		return nil, err
	}
	if k.unlocked == nil {
		k.unlocked = make([]UnlockedKey, len(k.versions))
	}
	k.unlocked[at] = u
	return u, nil
}

// unlockedAt gives one of the unlocked versions; the caller holds k.mu.
func (k *liveKey) unlockedAt(at int) UnlockedKey {
	if k.unlocked == nil {
		return nil
	}
	return k.unlocked[at]
}

// left says whether the key has left the cache: it has changed, or was used too long
// ago.
func (k *liveKey) left() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.wiped
}

// wipe erases the unlocked versions, as the key has changed or is not to be used any more.
func (k *liveKey) wipe() { k.erase(UnlockedKey.Wipe) }

// evict erases the unlocked versions, to have room for those of other keys.
func (k *liveKey) evict() { k.erase(UnlockedKey.Evict) }

func (k *liveKey) erase(version func(UnlockedKey)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wiped = true
	for _, u := range k.unlocked {
		if u != nil {
			version(u)
		}
	}
	k.unlocked = nil
}
