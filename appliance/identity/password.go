package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha1" // what authenticator apps have (RFC 6238 section 1.2)
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pquerna/otp/hotp"
	"golang.org/x/crypto/argon2"

	"holdfast/appliance/fault"
)

// The limits of passwords, in characters.
const (
	MinPassword = 12
	MaxPassword = 256
)

// Parameters of argon2id: the second recommended option of RFC 9106 section 4.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	saltBytes    = 16
	hashBytes    = 32
)

// The lock-out after wrong passwords or codes.
const (
	maxFailures = 10
	lockTime    = 15 * time.Minute
)

var phcFormat = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, argonMemory, argonTime, argonThreads)

// hashPassword gives a PHC string.
func (d *Directory) hashPassword(password string) string {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	b64 := base64.RawStdEncoding.EncodeToString
	return phcFormat + b64(salt) + "$" + b64(d.argon2(password, salt))
}

// argon2 takes 64 MiB and some hundredths of a second, so that few run at once.
func (d *Directory) argon2(password string, salt []byte) []byte {
	d.hashing <- struct{}{}
	defer func() { <-d.hashing }()
	return argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, hashBytes)
}

// checkPassword takes as long for a user that there is not.
func (d *Directory) checkPassword(stored, password string) bool {
	salt, want := make([]byte, saltBytes), make([]byte, hashBytes)
	known := false
	if rest, ok := strings.CutPrefix(stored, phcFormat); ok {
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
	Secret string `json:"secret"`
	URI    string `json:"uri"`
}

const totpStep = 30 // seconds

// newTOTP makes a secret (RFC 4226 section 4, R6: 160 bits).
func newTOTP(name string) TOTP {
	b := make([]byte, sha1.Size)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	secret := base32.StdEncoding.EncodeToString(b)
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

// proveCode uses a TOTP or recovery code of the account up.
func (a *Account) proveCode(code string, now time.Time) bool {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "")
	if step, ok := checkTOTP(a.TOTP, code, now, a.TOTPStep); ok && a.TOTP != "" {
		a.TOTPStep = step
		return true
	}
	sum := digest(normal(code))
	for _, used := range a.UsedRecovery {
		if subtle.ConstantTimeCompare(used, sum) == 1 {
			return false
		}
	}
	for _, r := range a.Recovery {
		if subtle.ConstantTimeCompare(r, sum) == 1 {
			a.UsedRecovery = append(a.UsedRecovery, r)
			return true
		}
	}
	return false
}

// provePassword checks password and code of an account, and counts failures.
// The reason is for the log.
func (d *Directory) provePassword(ctx context.Context, a *Account, password, code string) (reason string, err error) {
	if len(password) > 4*MaxPassword || len(code) > 64 {
		return "too long", nil
	}
	right := d.checkPassword(a.Password, password)
	_, err = d.rows.UpdateAccount(ctx, a.ID, func(a *Account) error {
		reason = ""
		now := d.stamp()
		switch {
		case a.LockedUntil.After(now):
			reason = "locked out after too many failures"
			return nil
		case a.Disabled:
			reason = "the user is disabled"
			return nil
		case a.Password == "":
			reason = "the user has no password"
		case !right:
			reason = "wrong password"
		case !a.proveCode(code, now):
			reason = "wrong code, or one that was used before"
		}
		if reason == "" {
			a.Failures, a.LockedUntil = 0, time.Time{}
			return nil
		}
		if a.Failures++; a.Failures >= maxFailures {
			a.Failures, a.LockedUntil = 0, now.Add(lockTime)
		}
		return nil
	}, nil)
	return reason, err
}

// SignInPassword signs a user in by password and a code: of the authenticator
// app, or a recovery code.
func (d *Directory) SignInPassword(ctx context.Context, name, password, code string, from Client) (SignedIn, error) {
	if err := d.limit(from); err != nil {
		return SignedIn{}, err
	}
	a, err := d.rows.AccountByName(ctx, name)
	if fault.CodeOf(err) == fault.NotFound {
		d.checkPassword("", password[:min(len(password), MaxPassword)]) // takes as long
		return SignedIn{}, d.failed(from, "", "there is no such user")
	}
	if err != nil {
		return SignedIn{}, err
	}
	reason, err := d.provePassword(ctx, a, password, code)
	if err != nil {
		return SignedIn{}, err
	}
	if reason != "" {
		return SignedIn{}, d.failed(from, a.Name, reason)
	}
	return d.signIn(ctx, a, from)
}

// ProvePassword proves that a session's user is present.
func (d *Directory) ProvePassword(ctx context.Context, p Principal, password, code string) error {
	a, err := d.rows.Account(ctx, p.UserID)
	if err != nil {
		return err
	}
	reason, err := d.provePassword(ctx, a, password, code)
	if err != nil {
		return err
	}
	if reason != "" {
		return d.failed(Client{}, a.Name, reason)
	}
	return d.rows.ProveSession(ctx, p.Session, d.stamp())
}

// BeginPassword gives a new secret for an authenticator app, which FinishPassword
// takes over.
func (d *Directory) BeginPassword(ctx context.Context, userID string) (TOTP, error) {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return TOTP{}, err
	}
	return d.ceremonies.totp("user "+userID, a.Name), nil
}

// FinishPassword sets password and authenticator app together, once a code shows
// that the app has the secret. fault.Invalid, fault.Conflict.
func (d *Directory) FinishPassword(ctx context.Context, userID, password, code string) error {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return err
	}
	set, err := d.newPassword("user "+userID, a.Name, password, code)
	if err != nil {
		return err
	}
	_, err = d.rows.UpdateAccount(ctx, userID, func(a *Account) error { set(a); return nil }, nil)
	return err
}

// newPassword checks a new password and the first code of a new secret, and gives
// what sets them.
func (d *Directory) newPassword(ceremony, name, password, code string) (func(*Account), error) {
	if err := validPassword(name, password); err != nil {
		return nil, err
	}
	t, ok := d.ceremonies.pendingTOTP(ceremony)
	if !ok {
		return nil, fault.Errorf(fault.Conflict, "the secret for the authenticator app has expired; begin again")
	}
	step, ok := checkTOTP(t.Secret, strings.ReplaceAll(strings.TrimSpace(code), " ", ""), d.Now(), 0)
	if !ok {
		return nil, fault.Errorf(fault.Invalid, "code: it is not the one that the authenticator app shows now; check its clock and this machine's")
	}
	hash := d.hashPassword(password)
	return func(a *Account) { a.Password, a.TOTP, a.TOTPStep, a.Failures = hash, t.Secret, step, 0 }, nil
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
