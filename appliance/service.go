package appliance

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
	"holdfast/appliance/quota"
)

// Service is the part that answers requests for keys. It keeps a view of the stored
// rows in memory and the keys that are in use.
type Service struct {
	ground
	store       ServingRows
	firstBlock  uint64 // of encryptions that are reserved
	rotateAfter uint64
	recorder    Recorder // of requests; nil for none
	fleet       Fleet
	newest      *newest
	// rotateExhausted rotates a key whose version has done all its encryptions
	// ([Administration]).
	rotateExhausted func(ctx context.Context, keyStore, id string, version uint32) (*liveKey, error)

	// reload serializes changes to live.
	reload sync.Mutex
	// recovering is held by the attempt to bring back what is out of service.
	recovering sync.Mutex
	// found are the damaged sets of rows that Recover has seen; whoever holds recovering has it.
	found []string
	// arrival wakes it for a key store that another node has made.
	arrival chan struct{}
	live    atomic.Pointer[view] // nil while locked
	keys    *keyCache
	decider *authz.Decider
	used    lastUsed
	quotas  *quota.Pool // nil for an appliance that is alone
	health  healthMonitor

	installation func() InstallationState
	state        func(ctx context.Context) *StateStatus
	replication  func() *ReplicationState
	damaged      func() []string // the sets of rows that do not match their manifests
	// clock says whether what is due by the clock waits.
	clock func() ClockState

	lease     lease
	why       func() string             // why it is locked
	suspended atomic.Pointer[suspended] // nil unless KeepLease is to unlock it again
	held      atomic.Pointer[heldState] // nil but where the state is not what it should be, or a person is to decide which copy counts
}

// view is what requests read: all key stores with their credentials and
// store-wide grants, in memory. It is immutable; a change makes a new one.
// Keys are not in it: they are read when first used (see keyCache).
type view struct {
	ring     Keyring
	byPrefix map[string]*Endpoint
	byID     map[string]*Endpoint
	blocked  Block // everything
	// unread says why the stored state could not be read after a change; nil if it
	// could. Again says when it is tried.
	unread error
	again  backoff
}

func newView(ring Keyring) *view {
	return &view{ring: ring, byPrefix: map[string]*Endpoint{}, byID: map[string]*Endpoint{}}
}

func (v *view) add(e *Endpoint) {
	v.byPrefix[e.store.URIPathPrefix] = e
	v.byID[e.store.ID] = e
}

// retire wipes the credentials that the next view does not have, and ends the waiting for
// what is not about to be opened any more.
func (v *view) retire(next *view) {
	for id, e := range v.byID {
		if n := next.byID[id]; e.opening != nil && (n == nil || n.opening != e.opening) {
			close(e.opening)
		}
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
	v, locked := s.unlocked()
	return v, locked.error()
}

// unlocked gives the live view, or why there is none.
func (s *Service) unlocked() (*view, *refusal) {
	v, held, suspended := s.live.Load(), s.held.Load(), s.suspended.Load()
	locked := func(state StandingState, code fault.Code, format string, args ...any) (*view, *refusal) {
		err := fault.Errorf(fault.Locked, "the appliance is locked"+format, args...)
		return nil, &refusal{Standing{State: state, Says: fault.ReasonOf(err), Decides: DecidesNode, Code: code}, err}
	}
	switch {
	case suspended != nil && suspended.why != nil:
		code := fault.CodeOf(suspended.why)
		return locked(StandingLocked, code, " while it opens its rows again: %s: %s", code, fault.ReasonOf(suspended.why))
	case suspended != nil, v != nil && s.lease.remaining() <= 0:
		return locked(StandingLocked, fault.HSMLease, ": the HSM has been away for longer than the lease of %s", s.lease.length)
	case v == nil && held != nil:
		code := fault.CodeOf(held.why)
		return locked(StandingHeld, code, ": %s: %s", code, held.why)
	case v == nil:
		if code := s.why(); code != "" {
			return locked(StandingLocked, fault.Code(code), ": %s", code)
		}
		return locked(StandingLocked, fault.Locked, "")
	}
	return v, nil
}

// Locked says whether no key can be used.
func (s *Service) Locked() bool { return s.live.Load() == nil }

// read gives the view of the stored rows; before is the view so far, from which all is
// taken over that a change does not concern. It asks no HSM: a key store whose key is not
// in the keyring is out of service, and failed says why. An error means that nothing is
// known of the stored state.
func (s *Service) read(ctx context.Context, before *view, concerns func(keyStore string) bool, failed map[string]error) (*view, error) {
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
		if old != nil && before.unread == nil && !concerns(ks.ID) {
			v.add(old)
			continue
		}
		e := s.endpoint(ctx, v.ring, ks, old, failed[ks.ID])
		v.add(e)
		e.blocked, e.everything = v.blockOf(ks.ID), !v.blocked.IsZero()
	}
	return v, nil
}

// apply brings the live view in line with a change of the store.
func (s *Service) apply(c Change) {
	if c.Setting != "" {
		return
	}
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
	v, err := s.read(ctx, old, func(id string) bool { return c.KeyStore == "" || c.KeyStore == id }, nil)
	if err != nil {
		v = s.unread(old, c, err)
	}
	s.replace(old, v)
	switch {
	case c.KeyStore == "":
		s.keys.purge()
	case s.blocked(c.KeyStore):
		s.keys.dropStore(c.KeyStore)
	}
}

// replace puts a view in the place of the one so far. The caller holds s.reload.
func (s *Service) replace(old, v *view) {
	s.live.Store(v)
	old.retire(v)
	if s.quotas != nil {
		s.quotas.Keep(slices.Collect(maps.Keys(v.byID))...)
	}
	for id := range old.byID {
		if v.byID[id] == nil {
			v.ring.DropKeyringKey(id)
			s.keys.dropStore(id)
		}
	}
}

// Condition says whether keys serve, without asking the HSMs: HealthActive;
// HealthDegraded, while an HSM does not answer or a key store is out of service;
// HealthUnavailable, while no key can be used. The error says why: fault.HSMAway,
// fault.KeyStoreOut, fault.HSMLease, or why the rows are opened again; nil if all is well. Blocks are not among it: they are
// somebody's will.
func (s *Service) Condition() (HealthStatus, *fault.Fault) {
	v, err := s.view()
	if suspended := s.suspended.Load(); err != nil && suspended != nil && suspended.why != nil {
		return HealthUnavailable, fault.Errorf(fault.CodeOf(suspended.why), "%s", err)
	}
	if err != nil {
		return HealthUnavailable, fault.Errorf(fault.HSMLease, "%s", err)
	}
	if err := s.fleet.Fresh(); err != nil {
		return HealthDegraded, fault.Errorf(fault.CodeOf(err), "%s", fault.ReasonOf(err))
	}
	if r := s.replication(); r != nil && r.Failed != "" && s.now().Sub(r.Since) > toleratedAway {
		return HealthDegraded, fault.Errorf(r.Code, "%s", r.Failed)
	}
	for _, h := range s.health.last() {
		if h.Status != HealthActive {
			return HealthDegraded, fault.Errorf(fault.HSMAway, "%s", h.Error)
		}
	}
	out := v.outages()
	if len(out) == 0 {
		return HealthActive, nil
	}
	names := make([]string, 0, maxNamed)
	for _, o := range out[:min(len(out), maxNamed)] {
		names = append(names, o.KeyStore)
	}
	return HealthDegraded, fault.Errorf(fault.KeyStoreOut, "%d of %d key stores are out of service (%s): %s",
		len(out), len(v.byID), strings.Join(names, ", "), out[0].Reason)
}

// toleratedAway is for how long the log of changes may be away before people are told.
const toleratedAway = 2 * time.Second

// maxNamed bounds how many key stores a reason names; [Status] has them all.
const maxNamed = 5

// LendQuota gives another node of the fleet at most so many requests of a key store's quota that
// this node does not need, and admits that many less ([quota.Pool.Lend]).
func (s *Service) LendQuota(keyStore string, want int) int {
	if s.quotas == nil || s.Locked() {
		return 0
	}
	return s.quotas.Lend(keyStore, want, s.now())
}

// KeysInMemory says how many keys are kept ready for use.
func (s *Service) KeysInMemory() KeysInMemory { return s.keys.count() }
