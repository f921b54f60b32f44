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
// new version.
func (k *Key) count(ctx context.Context) error {
	for {
		live := k.live
		if live.remaining.Add(-1) >= 0 {
			return nil
		}
		done, err := k.reserve(ctx, live)
		if done || err != nil {
			return err
		}
	}
}

// reserve takes one encryption after having reserved a block; or it says that
// it is not done because k.live is the rotated key now, or because others were
// faster.
func (k *Key) reserve(ctx context.Context, live *liveKey) (done bool, err error) {
	live.reserving.Lock()
	defer live.reserving.Unlock()
	if live.rotated != nil {
		k.live = live.rotated
		return false, nil
	}
	if live.remaining.Load() > 0 {
		return false, nil
	}
	s := k.e.service
	n := uint64(min(max(live.block*8, firstBlock), maxBlock))
	if live.reserved < s.rotateAfter {
		n = min(n, s.rotateAfter-live.reserved)
	} else {
		rotated, err := s.rotateExhausted(ctx, k.e.store.ID, live.ID, live.CurrentVersion)
		if err == nil {
			live.rotated, k.live = rotated, rotated
			return false, nil
		}
		if live.reserved+n > maxEncryptions {
			return false, fault.Wrapf(fault.Internal, err, "version %d of the key has done as many encryptions as AES-GCM allows and could not be rotated", live.CurrentVersion)
		}
		s.log.Error("a key is due for rotation and could not be rotated; it still serves", "key_store", k.e.store.Name, "key_id", live.ID,
			"version", live.CurrentVersion, "encryptions", live.reserved, "error", err)
	}
	total, err := s.store.ReserveEncryptions(ctx, live.KeyStore, live.ID, live.CurrentVersion, n)
	if err != nil {
		return false, err
	}
	live.block, live.reserved = n, total
	live.remaining.Store(int64(n) - 1)
	return true, nil
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
	key, err := a.rotate(ctx, v.ring, keyStore, id, version, nil)
	if err != nil {
		return nil, err
	}
	a.log.Info("a key was rotated: its version had done its encryptions", "key_store_id", keyStore, "key_id", id, "version", key.CurrentVersion)
	return a.service.loadKey(ctx, v.ring, keyStore, id)
}
