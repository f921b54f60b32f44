package identity

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// liveSession is what is remembered of a session.
type liveSession struct {
	user    string
	expires time.Time
}

// sealSession gives a session its seals: this process's, and if the appliance is unlocked
// that of all nodes.
func (r *rows) sealSession(s *Session) error {
	shared, err := r.seals.MACShared(s.Binding())
	if err != nil && fault.CodeOf(err) != fault.Locked {
		return err
	}
	s.Seal = append(r.process.mac(s.Binding()), shared...)
	return nil
}

// sealedNow says whether a session has the seal that decides now, and whether other nodes can
// have ended it.
func (r *rows) sealedNow(s *Session) (good, shared bool, err error) {
	if len(s.Seal) != sha256.Size && len(s.Seal) != 2*sha256.Size {
		return false, false, nil
	}
	own, others := s.Seal[:sha256.Size], s.Seal[sha256.Size:]
	r.mu.Lock()
	_, live := r.live[s.ID]
	_, ended := r.ended[s.ID]
	r.mu.Unlock()
	if ended {
		return false, false, nil
	}
	live = live && hmac.Equal(own, r.process.mac(s.Binding()))
	want, err := r.seals.MACShared(s.Binding())
	switch {
	case fault.CodeOf(err) == fault.Locked:
		return live, false, nil
	case err != nil:
		return false, false, err
	case len(others) == 0: // made while no other node could be told of it
		return live, false, nil
	}
	return hmac.Equal(others, want), true, nil
}

// goodSession says whether a session is good now. Every session is asked for here.
func (r *rows) goodSession(ctx context.Context, s *Session) (bool, error) {
	good, shared, err := r.sealedNow(s)
	if err != nil || !good || !shared {
		return good, err
	}
	spent, err := r.Store.Spent(ctx, spentSession(s.ID))
	return !spent, err
}

// spentSession names a session that has ended.
func spentSession(id string) string { return "session " + id }

func (r *rows) CreateSession(ctx context.Context, s *Session) error {
	if err := r.sealSession(s); err != nil {
		return err
	}
	if err := r.Store.CreateSession(ctx, s); err != nil {
		return err
	}
	r.forget(func(_ string, old liveSession) bool { return !s.CreatedAt.Before(old.expires) })
	if err := r.tell(ctx, s.CreatedAt); err != nil {
		r.log.Warn("the other nodes could not be told of sessions that have ended; it is tried again", "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[s.ID] = liveSession{s.UserID, s.ExpiresAt}
	return nil
}

// forget forgets sessions of this process.
func (r *rows) forget(which func(id string, s liveSession) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.live, which)
}

// end has sessions be good no more, on any node and whatever is put back: it is called before
// their rows are removed. While no other node can be told, this process remembers it.
func (r *rows) end(ctx context.Context, at time.Time, all ...Session) error {
	for _, s := range all {
		r.forget(func(id string, _ liveSession) bool { return id == s.ID })
		if !at.Before(s.ExpiresAt) || len(s.Seal) == sha256.Size { // no node takes it any more
			continue
		}
		u := Spent{ID: spentSession(s.ID), At: at, ExpiresAt: s.ExpiresAt}
		_, err := r.seals.MACShared(s.Binding())
		if fault.CodeOf(err) == fault.Locked {
			r.mu.Lock()
			r.ended[s.ID] = u
			r.mu.Unlock()
			continue
		}
		if err == nil {
			err = r.Store.Spend(ctx, u)
		}
		if err != nil && fault.CodeOf(err) != fault.Exists {
			return err
		}
	}
	return nil
}

// tell tells the other nodes which sessions have ended while that could not be done. While it
// cannot be done, it does nothing.
func (r *rows) tell(ctx context.Context, at time.Time) error {
	if _, err := r.seals.MACShared(appliance.Binding{Purpose: "session"}); err != nil {
		return nil
	}
	r.mu.Lock()
	ended := maps.Clone(r.ended)
	r.mu.Unlock()
	for id, u := range ended {
		if at.Before(u.ExpiresAt) {
			if err := r.Store.Spend(ctx, Spent{ID: u.ID, At: at, ExpiresAt: u.ExpiresAt}); err != nil && fault.CodeOf(err) != fault.Exists {
				return err
			}
		}
		r.mu.Lock()
		delete(r.ended, id)
		r.mu.Unlock()
	}
	return nil
}

// EndSession ends one by its ID; fault.NotFound.
func (r *rows) EndSession(ctx context.Context, at time.Time, id string) error {
	all, err := r.Store.Sessions(ctx, "")
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(s Session) bool { return s.ID == id }); i >= 0 {
		if err := r.end(ctx, at, all[i]); err != nil {
			return err
		}
	}
	r.forget(func(live string, _ liveSession) bool { return live == id })
	return r.Store.DeleteSession(ctx, id)
}

// EndSessions ends all of a user, and gives how many there were.
func (r *rows) EndSessions(ctx context.Context, at time.Time, user string) (int, error) {
	all, err := r.Store.Sessions(ctx, user)
	if err != nil {
		return 0, err
	}
	if err := r.end(ctx, at, all...); err != nil {
		return 0, err
	}
	r.forget(func(_ string, s liveSession) bool { return s.user == user })
	return r.Store.DeleteSessions(ctx, user)
}

func (r *rows) Session(ctx context.Context, digest []byte) (*Session, error) {
	s, err := r.Store.Session(ctx, digest)
	if err != nil {
		return nil, err
	}
	if good, err := r.goodSession(ctx, s); err != nil || !good {
		return nil, errOr(err, fault.Errorf(fault.NotFound, "there is no such session"))
	}
	return s, nil
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (r *rows) Sessions(ctx context.Context, user string) ([]Session, error) {
	all, err := r.Store.Sessions(ctx, user)
	if err != nil {
		return nil, err
	}
	var good []Session
	for i := range all {
		admitted, err := r.goodSession(ctx, &all[i])
		if err != nil {
			return nil, err
		}
		if admitted {
			good = append(good, all[i])
		}
	}
	return good, nil
}

// ProveSession notes when the user proved to be present. Nothing happens if there
// is no such session.
func (r *rows) ProveSession(ctx context.Context, id string, at time.Time) error {
	return r.sealAgain(ctx, id, func(s *Session) { s.ProvenAt = at })
}

// shareSession has a session that was made while the appliance was locked go on at other
// nodes.
func (r *rows) shareSession(ctx context.Context, s *Session) error {
	if len(s.Seal) != sha256.Size {
		return nil
	}
	if _, err := r.seals.MACShared(s.Binding()); err != nil {
		return nil // not now
	}
	return r.sealAgain(ctx, s.ID, func(*Session) {})
}

// sealAgain changes a session. It is good as its row was just read, or as f is called with it:
// the row of a session that has ended is gone.
func (r *rows) sealAgain(ctx context.Context, id string, f func(*Session)) error {
	err := r.UpdateSession(ctx, id, func(s *Session) error {
		good, _, err := r.sealedNow(s)
		if err != nil || !good {
			return errOr(err, fault.Errorf(fault.NotFound, "there is no such session"))
		}
		f(s)
		return r.sealSession(s)
	})
	if fault.CodeOf(err) == fault.NotFound {
		return nil
	}
	return err
}
