package identity

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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
	byPassword  proofKind = "password"
	byPresence  proofKind = "password in a session"
	byPasskey   proofKind = "passkey"
	byOpenID    proofKind = "OpenID"
	bySetupCode proofKind = "setup code"
	byToken     proofKind = "API token"
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
	// ofAddress bounds one kind of proof from one address.
	ofAddress = allowance{20, 3 * time.Second}
	// ofName bounds the passwords of one name from one address. It lets less through than
	// ofAddress, so that guesses at one name leave room for the other names.
	ofName = allowance{10, 30 * time.Second}
	// ofToken bounds one API token that is not good, from one address, in the same way.
	ofToken = allowance{10, 6 * time.Second}
	// ofDevice bounds wrong passwords in a browser, or a session, that has proved before
	// whose it is.
	ofDevice = allowance{maxFailures, lockTime / maxFailures}
)

// maxRemembered is how many clients are remembered of each kind; the one that tried longest ago
// is forgotten for another.
const maxRemembered = 4096

// attempts remembers how often clients have tried.
type attempts struct {
	now   func() time.Time
	nodes func() int
	log   *slog.Logger

	mu     sync.Mutex
	kinds  map[proofKind]*lru.Cache[string, *rate.Limiter]
	warned map[proofKind]time.Time
}

// limited is one who tries: an address, a name at an address, a device.
type limited struct {
	key string
	allowance
}

// take counts an attempt of each, and refuses it if one has none left: the ones after that do
// not count it. fault.Throttled, with the time to wait.
func (t *attempts) take(kind proofKind, from Client, who ...limited) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, w := range who {
		r := t.limiter(kind, w).ReserveN(now, 1)
		wait := r.DelayFrom(now)
		if wait == 0 {
			continue
		}
		r.CancelAt(now)
		if now.Sub(t.warned[kind]) >= time.Second { // a flood of attempts is no flood of lines
			t.warned[kind] = now
			t.log.Warn("a client tries too often to prove who it is", "by", string(kind), "remote", from.Address)
		}
		return tooOften(wait)
	}
	return nil
}

// limiter gives the one of a client, with its share of the allowance.
func (t *attempts) limiter(kind proofKind, who limited) *rate.Limiter {
	known := t.kinds[kind]
	if known == nil {
		known, _ = lru.New[string, *rate.Limiter](maxRemembered) // fails only for a size below 1
		t.kinds[kind] = known
	}
	l, ok := known.Get(who.key)
	if !ok {
		l = rate.NewLimiter(rate.Every(who.every), who.burst)
		known.Add(who.key, l)
	}
	now, nodes := t.now(), max(1, t.nodes())
	l.SetLimitAt(now, rate.Every(who.every*time.Duration(nodes)))
	l.SetBurstAt(now, (who.burst+nodes-1)/nodes)
	return l
}

// forgive forgets the attempts of one who has proved it at last.
func (t *attempts) forgive(kind proofKind, who limited) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.kinds[kind]; known != nil {
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
	ip, err := netip.ParseAddr(c.host())
	if err != nil {
		return c.host()
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, _ := ip.Prefix(64) // fails only for more bits than there are
	return p.String()
}

// host is the address without the port.
func (c Client) host() string {
	if host, _, err := net.SplitHostPort(c.Address); err == nil {
		return host
	}
	return c.Address
}

// atAddress is the client's address, as the one who tries.
func (c Client) atAddress() limited { return limited{c.network(), ofAddress} }

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
	if _, id := d.device(from); id != "" {
		who.key = "device " + id
	}
	return d.attempts.take(kind, from, who)
}
