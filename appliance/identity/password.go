package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha1" // what authenticator apps have (RFC 6238 section 1.2)
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pquerna/otp/hotp"
	"golang.org/x/crypto/argon2"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// The limits of passwords, in characters.
const (
	MinPassword = 12
	MaxPassword = 256
)

const saltBytes, hashBytes = 16, 32

// cost has the parameters of argon2id; the memory is in KiB.
type cost struct {
	time, memory uint32
	threads      uint8
}

// recommended is the second recommended option of RFC 9106 section 4.
var recommended = cost{time: 3, memory: 64 << 10, threads: 4}

// phc is what a PHC string of that cost begins with.
func (c cost) phc() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, c.memory, c.time, c.threads)
}

// The lock-out after wrong passwords or codes.
const (
	maxFailures = 10
	lockTime    = 15 * time.Minute
)

// hashPassword gives a PHC string.
func (d *Directory) hashPassword(password string) string {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	b64 := base64.RawStdEncoding.EncodeToString
	return d.cost.phc() + b64(salt) + "$" + b64(d.argon2(password, salt))
}

// argon2 takes 64 MiB and some hundredths of a second at the recommended cost, so that few run at once.
func (d *Directory) argon2(password string, salt []byte) []byte {
	d.hashing <- struct{}{}
	defer func() { <-d.hashing }()
	return argon2.IDKey([]byte(password), salt, d.cost.time, d.cost.memory, d.cost.threads, hashBytes)
}

// checkPassword takes as long for a user that there is not.
func (d *Directory) checkPassword(stored, password string) bool {
	salt, want := make([]byte, saltBytes), make([]byte, hashBytes)
	known := false
	if rest, ok := strings.CutPrefix(stored, d.cost.phc()); ok {
		s, h, _ := strings.Cut(rest, "$")
		salt2, err1 := base64.RawStdEncoding.DecodeString(s)
		want2, err2 := base64.RawStdEncoding.DecodeString(h)
		if err1 == nil && err2 == nil && len(want2) == hashBytes {
			salt, want, known = salt2, want2, true
		}
	}
	return subtle.ConstantTimeCompare(d.argon2(password, salt), want) == 1 && known
}

// validPassword says what is wrong with a new password (NIST SP 800-63B section
// 3.1.1.2: length counts, composition does not; no words of the context).
func validPassword(name, password string) error {
	n := utf8.RuneCountInString(password)
	switch lower := strings.ToLower(password); {
	case n < MinPassword || n > MaxPassword || !utf8.ValidString(password):
		return fault.Errorf(fault.Invalid, "password: use %d to %d characters", MinPassword, MaxPassword)
	case strings.Contains(lower, strings.ToLower(name)) && len(name) > 3, strings.Contains(lower, "holdfast"), strings.Contains(lower, "password"):
		return fault.Errorf(fault.Invalid, "password: leave out your name, the product's and the word password")
	}
	var runes = []rune(password)
	slices.Sort(runes)
	if len(slices.Compact(runes)) < 5 {
		return fault.Errorf(fault.Invalid, "password: use more than four different characters")
	}
	return nil
}

// TOTP is the secret of an authenticator app.
type TOTP struct {
	// Secret is 160 bits in Base32; URI says the same as an otpauth URI, for a QR code.
	Secret string `json:"secret" jsonschema:"The secret for the authenticator app, 160 bits in Base32. It is shown this once."`
	URI    string `json:"uri" jsonschema:"The same secret as an otpauth URI, for a QR code."`
}

const totpStep = 30 // seconds

// totpWindow is how long at least a new secret can be taken over, and half of how long at
// most.
const totpWindow = 10 * time.Minute

// newTOTP gives a new secret for that purpose. It is derived from the purpose and the time,
// so that a page that is loaded again shows the same, whichever node answers, and any node
// can check its first code.
func (d *Directory) newTOTP(purpose, name string) (TOTP, error) {
	secrets, err := d.totpSecrets(purpose, d.Now())
	if err != nil {
		return TOTP{}, err
	}
	return totpOf(secrets[0], name), nil
}

// pendingTOTP gives the secrets that can be taken over for that purpose now.
func (d *Directory) pendingTOTP(purpose string) ([]string, error) {
	now, err := d.totpSecrets(purpose, d.Now())
	if err != nil {
		return nil, err
	}
	before, err := d.totpSecrets(purpose, d.Now().Add(-totpWindow))
	return append(now, before...), err
}

// totpSecrets gives the secrets of a purpose that are shown at a time (RFC 4226 section 4,
// R6: 160 bits): that of all nodes first, if there is one.
func (d *Directory) totpSecrets(purpose string, at time.Time) ([]string, error) {
	window := strconv.FormatInt(at.Unix()/int64(totpWindow.Seconds()), 10)
	all, err := d.rows.derived(appliance.Binding{Purpose: "authenticator", Fields: []string{purpose, window}})
	secrets := make([]string, len(all))
	for i, b := range all {
		secrets[i] = base32.StdEncoding.EncodeToString(b[:sha1.Size])
	}
	return secrets, err
}

// totpOf shows a secret.
func totpOf(secret, name string) TOTP {
	q := url.Values{"secret": {secret}, "issuer": {"Holdfast"}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {fmt.Sprint(totpStep)}}
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/Holdfast:" + name, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}
	return TOTP{secret, u.String()}
}

// checkTOTP gives the time step of a right code: that of now, one before or one
// after, but none up to last (RFC 6238 section 5.2: each is taken once).
func checkTOTP(secret, code string, now time.Time, last int64) (int64, bool) {
	found := int64(0)
	for step := now.Unix()/totpStep - 1; step <= now.Unix()/totpStep+1; step++ {
		want, err := hotp.GenerateCode(secret, uint64(step))
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && step > last {
			found = step
		}
	}
	return found, found != 0
}

// recoveryCodes is how many there are.
const recoveryCodes = 10

// newRecoveryCodes makes codes of 80 random bits, and their digests.
func newRecoveryCodes() (codes []string, digests [][]byte) {
	for range recoveryCodes {
		b := make([]byte, 10)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		s := strings.ToLower(base32.StdEncoding.EncodeToString(b))
		code := s[:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:]
		codes, digests = append(codes, code), append(digests, digest(normal(code)))
	}
	return codes, digests
}

// normal is a recovery code as it is compared.
func normal(code string) string {
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(code))
}

// proveCode uses a TOTP or recovery code of the account up. The use of a recovery code is noted for
// the user.
func (a *Account) proveCode(code string, now time.Time, from Client, session string) (right, recovery bool) {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "")
	if step, ok := checkTOTP(a.TOTP, code, now, a.TOTPStep); ok && a.TOTP != "" {
		a.TOTPStep = step
		return true, false
	}
	sum := digest(normal(code))
	for _, used := range a.UsedRecovery {
		if subtle.ConstantTimeCompare(used, sum) == 1 {
			return false, false
		}
	}
	for _, r := range a.Recovery {
		if subtle.ConstantTimeCompare(r, sum) == 1 {
			a.UsedRecovery = append(a.UsedRecovery, r)
			uses := append(a.RecoveryUses, RecoveryUse{now, printable(from.host(), 64), session})
			a.RecoveryUses = uses[max(0, len(uses)-recoveryCodes):]
			return true, true
		}
	}
	return false, false
}

// provePassword checks password and code of an account. Failures of strangers are counted with the
// account, for all nodes; of a browser or session that is known they are counted with that, so that
// strangers lock nobody out of it.
func (d *Directory) provePassword(ctx context.Context, a *Account, g guess) (p proven, err error) {
	if len(g.password) > 4*MaxPassword || len(g.code) > 64 {
		return proven{wrong: "too long"}, nil
	}
	checked := a.Password
	right := d.checkPassword(checked, g.password)
	_, err = d.rows.UpdateAccount(ctx, a.ID, func(a *Account) error {
		p = proven{}
		now := d.stamp()
		switch {
		case g.stranger && a.LockedUntil.After(now):
			p.wrong = "locked out after too many failures"
			return nil
		case a.Disabled:
			p.wrong = "the user is disabled"
			return nil
		case a.Password == "":
			p.wrong = "the user has no password"
		case !right || a.Password != checked: // it may have been changed since it was read
			p.wrong = "wrong password"
		default:
			var good bool
			if good, p.recovery = a.proveCode(g.code, now, g.from, g.session); !good {
				p.wrong = "wrong code, or one that was used before"
			}
		}
		if !g.stranger {
			return nil
		}
		if p.wrong == "" {
			a.Failures, a.LockedUntil = 0, time.Time{}
			return nil
		}
		if a.Failures++; a.Failures >= maxFailures {
			a.Failures, a.LockedUntil = 0, now.Add(lockTime)
		}
		return nil
	}, nil)
	return p, err
}

// guess is a password with a code, right or not.
type guess struct {
	password, code string
	from           Client
	session        string // in which it is made, or which it opens
	stranger       bool   // neither the browser nor a session is known to be the user's
}

// proven is what a guess has proved.
type proven struct {
	wrong    string // why not, for the log; empty if it is right
	recovery bool   // it was by a recovery code
}

// SignInPassword signs a user in by password and a code: of the authenticator
// app, or a recovery code. fault.Throttled for too many attempts.
func (d *Directory) SignInPassword(ctx context.Context, name, password, code string, from Client) (in SignedIn, err error) {
	defer d.observed(ByPassword, &err)
	if err := d.admits(); err != nil {
		return SignedIn{}, err
	}
	a, err := d.rows.AccountByName(ctx, name)
	unknown := fault.CodeOf(err) == fault.NotFound
	if err != nil && !unknown {
		return SignedIn{}, err
	}
	// The address comes first: made-up names from one that has none left are not remembered.
	who, stranger := append(from.atAddress(), limited{key: from.network() + " " + name[:min(len(name), 64)], allowance: ofName}), true
	if user, id := d.device(from); !unknown && id != "" && user == a.ID {
		who, stranger = []limited{{user, id, ofDevice}}, false
	}
	if err := d.attempts.take(byPassword, from, who...); err != nil {
		return SignedIn{}, err
	}
	if unknown {
		d.checkPassword("", password[:min(len(password), MaxPassword)]) // takes as long
		return SignedIn{}, d.failed(from, "", "there is no such user")
	}
	session := newID()
	proven, err := d.provePassword(ctx, a, guess{password, code, from, session, stranger})
	if err != nil {
		return SignedIn{}, err
	}
	if proven.wrong != "" {
		return SignedIn{}, d.failed(from, a.Name, proven.wrong)
	}
	d.attempts.forgive(byPassword, who[len(who)-1])
	in, err = d.signIn(ctx, a, session, from)
	in.RecoveryCode = proven.recovery
	return in, err
}

// ProvePassword proves that a session's user is present, and says whether a recovery code was used.
// fault.Throttled for too many attempts in the session.
func (d *Directory) ProvePassword(ctx context.Context, p Principal, password, code string, from Client) (recovery bool, err error) {
	a, err := d.rows.Account(ctx, p.UserID)
	if err != nil {
		return false, err
	}
	session := limited{p.UserID, p.Session, ofDevice}
	if err := d.attempts.take(byPresence, from, session); err != nil {
		return false, err
	}
	proven, err := d.provePassword(ctx, a, guess{password, code, from, p.Session, false})
	if err != nil {
		return false, err
	}
	if proven.wrong != "" {
		return false, d.failed(from, a.Name, proven.wrong)
	}
	d.attempts.forgive(byPresence, session)
	return proven.recovery, d.rows.ProveSession(ctx, p.Session, d.stamp())
}

// ConfirmRecoveryUses notes that a user knows of the uses of recovery codes up to the one at that
// time. fault.Conflict if there was none then. fault.Forbidden in a session that one of the uses has
// opened, or proved presence in: whoever took the codes would hide it.
func (d *Directory) ConfirmRecoveryUses(ctx context.Context, p Principal, until time.Time) error {
	_, err := d.rows.UpdateAccount(ctx, p.UserID, func(a *Account) error {
		if err := a.mayConfirm(p.Session, until); err != nil {
			return err
		}
		a.RecoveryUses = slices.DeleteFunc(a.RecoveryUses, func(u RecoveryUse) bool { return !u.At.After(until) })
		return nil
	}, nil)
	return err
}

// CheckRecoveryUses gives the error that ConfirmRecoveryUses would, and changes nothing.
func (d *Directory) CheckRecoveryUses(ctx context.Context, p Principal, until time.Time) error {
	a, err := d.rows.Account(ctx, p.UserID)
	if err != nil {
		return err
	}
	return a.mayConfirm(p.Session, until)
}

func (a *Account) mayConfirm(session string, until time.Time) error {
	named := false
	for _, u := range a.RecoveryUses {
		if u.Session != "" && u.Session == session {
			return fault.Errorf(fault.Forbidden, "a recovery code was used in this session, so that it cannot confirm the use of one: sign out, sign in without a recovery code, and confirm it there. If the authenticator app is lost, set a password with another app first")
		}
		named = named || u.At.Equal(until)
	}
	if !named {
		return fault.Errorf(fault.Conflict, "no recovery code was used at %s, or the use was confirmed already: look at the account again", until.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// BeginPassword gives a new secret for an authenticator app, which FinishPassword
// takes over.
func (d *Directory) BeginPassword(ctx context.Context, userID string) (TOTP, error) {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return TOTP{}, err
	}
	return d.newTOTP(a.totpPurpose(), a.Name)
}

// totpPurpose is that of a new authenticator app of the account. It is another one as soon
// as the account has the new app.
func (a *Account) totpPurpose() string {
	return "user " + a.ID + " " + hex.EncodeToString(digest(a.TOTP+" "+a.Password))
}

// FinishPassword sets password and authenticator app together, once a code shows
// that the app has the secret. fault.Invalid.
func (d *Directory) FinishPassword(ctx context.Context, userID, password, code string) error {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return err
	}
	set, err := d.newPassword(a.totpPurpose(), a.Name, password, code)
	if err != nil {
		return err
	}
	_, err = d.rows.UpdateAccount(ctx, userID, func(a *Account) error { set(a); return nil }, nil)
	return err
}

// newPassword checks a new password and the first code of a new secret, and gives
// what sets them.
func (d *Directory) newPassword(purpose, name, password, code string) (func(*Account), error) {
	if err := validPassword(name, password); err != nil {
		return nil, err
	}
	pending, err := d.pendingTOTP(purpose)
	if err != nil {
		return nil, err
	}
	var secret string
	var step int64
	for _, s := range pending {
		if at, ok := checkTOTP(s, strings.ReplaceAll(strings.TrimSpace(code), " ", ""), d.Now(), 0); ok {
			secret, step = s, at
			break
		}
	}
	if secret == "" {
		return nil, fault.Errorf(fault.Invalid, "code: it is not the one that the authenticator app shows now; check its clock and this machine's. If the page is older than %d minutes, open it again and scan the new secret", int(totpWindow.Minutes()))
	}
	hash := d.hashPassword(password)
	return func(a *Account) { a.Password, a.TOTP, a.TOTPStep, a.Failures = hash, secret, step, 0 }, nil
}

// NewRecoveryCodes makes new codes in place of all before, and shows them once.
func (d *Directory) NewRecoveryCodes(ctx context.Context, userID string) ([]string, error) {
	codes, digests := newRecoveryCodes()
	_, err := d.rows.UpdateAccount(ctx, userID, func(a *Account) error { a.Recovery, a.UsedRecovery = digests, nil; return nil }, nil)
	if err != nil {
		return nil, err
	}
	return codes, nil
}
