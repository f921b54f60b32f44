package appliance

import (
	"context"

	"holdfast/appliance/fault"
)

// The sizes of the blocks in which encryptions are reserved. A key that is
// loaded from the store starts small, so that little is wasted on keys that
// are used once; a busy key soon writes once in 65,536 encryptions.
const (
	firstBlock = 64
	maxBlock   = 65536
)

// count takes one encryption from those reserved for the key's current version.
// If there are none it reserves a block, or rotates the key and counts on its
// new version. It gives the key to encrypt with.
func (e *Endpoint) count(ctx context.Context, key *liveKey) (*liveKey, error) {
	for key.remaining.Add(-1) < 0 {
		next, done, err := e.reserve(ctx, key)
		if done || err != nil {
			return next, err
		}
		key = next
	}
	return key, nil
}

// reserve takes one encryption after having reserved a block; or it is not done and
// gives the key to count on: the rotated one, or the same if others were faster.
func (e *Endpoint) reserve(ctx context.Context, key *liveKey) (next *liveKey, done bool, err error) {
	key.reserving.Lock()
	defer key.reserving.Unlock()
	if key.rotated != nil {
		return key.rotated, false, nil
	}
	if key.remaining.Load() > 0 {
		return key, false, nil
	}
	s := e.service
	n := uint64(min(max(key.block*8, firstBlock), maxBlock))
	if key.reserved < s.rotateAfter {
		n = min(n, s.rotateAfter-key.reserved)
	} else {
		rotated, err := s.rotateExhausted(ctx, e.store.ID, key.ID, key.CurrentVersion)
		if err == nil {
			key.rotated = rotated
			return rotated, false, nil
		}
		if key.reserved+n > maxEncryptions {
			return nil, false, fault.Wrapf(fault.Internal, err, "version %d of the key has done as many encryptions as AES-GCM allows and could not be rotated", key.CurrentVersion)
		}
		s.log.Error("a key is due for rotation and could not be rotated; it still serves", "key_store", e.store.Name, "key_id", key.ID,
			"version", key.CurrentVersion, "encryptions", key.reserved, "error", err)
	}
	total, err := s.store.ReserveEncryptions(ctx, key.KeyStore, key.ID, key.CurrentVersion, n)
	if err != nil {
		return nil, false, err
	}
	key.block, key.reserved = n, total
	key.remaining.Store(int64(n) - 1)
	return key, true, nil
}

// rotateExhausted rotates a key whose version has done all its encryptions. It
// does nothing if the version is not the current one any more. A request of KMS
// waits for it, so it does not wait for an administrator's operation.
func (a *Administration) rotateExhausted(ctx context.Context, keyStore, id string, version uint32) (*liveKey, error) {
	if !a.admin.TryLock() {
		return nil, fault.Errorf(fault.Changed, "an administrator's operation is under way")
	}
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return nil, err
	}
	// The record is first: what cannot be recorded is not done.
	name := keyStore
	if e := v.byID[keyStore]; e != nil {
		name = e.store.Name
	}
	if err := a.rotating(ctx, name, id, version+1); err != nil {
		return nil, err
	}
	key, err := a.rotate(ctx, v.ring, keyStore, id, version, nil)
	if err != nil {
		return nil, err
	}
	a.log.Info("a key was rotated: its version had done its encryptions", "key_store_id", keyStore, "key_id", id, "version", key.CurrentVersion)
	return a.service.loadKey(ctx, v.ring, keyStore, id)
}
