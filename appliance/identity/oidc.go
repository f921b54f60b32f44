package identity

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"holdfast/appliance/fault"
)

// OIDC names an OpenID provider (OpenID Connect Core 1.0).
type OIDC struct {
	// Issuer is its URL, as in its ID tokens.
	Issuer   string
	ClientID string
	// ClientSecret may be empty: PKCE (RFC 7636) protects the code all the same.
	ClientSecret []byte
	// Groups gives roles by groups of the provider; none of them for not.
	Groups Groups
	// HTTP calls it; http.DefaultClient if nil.
	HTTP *http.Client
}

// CallbackPath is what follows the console's URL in the redirect URI.
const CallbackPath = "/signin/oidc"

// oidcTime bounds what the provider takes for one step.
const oidcTime = 10 * time.Second

// provider is an OpenID provider that is asked for its configuration at first use.
type provider struct {
	*OIDC
	redirect string

	mu    sync.Mutex
	found *oidc.Provider
}

func newProvider(o *OIDC, url string) *provider {
	return &provider{OIDC: o, redirect: url + CallbackPath}
}

// discover gives the provider's configuration (OpenID Connect Discovery 1.0), and
// asks for it again after a failure.
func (p *provider) discover(ctx context.Context) (*oidc.Provider, *oauth2.Config, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		found, err := oidc.NewProvider(ctx, p.Issuer)
		if err != nil {
			return nil, nil, err
		}
		p.found = found
	}
	return p.found, &oauth2.Config{ClientID: p.ClientID, ClientSecret: string(p.ClientSecret), Endpoint: p.found.Endpoint(),
		RedirectURL: p.redirect, Scopes: append([]string{oidc.ScopeOpenID, "email"}, p.Groups.Scopes...)}, nil
}

func (p *provider) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.HTTP != nil {
		ctx = oidc.ClientContext(ctx, p.HTTP)
	}
	return context.WithTimeout(ctx, oidcTime)
}

const purposeOIDC = "oidc"

// BeginOIDC gives the URL to send the browser to, and the state that it comes
// back with: keep that in a cookie, and compare. fault.Conflict without a provider
// or if it cannot be reached; fault.Throttled for too many attempts, each of which may ask it.
func (d *Directory) BeginOIDC(ctx context.Context, from Client) (url, state string, err error) {
	if d.oidc == nil {
		return "", "", fault.Errorf(fault.Conflict, "there is no OpenID provider; set admin.oidc in the configuration")
	}
	if err := d.attempt(toOpenID, from); err != nil {
		return "", "", err
	}
	ctx, cancel := d.oidc.context(ctx)
	defer cancel()
	_, o, err := d.oidc.discover(ctx)
	if err != nil {
		d.away.Do(func() {
			d.Log.Error("the OpenID provider does not answer", "issuer", d.oidc.Issuer, "error", err)
		})
		return "", "", fault.Errorf(fault.Conflict, "the OpenID provider does not answer; sign in another way")
	}
	c := ceremony{Nonce: newSecret(), Verifier: oauth2.GenerateVerifier()}
	if state, err = d.beginCeremony(purposeOIDC, c); err != nil {
		return "", "", err
	}
	return o.AuthCodeURL(state, oidc.Nonce(c.Nonce), oauth2.S256ChallengeOption(c.Verifier)), state, nil
}

// FinishOIDC signs in whom the provider vouches for: the user who is bound to the
// verified e-mail address, and from the first time on to the provider's own ID of
// them.
func (d *Directory) FinishOIDC(ctx context.Context, state, code string, from Client) (in SignedIn, err error) {
	defer d.observed(ByOIDC, &err)
	if d.oidc == nil {
		return SignedIn{}, ErrProof
	}
	if err := d.attempt(byOpenID, from); err != nil {
		return SignedIn{}, err
	}
	c, ok := d.openCeremony(state, purposeOIDC)
	if !ok {
		return SignedIn{}, d.failed(from, "", "OpenID: the state is unknown, or is older than five minutes")
	}
	claims, all, subject, err := d.claims(ctx, c, code)
	if err != nil {
		return SignedIn{}, d.failed(from, "", "OpenID: "+err.Error())
	}
	a, err := d.rows.AccountByOIDC(ctx, strings.ToLower(claims.Email))
	switch {
	case !claims.Verified || claims.Email == "":
		return SignedIn{}, d.failed(from, "", "OpenID: the provider does not vouch for an e-mail address")
	case fault.CodeOf(err) == fault.NotFound:
		return SignedIn{}, d.failed(from, "", "OpenID: no user is bound to the e-mail address")
	case err != nil:
		return SignedIn{}, err
	case a.Disabled:
		return SignedIn{}, d.failed(from, a.Name, "the user is disabled")
	case a.OIDC != strings.ToLower(claims.Email):
		return SignedIn{}, d.failed(from, a.Name, "OpenID: the user is bound to another e-mail address")
	case a.Subject != "" && a.Subject != subject:
		return SignedIn{}, d.failed(from, a.Name, "OpenID: the e-mail address is now another person's; an administrator may bind it anew")
	}
	if err := d.useCeremony(ctx, c); usedBefore(err) {
		return SignedIn{}, d.failed(from, a.Name, "OpenID: the state was used before")
	} else if err != nil {
		return SignedIn{}, err
	}
	return d.vouched(ctx, a, subject, all, from)
}

// vouched signs in a user whom the provider vouches for, with the role that their groups give.
func (d *Directory) vouched(ctx context.Context, a *Account, subject string, claims map[string]json.RawMessage, from Client) (SignedIn, error) {
	role, err := d.byGroups(ctx, a, claims, from)
	if err != nil {
		return SignedIn{}, err
	}
	checked, was, rule := a, a.Role, Rule(nil)
	if role != was {
		if rule, err = d.enough(ctx); err != nil {
			return SignedIn{}, err
		}
	}
	a, err = d.rows.UpdateAccount(ctx, a.ID, func(a *Account) error {
		if err := a.stillVouchedFor(checked, subject); err != nil {
			return err
		}
		if a.Subject == "" && a.Email == "" {
			a.Email = a.OIDC // the provider has just verified it; later on it is the administrators' to say
		}
		a.Subject, a.Role = subject, role
		return nil
	}, rule)
	if err != nil {
		return SignedIn{}, d.told(from, err)
	}
	if role != was {
		d.Log.Info("the groups at the OpenID provider give a user another role", "user", a.Name, "was", was, "role", role)
		if _, err := d.RevokeSessions(ctx, a.ID); err != nil {
			return SignedIn{}, err
		}
	}
	in, err := d.signIn(ctx, a, from)
	if err == nil && role != was {
		in.RoleWas = was
	}
	return in, err
}

// stillVouchedFor says whether the account is, where it counts, as it was when the provider's answer
// was held against it: the provider may have taken its time, and an administrator has changed the
// account meanwhile. *unproven.
func (a *Account) stillVouchedFor(checked *Account, subject string) error {
	switch {
	case a.Disabled:
		return &unproven{a.Name, "the user is disabled"}
	case a.OIDC != checked.OIDC, a.Role != checked.Role, a.Subject != checked.Subject && a.Subject != subject:
		return &unproven{a.Name, "OpenID: the user was changed while they signed in"}
	}
	return nil
}

type oidcClaims struct {
	Email    string `json:"email"`
	Verified bool   `json:"email_verified"`
}

// claims exchanges the code for an ID token, and checks that. It gives the claims that are always
// asked for, all of them, and the provider's ID of the user.
func (d *Directory) claims(ctx context.Context, c *ceremony, code string) (claims oidcClaims, all map[string]json.RawMessage, subject string, err error) {
	ctx, cancel := d.oidc.context(ctx)
	defer cancel()
	found, o, err := d.oidc.discover(ctx)
	if err != nil {
		return claims, nil, "", err
	}
	tokens, err := o.Exchange(ctx, code, oauth2.VerifierOption(c.Verifier))
	if err != nil {
		return claims, nil, "", err
	}
	raw, _ := tokens.Extra("id_token").(string)
	id, err := found.Verifier(&oidc.Config{ClientID: d.oidc.ClientID, Now: d.Now}).Verify(ctx, raw)
	if err != nil {
		return claims, nil, "", err
	}
	if id.Nonce != c.Nonce {
		return claims, nil, "", fault.Errorf(fault.Invalid, "the ID token has another nonce")
	}
	if err := id.Claims(&all); err != nil {
		return claims, nil, "", err
	}
	if missing := d.oidc.missing(all); missing && found.UserInfoEndpoint() != "" {
		info, err := found.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
		if err == nil && info.Subject != id.Subject {
			err = fault.Errorf(fault.Invalid, "the endpoint UserInfo told of another user")
		}
		var more map[string]json.RawMessage
		if err == nil {
			err = info.Claims(&more)
		}
		if err != nil {
			return claims, nil, "", err
		}
		all = withUserInfo(all, more)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return claims, nil, "", err
	}
	return claims, all, id.Subject, json.Unmarshal(text, &claims)
}

// missing says whether an ID token lacks a claim that is needed. Where an access token is issued as
// well, a provider may have the claims of scopes at its endpoint UserInfo alone (OpenID Connect Core
// 1.0 section 5.4).
func (o *OIDC) missing(claims map[string]json.RawMessage) bool {
	_, email := claims["email"]
	_, groups := claims[o.Groups.claim()]
	return !email || !groups && len(o.Groups.Roles) > 0
}

// withUserInfo gives the claims of an ID token with what UserInfo tells besides: what the provider
// has signed comes first. Whether an address is verified is said by the one that names the address.
func withUserInfo(signed, told map[string]json.RawMessage) map[string]json.RawMessage {
	all := maps.Clone(told)
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	if _, there := signed["email"]; there {
		delete(all, "email_verified")
	} else {
		delete(signed, "email_verified")
	}
	maps.Copy(all, signed)
	return all
}

// BindOIDC lets the OpenID provider vouch for a user by that e-mail address;
// empty for not any more. fault.Invalid, fault.NotFound; fault.Exists if it is another
// user's; fault.Conflict if it is the last way to sign in.
func (d *Directory) BindOIDC(ctx context.Context, by Principal, userID, email string) (*User, error) {
	if err := validEmail(email); err != nil {
		return nil, err
	}
	rule, err := d.enough(ctx)
	if err != nil {
		return nil, err
	}
	origin, err := d.bindingOrigin(ctx, by)
	if err != nil {
		return nil, err
	}
	return d.change(ctx, userID, func(a *Account) error { return a.bindOIDC(email, by, origin) }, rule)
}

// CheckOIDC gives the error that BindOIDC would, and changes nothing.
func (d *Directory) CheckOIDC(ctx context.Context, by Principal, userID, email string) error {
	if err := validEmail(email); err != nil {
		return err
	}
	a, err := d.rows.Account(ctx, userID)
	if err != nil {
		return err
	}
	origin, err := d.bindingOrigin(ctx, by)
	if err != nil {
		return err
	}
	if err := a.bindOIDC(email, by, origin); err != nil {
		return err
	}
	if email != "" {
		other, err := d.rows.AccountByOIDC(ctx, a.OIDC)
		if err == nil && other.ID != userID {
			return fault.Errorf(fault.Exists, "the e-mail address is another user's")
		}
		if err != nil && fault.CodeOf(err) != fault.NotFound {
			return err
		}
	}
	return d.stillEnough(ctx, a.ID, a)
}

// bindingOrigin is what is kept with a user whom the principal gives another way to
// sign in.
func (d *Directory) bindingOrigin(ctx context.Context, by Principal) (Origin, error) {
	o, err := d.origin(ctx, by)
	if err != nil {
		return Origin{}, err
	}
	return d.ofUser(ctx, o)
}

// validEmail says what is wrong with an e-mail address; empty is none.
func validEmail(email string) error {
	a, err := mail.ParseAddress(email)
	if email != "" && (err != nil || a.Address != email || len(email) > 254) {
		return fault.Errorf(fault.Invalid, "e-mail address %.80q: give one such as alice@example.com", email)
	}
	return nil
}

// bindOIDC changes the account's e-mail address at the OpenID provider. The one who
// gives another user a way to sign in helps to make that user.
func (a *Account) bindOIDC(email string, by Principal, origin Origin) error {
	if email == "" && a.OIDC != "" && a.ways() == 1 {
		return fault.Errorf(fault.Conflict, "it is the only way in which %s can sign in", a.Name)
	}
	if a.Email == a.OIDC { // it came with the binding, and goes with it
		a.Email = ""
	}
	a.OIDC, a.Subject = strings.ToLower(email), ""
	if email != "" && !slices.Equal(by.persons(), []string{a.ID}) {
		a.Origin = a.Origin.and(origin)
	}
	return nil
}
