package appliance

import (
	"bytes"
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// view is what requests read: all key stores with their credentials and
// store-wide grants, in memory. It is immutable; a change makes a new one.
// Keys are not in it: they are read when first used (see keyCache).
type view struct {
	ring     Keyring
	byPrefix map[string]*Endpoint
	byID     map[string]*Endpoint
	blocked  Block // everything
}

func newView(ring Keyring) *view {
	return &view{ring: ring, byPrefix: map[string]*Endpoint{}, byID: map[string]*Endpoint{}}
}

func (v *view) add(e *Endpoint) {
	v.byPrefix[e.store.URIPathPrefix] = e
	v.byID[e.store.ID] = e
}

// liveCredential is an active credential.
type liveCredential struct {
	Credential
	unlocked UnlockedCredential
	used     *atomic.Int64 // Unix milliseconds
}

// read gives the view of the stored rows after a change; before is the view so
// far. What the change does not concern is taken over.
func (a *Appliance) read(ctx context.Context, before *view, c Change) (*view, error) {
	stores, err := a.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	v := newView(before.ring)
	if v.blocked, err = a.readBlock(ctx, v.ring); err != nil {
		return nil, err
	}
	for _, ks := range stores {
		old := before.byID[ks.ID]
		if old != nil && old.fault == nil && c.KeyStore != "" && c.KeyStore != ks.ID {
			v.add(old)
			continue
		}
		if old == nil || old.fault != nil {
			err := v.ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey)
			if err != nil && fault.CodeOf(err) != fault.Tampered {
				return nil, err // the HSM failed: no other key store would open either
			}
			if err != nil {
				v.add(a.outOfService(ks, err))
				continue
			}
		}
		e := a.endpoint(ctx, v.ring, ks, old)
		v.add(e)
		e.blocked = v.blockOf(ks.ID)
	}
	return v, nil
}

// outOfService gives an endpoint that refuses all requests.
func (a *Appliance) outOfService(ks *KeyStore, why error) *Endpoint {
	a.log.Error("a key store is out of service: its requests are refused", "key_store", ks.Name, "error", why)
	return &Endpoint{a: a, store: *ks, fault: why}
}

// endpoint reads what belongs to one key store. What was unlocked before and
// has not changed is kept, so that requests under way are not disturbed. What
// cannot be read puts the key store out of service: it never serves from stale
// rows.
func (a *Appliance) endpoint(ctx context.Context, ring Keyring, ks *KeyStore, before *Endpoint) *Endpoint {
	if err := ring.Verify(ks.Binding(), ks.Seal); err != nil {
		return a.outOfService(ks, err)
	}
	credentials, err := a.store.Credentials(ctx, ks.ID)
	if err != nil {
		return a.outOfService(ks, err)
	}
	grants, err := a.store.KeyStoreGrants(ctx, ks.ID)
	if err != nil {
		return a.outOfService(ks, err)
	}
	e := &Endpoint{a: a, store: *ks, credentials: map[string]*liveCredential{}}
	for _, c := range credentials {
		live, err := a.liveCredential(ring, c, before)
		if err != nil {
			a.log.Error("a credential does not open and is refused", "key_store", ks.Name, "access_key_id", c.AccessKeyID, "error", err)
		} else if live != nil {
			e.credentials[c.AccessKeyID] = live
		}
	}
	var old liveGrants
	if before != nil {
		old, e.policies = before.grants, before.policies
	}
	if before == nil || before.store.Policy != ks.Policy {
		written, err := authz.Parse(ks.Policy)
		if err != nil {
			return a.outOfService(ks, fault.Wrapf(fault.Internal, err, "the key store's Cedar policies cannot be read"))
		}
		e.policies = authz.NewSet(written...)
	}
	e.grants = a.indexGrants(ring, ks.ID, "", grants, old)
	switch {
	case ks.RequestsPerSecond == 0:
	case before != nil && before.limiter != nil && before.store.RequestsPerSecond == ks.RequestsPerSecond:
		e.limiter = before.limiter
	default:
		e.limiter = rate.NewLimiter(rate.Limit(ks.RequestsPerSecond), ks.RequestsPerSecond)
	}
	return e
}

// liveCredential unlocks an active credential; it gives nil for an inactive one.
func (a *Appliance) liveCredential(ring Keyring, c *Credential, before *Endpoint) (*liveCredential, error) {
	if before != nil {
		if old := before.credentials[c.AccessKeyID]; old != nil && bytes.Equal(old.Secret, c.Secret) && c.Active {
			return old, nil
		}
	}
	if !c.Active {
		return nil, nil
	}
	unlocked, err := ring.UnlockCredential(c)
	if err != nil {
		return nil, err
	}
	return &liveCredential{Credential: *c, unlocked: unlocked, used: a.used.of(c.AccessKeyID)}, nil
}

// apply brings the live view in line with a change of the store.
func (a *Appliance) apply(c Change) {
	if c.KeyID != "" {
		a.keys.drop(keyName{c.KeyStore, c.KeyID})
		return
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	old := a.live.Load()
	if old == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := a.read(ctx, old, c)
	if err != nil {
		// Without knowing what changed nothing may be served.
		v = newView(old.ring)
		for _, e := range old.byID {
			v.add(a.outOfService(&e.store, err))
		}
	}
	a.live.Store(v)
	old.retire(v)
	for id := range old.byID {
		if v.byID[id] == nil {
			v.ring.DropKeyringKey(id)
			a.keys.dropStore(id)
		}
	}
	switch {
	case c.KeyStore == "":
		a.keys.purge()
	case a.blocked(c.KeyStore):
		a.keys.dropStore(c.KeyStore)
	}
}

// retire wipes the credentials that the next view does not have.
func (v *view) retire(next *view) {
	for id, e := range v.byID {
		for accessKeyID, c := range e.credentials {
			if n := next.byID[id]; n == nil || n.credentials[accessKeyID] != c {
				c.unlocked.Wipe()
			}
		}
	}
}

// liveGrants are grants whose seals hold, compiled and indexed.
type liveGrants struct {
	set *authz.Set
	// compiled has each by its ID, so that a change to one of many compiles one.
	compiled map[string]compiledGrant
}

type compiledGrant struct {
	seal   []byte
	policy *authz.Policy
}

// indexGrants compiles grants; before are those so far. A grant that does not
// open allows nothing; and if it may have forbidden something, nothing is allowed
// where it stood.
func (a *Appliance) indexGrants(ring Keyring, keyStore, keyID string, grants []*Grant, before liveGrants) liveGrants {
	live := liveGrants{compiled: make(map[string]compiledGrant, len(grants))}
	policies := make([]*authz.Policy, 0, len(grants))
	for _, g := range grants {
		policy, err := compileGrant(ring, g, before.compiled[g.ID])
		switch {
		case err != nil:
			a.log.Error("a grant does not open and allows nothing", "key_store_id", keyStore, "key_id", keyID, "grant", g.ID, "error", err)
			if g.Effect != EffectAllow {
				policies = append(policies, authz.ForbidAll(g.ID))
			}
		case g.KeyID == keyID:
			live.compiled[g.ID] = compiledGrant{g.Seal, policy}
			policies = append(policies, policy)
		}
	}
	live.set = authz.NewSet(policies...)
	return live
}

// compileGrant holds a grant against its seal and compiles it, unless it was
// before.
func compileGrant(ring Keyring, g *Grant, before compiledGrant) (*authz.Policy, error) {
	if err := ring.Verify(g.Binding(), g.Seal); err != nil {
		return nil, err
	}
	if before.policy != nil && bytes.Equal(before.seal, g.Seal) {
		return before.policy, nil // a seal is of one row
	}
	return g.Rule().Compile()
}

// liveKey is an external key that has been read, checked against its seal and,
// version by version as they are used, unlocked.
type liveKey struct {
	StoredKey
	ring    Keyring
	grants  liveGrants
	blocked func() bool // whether it may not be kept unlocked

	// remaining is how many encryptions of the current version are reserved and
	// not used.
	remaining atomic.Int64

	reserving sync.Mutex
	// The rest is under reserving: the size of the block reserved last, how many
	// encryptions the version has been reserved in all, and the key as it is
	// after its rotation.
	block    uint64
	reserved uint64
	rotated  *liveKey

	mu       sync.RWMutex
	unlocked map[uint32]UnlockedKey
	wiped    bool
}

// loadKey gives a key from memory, or else from the store.
func (a *Appliance) loadKey(ctx context.Context, ring Keyring, keyStore, id string) (*liveKey, error) {
	name := keyName{keyStore, id}
	for {
		k, generation := a.keys.get(name)
		if k != nil {
			return k, nil
		}
		stored, err := a.store.Key(ctx, keyStore, id)
		if err != nil {
			return nil, err
		}
		if err := checkKey(ring, stored, keyStore, id); err != nil {
			a.log.Error("an external key is refused", "key_store_id", keyStore, "key_id", id, "error", err)
			return nil, err
		}
		k = &liveKey{StoredKey: *stored, ring: ring, unlocked: map[uint32]UnlockedKey{},
			blocked: func() bool { return a.blocked(keyStore) }}
		k.grants = a.indexGrants(ring, keyStore, id, stored.Grants, liveGrants{})
		k.reserved = k.version(k.CurrentVersion).Encryptions
		if k, ok := a.keys.add(name, generation, k); ok {
			return k, nil
		}
		// The key changed while it was read: read it again.
	}
}

// checkKey holds the rows of a key against its seal.
func checkKey(ring Keyring, k *StoredKey, keyStore, id string) error {
	if k.KeyStore != keyStore || k.ID != id {
		return fault.Errorf(fault.Tampered, "the store gave key %q for key %q", k.ID, id)
	}
	if err := ring.Verify(k.Binding(), k.Seal); err != nil {
		return err
	}
	if k.version(k.CurrentVersion) == nil {
		return fault.Errorf(fault.Tampered, "key %q lacks its current version %d", id, k.CurrentVersion)
	}
	return nil
}

// version gives the version of that number, or nil.
func (k *StoredKey) version(n uint32) *KeyVersion {
	for i := len(k.Versions) - 1; i >= 0; i-- {
		if k.Versions[i].Version == n {
			return k.Versions[i]
		}
	}
	return nil
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
	k.mu.RLock()
	u, wiped := k.unlocked[v.Version], k.wiped
	k.mu.RUnlock()
	if u != nil || wiped {
		return u, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if u := k.unlocked[v.Version]; u != nil || k.wiped || k.blocked() {
		return u, nil
	}
	u, err := k.ring.Unlock(v)
	if err != nil {
		return nil, err
	}
	k.unlocked[v.Version] = u
	return u, nil
}

// wipe erases the unlocked versions.
func (k *liveKey) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wiped = true
	for _, u := range k.unlocked {
		u.Wipe()
	}
	k.unlocked = nil
}

type keyName struct{ keyStore, id string }

const cacheShards = 16

// keyCache keeps the keys used lately. It has shards, so that requests for
// different keys do not wait for each other.
type keyCache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu sync.Mutex
	// generation counts what was dropped: a key read from the store before that
	// must not be added after it.
	generation uint64
	lru        *simplelru.LRU[keyName, *liveKey]
}

func newKeyCache(size int) *keyCache {
	c := &keyCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		lru, err := simplelru.NewLRU(max(1, size/cacheShards), func(_ keyName, k *liveKey) { k.wipe() })
		if err != nil {
			panic(err) // the size is positive
		}
		c.shards[i].lru = lru
	}
	return c
}

func (c *keyCache) shard(n keyName) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, n)%cacheShards]
}

// get gives the key, or nil and the generation to add it with.
func (c *keyCache) get(n keyName) (*liveKey, uint64) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, _ := s.lru.Get(n)
	return k, s.generation
}

// add gives the key that is in the cache afterwards: k, or one that was added
// meanwhile. It refuses if something was dropped since the generation.
func (c *keyCache) add(n keyName, generation uint64, k *liveKey) (*liveKey, bool) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != generation {
		return nil, false
	}
	if old, ok := s.lru.Get(n); ok {
		return old, true
	}
	s.lru.Add(n, k)
	return k, true
}

func (c *keyCache) drop(n keyName) {
	s := c.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.lru.Remove(n)
}

func (c *keyCache) dropStore(keyStore string) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		for _, n := range s.lru.Keys() {
			if n.keyStore == keyStore {
				s.lru.Remove(n)
			}
		}
		s.mu.Unlock()
	}
}

func (c *keyCache) purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.generation++
		s.lru.Purge()
		s.mu.Unlock()
	}
}
