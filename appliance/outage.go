package appliance

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// What cannot be read or opened is out of service, and nothing else is: an HSM may have
// failed once, a disk may be busy, and a row may be damaged. All of that looks alike at
// first, so all of it is tried again, with pauses that grow. Until then the key store
// serves nothing, since it would serve rows of before.

// The pauses between attempts to bring a key store back.
const (
	firstRetry = time.Second
	maxRetry   = time.Minute
)

// backoff says when something that failed is tried again. The zero value is for what
// has not failed.
type backoff struct {
	pause time.Duration
	at    time.Time
}

// failed gives what holds after another failure.
func (b backoff) failed(now time.Time) backoff {
	pause := min(max(2*b.pause, firstRetry), maxRetry)
	return backoff{pause, now.Add(pause)}
}

// jittered has it tried again up to half of the pause earlier, so that several nodes that
// failed at once do not try at once.
func (b backoff) jittered() backoff {
	return backoff{b.pause, b.at.Add(-rand.N(b.pause/2 + 1))}
}

// due says whether it is tried again now.
func (b backoff) due(now time.Time) bool { return b.pause > 0 && !now.Before(b.at) }

// KeyStoreOutage is a key store that is out of service, by no block.
type KeyStoreOutage struct {
	KeyStore string `json:"key_store" jsonschema:"The name of the key store."`
	Reason   string `json:"reason" jsonschema:"Why the key store is out of service."`
}

// outages gives the key stores that are out of service, by name.
func (v *view) outages() []KeyStoreOutage {
	var out []KeyStoreOutage
	for _, e := range v.byID {
		if e.fault != nil {
			out = append(out, KeyStoreOutage{e.store.Name, e.fault.Error()})
		}
	}
	slices.SortFunc(out, func(a, b KeyStoreOutage) int { return cmp.Compare(a.KeyStore, b.KeyStore) })
	return out
}

// outOfService gives an endpoint that refuses all requests, and is tried again; before is
// the one so far, or nil.
func (s *Service) outOfService(ks *KeyStore, before *Endpoint, why error) *Endpoint {
	if fault.CodeOf(why) == fault.Tampered {
		why = DamagedRow{Kind: damagedKindStore, KeyStore: ks.Name}.fault(why)
	} else {
		why = fault.Wrapf(fault.CodeOf(why), why, "key store %q is out of service and is tried again by itself: %s", ks.Name, messageOf(why))
	}
	e := &Endpoint{service: s, store: *ks, fault: why}
	if before != nil {
		e.again = before.again
	}
	e.again = e.again.failed(s.now())
	if before == nil || before.fault == nil || before.fault.Error() != why.Error() {
		s.log.Error("a key store is out of service: its requests are refused, and it is tried again", "key_store", ks.Name, "error", why)
	}
	return e
}

// arrived gives an endpoint for a key store that another node has made, and whose keyring
// key this one has to open with the HSM. Recover does that at once.
func (s *Service) arrived(ks *KeyStore) *Endpoint {
	select {
	case s.arrival <- struct{}{}:
	default: // Recover is about to look anyway
	}
	return &Endpoint{service: s, store: *ks, opening: make(chan struct{}), again: backoff{pause: firstRetry / 2, at: s.now()},
		fault: fault.Errorf(fault.Internal, "key store %q is new at this node, and its key has not been opened with the HSM yet: try again", ks.Name)}
}

// openingTime is how long an administrator's request waits for that.
const openingTime = 2 * time.Second

// awaitOpened waits until it was tried to open the key store of that name, if it has just
// come from another node.
func (s *Service) awaitOpened(ctx context.Context, name string) {
	v := s.live.Load()
	if v == nil {
		return
	}
	for _, e := range v.byID {
		if e.store.Name != name || e.opening == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, openingTime)
		defer cancel()
		select {
		case <-e.opening:
		case <-ctx.Done():
		}
		return
	}
}

// recovery calls Recover each second, and when a key store has come from another node.
func (s *Service) recovery(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.arrival:
		}
		s.Recover(ctx)
	}
}

// unread gives the view after a change whose rows could not be read: what the change may
// concern is out of service, and all the rest as before.
func (s *Service) unread(before *view, c Change, why error) *view {
	v := newView(before.ring)
	v.blocked, v.unread, v.again = before.blocked, why, before.again.failed(s.now())
	for _, e := range before.byID {
		if c.KeyStore != "" && c.KeyStore != e.store.ID {
			v.add(e)
			continue
		}
		failed := e
		if e.fault == nil || fault.CodeOf(e.fault) != fault.Tampered {
			failed = s.outOfService(&e.store, e, why)
		}
		v.add(failed)
	}
	if before.unread == nil {
		s.log.Error("the stored state could not be read after a change; it is tried again", "key_store_id", c.KeyStore, "error", why)
	}
	return v
}

// openKeyStores opens the keyring keys of key stores that are not open, one HSM operation
// for each, and gives those that fail.
func (s *Service) openKeyStores(ctx context.Context, ring Keyring, stores []*KeyStore) map[string]error {
	failed := map[string]error{}
	for _, ks := range stores {
		if ring.HasKeyringKey(ks.ID) {
			continue
		}
		if err := ring.OpenKeyringKey(ctx, ks.ID, ks.WrappedKey); err != nil {
			failed[ks.ID] = err
		}
	}
	return failed
}

// open gives the first view of a keyring. An error is one that concerns all key stores: of
// the database, or that the HSM opens none of them. A key store that fails by itself is
// out of service.
func (s *Service) open(ctx context.Context, ring Keyring) (*view, error) {
	stores, err := s.store.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	failed := s.openKeyStores(ctx, ring, stores)
	for _, ks := range stores {
		if err := failed[ks.ID]; err != nil && len(failed) == len(stores) && fault.CodeOf(err) != fault.Tampered {
			return nil, err
		}
	}
	return s.read(ctx, newView(ring), func(string) bool { return true }, failed)
}

// Recover tries again what is out of service and due, and reads key stores again of which damaged
// rows were found, or are so no longer. It holds nobody up: while it waits
// for the HSM it has no lock that a change needs.
func (s *Service) Recover(ctx context.Context) {
	if !s.recovering.TryLock() {
		return
	}
	defer s.recovering.Unlock()
	v := s.live.Load()
	if v == nil {
		return
	}
	due, turned := v.due(s.now()), s.turned()
	maps.Copy(due, turned)
	if len(due) == 0 {
		return
	}
	stores, err := s.store.KeyStores(ctx)
	if err != nil {
		stores = nil // read says so
	}
	stores = slices.DeleteFunc(stores, func(ks *KeyStore) bool { return !due.has(ks.ID) })
	failed := s.openKeyStores(ctx, v.ring, stores)
	s.reload.Lock()
	defer s.reload.Unlock()
	old := s.live.Load()
	if old == nil { // locked meanwhile
		for _, ks := range stores {
			v.ring.DropKeyringKey(ks.ID)
		}
		return
	}
	next, err := s.read(ctx, old, due.has, failed)
	if err != nil {
		next = s.unread(old, Change{KeyStore: due.one()}, err)
	}
	s.replace(old, next)
	for id := range turned {
		s.keys.dropStore(id)
	}
	for _, ks := range stores {
		switch e := next.byID[ks.ID]; {
		case e == nil:
			v.ring.DropKeyringKey(ks.ID)
		case e.fault == nil && old.byID[ks.ID] != nil && old.byID[ks.ID].fault != nil && old.byID[ks.ID].opening == nil:
			s.log.Info("a key store is back in service", "key_store", ks.Name)
		}
	}
}

// turned gives the key stores with a set of rows that was found to be damaged since the last time,
// or is so no longer. What is in memory of them is of before. The caller holds s.recovering.
func (s *Service) turned() dueStores {
	turned, now := dueStores{}, s.damaged()
	for _, pair := range [][2][]string{{s.found, now}, {now, s.found}} {
		for _, set := range pair[0] {
			if !slices.Contains(pair[1], set) {
				id, _, _ := strings.Cut(set, "/")
				turned[id] = true
			}
		}
	}
	s.found = now
	return turned
}

// dueStores are the IDs of key stores to try again; everything stands for all.
type dueStores map[string]bool

const everything = ""

func (d dueStores) has(id string) bool { return d[everything] || d[id] }

// one gives the ID if there is one alone, or everything.
func (d dueStores) one() string {
	if len(d) == 1 {
		for id := range d {
			return id
		}
	}
	return everything
}

// due gives what is to be tried again now.
func (v *view) due(now time.Time) dueStores {
	due := dueStores{}
	if v.unread != nil && v.again.due(now) {
		due[everything] = true
	}
	for id, e := range v.byID {
		if e.again.due(now) {
			due[id] = true
		}
	}
	return due
}
