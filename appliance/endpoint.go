package appliance

import (
	"context"
	"errors"

	"golang.org/x/time/rate"
)

// Endpoint is a key store as it is served to KMS. Get one per request: it
// shows the key store as of that moment.
type Endpoint struct {
	a           *Appliance
	store       KeyStore
	credentials map[string]*liveCredential
	grants      grantIndex
	limiter     *rate.Limiter // nil without a quota
	fault       error
}

// Endpoint gives the key store whose URI path prefix is exactly prefix. Errors:
// CodeNotFound if there is none; CodeLocked; the reason for which a key store
// is out of service.
func (a *Appliance) Endpoint(prefix string) (*Endpoint, error) {
	v, err := a.view()
	if err != nil {
		return nil, err
	}
	e := v.byPrefix[prefix]
	if e == nil {
		return nil, Errorf(CodeNotFound, "no key store has that URI path prefix")
	}
	if e.fault != nil {
		return nil, e.fault
	}
	return e, nil
}

// Name is the key store's name.
func (e *Endpoint) Name() string { return e.store.Name }

// HasCredential says whether the access key ID is an active one of this key
// store.
func (e *Endpoint) HasCredential(accessKeyID string) bool { return e.credentials[accessKeyID] != nil }

// Sign gives the SigV4 signature that the credential makes for the string to
// sign. Errors: CodeNotFound if the key store has no such active credential.
func (e *Endpoint) Sign(accessKeyID, date, region, service, stringToSign string) ([32]byte, error) {
	c := e.credentials[accessKeyID]
	if c == nil {
		return [32]byte{}, Errorf(CodeNotFound, "no such credential")
	}
	return c.unlocked.Sign(date, region, service, stringToSign)
}

// Authenticated notes that the credential authenticated a request, and takes
// the request from the key store's quota. Errors: CodeThrottled.
func (e *Endpoint) Authenticated(accessKeyID string) error {
	if c := e.credentials[accessKeyID]; c != nil {
		c.used.Store(e.a.now().UnixMilli())
	}
	if e.limiter != nil && !e.limiter.AllowN(e.a.now(), 1) {
		return Errorf(CodeThrottled, "the key store's quota of %d requests per second is used up", e.store.RequestsPerSecond)
	}
	return nil
}

// Key gives an external key. Errors: CodeNotFound, CodeTampered, CodeLocked,
// CodeTimeout.
func (e *Endpoint) Key(ctx context.Context, id string) (*Key, error) {
	v, err := e.a.view()
	if err != nil {
		return nil, err
	}
	live, err := e.a.loadKey(ctx, v.ring, e.store.ID, id)
	if err != nil {
		return nil, err
	}
	return &Key{e: e, live: live}, nil
}

// Key is an external key as it is served to KMS.
type Key struct {
	e    *Endpoint
	live *liveKey
}

// ExternalKey describes the key.
func (k *Key) ExternalKey() ExternalKey { return k.live.ExternalKey }

// Allow says whether a grant allows the principal the operation on this key:
// nil or CodeDenied.
func (k *Key) Allow(principal string, op Operation) error {
	if k.e.grants.allows(principal, op) || k.live.grants.allows(principal, op) {
		return nil
	}
	return Errorf(CodeDenied, "no grant allows this principal the operation %s on this key", op)
}

// Usable says whether the key's state and usage permit all of the operations:
// nil, CodeConflict (not enabled) or CodeKeyUsage.
func (k *Key) Usable(ops ...Operation) error {
	if k.live.State != KeyEnabled {
		return Errorf(CodeConflict, "the external key is not enabled")
	}
	for _, op := range ops {
		if (op == OpEncrypt && !k.live.Usage.Encrypt) || (op == OpDecrypt && !k.live.Usage.Decrypt) {
			return Errorf(CodeKeyUsage, "the external key's usage does not include the operation %s", op)
		}
	}
	return nil
}

// attempts bounds how often an operation begins anew because the key was
// rotated or left the cache meanwhile.
const attempts = 4

// Encrypt encrypts under the key's current version. The additional
// authenticated data have at most [MaxAAD] bytes and are framed as the
// specification says ([FrameAAD]). The encryption is counted durably before.
// When the version has done as many as it may, the key is rotated first.
func (k *Key) Encrypt(ctx context.Context, plaintext, aad []byte) (*Ciphertext, error) {
	if err := k.Usable(OpEncrypt); err != nil {
		return nil, err
	}
	if len(aad) > MaxAAD {
		return nil, Errorf(CodeTooLarge, "additional authenticated data of %d bytes; at most %d are supported", len(aad), MaxAAD)
	}
	for range attempts {
		version := k.live.version(k.live.CurrentVersion)
		again, err := k.count(ctx, version)
		if err != nil {
			return nil, err
		}
		if again {
			continue
		}
		unlocked, err := k.live.unlock(version)
		if err == nil {
			c := &Ciphertext{Metadata: encodeMetadata(version.Version)}
			c.IV, c.Ciphertext, c.Tag, err = unlocked.Encrypt(ctx, plaintext, FrameAAD(aad, c.Metadata))
			if err == nil {
				return c, nil
			}
		}
		if err := k.reloadAfter(ctx, err); err != nil {
			return nil, err
		}
	}
	return nil, Errorf(CodeInternal, "the key changed too often while it was used; try again")
}

// Decrypt decrypts with the version that the ciphertext's metadata name.
// Errors: CodeCiphertext if anything does not match.
func (k *Key) Decrypt(ctx context.Context, c *Ciphertext, aad []byte) ([]byte, error) {
	if err := k.Usable(OpDecrypt); err != nil {
		return nil, err
	}
	if len(aad) > MaxAAD {
		return nil, Errorf(CodeTooLarge, "additional authenticated data of %d bytes; at most %d are supported", len(aad), MaxAAD)
	}
	number, err := decodeMetadata(c.Metadata)
	if err != nil {
		return nil, err
	}
	for range attempts {
		version := k.live.version(number)
		if version == nil {
			return nil, Errorf(CodeCiphertext, "the ciphertext names a version that the key does not have")
		}
		unlocked, err := k.live.unlock(version)
		if err == nil {
			var plaintext []byte
			plaintext, err = unlocked.Decrypt(ctx, c.IV, c.Ciphertext, c.Tag, FrameAAD(aad, c.Metadata))
			if err == nil {
				return plaintext, nil
			}
		}
		if err := k.reloadAfter(ctx, err); err != nil {
			return nil, err
		}
	}
	return nil, Errorf(CodeInternal, "the key changed too often while it was used; try again")
}

// reloadAfter gets the key anew if err says that it was wiped meanwhile, and
// gives back any other error. A key that has been disabled in the meantime is
// noticed.
func (k *Key) reloadAfter(ctx context.Context, err error) error {
	if !errors.Is(err, errWiped) && CodeOf(err) != CodeLocked {
		return err
	}
	fresh, err := k.e.Key(ctx, k.live.ID)
	if err != nil {
		return err
	}
	k.live = fresh.live
	return k.Usable()
}

// The sizes of the blocks in which encryptions are reserved. A key that is
// loaded from the store starts small, so that little is wasted on keys that
// are used once; a busy key soon writes once in 65,536 encryptions.
const (
	firstBlock = 64
	maxBlock   = 65536
)

// count takes one encryption from the reserved ones, and reserves more if there
// are none. It says whether the key was replaced by its rotated self.
func (k *Key) count(ctx context.Context, v *KeyVersion) (again bool, err error) {
	live := k.live
	if live.remaining.Add(-1) >= 0 {
		return false, nil
	}
	live.reserving.Lock()
	defer live.reserving.Unlock()
	if live.remaining.Load() > 0 && live.remaining.Add(-1) >= 0 {
		return false, nil
	}
	a := k.e.a
	n := min(max(live.block*8, firstBlock), maxBlock)
	total, err := a.store.ReserveEncryptions(ctx, v.KeyStore, v.KeyID, v.Version, n)
	if err != nil {
		return false, err
	}
	if before := total - n; before >= a.rotateAfter {
		rotated, err := a.rotateExhausted(ctx, k.e.store.ID, live.ID, v.Version)
		if err == nil {
			k.live = rotated
			return true, nil
		}
		if total > maxEncryptions {
			return false, wrapf(CodeInternal, err, "key version %d has done as many encryptions as AES-GCM allows and could not be rotated", v.Version)
		}
		a.log.Error("a key is due for rotation and could not be rotated; it still serves", "key_store", k.e.store.Name, "key_id", live.ID, "version", v.Version, "encryptions", total, "error", err)
	}
	live.block = n
	live.remaining.Store(int64(n) - 1)
	return false, nil
}
