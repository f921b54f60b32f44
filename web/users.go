package web

import (
	"net/http"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// NewInvitation asks for a one-time link that makes a user.
type NewInvitation struct {
	Name string        `json:"name"`
	Role identity.Role `json:"role"`
}

// CreatedInvitation shows the link's token for the only time. The link is
// /invitation/ and the token, on the console.
type CreatedInvitation struct {
	identity.Invitation
	Token string `json:"token"`
}

func (i CreatedInvitation) withoutSecret() any { return i.Invitation }

// RoleChange gives a user another role.
type RoleChange struct {
	Role identity.Role `json:"role"`
}

// OIDCBinding lets a user sign in by the OpenID provider, with that verified
// e-mail address; empty for not.
type OIDCBinding struct {
	Email string `json:"email"`
}

// NewToken asks for an API token.
type NewToken struct {
	Name string        `json:"name"`
	Role identity.Role `json:"role"`
	// Days it is good for, 1 to 365.
	Days int `json:"days"`
}

func (t NewToken) lifetime() (time.Duration, error) {
	if t.Days < 1 || t.Days > 365 {
		return 0, fault.Errorf(fault.Invalid, "%d days: use 1 to 365", t.Days)
	}
	return time.Duration(t.Days) * 24 * time.Hour, nil
}

// CreatedToken shows the token for the only time.
type CreatedToken struct {
	identity.Token
	Secret string `json:"secret"`
}

func (t CreatedToken) withoutSecret() any { return t.Token }

func userRoutes() []Route {
	const user = "/users/{user}"
	change := func(do func(c *call) (*identity.User, error)) handler { return gives(do) }
	return []Route{
		{Method: http.MethodGet, Path: "/users", ID: "listUsers", Capability: identity.Administer, Summary: "All users",
			handler: lists(func(c *call) ([]*identity.User, error) { return c.api.Identity.Users(c.ctx()) })},
		{Method: http.MethodGet, Path: user, ID: "showUser", Capability: identity.Administer, Summary: "A user",
			handler: gives(func(c *call) (*identity.User, error) { return c.api.Identity.User(c.ctx(), c.param("user")) })},
		{Method: http.MethodPost, Path: user + "/role", ID: "setRole", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Give a user another role",
			handler: checked(does(func(c *call, in RoleChange) (*identity.User, error) {
				return c.api.Identity.SetRole(c.ctx(), c.param("user"), in.Role)
			}), func(c *call, in RoleChange) error { return c.api.Identity.CheckRole(c.ctx(), c.param("user"), in.Role) })},
		{Method: http.MethodPost, Path: user + "/disable", ID: "disableUser", Capability: identity.Administer, Dangerous: true, Summary: "Keep a user out, and end their sessions",
			handler: change(func(c *call) (*identity.User, error) {
				return c.api.Identity.SetDisabled(c.ctx(), c.param("user"), true)
			})},
		{Method: http.MethodPost, Path: user + "/enable", ID: "enableUser", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Let a user in again",
			handler: checked(change(func(c *call) (*identity.User, error) {
				return c.api.Identity.SetDisabled(c.ctx(), c.param("user"), false)
			}), userExists)},
		{Method: http.MethodPost, Path: user + "/unlock", ID: "unlockUser", Capability: identity.Administer, Summary: "Let a user sign in again after too many wrong passwords",
			handler: change(func(c *call) (*identity.User, error) { return c.api.Identity.Unlock(c.ctx(), c.param("user")) })},
		{Method: http.MethodPost, Path: user + "/oidc", ID: "bindOIDC", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Let a user sign in by the OpenID provider",
			handler: checked(does(func(c *call, in OIDCBinding) (*identity.User, error) {
				return c.api.Identity.BindOIDC(c.ctx(), c.who, c.param("user"), in.Email)
			}), func(c *call, in OIDCBinding) error {
				return c.api.Identity.CheckOIDC(c.ctx(), c.who, c.param("user"), in.Email)
			})},
		{Method: http.MethodDelete, Path: user, ID: "deleteUser", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Remove a user",
			handler: checked(gives(func(c *call) (nothing, error) {
				return nothing{}, c.api.Identity.DeleteUser(c.ctx(), c.param("user"))
			}), func(c *call, _ nothing) error { return c.api.Identity.CheckDelete(c.ctx(), c.param("user")) })},
		{Method: http.MethodPost, Path: user + "/sign-out", ID: "signOutUser", Capability: identity.Administer, Summary: "End all sessions of a user",
			handler: gives(func(c *call) (Ended, error) {
				n, err := c.api.Identity.RevokeSessions(c.ctx(), c.param("user"))
				return Ended{n}, err
			})},
		{Method: http.MethodGet, Path: "/invitations", ID: "listInvitations", Capability: identity.Administer, Summary: "Invitations that nobody has used yet",
			handler: lists(func(c *call) ([]identity.Invitation, error) { return c.api.Identity.Invitations(c.ctx()) })},
		{Method: http.MethodPost, Path: "/invitations", ID: "createInvitation", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Invite a user by a one-time link",
			handler: checked(does(func(c *call, in NewInvitation) (CreatedInvitation, error) {
				i, token, err := c.api.Identity.Invite(c.ctx(), c.who, in.Name, in.Role)
				return CreatedInvitation{i, token}, err
			}), func(c *call, in NewInvitation) error {
				return c.api.Identity.CheckInvite(c.ctx(), c.who, in.Name, in.Role)
			})},
		{Method: http.MethodDelete, Path: "/invitations/{invitation}", ID: "revokeInvitation", Capability: identity.Administer, Summary: "Take an invitation back",
			handler: gives(func(c *call) (nothing, error) {
				return nothing{}, c.api.Identity.RevokeInvitation(c.ctx(), c.param("invitation"))
			})},
		{Method: http.MethodGet, Path: "/sessions", ID: "listSessions", Capability: identity.Administer, Summary: "All users' sessions",
			handler: lists(func(c *call) ([]identity.Session, error) { return c.sessions("") })},
		{Method: http.MethodDelete, Path: "/sessions/{session}", ID: "revokeSession", Capability: identity.Administer, Summary: "End a session",
			handler: gives(func(c *call) (nothing, error) {
				return nothing{}, c.api.Identity.RevokeSession(c.ctx(), c.param("session"))
			})},
		{Method: http.MethodGet, Path: "/tokens", ID: "listTokens", Capability: identity.Administer, Summary: "API tokens, without their secrets",
			handler: lists(func(c *call) ([]identity.Token, error) { return c.api.Identity.Tokens(c.ctx()) })},
		{Method: http.MethodPost, Path: "/tokens", ID: "createToken", Capability: identity.Administer, Dangerous: true, Approvable: true, Summary: "Make an API token; it is shown this once",
			handler: checked(does(func(c *call, in NewToken) (CreatedToken, error) {
				lifetime, err := in.lifetime()
				if err != nil {
					return CreatedToken{}, err
				}
				t, secret, err := c.api.Identity.CreateToken(c.ctx(), c.who, in.Name, in.Role, lifetime)
				return CreatedToken{t, secret}, err
			}), func(c *call, in NewToken) error {
				lifetime, err := in.lifetime()
				if err != nil {
					return err
				}
				return c.api.Identity.CheckToken(c.ctx(), c.who, in.Name, in.Role, lifetime)
			})},
		{Method: http.MethodDelete, Path: "/tokens/{token}", ID: "revokeToken", Capability: identity.Administer, Summary: "Refuse an API token from now on",
			handler: gives(func(c *call) (identity.Token, error) { return c.api.Identity.RevokeToken(c.ctx(), c.param("token")) })},
	}
}

func userExists(c *call, _ nothing) error {
	_, err := c.api.Identity.User(c.ctx(), c.param("user"))
	return err
}

// Ended is how many sessions were.
type Ended struct {
	Sessions int `json:"sessions"`
}

// sessions gives those of a user, or of all, with the caller's own marked.
func (c *call) sessions(user string) ([]identity.Session, error) {
	list, err := c.api.Identity.Sessions(c.ctx(), user)
	for i := range list {
		list[i].Current = list[i].ID == c.who.Session
	}
	return list, err
}
