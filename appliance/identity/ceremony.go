package identity

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"
)

// The limits of ceremonies that are begun and not finished.
const (
	ceremonyTime  = 5 * time.Minute
	maxCeremonies = 1000
)

// Ceremony is one that a browser has to go on with.
type Ceremony struct {
	// ID goes back with the answer.
	ID string `json:"ceremony"`
	// Options are for navigator.credentials.create or get, as JSON (WebAuthn Level 3
	// section 5.1.8 and 5.1.9), with the member publicKey.
	Options json.RawMessage `json:"options"`
}

// ceremony is what is kept of one. Which are set depends on its kind.
type ceremony struct {
	purpose  string // what it is for, and whose it is
	passkey  webauthn.SessionData
	totp     TOTP
	nonce    string // of OIDC
	verifier string // PKCE's
	expires  time.Time
}

// ceremonies keeps them in memory: a restart ends them all.
type ceremonies struct {
	now func() time.Time
	mu  sync.Mutex
	all map[string]ceremony
}

func newCeremonies(now func() time.Time) *ceremonies {
	return &ceremonies{now: now, all: map[string]ceremony{}}
}

// put keeps one, in place of the oldest if there are many.
func (c *ceremonies) put(id string, v ceremony) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	v.expires = now.Add(ceremonyTime)
	oldest := ""
	for k, other := range c.all {
		if !other.expires.After(now) {
			delete(c.all, k)
		} else if oldest == "" || other.expires.Before(c.all[oldest].expires) {
			oldest = k
		}
	}
	if len(c.all) >= maxCeremonies {
		delete(c.all, oldest)
	}
	c.all[id] = v
}

// take gives one with that purpose, once.
func (c *ceremonies) take(id, purpose string) (ceremony, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.all[id]
	if !ok || v.purpose != purpose || !v.expires.After(c.now()) {
		return ceremony{}, false
	}
	delete(c.all, id)
	return v, true
}

// totp gives the secret that waits for that purpose; a new one if there is none,
// so that a page that is loaded again shows the same.
func (c *ceremonies) totp(purpose, name string) TOTP {
	t, ok := c.pendingTOTP(purpose)
	if !ok {
		t = newTOTP(name)
	}
	c.put("totp "+purpose, ceremony{purpose: purpose, totp: t})
	return t
}

// pendingTOTP gives it if there is one. It stays, for a code may be mistyped.
func (c *ceremonies) pendingTOTP(purpose string) (TOTP, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.all["totp "+purpose]
	return v.totp, ok && v.expires.After(c.now())
}
