package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
)

// Config says how a Directory works. Store, Seals, Settings, SetupFile and Log are
// needed.
type Config struct {
	Store Store
	// Seals authenticates what the store keeps.
	Seals Seals
	// Settings has whether setup is over.
	Settings Settings
	// FourEyes says whether any operation needs two persons; nil if none ever does.
	FourEyes func(ctx context.Context) (on bool, err error)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	Log *slog.Logger
	// URL is the console's own origin, such as "https://holdfast.example.com:9443".
	// Passkeys are bound to its host; with an IP address, a name without a domain, or
	// without, there are none.
	URL string
	// SetupFile is where the setup code is written for root on the machine.
	SetupFile string
	// OIDC is an OpenID provider; nil for none.
	OIDC *OIDC
	// Idle and Absolute bound sessions; [DefaultIdle] and [DefaultAbsolute] if zero.
	Idle, Absolute time.Duration
	// Nodes says how many nodes of the fleet are live, this one among them: they share the
	// limits of attempts. Nil for an appliance that is alone.
	Nodes func() int
	// Observe, if given, is told what came of each proof.
	Observe func(way Way, r Result)
	// Closed is why nobody can be enrolled or sign in; empty if they can.
	Closed string
}

// Directory is the users. Its methods may be called concurrently. Errors are
// [*fault.Fault].
type Directory struct {
	Config
	rows     *rows
	web      *webauthn.WebAuthn // nil without passkeys
	oidc     *provider          // nil without one
	attempts *attempts
	hashing  chan struct{}  // bounds how many passwords are hashed at once
	cost     cost           // of the hash of a password
	lines    *rate.Limiter  // bounds the lines of the log on proofs that failed
	away     rate.Sometimes // bounds those on a provider that does not answer

	mu       sync.Mutex
	leftOut  int                // how many proofs failed since the last line, and have none
	setup    string             // the setup code that was made here, if it was
	setupSum *[sha256.Size]byte // of the one that is accepted; nil for none
}

// ErrProof is every proof that fails: of a password, code, passkey, session,
// invitation or token.
var ErrProof = fault.Errorf(fault.Unauthenticated, "that did not prove who you are; check what you entered, and try again")

// The defaults of a [Config].
const (
	DefaultIdle     = 15 * time.Minute
	DefaultAbsolute = 12 * time.Hour
)

// New makes a Directory. It needs no network: an OpenID provider is asked for its
// configuration when somebody first signs in by it.
func New(c Config) (*Directory, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Idle == 0 {
		c.Idle = DefaultIdle
	}
	if c.Absolute == 0 {
		c.Absolute = DefaultAbsolute
	}
	if c.Seals == nil || c.Settings == nil {
		return nil, errors.New("identity: there is nothing to authenticate users with")
	}
	d := &Directory{Config: c, rows: newRows(c.Store, c.Seals, c.Log), hashing: make(chan struct{}, 2), cost: recommended,
		lines: rate.NewLimiter(1, 100), away: rate.Sometimes{Interval: 10 * time.Second}}
	d.attempts = newAttempts(c.Now, func() int { // it may be set later
		if d.Nodes == nil {
			return 1
		}
		return d.Nodes()
	}, c.Log)
	if c.URL == "" {
		return d, nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("the console's URL %q: give one such as https://holdfast.example.com:9443", c.URL)
	}
	if c.OIDC != nil {
		if err := c.OIDC.Groups.validate(); err != nil {
			return nil, err
		}
		d.oidc = newProvider(c.OIDC, c.URL)
	}
	if net.ParseIP(u.Hostname()) != nil {
		return d, nil
	}
	w, err := webauthn.New(&webauthn.Config{RPID: u.Hostname(), RPDisplayName: "Holdfast", RPOrigins: []string{c.URL},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, UserVerification: protocol.VerificationRequired}})
	if err != nil { // such as a name without a domain
		c.Log.Warn("there are no passkeys: they cannot be bound to the console's name; set admin.url, or install a certificate with a name", "url", c.URL, "error", err)
		return d, nil
	}
	d.web = w
	return d, nil
}

// PasskeysEnabled says whether the console has a name that passkeys can be bound
// to.
func (d *Directory) PasskeysEnabled() bool { return d.web != nil }

// OIDCEnabled says whether there is an OpenID provider.
func (d *Directory) OIDCEnabled() bool { return d.oidc != nil }

// admits says why nobody is let in; nil if somebody may be. Errors: fault.Locked.
func (d *Directory) admits() error {
	if d.Closed != "" {
		return fault.Errorf(fault.Locked, "nobody can be enrolled or sign in: %s", d.Closed)
	}
	return nil
}

// failed logs why a proof failed, and gives what the caller is told. Strangers from many addresses
// fill no disk: one line each second, and how many had none.
func (d *Directory) failed(from Client, user, reason string) error {
	d.mu.Lock()
	leftOut, says := d.leftOut, d.lines.AllowN(d.Now(), 1)
	if d.leftOut++; says {
		d.leftOut = 0
	}
	d.mu.Unlock()
	if says {
		d.Log.Warn("a proof of identity failed", "user", user, "remote", from.Address, "reason", reason, "left_out_before", leftOut)
	}
	return ErrProof
}

// newID makes 32 random hexadecimal digits.
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// newSecret makes 32 random bytes in Base64 for URLs.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}

// digest is what is stored of a random secret.
func digest(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// stamp is the time as it is stored.
func (d *Directory) stamp() time.Time { return d.Now().UTC().Truncate(time.Millisecond) }

// Users gives all users by name.
func (d *Directory) Users(ctx context.Context) ([]*User, error) {
	accounts, err := d.rows.Accounts(ctx)
	users := make([]*User, len(accounts))
	for i, a := range accounts {
		users[i] = a.shown()
	}
	return users, err
}

// User gives one by ID, also one that is refused. fault.NotFound.
func (d *Directory) User(ctx context.Context, id string) (*User, error) {
	a, err := d.rows.Store.Account(ctx, id)
	if err == nil {
		err = d.rows.check(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	return a.shown(), nil
}

// change changes an account, and shows it.
func (d *Directory) change(ctx context.Context, id string, f func(*Account) error, rule Rule) (*User, error) {
	a, err := d.rows.UpdateAccount(ctx, id, f, rule)
	if err != nil {
		return nil, err
	}
	return a.shown(), nil
}

// SetRole gives a user another role, and ends their sessions. fault.Invalid;
// fault.Conflict if too few administrators would be left.
func (d *Directory) SetRole(ctx context.Context, id string, role Role) (*User, error) {
	if err := role.validate(); err != nil {
		return nil, err
	}
	rule, err := d.enough(ctx)
	if err != nil {
		return nil, err
	}
	u, err := d.change(ctx, id, func(a *Account) error { a.Role = role; return nil }, rule)
	if err != nil {
		return nil, err
	}
	_, err = d.RevokeSessions(ctx, id)
	return u, err
}

// CheckRole gives the error that SetRole would, and changes nothing.
func (d *Directory) CheckRole(ctx context.Context, id string, role Role) error {
	if err := role.validate(); err != nil {
		return err
	}
	a, err := d.rows.Account(ctx, id)
	if err != nil {
		return err
	}
	a.Role = role
	return d.stillEnough(ctx, id, a)
}

// CheckDelete gives the error that DeleteUser would, and changes nothing.
func (d *Directory) CheckDelete(ctx context.Context, id string) error {
	u, err := d.User(ctx, id)
	if err != nil || u.Refused {
		return err
	}
	return d.stillEnough(ctx, id, nil)
}

// validate says that there is no such role: fault.Invalid.
func (r Role) validate() error {
	if !r.Valid() {
		return fault.Errorf(fault.Invalid, "role %.40q: use viewer, auditor, key-administrator or administrator", string(r))
	}
	return nil
}

// within says that the role is none, fault.Invalid, or may more than that of who
// gives it, fault.Forbidden.
func (r Role) within(by Principal) error {
	if err := r.validate(); err != nil {
		return err
	}
	if !by.Role.Covers(r) {
		return fault.Errorf(fault.Forbidden, "the role %s may more than yours", r)
	}
	return nil
}

// SetDisabled keeps a user out and ends their sessions, or lets them in again.
// fault.Conflict if too few administrators would be left.
func (d *Directory) SetDisabled(ctx context.Context, id string, disabled bool) (*User, error) {
	rule, err := d.enough(ctx)
	if err != nil {
		return nil, err
	}
	u, err := d.change(ctx, id, func(a *Account) error { a.Disabled = disabled; return nil }, rule)
	if err == nil && disabled {
		_, err = d.RevokeSessions(ctx, id)
	}
	return u, err
}

// CheckDisabled gives the error that SetDisabled would, and changes nothing.
func (d *Directory) CheckDisabled(ctx context.Context, id string, disabled bool) error {
	a, err := d.rows.Account(ctx, id)
	if err != nil {
		return err
	}
	a.Disabled = disabled
	return d.stillEnough(ctx, id, a)
}

// Unlock lets a user sign in by password again after too many wrong ones.
func (d *Directory) Unlock(ctx context.Context, id string) (*User, error) {
	return d.change(ctx, id, func(a *Account) error { a.Failures, a.LockedUntil = 0, time.Time{}; return nil }, nil)
}

// DeleteUser removes a user with sessions and passkeys. fault.Conflict if too few
// administrators would be left.
func (d *Directory) DeleteUser(ctx context.Context, id string) error {
	u, err := d.User(ctx, id)
	if err != nil {
		return err
	}
	if u.Refused { // it counts for nothing
		return d.rows.DeleteAccount(ctx, id, nil)
	}
	rule, err := d.enough(ctx)
	if err != nil {
		return err
	}
	return d.rows.DeleteAccount(ctx, id, rule)
}
