package appliance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// Service is the part that answers requests for keys. It keeps a view of the stored
// rows in memory and the keys that are in use.
type Service struct {
	ground
	store       ServingRows
	rotateAfter uint64
	recorder    Recorder // of requests; nil for none
	// rotateExhausted rotates a key whose version has done all its encryptions
	// ([Administration]).
	rotateExhausted func(ctx context.Context, keyStore, id string, version uint32) (*liveKey, error)

	// reload serializes changes to live.
	reload sync.Mutex
	live   atomic.Pointer[view] // nil while locked
	keys   *keyCache
	used   lastUsed
	health healthMonitor

	lease     lease
	why       func() string             // why it is locked
	suspended atomic.Pointer[suspended] // nil but after the lease ran out
	held      atomic.Pointer[heldState] // nil but where the state is not what it should be
}

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

// blockOf gives the block that holds for the key store: that of everything, or
// its own.
func (v *view) blockOf(keyStore string) Block {
	if e := v.byID[keyStore]; e != nil && v.blocked.IsZero() {
		return e.store.Blocked
	}
	return v.blocked
}

// view gives the live view, or fault.Locked. A lease that has run out counts
// though nobody has wiped the keys yet.
func (s *Service) view() (*view, error) {
	v, held := s.live.Load(), s.held.Load()
	switch {
	case s.suspended.Load() != nil, v != nil && s.lease.remaining() <= 0:
		return nil, fault.Errorf(fault.Locked, "the appliance is locked: the HSM has been away for longer than the lease of %s", s.lease.length)
	case v == nil && held != nil:
		return nil, fault.Errorf(fault.Locked, "the appliance is locked: %s: %s", fault.CodeOf(held.why), held.why)
	case v == nil:
		if code := s.why(); code != "" {
			return nil, fault.Errorf(fault.Locked, "the appliance is locked: %s", code)
		}
		return nil, fault.Errorf(fault.Locked, "the appliance is locked")
	}
	return v, nil
}

// Locked says whether no key can be used.
func (s *Service) Locked() bool { return s.live.Load() == nil }

// read gives the view of the stored rows after a change; before is the view so
// far. What the change does not concern is taken over.
func (s *Service) read(ctx context.Context, before *view, c Change) (*view, error) {
	stores, err := s.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	v := newView(before.ring)
	if v.blocked, err = s.readBlock(ctx, v.ring); err != nil {
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
				v.add(s.outOfService(ks, err))
				continue
			}
		}
		e := s.endpoint(ctx, v.ring, ks, old)
		v.add(e)
		e.blocked = v.blockOf(ks.ID)
	}
	return v, nil
}

// outOfService gives an endpoint that refuses all requests.
func (s *Service) outOfService(ks *KeyStore, why error) *Endpoint {
	why = DamagedRow{Kind: damagedKindStore, KeyStore: ks.Name}.fault(why)
	s.log.Error("a key store is out of service: its requests are refused", "key_store", ks.Name, "error", why)
	return &Endpoint{service: s, store: *ks, fault: why}
}

// apply brings the live view in line with a change of the store.
func (s *Service) apply(c Change) {
	if c.KeyID != "" {
		s.keys.drop(keyName{c.KeyStore, c.KeyID})
		return
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	old := s.live.Load()
	if old == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := s.read(ctx, old, c)
	if err != nil {
		// Without knowing what changed nothing may be served.
		v = newView(old.ring)
		for _, e := range old.byID {
			v.add(s.outOfService(&e.store, err))
		}
	}
	s.live.Store(v)
	old.retire(v)
	for id := range old.byID {
		if v.byID[id] == nil {
			v.ring.DropKeyringKey(id)
			s.keys.dropStore(id)
		}
	}
	switch {
	case c.KeyStore == "":
		s.keys.purge()
	case s.blocked(c.KeyStore):
		s.keys.dropStore(c.KeyStore)
	}
}

// Condition says whether keys serve, without asking the HSMs: HealthActive;
// HealthDegraded, while an HSM does not answer; HealthUnavailable, while no key
// can be used. The reason is empty if all is well.
func (s *Service) Condition() (status HealthStatus, reason string) {
	if _, err := s.view(); err != nil {
		return HealthUnavailable, err.Error()
	}
	for _, h := range s.health.last() {
		if h.Status != HealthActive {
			return HealthDegraded, h.Error
		}
	}
	return HealthActive, ""
}
