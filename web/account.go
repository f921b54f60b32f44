package web

import (
	"encoding/json"
	"net/http"
	"slices"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Account is who calls.
type Account struct {
	identity.Principal
	// User is empty for the bearer of an API token and for root on the machine.
	User *identity.User `json:"user,omitempty"`
	// Capabilities are what the role may do.
	Capabilities []identity.Capability `json:"capabilities"`
}

// CeremonyAnswer is what an authenticator says (WebAuthn Level 3,
// PublicKeyCredential in JSON), for a ceremony that was begun.
type CeremonyAnswer struct {
	Ceremony string          `json:"ceremony"`
	Response json.RawMessage `json:"response"`
	// Name is the new passkey's; only for one.
	Name string `json:"name,omitempty"`
}

// Proof is a password with the present code of the authenticator app, or a
// recovery code.
type Proof struct {
	Password string `json:"password"`
	Code     string `json:"code"`
}

// RecoveryCodes are shown once.
type RecoveryCodes struct {
	Codes []string `json:"codes"`
}

func (RecoveryCodes) withoutSecret() any { return nil }

// NewTOTP is the secret of an authenticator app, shown once.
type NewTOTP struct{ identity.TOTP }

func (NewTOTP) withoutSecret() any { return nil }

func accountRoutes() []Route {
	route := func(method, path, id, summary string, h handler) Route {
		return Route{Method: method, Path: "/account" + path, ID: id, Capability: identity.Self, Summary: summary, handler: h}
	}
	whileLocked := func(r Route) Route { r.WhileLocked = true; return r }
	dangerous := func(r Route) Route { r.Dangerous = true; return r }
	const post, del = http.MethodPost, http.MethodDelete
	return []Route{
		route(http.MethodGet, "", "account", "Who calls, and what their role may do", gives(func(c *call) (*Account, error) {
			a := &Account{Principal: c.who, Capabilities: c.who.Role.Capabilities()}
			if c.who.UserID == "" {
				return a, nil
			}
			var err error
			a.User, err = c.api.Identity.User(c.ctx(), c.who.UserID)
			return a, err
		})),
		route(http.MethodGet, "/sessions", "ownSessions", "One's own sessions", lists(func(c *call) ([]identity.Session, error) {
			id, err := c.user()
			if err != nil {
				return nil, err
			}
			return c.sessions(id)
		})),
		whileLocked(route(post, "/sign-out", "signOutEverywhere", "End all of one's own sessions", own(func(c *call, id string, _ nothing) (Ended, error) {
			n, err := c.api.Identity.RevokeSessions(c.ctx(), id)
			return Ended{n}, err
		}))),
		whileLocked(route(del, "/sessions/{session}", "revokeOwnSession", "End one of one's own sessions", own(func(c *call, id string, _ nothing) (nothing, error) {
			mine, err := c.api.Identity.Sessions(c.ctx(), id)
			if err != nil {
				return nothing{}, err
			}
			if !slices.ContainsFunc(mine, func(s identity.Session) bool { return s.ID == c.param("session") }) {
				return nothing{}, fault.Errorf(fault.NotFound, "you have no such session")
			}
			return nothing{}, c.api.Identity.RevokeSession(c.ctx(), c.param("session"))
		}))),
		whileLocked(route(post, "/prove/password", "provePassword", "Prove that one is present, by password and code", own(func(c *call, _ string, in Proof) (nothing, error) {
			return nothing{}, c.api.Identity.ProvePassword(c.ctx(), c.who, in.Password, in.Code)
		}))),
		whileLocked(route(post, "/prove/passkey/begin", "beginProvePasskey", "Begin to prove that one is present, by a passkey", own(func(c *call, _ string, _ nothing) (identity.Ceremony, error) {
			return c.api.Identity.BeginProvePasskey(c.ctx(), c.who)
		}))),
		whileLocked(route(post, "/prove/passkey", "provePasskey", "Prove that one is present, by a passkey", own(func(c *call, _ string, in CeremonyAnswer) (nothing, error) {
			return nothing{}, c.api.Identity.FinishProvePasskey(c.ctx(), c.who, in.Ceremony, in.Response)
		}))),
		dangerous(route(post, "/passkeys/begin", "beginPasskey", "Begin to add a passkey", own(func(c *call, id string, _ nothing) (identity.Ceremony, error) {
			return c.api.Identity.BeginAddPasskey(c.ctx(), id)
		}))),
		dangerous(route(post, "/passkeys", "addPasskey", "Add a passkey", own(func(c *call, id string, in CeremonyAnswer) (*identity.Passkey, error) {
			return c.api.Identity.FinishAddPasskey(c.ctx(), id, in.Ceremony, in.Name, in.Response)
		}))),
		dangerous(route(del, "/passkeys/{passkey}", "removePasskey", "Remove a passkey; not the last way to sign in", own(func(c *call, id string, _ nothing) (nothing, error) {
			return nothing{}, c.api.Identity.RemovePasskey(c.ctx(), id, c.param("passkey"))
		}))),
		dangerous(route(post, "/password/begin", "beginPassword", "Begin to set a password: a new secret for an authenticator app", own(func(c *call, id string, _ nothing) (NewTOTP, error) {
			t, err := c.api.Identity.BeginPassword(c.ctx(), id)
			return NewTOTP{t}, err
		}))),
		dangerous(route(post, "/password", "setPassword", "Set password and authenticator app together", own(func(c *call, id string, in Proof) (nothing, error) {
			return nothing{}, c.api.Identity.FinishPassword(c.ctx(), id, in.Password, in.Code)
		}))),
		dangerous(route(post, "/recovery-codes", "newRecoveryCodes", "Make new recovery codes; those before are void", own(func(c *call, id string, _ nothing) (RecoveryCodes, error) {
			codes, err := c.api.Identity.NewRecoveryCodes(c.ctx(), id)
			return RecoveryCodes{codes}, err
		}))),
	}
}

// user gives the ID of the user who calls.
func (c *call) user() (string, error) {
	if c.who.UserID == "" {
		return "", fault.Errorf(fault.Conflict, "%s is no user of the console, and has no account", c.who.Name)
	}
	return c.who.UserID, nil
}

// own makes a handler of an operation of a user on their own account.
func own[In, Out any](do func(c *call, user string, in In) (Out, error)) handler {
	return does(func(c *call, in In) (Out, error) {
		id, err := c.user()
		if err != nil {
			var none Out
			return none, err
		}
		return do(c, id, in)
	})
}
