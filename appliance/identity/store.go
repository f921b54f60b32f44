package identity

import (
	"context"
	"encoding/base64"
	"regexp"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"holdfast/appliance"
)

// User is a user as others may see it.
type User struct {
	// ID is 32 hexadecimal digits.
	ID       string `json:"id"`
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Disabled bool   `json:"disabled"`
	// Passkeys and Password are the ways to sign in; OIDC is the e-mail address with
	// which the OpenID provider may vouch for the user, empty for not.
	Passkeys []Passkey `json:"passkeys"`
	Password bool      `json:"password"`
	OIDC     string    `json:"oidc,omitempty"`
	// RecoveryCodes is how many are left.
	RecoveryCodes int       `json:"recovery_codes"`
	CreatedAt     time.Time `json:"created_at"`
	LastSignInAt  time.Time `json:"last_sign_in_at,omitzero"`
	// LockedUntil is how long passwords are not looked at; zero if they are.
	LockedUntil time.Time `json:"locked_until,omitzero"`
}

// Passkey is a WebAuthn credential of a user.
type Passkey struct {
	// ID is the credential's, in Base64 for URLs.
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
}

// Account is a user as it is stored.
type Account struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Disabled  bool      `json:"disabled,omitempty"`
	CreatedAt time.Time `json:"created_at"`

	// Password is an argon2id hash (PHC string); TOTP the authenticator app's secret
	// in Base32, TOTPStep the last time step of which a code was taken.
	Password string `json:"password,omitempty"`
	TOTP     string `json:"totp,omitempty"`
	TOTPStep int64  `json:"totp_step,omitempty"`
	// Recovery are SHA-256 digests of the codes that are left.
	Recovery [][]byte        `json:"recovery,omitempty"`
	Passkeys []StoredPasskey `json:"passkeys,omitempty"`
	// OIDC is an e-mail address; Subject the provider's ID of the user, from the first
	// sign-in on.
	OIDC    string `json:"oidc,omitempty"`
	Subject string `json:"subject,omitempty"`

	// Failures counts wrong passwords and codes since the last right ones.
	Failures     int       `json:"failures,omitempty"`
	LockedUntil  time.Time `json:"locked_until,omitzero"`
	LastSignInAt time.Time `json:"last_sign_in_at,omitzero"`
}

// StoredPasskey is a passkey with what verifies it.
type StoredPasskey struct {
	Name       string              `json:"name"`
	CreatedAt  time.Time           `json:"created_at"`
	LastUsedAt time.Time           `json:"last_used_at,omitzero"`
	Credential webauthn.Credential `json:"credential"`
}

func (p *StoredPasskey) shown() Passkey {
	return Passkey{ID: base64.RawURLEncoding.EncodeToString(p.Credential.ID), Name: p.Name, CreatedAt: p.CreatedAt, LastUsedAt: p.LastUsedAt}
}

func (a *Account) shown() *User {
	u := &User{ID: a.ID, Name: a.Name, Role: a.Role, Disabled: a.Disabled, Passkeys: []Passkey{}, Password: a.Password != "", OIDC: a.OIDC,
		RecoveryCodes: len(a.Recovery), CreatedAt: a.CreatedAt, LastSignInAt: a.LastSignInAt, LockedUntil: a.LockedUntil}
	for i := range a.Passkeys {
		u.Passkeys = append(u.Passkeys, a.Passkeys[i].shown())
	}
	return u
}

// ways is how many ways to sign in there are.
func (a *Account) ways() int {
	n := len(a.Passkeys)
	if a.Password != "" {
		n++
	}
	if a.OIDC != "" {
		n++
	}
	return n
}

var userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)

// validName says what is wrong with a user's name.
func validName(s string) error {
	if !userName.MatchString(s) {
		return appliance.Errorf(appliance.CodeInvalid, "name %.80q: use 1 to 64 letters, digits, '.', '_', '@', '+' or '-', beginning with a letter or digit", s)
	}
	return nil
}

// Invitation admits one user. It is good for [InvitationLifetime].
type Invitation struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	InvitedBy string    `json:"invited_by"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Setup invitations are of the setup code: good only while there is no user.
	Setup bool `json:"-"`
	// Digest is the SHA-256 of its token.
	Digest []byte `json:"-"`
}

// InvitationLifetime is how long an invitation can be used.
const InvitationLifetime = 72 * time.Hour

// Session is a browser that is signed in.
type Session struct {
	ID         string    `json:"id"`
	UserID     string    `json:"user_id"`
	UserName   string    `json:"user_name"`
	Address    string    `json:"address"`
	UserAgent  string    `json:"user_agent"`
	CreatedAt  time.Time `json:"created_at"`
	LastSeenAt time.Time `json:"last_seen_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	// Current marks the session that asks; a Directory leaves it false.
	Current bool `json:"current"`

	// ProvenAt is when the user last proved to be present.
	ProvenAt time.Time `json:"-"`
	// Digest is the SHA-256 of its token.
	Digest []byte `json:"-"`
}

// Token is an API token.
type Token struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Role       Role      `json:"role"`
	CreatedBy  string    `json:"created_by"`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`

	// Digest is the SHA-256 of the token.
	Digest []byte `json:"-"`
}

// Store keeps the rows. Every method that changes something is atomic and durable.
// Errors are [*appliance.Error]: those named, CodeTimeout or CodeInternal.
type Store interface {
	// Accounts gives all, by name.
	Accounts(ctx context.Context) ([]*Account, error)
	// Account gives one by ID, AccountByName by name, AccountByOIDC by the OpenID
	// provider's e-mail address; CodeNotFound.
	Account(ctx context.Context, id string) (*Account, error)
	AccountByName(ctx context.Context, name string) (*Account, error)
	AccountByOIDC(ctx context.Context, email string) (*Account, error)
	// CreateAccount makes a user and uses the invitation up that has the digest, in
	// one step; CodeExists if the name is taken, CodeNotFound if the invitation is
	// gone or, of the setup code, if there is a user.
	CreateAccount(ctx context.Context, a *Account, invitation []byte) error
	// UpdateAccount reads a user, has f change it, and writes it. An error of f
	// changes nothing, and is returned. f may be called twice. CodeNotFound;
	// CodeExists if the name or e-mail address is another's; CodeConflict if no
	// enabled administrator would be left.
	UpdateAccount(ctx context.Context, id string, f func(*Account) error) (*Account, error)
	// DeleteAccount removes a user with the sessions; CodeNotFound, CodeConflict as
	// for UpdateAccount.
	DeleteAccount(ctx context.Context, id string) error

	// CreateInvitation adds one, and drops those that have expired.
	CreateInvitation(ctx context.Context, i *Invitation) error
	// Invitations gives all, the newest first.
	Invitations(ctx context.Context) ([]Invitation, error)
	// Invitation gives the one with the digest; CodeNotFound.
	Invitation(ctx context.Context, digest []byte) (*Invitation, error)
	// DeleteInvitation removes one by ID; CodeNotFound.
	DeleteInvitation(ctx context.Context, id string) error

	// CreateSession adds one, and drops those that have expired.
	CreateSession(ctx context.Context, s *Session) error
	// Session gives the one with the digest; CodeNotFound.
	Session(ctx context.Context, digest []byte) (*Session, error)
	// Sessions gives a user's, or all with "", the newest first.
	Sessions(ctx context.Context, user string) ([]Session, error)
	// TouchSession notes when it was last used; ProveSession, when the user proved
	// to be present. Nothing happens if there is none.
	TouchSession(ctx context.Context, id string, at time.Time) error
	ProveSession(ctx context.Context, id string, at time.Time) error
	// DeleteSession removes one by ID; CodeNotFound. DeleteSessions removes a
	// user's, and gives how many.
	DeleteSession(ctx context.Context, id string) error
	DeleteSessions(ctx context.Context, user string) (int, error)

	// CreateToken adds one; CodeExists if the name is taken.
	CreateToken(ctx context.Context, t *Token) error
	// Tokens gives all, the newest first.
	Tokens(ctx context.Context) ([]Token, error)
	// Token gives the one with the digest; CodeNotFound.
	Token(ctx context.Context, digest []byte) (*Token, error)
	// TouchToken notes when it was last used.
	TouchToken(ctx context.Context, id string, at time.Time) error
	// RevokeToken revokes one, and gives it; CodeNotFound.
	RevokeToken(ctx context.Context, id string, at time.Time) (*Token, error)
}
