package identity

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"

	"holdfast/appliance/fault"
)

// SignedIn is a new session.
type SignedIn struct {
	// Token is for the browser's cookie; it is not shown again.
	Token     string
	Principal Principal
	// Device is for another cookie of the browser, which outlasts the session
	// ([Client.Device]); empty if there is none.
	Device string
	// RoleWas is the role before, if groups at the OpenID provider gave another one.
	RoleWas Role
	// RecoveryCode says that a recovery code was used.
	RecoveryCode bool
	// RecoveryCodes are those of a user who has just enrolled; shown once.
	RecoveryCodes []string
}

// touchEvery is how often at most it is stored that a session or token is used.
const touchEvery = time.Minute

// signIn makes a session for a user who has proven who they are.
func (d *Directory) signIn(ctx context.Context, a *Account, from Client) (SignedIn, error) {
	if err := d.admits(); err != nil {
		return SignedIn{}, err
	}
	now, token := d.stamp(), newSecret()
	if _, err := d.rows.UpdateAccount(ctx, a.ID, func(a *Account) error {
		if a.Disabled { // since the proof was looked at
			return &unproven{a.Name, "the user is disabled"}
		}
		a.LastSignInAt = now
		return nil
	}, nil); err != nil {
		return SignedIn{}, d.told(from, err)
	}
	s := &Session{ID: newID(), UserID: a.ID, Address: printable(from.Address, 64), UserAgent: printable(from.UserAgent, 200), CreatedAt: now, LastSeenAt: now,
		ExpiresAt: now.Add(d.Absolute), ProvenAt: now, Digest: digest(token)}
	if err := d.rows.CreateSession(ctx, s); err != nil {
		return SignedIn{}, err
	}
	d.Log.Info("a user has signed in", "user", a.Name, "remote", from.Address, "session", s.ID)
	return SignedIn{Token: token, Principal: principal(a, s), Device: d.newDevice(a.ID)}, nil
}

func principal(a *Account, s *Session) Principal {
	return Principal{UserID: a.ID, Name: a.Name, Role: a.Role, Session: s.ID, ProvenAt: s.ProvenAt, Unverified: a.Unverified}
}

// printable is a string from outside, made safe to show and shortened.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// Session gives who has a session, by the token of its cookie, with the role of
// now. Unless it is used, as by a page that asks again by itself, it is as idle as
// before. ErrProof if it has ended.
func (d *Directory) Session(ctx context.Context, token string, used bool) (Principal, error) {
	if d.admits() != nil {
		return Principal{}, ErrProof
	}
	s, err := d.rows.Session(ctx, digest(token))
	if fault.CodeOf(err) == fault.NotFound {
		return Principal{}, ErrProof
	}
	if err != nil {
		return Principal{}, err
	}
	now := d.stamp()
	if !now.Before(s.ExpiresAt) || now.Sub(s.LastSeenAt) >= d.Idle {
		d.Log.Info("a session has expired", "session", s.ID, "user", s.UserName)
		if err := d.rows.EndSession(ctx, now, s.ID); err != nil && fault.CodeOf(err) != fault.NotFound && !ofFleet(err) {
			return Principal{}, err
		}
		return Principal{}, ErrProof
	}
	a, err := d.rows.Account(ctx, s.UserID)
	if err != nil || a.Disabled {
		return Principal{}, ErrProof
	}
	if used && now.Sub(s.LastSeenAt) >= touchEvery {
		err = d.rows.TouchSession(ctx, s.ID, now)
	}
	if used && err == nil {
		err = d.rows.shareSession(ctx, s) // at once: the next request may reach another node
	}
	if err != nil && !ofFleet(err) {
		return Principal{}, err
	}
	who := principal(a, s)
	seen := s.LastSeenAt
	if used && now.Sub(seen) >= touchEvery {
		seen = now
	}
	if who.EndsAt = seen.Add(d.Idle); s.ExpiresAt.Before(who.EndsAt) {
		who.EndsAt = s.ExpiresAt
	}
	return who, nil
}

// ofFleet says whether an error is of the fleet or its database, so that this node can write
// nothing there for now. What only notes a use is left out then: people and tools go on to find
// out what is wrong.
func ofFleet(err error) bool { return fault.CodeOf(err).OfFleet() }

// SignOut ends a session, by the token of its cookie. It is no error if it has
// ended.
func (d *Directory) SignOut(ctx context.Context, token string) error {
	s, err := d.rows.Session(ctx, digest(token))
	if err == nil {
		err = d.rows.EndSession(ctx, d.stamp(), s.ID)
	}
	if fault.CodeOf(err) == fault.NotFound {
		return nil
	}
	return err
}

// Sessions gives a user's sessions, or all users' with "", the newest first.
func (d *Directory) Sessions(ctx context.Context, userID string) ([]Session, error) {
	all, err := d.rows.Sessions(ctx, userID)
	var live []Session
	for _, s := range all {
		if now := d.Now(); now.Before(s.ExpiresAt) && now.Sub(s.LastSeenAt) < d.Idle {
			live = append(live, s)
		}
	}
	return live, err
}

// RevokeSession ends a session by its ID. fault.NotFound.
func (d *Directory) RevokeSession(ctx context.Context, id string) error {
	return d.rows.EndSession(ctx, d.stamp(), id)
}

// RevokeSessions ends all sessions of a user, and gives how many there were.
func (d *Directory) RevokeSessions(ctx context.Context, userID string) (int, error) {
	return d.rows.EndSessions(ctx, d.stamp(), userID)
}

// TokenPrefix begins every API token, so that they are easy to find where they
// should not be.
const TokenPrefix = "hf_"

// MaxTokenLifetime is the longest that an API token is good for.
const MaxTokenLifetime = 365 * 24 * time.Hour

// NewToken is an API token to be made.
type NewToken struct {
	Name string
	Role Role
	// Scope is needed: a token without a limit has [Unlimited].
	Scope *Scope
	// Lifetime is from a minute to [MaxTokenLifetime].
	Lifetime time.Duration
}

// CreateToken makes an API token, and gives it this once. fault.Invalid, fault.Exists;
// fault.Forbidden if the role or the scope may more than that of its maker.
func (d *Directory) CreateToken(ctx context.Context, by Principal, want NewToken) (Token, string, error) {
	if err := d.CheckToken(ctx, by, want); err != nil {
		return Token{}, "", err
	}
	secret := TokenPrefix + newSecret()
	t := Token{ID: newID(), Name: want.Name, Role: want.Role, Scope: want.Scope, CreatedBy: by.Name, CreatedAt: d.stamp(), Digest: digest(secret)}
	t.ExpiresAt = t.CreatedAt.Add(want.Lifetime)
	var err error
	if t.Origin, err = d.origin(ctx, by); err != nil {
		return Token{}, "", err
	}
	if err := d.rows.CreateToken(ctx, &t); err != nil {
		return Token{}, "", err
	}
	return t, secret, nil
}

// TokenRetention is how long API tokens are kept, and listed, after they have expired or were
// revoked. The audit log has them for as long as it is kept.
const TokenRetention = 90 * 24 * time.Hour

// Forgotten says whether the token ended so long ago that it is dropped.
func (t Token) Forgotten(now time.Time) bool {
	end := t.ExpiresAt
	if !t.RevokedAt.IsZero() && t.RevokedAt.Before(end) {
		end = t.RevokedAt
	}
	return !now.Before(end.Add(TokenRetention))
}

// CheckToken gives the error that CreateToken would, and makes nothing.
func (d *Directory) CheckToken(ctx context.Context, by Principal, want NewToken) error {
	if err := d.admits(); err != nil {
		return err
	}
	if err := validName(want.Name); err != nil {
		return err
	}
	if err := want.Role.within(by); err != nil {
		return err
	}
	if want.Scope == nil {
		return fault.Errorf(fault.Invalid, "the token has no scope: name key stores, operations and networks, or say \"*\" for all of each")
	}
	if err := want.Scope.Validate(); err != nil {
		return err
	}
	if err := want.Scope.within(by.Scope); err != nil {
		return err
	}
	if want.Lifetime < time.Minute || want.Lifetime > MaxTokenLifetime {
		return fault.Errorf(fault.Invalid, "lifetime %s: use a minute to 365 days", want.Lifetime)
	}
	tokens, err := d.rows.Tokens(ctx)
	if err == nil && slices.ContainsFunc(tokens, func(t Token) bool { return t.Name == want.Name }) {
		err = fault.Errorf(fault.Exists, "there is an API token %q already", want.Name)
	}
	return err
}

// Tokens gives all API tokens, the newest first.
func (d *Directory) Tokens(ctx context.Context) ([]Token, error) { return d.rows.Tokens(ctx) }

// RevokeToken has a token refused from now on. fault.NotFound.
func (d *Directory) RevokeToken(ctx context.Context, id string) (Token, error) {
	t, err := d.rows.RevokeToken(ctx, id, d.stamp())
	if err != nil {
		return Token{}, err
	}
	return *t, nil
}

// By says whether a user has made the token, or a token of theirs has. The name alone does not say
// it: there may have been another user of that name.
func (t Token) By(u *User) bool {
	return slices.Contains(t.Origin.MadeBy, u.ID) && (t.CreatedBy == u.Name || strings.HasPrefix(t.CreatedBy, tokenNames))
}

// tokenNames begins what a token is called where it acts; no name of a user has a space.
const tokenNames = "token "

func (t *Token) principal() Principal {
	return Principal{Name: tokenNames + t.Name, Role: t.Role, Token: t.ID, Scope: t.Scope, MakerIDs: t.Origin.MadeBy}
}

// Bearer gives who has an API token. ErrProof if it is not good, and fault.Throttled if such
// a one came too often; fault.Locked while nobody can tell. One that is good is never refused
// for what others did.
func (d *Directory) Bearer(ctx context.Context, secret string, from Client) (who Principal, err error) {
	defer d.observed(ByToken, &err)
	if err := d.admits(); err != nil {
		return Principal{}, err
	}
	sum := digest(secret)
	refuse := func(name, why string) (Principal, error) {
		dead := limited{key: from.network() + " " + hex.EncodeToString(sum[:8]), allowance: ofToken}
		return Principal{}, d.refuse(byToken, from, unproven{name, why}, append(from.atAddress(), dead)...)
	}
	t, err := d.rows.Token(ctx, sum)
	if fault.CodeOf(err) == fault.NotFound {
		return refuse("", "there is no such API token")
	}
	if err != nil {
		return Principal{}, err
	}
	now := d.stamp()
	if !t.RevokedAt.IsZero() || !now.Before(t.ExpiresAt) {
		return refuse(t.Name, "the API token has expired or was revoked")
	}
	if now.Sub(t.LastUsedAt) >= touchEvery {
		if err := d.rows.TouchToken(ctx, t.ID, now); err != nil && !ofFleet(err) {
			return Principal{}, err
		}
	}
	return t.principal(), nil
}
