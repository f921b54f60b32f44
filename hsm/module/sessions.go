package module

import (
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/wire"
)

// sessions are the PKCS#11 sessions of the process. One is always open: with the last, the
// login goes.
type sessions struct {
	module *pkcs11.Ctx
	slot   uint
	// closed is called when a session is closed.
	closed func(pkcs11.SessionHandle)

	mu   sync.Mutex
	free []pkcs11.SessionHandle
	open int
	// limit is how many are opened: the most that are wanted, or what the token has shown
	// to allow.
	limit, most int
	// again is when one more than the limit is tried.
	again time.Time
	// back has a value when a session may have come back.
	back chan struct{}
}

// learnedFor is how long a token's refusal of one more session is believed.
const learnedFor = 30 * time.Second

// available says how many sessions the token allows at the moment, by what it says; -1 if
// it sets no limit or does not say.
func available(i pkcs11.TokenInfo) int {
	free := -1
	for _, l := range []struct{ most, used uint }{{i.MaxRwSessionCount, i.RwSessionCount}, {i.MaxSessionCount, i.SessionCount}} {
		if l.most == pkcs11.CK_EFFECTIVELY_INFINITE || l.most == pkcs11.CK_UNAVAILABLE_INFORMATION {
			continue
		}
		if l.used == pkcs11.CK_UNAVAILABLE_INFORMATION {
			l.used = 0
		}
		if n := int(min(l.most, 1<<20)) - int(min(l.used, 1<<20)); free < 0 || n < free {
			free = max(n, 0)
		}
	}
	return free
}

// newSession opens one more. A token that lets nobody change anything has sessions for reading
// alone, in which keys are used, and none is made.
func (s *sessions) newSession() (pkcs11.SessionHandle, error) {
	h, err := s.module.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if codeIn(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		h, err = s.module.OpenSession(s.slot, pkcs11.CKF_SERIAL_SESSION)
	}
	return h, wrap("C_OpenSession", err)
}

// take gives a session, one that is free or a new one. At the limit it waits for one until
// the time is over.
func (s *sessions) take(until time.Time) (pkcs11.SessionHandle, error) {
	for {
		s.mu.Lock()
		if n := len(s.free); n > 0 {
			h := s.free[n-1]
			s.free = s.free[:n-1]
			s.mu.Unlock()
			if n > 1 {
				s.notify() // who else waits
			}
			return h, nil
		}
		if s.open < s.limit || s.open < s.most && time.Now().After(s.again) {
			s.open++
			s.mu.Unlock()
			h, err := s.newSession()
			if err == nil {
				return h, nil
			}
			s.mu.Lock()
			s.open--
			if !noSession(err) || s.open == 0 {
				s.mu.Unlock()
				return 0, err
			}
			s.limit, s.again = s.open, time.Now().Add(learnedFor)
		}
		s.mu.Unlock()
		wait := time.NewTimer(time.Until(until))
		select {
		case <-s.back:
			wait.Stop()
		case <-wait.C:
			return 0, fmt.Errorf("%w: the token allows %d", wire.NotBegun, s.limit)
		}
	}
}

// put takes a session back.
func (s *sessions) put(h pkcs11.SessionHandle) {
	s.mu.Lock()
	s.free = append(s.free, h)
	s.mu.Unlock()
	s.notify()
}

// drop closes a session in which an operation may still be active. The last one is closed
// only once there is another.
func (s *sessions) drop(h pkcs11.SessionHandle) {
	s.mu.Lock()
	last := s.open == 1
	if !last {
		s.open--
	}
	s.mu.Unlock()
	if last {
		other, err := s.newSession()
		if err == nil {
			s.close(h)
			s.put(other)
			return
		}
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
	}
	s.close(h)
	s.notify()
}

// dropFree closes the sessions that are free: if one is lost, so may be the others.
func (s *sessions) dropFree() {
	s.mu.Lock()
	free := s.free
	s.free = nil
	s.mu.Unlock()
	for _, h := range free {
		s.drop(h)
	}
}

func (s *sessions) close(h pkcs11.SessionHandle) {
	s.closed(h)
	_ = s.module.CloseSession(h) // a lost one cannot be closed
}

func (s *sessions) notify() {
	select {
	case s.back <- struct{}{}:
	default:
	}
}
