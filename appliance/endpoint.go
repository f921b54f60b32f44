package appliance

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"holdfast/appliance/authz"
	"holdfast/appliance/fault"
)

// Endpoint is a key store as it is served. Get one per request: it shows the key
// store as of that moment, which is enough to turn strangers away. Before a request is
// authenticated it gives nothing but its name; [Endpoint.Open] gives the rest, of the
// key store as it is then.
type Endpoint struct {
	service     *Service
	store       KeyStore
	credentials map[string]*liveCredential
	grants      liveGrants
	policies    *authz.Set // written by hand
	limiter     limiter    // nil without a quota
	blocked     Block      // of everything, or of the key store
	everything  bool       // whether the block is that of everything
	fault       error
	// again says when it is tried again, if something of it could not be read or opened.
	again backoff
	// opening is closed when it was tried to open a key store that another node has made;
	// nil for one that was tried.
	opening chan struct{}
}

// limiter admits requests as the quota allows.
type limiter interface {
	AllowN(now time.Time, n int) bool
}

// Endpoint gives the key store whose URI path prefix is exactly prefix. Errors:
// fault.NotFound if there is none, also after the log of a fleet was asked; fault.Locked;
// the reason for which a key store is out of service.
func (s *Service) Endpoint(prefix string) (*Endpoint, error) {
	e, err := s.endpointAt(prefix)
	if err == nil && e == nil && s.newest.look() {
		e, err = s.endpointAt(prefix)
	}
	if err == nil && e != nil && e.opening != nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.newest.within)
		defer cancel()
		select {
		case <-e.opening:
		case <-ctx.Done():
		}
		e, err = s.endpointAt(prefix)
	}
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, fault.Errorf(fault.NotFound, "no key store has that URI path prefix")
	}
	return e, e.out().error()
}

// endpointAt gives what has that prefix; nil if nothing has.
func (s *Service) endpointAt(prefix string) (*Endpoint, error) {
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	return v.byPrefix[prefix], nil
}

// endpoint reads what belongs to one key store. What was unlocked before and
// has not changed is kept, so that requests under way are not disturbed. What
// cannot be read puts the key store out of service: it never serves from stale
// rows. NotOpened is why its keyring key could not be opened, if that was tried.
func (s *Service) endpoint(ctx context.Context, ring Keyring, ks *KeyStore, before *Endpoint, notOpened error) *Endpoint {
	if !ring.HasKeyringKey(ks.ID) {
		switch {
		case notOpened != nil:
		case before != nil && before.fault != nil:
			e := *before // it was tried, and is tried again
			e.store = *ks
			return &e
		default:
			return s.arrived(ks)
		}
		return s.outOfService(ks, before, notOpened)
	}
	if err := ring.Verify(ks.Binding(), ks.Seal); err != nil {
		return s.outOfService(ks, before, err)
	}
	if ks.Unmatched {
		return s.outOfService(ks, before, unmatched("the key store's row, a credential or a grant"))
	}
	credentials, err := s.store.Credentials(ctx, ks.ID)
	if err != nil {
		return s.outOfService(ks, before, err)
	}
	grants, err := s.store.KeyStoreGrants(ctx, ks.ID)
	if err != nil {
		return s.outOfService(ks, before, err)
	}
	e := &Endpoint{service: s, store: *ks, credentials: map[string]*liveCredential{}}
	tried := backoff{}
	if before != nil {
		tried = before.again
	}
	for _, c := range credentials {
		live, err := s.liveCredential(ring, c, before)
		if err != nil {
			s.log.Error("a credential does not open and is refused", "key_store", ks.Name, "access_key_id", c.AccessKeyID, "error", err)
			if fault.CodeOf(err) != fault.Tampered { // it may open the next time
				e.again = tried.failed(s.now())
			}
		} else if live != nil {
			e.credentials[c.AccessKeyID] = live
		}
	}
	var old liveGrants
	if before != nil {
		old, e.policies = before.grants, before.policies
	}
	if e.policies == nil || before.store.Policy != ks.Policy {
		written, err := authz.Parse(ks.Policy)
		if err != nil {
			return s.outOfService(ks, before, fault.Wrapf(fault.Internal, err, "the key store's Cedar policies cannot be read"))
		}
		e.policies = authz.NewSet(written...)
	}
	e.grants = s.indexGrants(ring, ks.ID, "", grants, old)
	switch {
	case ks.RequestsPerSecond == 0:
	case before != nil && before.limiter != nil && before.store.RequestsPerSecond == ks.RequestsPerSecond:
		e.limiter = before.limiter
	case s.quotas != nil:
		e.limiter = s.quotas.Bucket(ks.ID, ks.RequestsPerSecond)
	default:
		e.limiter = rate.NewLimiter(rate.Limit(ks.RequestsPerSecond), ks.RequestsPerSecond)
	}
	return e
}

// current gives the key store as it is now, which is the same Endpoint as long as
// nothing of it has changed. Errors: those of [Service.Endpoint], but
// fault.Unauthenticated for a key store that is gone, as its credentials are.
func (e *Endpoint) current() (*Endpoint, error) {
	v, err := e.service.freshView()
	if err != nil {
		return nil, err
	}
	now := v.byID[e.store.ID]
	if now == nil {
		return nil, fault.Errorf(fault.Unauthenticated, "the key store was deleted, and its credentials with it")
	}
	return now, now.out().error()
}

// freshView gives the view that was there while this node was fresh. A machine may be
// suspended between any two steps: one that looked at the view before, and asks whether it is
// fresh when it has woken and taken over changes, has an old view; and one that asks before,
// and looks at the view after, has one that may be old by then.
func (s *Service) freshView() (*view, error) {
	for {
		v, err := s.view()
		if err != nil {
			return nil, err
		}
		if lacks := s.lacking(); lacks != nil {
			return nil, lacks.err
		}
		if s.live.Load() == v {
			return v, nil
		}
	}
}

// Name is the key store's name.
func (e *Endpoint) Name() string { return e.store.Name }

// HasCredential says whether the access key ID is an active one of this key
// store, as it is now if it was not known before.
func (e *Endpoint) HasCredential(accessKeyID string) bool {
	if e.credentials[accessKeyID] != nil {
		return true
	}
	if e.service == nil || !e.service.newest.look() {
		return false
	}
	v, err := e.service.view()
	if err != nil {
		return false
	}
	now := v.byID[e.store.ID]
	return now != nil && now.credentials[accessKeyID] != nil
}

// key gives an external key. Errors: fault.NotFound, fault.Tampered, fault.Locked,
// fault.Timeout.
func (e *Endpoint) key(ctx context.Context, id string) (*liveKey, error) {
	v, err := e.service.view()
	if err != nil {
		return nil, err
	}
	k, err := e.service.loadKey(ctx, v.ring, e.store.ID, id)
	if fault.CodeOf(err) == fault.NotFound && e.service.newest.look() {
		return e.service.loadKey(ctx, v.ring, e.store.ID, id)
	}
	return k, err
}
