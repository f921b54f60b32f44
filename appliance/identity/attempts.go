package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
)

// proofKind is what a client tries to prove who it is with. Each kind is limited on its own,
// so that a program with a dead API token keeps no person behind the same address out.
type proofKind string

const (
	byPassword        proofKind = "password"
	byPresence        proofKind = "password in a session"
	byPasskey         proofKind = "passkey"
	byPasskeyPresence proofKind = "passkey in a session"
	toOpenID          proofKind = "OpenID, to begin"
	byOpenID          proofKind = "OpenID"
	bySetupCode       proofKind = "setup code"
	byInvitation      proofKind = "invitation"
	byToken           proofKind = "API token"
)

// allowance is how many attempts there may be at once, and after which time there is one more.
type allowance struct {
	burst int
	every time.Duration
}

// The allowances. The live nodes of a fleet share each of them: of n nodes each takes an nth, so
// that all together take at most burst + n at once, and one each every. Nothing is written for
// it, so that no stranger makes the database write. A node that sees no other takes all, so nodes
// that are cut off from each other take at most n times as many. How often the password of one
// user is tried from browsers that are not known is counted in the user's row (maxFailures), for
// all nodes together.
var (
	// ofAddress bounds one kind of proof from one address, ofSite from all those of an IPv6 /48: one
	// who has that can send from 65536 addresses.
	ofAddress = allowance{20, 3 * time.Second}
	ofSite    = allowance{8 * 20, 3 * time.Second / 8}
	// ofName bounds the passwords of one name from one address. It lets less through than
	// ofAddress, so that guesses at one name leave room for the other names.
	ofName = allowance{10, 30 * time.Second}
	// ofToken bounds one API token that is not good, from one address, in the same way.
	ofToken = allowance{10, 6 * time.Second}
	// ofDevice bounds wrong passwords in a browser, or a session, that has proved before
	// whose it is.
	ofDevice = allowance{maxFailures, lockTime / maxFailures}
)

const (
	// maxRemembered is how many strangers are remembered of each kind and allowance; the one that
	// tried longest ago is forgotten for another.
	maxRemembered = 4096
	// maxOwn is how many browsers, or sessions, of one user are counted by themselves. It bounds what
	// can be guessed at one user with many of them.
	maxOwn = 8
)

// attempts remembers how often clients have tried. Strangers and those who are known are remembered
// apart, and so is each allowance: nobody makes it forget one by trying as others.
type attempts struct {
	now   func() time.Time
	nodes func() int
	log   *slog.Logger

	mu        sync.Mutex
	strangers map[place]*lru.Cache[string, *rate.Limiter]
	own       map[owned]map[string]*rate.Limiter // by the ID of a browser or session
	warned    map[proofKind]time.Time
}

// place is where limiters are remembered.
type place struct {
	proofKind
	allowance
}

// owned are the browsers, or the sessions, of a user.
type owned struct {
	place
	user string
}

// limited is one who tries: an address, a name at an address, a browser.
type limited struct {
	// user is whose browser or session it is; empty for a stranger.
	user, key string
	allowance
}

// newAttempts remembers none yet.
func newAttempts(now func() time.Time, nodes func() int, log *slog.Logger) *attempts {
	return &attempts{now: now, nodes: nodes, log: log, strangers: map[place]*lru.Cache[string, *rate.Limiter]{},
		own: map[owned]map[string]*rate.Limiter{}, warned: map[proofKind]time.Time{}}
}

// take counts an attempt of each, or of none if one has none left. fault.Throttled, with the time to
// wait. What is refused is not remembered, so that refused attempts push nobody out.
func (t *attempts) take(kind proofKind, from Client, who ...limited) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, who := t.now(), slices.Clone(who)
	limiters, taken := make([]*rate.Limiter, len(who)), make([]*rate.Reservation, len(who))
	for i := range who {
		who[i] = t.counted(kind, who[i])
		limiters[i] = t.limiter(kind, who[i])
		taken[i] = limiters[i].ReserveN(now, 1)
		wait := taken[i].DelayFrom(now)
		if wait == 0 {
			continue
		}
		for _, r := range taken[:i+1] {
			r.CancelAt(now)
		}
		if now.Sub(t.warned[kind]) >= time.Second { // a flood of attempts is no flood of lines
			t.warned[kind] = now
			t.log.Warn("a client tries too often to prove who it is", "by", string(kind), "remote", from.Address)
		}
		return tooOften(wait)
	}
	for i, w := range who {
		t.remember(kind, w, limiters[i])
	}
	return nil
}

// counted gives the one by whom it is counted. Of one user maxOwn are counted by themselves, and the
// others all together: none of them is forgotten before its allowance is whole again.
func (t *attempts) counted(kind proofKind, who limited) limited {
	own := t.own[owned{place{kind, who.allowance}, who.user}]
	if who.user == "" || own[who.key] != nil {
		return who
	}
	now := t.now()
	maps.DeleteFunc(own, func(_ string, l *rate.Limiter) bool { return l.TokensAt(now) >= float64(l.Burst()) })
	if len(own) >= maxOwn {
		who.key = ""
	}
	return who
}

// limiter gives the one of a client, with its share of the allowance; a new one if it is not
// remembered.
func (t *attempts) limiter(kind proofKind, who limited) *rate.Limiter {
	p := place{kind, who.allowance}
	l := t.own[owned{p, who.user}][who.key]
	if known := t.strangers[p]; known != nil && who.user == "" {
		l, _ = known.Get(who.key)
	}
	if l == nil {
		l = rate.NewLimiter(rate.Every(who.every), who.burst)
	}
	now, nodes := t.now(), max(1, t.nodes())
	l.SetLimitAt(now, rate.Every(who.every*time.Duration(nodes)))
	l.SetBurstAt(now, (who.burst+nodes-1)/nodes)
	return l
}

// remember keeps the limiter of a client.
func (t *attempts) remember(kind proofKind, who limited, l *rate.Limiter) {
	p := place{kind, who.allowance}
	if who.user != "" {
		o := owned{p, who.user}
		if t.own[o] == nil {
			t.own[o] = map[string]*rate.Limiter{}
		}
		t.own[o][who.key] = l
		return
	}
	known := t.strangers[p]
	if known == nil {
		known, _ = lru.New[string, *rate.Limiter](maxRemembered) // fails only for a size below 1
		t.strangers[p] = known
	}
	known.Add(who.key, l)
}

// forgive forgets the attempts of one who has proved it at last.
func (t *attempts) forgive(kind proofKind, who limited) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := place{kind, who.allowance}
	if who.user != "" {
		delete(t.own[owned{p, who.user}], who.key)
	} else if known := t.strangers[p]; known != nil {
		known.Remove(who.key)
	}
}

// tooOften says how long to wait.
func tooOften(wait time.Duration) error {
	seconds := int((wait + time.Second - 1) / time.Second)
	text := fmt.Sprintf("%d seconds", seconds)
	switch {
	case seconds == 1:
		text = "a second"
	case seconds > 120:
		text = fmt.Sprintf("%d minutes", (seconds+59)/60)
	}
	f := fault.Errorf(fault.Throttled, "too many attempts: try again in %s", text)
	f.RetryAfter = time.Duration(seconds) * time.Second
	return f
}

// Client is where a proof comes from.
type Client struct {
	// Address is the IP address, with or without port; UserAgent the browser's name
	// for itself.
	Address, UserAgent string
	// Device is what a browser was given when somebody signed in ([SignedIn.Device]); empty for none.
	Device string
}

// network is the part of the address that one who tries cannot change at will: an IPv4
// address, or the /64 of an IPv6 address, which one machine has whole (RFC 6177).
func (c Client) network() string {
	ip, ok := c.ip()
	if !ok {
		return c.host()
	}
	if ip.Is4() {
		return ip.String()
	}
	p, _ := ip.Prefix(64) // fails only for more bits than there are
	return p.String()
}

// ip is the address; false if it is none.
func (c Client) ip() (netip.Addr, bool) {
	ip, err := netip.ParseAddr(c.host())
	return ip.Unmap().WithZone(""), err == nil
}

// host is the address without the port.
func (c Client) host() string {
	if host, _, err := net.SplitHostPort(c.Address); err == nil {
		return host
	}
	return c.Address
}

// atAddress is the client's address, as the one who tries; of IPv6 the site of the address as well.
func (c Client) atAddress() []limited {
	who := []limited{{key: c.network(), allowance: ofAddress}}
	if ip, ok := c.ip(); ok && ip.Is6() {
		p, _ := ip.Prefix(48) // fails only for more bits than there are
		who = append(who, limited{key: p.String(), allowance: ofSite})
	}
	return who
}

// A browser in which a user has signed in is known from then on: it carries a value that this
// appliance has sealed for the user. Its attempts are counted apart from those of all others, so
// that neither another behind the same address nor one who guesses the user's password keeps its
// owner out ("device cookies", OWASP). The value proves nothing else.
const (
	purposeDevice  = "device"
	deviceLifetime = 90 * 24 * time.Hour
)

// DeviceLifetime is how long a browser is known after somebody has signed in.
const DeviceLifetime = deviceLifetime

// newDevice gives the value for a browser in which the user has signed in; empty if it cannot
// be sealed, and then the browser is a stranger.
func (d *Directory) newDevice(userID string) string {
	c := &Carried{Purpose: purposeDevice, Owner: userID}
	sealed, err := d.Carry(c, deviceLifetime)
	if err != nil {
		d.Log.Warn("a browser cannot be known again", "error", err)
		return ""
	}
	return userID + "." + c.ID + "." + base64.RawURLEncoding.EncodeToString(sealed)
}

// device gives the user whose browser it is, and its ID; empty if it is not known.
func (d *Directory) device(from Client) (userID, id string) {
	userID, rest, _ := strings.Cut(from.Device, ".")
	id, text, _ := strings.Cut(rest, ".")
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || id == "" {
		return "", ""
	}
	if _, err := d.OpenCarried(purposeDevice, userID, id, sealed); err != nil {
		return "", ""
	}
	return userID, id
}

// attempt counts an attempt from a browser that is known by itself, and from another by its
// address; none if nobody is let in. fault.Locked, fault.Throttled.
func (d *Directory) attempt(kind proofKind, from Client) error {
	if err := d.admits(); err != nil {
		return err
	}
	who := from.atAddress()
	if user, id := d.device(from); id != "" {
		who = []limited{{user, id, ofAddress}}
	}
	return d.attempts.take(kind, from, who...)
}

// unproven is a proof that failed: whose it was said to be, and why, for the log.
type unproven struct{ user, reason string }

func (u *unproven) Error() string { return u.reason }

// told is what the caller hears of an error; why a proof failed is logged, and not told.
func (d *Directory) told(from Client, err error) error {
	if wrong, ok := errors.AsType[*unproven](err); ok {
		return d.failed(from, wrong.user, wrong.reason)
	}
	return err
}

// refuse counts an attempt that has proved nothing, and logs why. What is refused for being one too
// many is not logged by itself. ErrProof, fault.Throttled.
func (d *Directory) refuse(kind proofKind, from Client, wrong unproven, who ...limited) error {
	if err := d.attempts.take(kind, from, who...); err != nil {
		return err
	}
	return d.failed(from, wrong.user, wrong.reason)
}
