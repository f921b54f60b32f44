package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"holdfast/appliance/fault"
)

// webUser is an account as the WebAuthn library sees it.
type webUser struct{ *Account }

func (u webUser) WebAuthnID() []byte          { return []byte(u.ID) }
func (u webUser) WebAuthnName() string        { return u.Name }
func (u webUser) WebAuthnDisplayName() string { return u.Name }
func (u webUser) WebAuthnCredentials() []webauthn.Credential {
	list := make([]webauthn.Credential, len(u.Passkeys))
	for i, p := range u.Passkeys {
		list[i] = p.Credential
	}
	return list
}

// maxPasskeys bounds those of a user.
const maxPasskeys = 20

var errNoPasskeys = fault.Errorf(fault.Conflict, "passkeys are bound to the console's name, and it has none: set admin.url in the configuration, and open the console by it")

// beginCreate begins to make a passkey for an account that may not be stored yet.
func (d *Directory) beginCreate(a *Account, purpose string) (Ceremony, error) {
	if d.web == nil {
		return Ceremony{}, errNoPasskeys
	}
	options, session, err := d.web.BeginRegistration(webUser{a}, webauthn.WithExclusions(webauthn.Credentials(webUser{a}.WebAuthnCredentials()).CredentialDescriptors()))
	if err != nil {
		return Ceremony{}, err
	}
	return d.begin(options, session, purpose)
}

func (d *Directory) begin(options any, session *webauthn.SessionData, purpose string) (Ceremony, error) {
	text, err := json.Marshal(options)
	if err != nil {
		return Ceremony{}, err
	}
	id, err := d.beginCeremony(purpose, ceremony{Passkey: session})
	if err != nil {
		return Ceremony{}, err
	}
	return Ceremony{id, text}, nil
}

// finishCreate checks the authenticator's answer and gives the passkey.
func (d *Directory) finishCreate(ctx context.Context, a *Account, purpose, id, name string, response []byte) (*StoredPasskey, error) {
	if name = strings.TrimSpace(name); name == "" {
		name = "Passkey"
	}
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fault.Errorf(fault.Invalid, "passkey name: use 1 to 64 printable characters")
	}
	c, ok := d.openCeremony(id, purpose)
	if !ok || c.Passkey == nil {
		return nil, fault.Errorf(fault.Conflict, "making the passkey took too long; begin again")
	}
	answer, err := protocol.ParseCredentialCreationResponseBytes(response)
	if err != nil {
		return nil, d.refusedPasskey(a.Name, err)
	}
	credential, err := d.web.CreateCredential(webUser{a}, *c.Passkey, answer)
	if err != nil {
		return nil, d.refusedPasskey(a.Name, err)
	}
	if err := d.useCeremony(ctx, c); usedBefore(err) {
		return nil, fault.Errorf(fault.Conflict, "the passkey was made before; begin again")
	} else if err != nil {
		return nil, err
	}
	return &StoredPasskey{Name: name, CreatedAt: d.stamp(), Credential: *credential}, nil
}

func (d *Directory) refusedPasskey(user string, err error) error {
	detail := err.Error()
	if e, ok := errors.AsType[*protocol.Error](err); ok {
		detail += ": " + e.DevInfo
	}
	d.Log.Warn("a new passkey was refused", "user", user, "reason", detail)
	return fault.Errorf(fault.Invalid, "the authenticator's answer is not acceptable; try again, or use another authenticator")
}

// BeginAddPasskey begins to add a passkey to a user. fault.Conflict without
// passkeys.
func (d *Directory) BeginAddPasskey(ctx context.Context, userID string) (Ceremony, error) {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return Ceremony{}, err
	}
	return d.beginCreate(a, "add "+userID)
}

// FinishAddPasskey adds the passkey. fault.Invalid, fault.Conflict.
func (d *Directory) FinishAddPasskey(ctx context.Context, userID, ceremonyID, name string, response []byte) (*Passkey, error) {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return nil, err
	}
	p, err := d.finishCreate(ctx, a, "add "+userID, ceremonyID, name, response)
	if err != nil {
		return nil, err
	}
	_, err = d.rows.UpdateAccount(ctx, userID, func(a *Account) error {
		if len(a.Passkeys) >= maxPasskeys {
			return fault.Errorf(fault.Conflict, "you have %d passkeys already; remove one first", maxPasskeys)
		}
		a.Passkeys = append(a.Passkeys, *p)
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	shown := p.shown()
	return &shown, nil
}

// RemovePasskey removes a passkey of a user. fault.NotFound; fault.Conflict if it is
// the last way to sign in.
func (d *Directory) RemovePasskey(ctx context.Context, userID, passkeyID string) error {
	_, err := d.rows.UpdateAccount(ctx, userID, func(a *Account) error { return a.withoutPasskey(passkeyID) }, nil)
	return err
}

// withoutPasskey takes a passkey from the account. fault.NotFound; fault.Conflict.
func (a *Account) withoutPasskey(id string) error {
	i := slices.IndexFunc(a.Passkeys, func(p StoredPasskey) bool { return p.id() == id })
	if i < 0 {
		return fault.Errorf(fault.NotFound, "there is no such passkey")
	}
	if a.ways() == 1 {
		return fault.Errorf(fault.Conflict, "it is the only way to sign in; add another one first")
	}
	a.Passkeys = slices.Delete(a.Passkeys, i, i+1)
	return nil
}

// CheckRemovePasskey gives the error that RemovePasskey would, and changes nothing.
func (d *Directory) CheckRemovePasskey(ctx context.Context, userID, passkeyID string) error {
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return err
	}
	return a.withoutPasskey(passkeyID)
}

const purposeSignIn = "sign in"

// BeginPasskey begins to sign somebody in by a passkey, whoever it is.
func (d *Directory) BeginPasskey(context.Context) (Ceremony, error) {
	if d.web == nil {
		return Ceremony{}, errNoPasskeys
	}
	if err := d.admits(); err != nil {
		return Ceremony{}, err
	}
	options, session, err := d.web.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return Ceremony{}, err
	}
	return d.begin(options, session, purposeSignIn)
}

// FinishPasskey signs in whoever's passkey it is.
func (d *Directory) FinishPasskey(ctx context.Context, ceremonyID string, response []byte, from Client) (in SignedIn, err error) {
	defer d.observed(ByPasskey, &err)
	if err := d.admits(); err != nil {
		return SignedIn{}, err
	}
	a, err := d.checkPasskey(ctx, purposeSignIn, ceremonyID, response)
	if wrong, ok := errors.AsType[*unproven](err); ok { // nobody can guess one: what is right is taken however often others have failed
		return SignedIn{}, d.refuse(byPasskey, from, *wrong, from.atAddress()...)
	}
	if err != nil {
		return SignedIn{}, err
	}
	return d.signIn(ctx, a, from)
}

// BeginProvePasskey begins to prove that a session's user is present.
func (d *Directory) BeginProvePasskey(ctx context.Context, p Principal) (Ceremony, error) {
	a, err := d.rows.Account(ctx, p.UserID)
	switch {
	case err != nil:
		return Ceremony{}, err
	case d.web == nil:
		return Ceremony{}, errNoPasskeys
	case len(a.Passkeys) == 0:
		return Ceremony{}, fault.Errorf(fault.Conflict, "you have no passkey")
	}
	options, session, err := d.web.BeginLogin(webUser{a}, webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return Ceremony{}, err
	}
	return d.begin(options, session, "prove "+p.Session)
}

// FinishProvePasskey proves that a session's user is present. fault.Throttled for too many that
// are not good.
func (d *Directory) FinishProvePasskey(ctx context.Context, p Principal, ceremonyID string, response []byte, from Client) error {
	a, err := d.checkPasskey(ctx, "prove "+p.Session, ceremonyID, response)
	if err == nil && a.ID != p.UserID {
		err = &unproven{p.Name, "a passkey of another user"}
	}
	if wrong, ok := errors.AsType[*unproven](err); ok {
		return d.refuse(byPasskeyPresence, from, *wrong, limited{p.UserID, p.Session, ofDevice})
	}
	if err != nil {
		return err
	}
	return d.rows.ProveSession(ctx, p.Session, d.stamp())
}

// checkPasskey gives the user whose passkey has signed. *unproven.
func (d *Directory) checkPasskey(ctx context.Context, purpose, ceremonyID string, response []byte) (*Account, error) {
	c, ok := d.openCeremony(ceremonyID, purpose)
	if !ok || c.Passkey == nil {
		return nil, &unproven{"", "the ceremony is unknown, or is older than five minutes"}
	}
	answer, err := protocol.ParseCredentialRequestResponseBytes(response)
	if err != nil {
		return nil, &unproven{"", "the authenticator's answer cannot be read"}
	}
	var a *Account
	find := func(_, handle []byte) (webauthn.User, error) {
		var err error
		if a, err = d.rows.Account(ctx, string(handle)); err != nil {
			return nil, err
		}
		return webUser{a}, nil
	}
	var used *webauthn.Credential
	if c.Passkey.UserID == nil {
		_, used, err = d.web.ValidatePasskeyLogin(find, *c.Passkey, answer)
	} else if _, err = find(nil, c.Passkey.UserID); err == nil {
		used, err = d.web.ValidateLogin(webUser{a}, *c.Passkey, answer)
	}
	switch {
	case err != nil:
		detail := err.Error()
		if e, ok := errors.AsType[*protocol.Error](err); ok {
			detail += ": " + e.DevInfo
		}
		return nil, &unproven{"", "passkey: " + detail}
	case used.Authenticator.CloneWarning:
		return nil, &unproven{a.Name, "the passkey's counter went back: it was copied; remove it"}
	case a.Disabled:
		return nil, &unproven{a.Name, "the user is disabled"}
	}
	if err := d.useCeremony(ctx, c); usedBefore(err) {
		return nil, &unproven{a.Name, "the ceremony was used before"}
	} else if err != nil {
		return nil, err
	}
	return d.rows.UpdateAccount(ctx, a.ID, func(a *Account) error {
		i := slices.IndexFunc(a.Passkeys, func(p StoredPasskey) bool { return bytes.Equal(p.Credential.ID, used.ID) })
		switch { // it may have been changed since it was read
		case i < 0:
			return &unproven{a.Name, "the passkey was removed"}
		case a.Disabled:
			return &unproven{a.Name, "the user is disabled"}
		}
		a.Passkeys[i].Credential.Authenticator.SignCount, a.Passkeys[i].LastUsedAt = used.Authenticator.SignCount, d.stamp()
		return nil
	}, nil)
}
