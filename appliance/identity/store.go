package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"holdfast/appliance/fault"
)

// User is a user as others may see it.
type User struct {
	// ID is 32 hexadecimal digits.
	ID       string `json:"id" jsonschema:"The ID of the user, 32 hexadecimal digits."`
	Name     string `json:"name" jsonschema:"The name of the user." example:"alice"`
	Role     Role   `json:"role" jsonschema:"The role of the user."`
	Disabled bool   `json:"disabled" jsonschema:"Whether the user is kept out."`
	// Passkeys and Password are the ways to sign in; OIDC is the e-mail address with
	// which the OpenID provider may vouch for the user, empty for not.
	Passkeys []Passkey `json:"passkeys" jsonschema:"The passkeys of the user."`
	Password bool      `json:"password" jsonschema:"Whether the user has a password and an authenticator app."`
	OIDC     string    `json:"oidc,omitempty" jsonschema:"The e-mail address with which the OpenID provider may vouch for the user; absent for none."`
	// Email is where notices for the user go; empty for nowhere.
	Email string `json:"email,omitempty" jsonschema:"The e-mail address to which notices of requests for approval go; absent for none. It proves nothing, and signs nobody in." example:"alice@example.com"`
	// RecoveryCodes is how many are left.
	RecoveryCodes int `json:"recovery_codes" jsonschema:"How many recovery codes are left."`
	// RecoveryUses are those that the user has not said to know of.
	RecoveryUses []RecoveryUse `json:"recovery_uses,omitempty" jsonschema:"The uses of recovery codes that the user has not said to know of."`
	CreatedAt    time.Time     `json:"created_at" jsonschema:"When the user was made."`
	LastSignInAt time.Time     `json:"last_sign_in_at,omitzero" jsonschema:"When the user last signed in; absent if never."`
	// LockedUntil is how long passwords are not looked at; zero if they are.
	LockedUntil time.Time `json:"locked_until,omitzero" jsonschema:"Until when passwords of this user are refused, after too many wrong ones; absent if they are not."`
	// Refused says that the stored row does not match its seal, so that the user
	// cannot sign in. Remove such a user.
	Refused bool `json:"refused,omitempty" jsonschema:"Whether the stored row does not match its seal, so that the user cannot sign in. Remove such a user."`
}

// Ways is how many ways to sign in the user has. Passkeys count each; recovery codes are none, as
// each takes the place of the authenticator app's code.
func (u *User) Ways() int {
	n := len(u.Passkeys)
	if u.Password {
		n++
	}
	if u.OIDC != "" {
		n++
	}
	return n
}

// RecoveryUse is the use of a recovery code.
type RecoveryUse struct {
	At      time.Time `json:"at" jsonschema:"When the recovery code was used."`
	Address string    `json:"address" jsonschema:"The address from which it was used."`
	// Session is the one that it opened, or in which presence was proved by it.
	Session string `json:"session,omitempty" jsonschema:"The ID of the session that it opened, or in which presence was proved by it; absent for a use before that was noted."`
}

// Passkey is a WebAuthn credential of a user.
type Passkey struct {
	// ID is the credential's, in Base64 for URLs.
	ID         string    `json:"id" jsonschema:"The ID of the passkey's credential, in Base64 for URLs."`
	Name       string    `json:"name" jsonschema:"The name that the user gave the passkey."`
	CreatedAt  time.Time `json:"created_at" jsonschema:"When the passkey was added."`
	LastUsedAt time.Time `json:"last_used_at,omitzero" jsonschema:"When the passkey was last used; absent if never."`
}

// Account is a user as it is stored. What decides who the user is and what they
// may do is sealed; [Activity], which each sign-in changes, is not.
type Account struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Disabled  bool      `json:"disabled,omitempty"`
	CreatedAt time.Time `json:"created_at"`

	// Password is an argon2id hash (PHC string); TOTP the authenticator app's secret
	// in Base32.
	Password string `json:"password,omitempty"`
	TOTP     string `json:"totp,omitempty"`
	// Recovery are SHA-256 digests of the recovery codes.
	Recovery [][]byte        `json:"recovery,omitempty"`
	Passkeys []StoredPasskey `json:"passkeys,omitempty"`
	// OIDC is an e-mail address; Subject the provider's ID of the user, from the first
	// sign-in on.
	OIDC    string `json:"oidc,omitempty"`
	Subject string `json:"subject,omitempty"`

	// Email is where notices go. Nothing is proven by it.
	Email string `json:"email,omitempty"`

	Origin

	Activity

	// Sealed is the text that the seal is of, as it was read; nil for a new account.
	// Seal is the seal.
	Sealed []byte `json:"-"`
	Seal   []byte `json:"-"`
	// Unverified says that the seal could not be looked at, as the appliance is locked.
	// Refused says that it is missing or wrong: the account is as good as not there.
	Unverified bool `json:"-"`
	Refused    bool `json:"-"`
}

// Origin says who helped to make an identity, by the IDs of users: root on the
// machine and the setup code are nobody.
type Origin struct {
	// MadeBy are those who asked for it, and had its secret in their hands, and those
	// in whose hands they were.
	MadeBy []string `json:"made_by,omitempty"`
	// ApprovedBy is the second person who allowed it; empty if none was asked.
	ApprovedBy string `json:"approved_by,omitempty"`
	// MadeAt is when, or when somebody last gave it another way to sign in.
	MadeAt time.Time `json:"made_at,omitzero"`
}

// Activity is what signing in changes. It has no seal, so that users can sign in
// while the appliance is locked, when nothing can be sealed. Who can write to the
// database could let a code be used twice, or end the pause after wrong passwords.
type Activity struct {
	// TOTPStep is the last time step of which a code was taken.
	TOTPStep int64 `json:"totp_step,omitempty"`
	// Failures counts wrong passwords and codes since the last right ones.
	Failures     int       `json:"failures,omitempty"`
	LockedUntil  time.Time `json:"locked_until,omitzero"`
	LastSignInAt time.Time `json:"last_sign_in_at,omitzero"`
	// UsedRecovery are the digests of those recovery codes that were used.
	UsedRecovery [][]byte `json:"used_recovery,omitempty"`
	// RecoveryUses are those that the user has not said to know of, the last recoveryCodes of them.
	RecoveryUses []RecoveryUse `json:"recovery_uses,omitempty"`
	// PasskeyUses are by the passkey's ID in Base64 for URLs. They are for storing: an
	// account in memory has them in its passkeys.
	PasskeyUses map[string]PasskeyUse `json:"passkey_uses,omitempty"`
}

// PasskeyUse is what the use of a passkey changes.
type PasskeyUse struct {
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
	// SignCount is the authenticator's counter (WebAuthn Level 3 section 6.1.1).
	SignCount uint32 `json:"sign_count,omitempty"`
}

// Text is the account as it is stored and sealed: JSON of all but the activity. It
// is as it was read unless something in it has changed, so that a seal stays good
// when a later release writes the same in other words.
func (a *Account) Text() ([]byte, error) {
	text, err := json.Marshal(a.lasting())
	if err != nil || a.Sealed == nil {
		return text, err
	}
	read, err := DecodeAccount(a.Sealed, nil)
	if err != nil {
		return text, nil
	}
	if before, err := json.Marshal(read.lasting()); err == nil && bytes.Equal(before, text) {
		return a.Sealed, nil
	}
	return text, nil
}

// lasting is the account without its activity.
func (a *Account) lasting() *Account {
	l := *a
	l.Activity = Activity{}
	l.Passkeys = slices.Clone(a.Passkeys)
	for i := range l.Passkeys {
		p := &l.Passkeys[i]
		p.LastUsedAt, p.Credential.Authenticator.SignCount, p.Credential.Authenticator.CloneWarning = time.Time{}, 0, false
	}
	return &l
}

// ActivityText is the account's activity as it is stored, in JSON.
func (a *Account) ActivityText() ([]byte, error) {
	act := a.Activity
	act.PasskeyUses = map[string]PasskeyUse{}
	for _, p := range a.Passkeys {
		act.PasskeyUses[p.id()] = PasskeyUse{p.LastUsedAt, p.Credential.Authenticator.SignCount}
	}
	return json.Marshal(act)
}

// DecodeAccount reads a stored account. Without activity the text has it, as all
// had before there were seals.
func DecodeAccount(text, activity []byte) (*Account, error) {
	a := &Account{}
	if err := json.Unmarshal(text, a); err != nil {
		return nil, err
	}
	if len(activity) > 0 {
		a.Activity = Activity{}
		if err := json.Unmarshal(activity, &a.Activity); err != nil {
			return nil, err
		}
		for i := range a.Passkeys {
			use := a.PasskeyUses[a.Passkeys[i].id()]
			a.Passkeys[i].LastUsedAt, a.Passkeys[i].Credential.Authenticator.SignCount = use.LastUsedAt, use.SignCount
		}
	}
	a.PasskeyUses = nil
	a.Sealed = text
	return a, nil
}

// recoveryLeft is how many recovery codes were not used yet.
func (a *Account) recoveryLeft() int {
	n := 0
	for _, r := range a.Recovery {
		if !slices.ContainsFunc(a.UsedRecovery, func(used []byte) bool { return bytes.Equal(used, r) }) {
			n++
		}
	}
	return n
}

// StoredPasskey is a passkey with what verifies it.
type StoredPasskey struct {
	Name       string              `json:"name"`
	CreatedAt  time.Time           `json:"created_at"`
	LastUsedAt time.Time           `json:"last_used_at,omitzero"`
	Credential webauthn.Credential `json:"credential"`
}

// id is the credential's ID, in Base64 for URLs.
func (p *StoredPasskey) id() string { return base64.RawURLEncoding.EncodeToString(p.Credential.ID) }

func (p *StoredPasskey) shown() Passkey {
	return Passkey{ID: p.id(), Name: p.Name, CreatedAt: p.CreatedAt, LastUsedAt: p.LastUsedAt}
}

func (a *Account) shown() *User {
	u := &User{ID: a.ID, Name: a.Name, Role: a.Role, Disabled: a.Disabled, Passkeys: []Passkey{}, Password: a.Password != "", OIDC: a.OIDC, Email: a.Email,
		RecoveryCodes: a.recoveryLeft(), RecoveryUses: a.RecoveryUses, Refused: a.Refused, CreatedAt: a.CreatedAt, LastSignInAt: a.LastSignInAt, LockedUntil: a.LockedUntil}
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
		return fault.Errorf(fault.Invalid, "name %.80q: use 1 to 64 letters, digits, '.', '_', '@', '+' or '-', beginning with a letter or digit", s)
	}
	return nil
}

// Invitation admits one user. It is good for [InvitationLifetime].
type Invitation struct {
	ID        string    `json:"id" jsonschema:"The ID of the invitation."`
	Name      string    `json:"name" jsonschema:"The name of the user whom the link makes."`
	Role      Role      `json:"role" jsonschema:"The role of the user whom the link makes."`
	InvitedBy string    `json:"invited_by" jsonschema:"The name of the person who made the invitation."`
	CreatedAt time.Time `json:"created_at" jsonschema:"When the invitation was made."`
	ExpiresAt time.Time `json:"expires_at" jsonschema:"When the link ends to be good."`
	// Setup invitations are of the setup code: good only while there is no user.
	Setup bool `json:"-"`
	// Digest is the SHA-256 of its token.
	Digest []byte `json:"-"`
	Origin Origin `json:"-"`
	Seal   []byte `json:"-"`
}

// InvitationLifetime is how long an invitation can be used.
const InvitationLifetime = 72 * time.Hour

// Session is a browser that is signed in.
type Session struct {
	ID         string    `json:"id" jsonschema:"The ID of the session."`
	UserID     string    `json:"user_id" jsonschema:"The ID of the user whose session it is."`
	UserName   string    `json:"user_name" jsonschema:"The name of the user whose session it is."`
	Address    string    `json:"address" jsonschema:"The address from which the user signed in."`
	UserAgent  string    `json:"user_agent" jsonschema:"The browser, as it names itself."`
	CreatedAt  time.Time `json:"created_at" jsonschema:"When the user signed in."`
	LastSeenAt time.Time `json:"last_seen_at" jsonschema:"When the session was last used."`
	ExpiresAt  time.Time `json:"expires_at" jsonschema:"When the session ends."`
	// Current marks the session that asks; a Directory leaves it false.
	Current bool `json:"current" jsonschema:"Whether it is the session that asks."`

	// ProvenAt is when the user last proved to be present.
	ProvenAt time.Time `json:"-"`
	// Digest is the SHA-256 of its token.
	Digest []byte `json:"-"`
	Seal   []byte `json:"-"`
}

// Spent is something that was good once and is used up: a ceremony that was finished, or a
// session that has ended. The row is what makes it single-use on all nodes.
type Spent struct {
	ID string
	// At is when; ExpiresAt is when it would not be good any more by itself.
	At, ExpiresAt time.Time
}

// Token is an API token.
type Token struct {
	ID         string    `json:"id" jsonschema:"The ID of the API token."`
	Name       string    `json:"name" jsonschema:"The name of the API token."`
	Role       Role      `json:"role" jsonschema:"The role of the API token."`
	CreatedBy  string    `json:"created_by" jsonschema:"The name of the person who made it."`
	CreatedAt  time.Time `json:"created_at" jsonschema:"When it was made."`
	ExpiresAt  time.Time `json:"expires_at" jsonschema:"When it ends to be good."`
	LastUsedAt time.Time `json:"last_used_at,omitzero" jsonschema:"When it was last used; absent if never."`
	RevokedAt  time.Time `json:"revoked_at,omitzero" jsonschema:"When it was revoked; absent if it was not."`
	// Scope is what it may be used for besides the role; nil for a token that was made before
	// there were scopes, which has no limit.
	Scope *Scope `json:"scope,omitempty" jsonschema:"What the token may be used for besides its role. Absent for a token that was made before there were scopes: it has no limit."`
	// Refused says that the stored row does not match its seal, so that the token is
	// not accepted.
	Refused bool `json:"refused,omitempty" jsonschema:"Whether the stored row does not match its seal, so that the token is refused."`

	// Digest is the SHA-256 of the token.
	Digest []byte `json:"-"`
	Origin Origin `json:"-"`
	Seal   []byte `json:"-"`
}

// Store keeps the rows. It knows nothing of seals. Every method that changes
// something is atomic and durable. Errors are [*fault.Fault]: those named,
// fault.Timeout or fault.Internal.
type Store interface {
	// Accounts gives all, by name.
	Accounts(ctx context.Context) ([]*Account, error)
	// Account gives one by ID, AccountByName by name, AccountByOIDC by the OpenID
	// provider's e-mail address; fault.NotFound.
	Account(ctx context.Context, id string) (*Account, error)
	AccountByName(ctx context.Context, name string) (*Account, error)
	AccountByOIDC(ctx context.Context, email string) (*Account, error)
	// CreateAccount makes a user and uses the invitation up that has the digest, in
	// one step; fault.Exists if the name is taken, fault.NotFound if the invitation is
	// gone. Of one of the setup code, first gets the users that are there before.
	CreateAccount(ctx context.Context, a *Account, invitation []byte, first Rule) error
	// UpdateAccount reads a user, has f change it, and writes it, in one step: what f
	// got is what is replaced. Before that is final, rule gets all users as they are then; nil for no rule. An error of either
	// changes nothing, and is returned. They may be called twice. fault.NotFound;
	// fault.Exists if the name or e-mail address is another's.
	UpdateAccount(ctx context.Context, id string, f func(*Account) error, rule Rule) (*Account, error)
	// DeleteAccount removes a user with the sessions, under the same rule;
	// fault.NotFound. It fails with fault.Changed if the stored text is no longer that
	// of was, which means that somebody else changed the user meanwhile.
	DeleteAccount(ctx context.Context, was *Account, rule Rule) error

	// CreateInvitation adds one, and drops those that have expired; fault.Exists if its
	// ID is taken.
	CreateInvitation(ctx context.Context, i *Invitation) error
	// Invitations gives all, the newest first.
	Invitations(ctx context.Context) ([]Invitation, error)
	// Invitation gives the one with the digest; fault.NotFound.
	Invitation(ctx context.Context, digest []byte) (*Invitation, error)
	// DeleteInvitation removes one by ID, whatever its row says: taking back must not
	// fail because the row changed. fault.NotFound.
	DeleteInvitation(ctx context.Context, id string) error

	// CreateSession adds one, and drops those that have expired; fault.Exists if its ID
	// is taken.
	CreateSession(ctx context.Context, s *Session) error
	// Session gives the one with the digest; fault.NotFound.
	Session(ctx context.Context, digest []byte) (*Session, error)
	// Sessions gives a user's, or all with "", the newest first.
	Sessions(ctx context.Context, user string) ([]Session, error)
	// TouchSession notes when it was last used; a time never moves back. Nothing happens
	// if there is none.
	TouchSession(ctx context.Context, id string, at time.Time) error
	// UpdateSession reads one, has f change it, and writes when it was proven, and its
	// seal, in one step; fault.NotFound.
	UpdateSession(ctx context.Context, id string, f func(*Session) error) error
	// DeleteSession removes one by ID, whatever its row says; fault.NotFound.
	// DeleteSessions removes a user's, and gives how many.
	DeleteSession(ctx context.Context, id string) error
	DeleteSessions(ctx context.Context, user string) (int, error)

	// Spend adds what is used up, and drops what has expired by then; fault.Exists if there is
	// one with that ID.
	Spend(ctx context.Context, u Spent) error
	// Spent says whether there is one with that ID.
	Spent(ctx context.Context, id string) (bool, error)

	// CreateToken adds one, and drops those that are forgotten by then ([Token.Forgotten]);
	// fault.Exists if the name is taken.
	CreateToken(ctx context.Context, t *Token) error
	// Tokens gives all, the newest first.
	Tokens(ctx context.Context) ([]Token, error)
	// Token gives the one with the digest; fault.NotFound.
	Token(ctx context.Context, digest []byte) (*Token, error)
	// TouchToken notes when it was last used; a time never moves back.
	TouchToken(ctx context.Context, id string, at time.Time) error
	// UpdateToken reads one, has f change it, and writes when it was revoked, and its
	// seal, in one step; fault.NotFound.
	UpdateToken(ctx context.Context, id string, f func(*Token) error) (*Token, error)

	// SealRows has all accounts, invitations and tokens sealed in one step: each
	// function gives a row its seal.
	SealRows(ctx context.Context, account func(*Account) error, invitation func(*Invitation) error, token func(*Token) error) error
}

// Rule says what is wrong with users as they are after a change; nil if nothing
// is.
type Rule func(all []*Account) error
