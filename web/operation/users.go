package operation

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"holdfast/appliance/identity"
)

// UserName names a user by the ID.
type UserName struct {
	User string `path:"user" json:"-" about:"The ID of the user."`
}

func (n UserName) subject(ctx context.Context, c *Caller) any {
	return found(c.Identity.User(ctx, n.User))
}

func userSubject(ctx context.Context, c *Caller, in UserName) any { return in.subject(ctx, c) }

func userExists(ctx context.Context, c *Caller, in UserName) error {
	_, err := c.Identity.User(ctx, in.User)
	return err
}

// UserPage asks for a page of the users.
type UserPage struct {
	Paging
	Name  string        `query:"name" about:"only users whose name has this text in it" json:"-"`
	Role  identity.Role `query:"role" enum:"viewer,auditor,key-administrator,administrator" about:"only users with this role" json:"-"`
	State string        `query:"state" enum:"enabled,disabled,locked_out,refused" about:"only users in this state" json:"-"`
}

func (p UserPage) has(u *identity.User, now time.Time) bool {
	state := "enabled"
	switch {
	case u.Refused:
		state = "refused"
	case u.Disabled:
		state = "disabled"
	case u.LockedUntil.After(now):
		state = "locked_out"
	}
	return contains(u.Name, p.Name) && is(u.Role, p.Role) && is(state, p.State)
}

// RoleChange gives a user another role.
type RoleChange struct {
	UserName
	Role identity.Role `json:"role" jsonschema:"The new role of the user." example:"auditor"`
}

// OIDCBinding lets a user sign in by the OpenID provider, with that verified
// e-mail address; empty for not.
type OIDCBinding struct {
	UserName
	Email string `json:"email" jsonschema:"The verified e-mail address with which the OpenID provider may vouch for the user; empty to end that." example:"alice@example.com" longest:"254"`
}

// isCaller says whether a user is the one who calls.
func isCaller(c *Caller, now any) bool {
	u, ok := now.(*identity.User)
	return ok && c.Who.UserID != "" && u.ID == c.Who.UserID
}

// endsOwn warns who takes themselves out.
func endsOwn[In any](c *Caller, now any, _ In) string {
	if !isCaller(c, now) {
		return ""
	}
	return "This is you. You will be signed out and cannot sign in again."
}

// EmailAddress has notices for a user go to an address.
type EmailAddress struct {
	UserName
	Email string `json:"email" jsonschema:"The e-mail address to which notices of requests for approval go; empty for none." example:"alice@example.com"`
}

// The operations on users.
var (
	ListUsers = defineList(Listing[UserPage, *identity.User]{
		Route: Route{ID: "listUsers", Method: http.MethodGet, Path: "/users", Capability: identity.Administer,
			Words: "List users", Summary: "The users, by name"},
		ID: func(u *identity.User) string { return u.ID },
		By: []Order[*identity.User]{
			{"name", func(u *identity.User) string { return textKey(u.Name) }},
			{"role", func(u *identity.User) string { return string(u.Role) }},
			{"created", func(u *identity.User) string { return timeKey(u.CreatedAt) }},
			{"last_sign_in", func(u *identity.User) string { return timeKey(u.LastSignInAt) }},
		},
		Default: "name",
		All: func(ctx context.Context, c *Caller, in UserPage) ([]*identity.User, error) {
			all, err := c.Identity.Users(ctx)
			return keep(all, err, func(u *identity.User) bool { return in.has(u, c.Now()) })
		},
	})
	ShowUser = define(Operation[UserName, *identity.User]{
		Route: Route{ID: "showUser", Method: http.MethodGet, Path: "/users/{user}", Capability: identity.Administer,
			Words: "Show user", Summary: "A user"},
		Run: func(ctx context.Context, c *Caller, in UserName) (*identity.User, error) {
			return c.Identity.User(ctx, in.User)
		},
	})
	SetRole = define(Operation[RoleChange, *identity.User]{
		Route: Route{ID: "setRole", Method: http.MethodPost, Path: "/users/{user}/role", Capability: identity.Administer, BeyondScope: true, Effects: GivesAccess | TakesAccess | Decides, ConfirmedIf: "if the role may do less", Urgency: Ordinary,
			Words: "Change role", Summary: "Give a user another role"},
		Subject: func(ctx context.Context, c *Caller, in RoleChange) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in RoleChange) error {
			return c.Identity.CheckRole(ctx, in.User, in.Role)
		},
		Confirmed: func(now any, in RoleChange) bool {
			u, known := now.(*identity.User)
			return !known || !in.Role.Covers(u.Role)
		},
		Warning: func(c *Caller, now any, in RoleChange) string {
			if !isCaller(c, now) {
				return ""
			}
			return fmt.Sprintf("This is you. You will be signed out, and may do only what %s may when you sign in again.", in.Role)
		},
		Restricts: func(in RoleChange) bool { return in.Role == identity.RoleViewer },
		Run: func(ctx context.Context, c *Caller, in RoleChange) (*identity.User, error) {
			return c.Identity.SetRole(ctx, in.User, in.Role)
		},
	})
	DisableUser = define(Operation[UserName, *identity.User]{
		Route: Route{ID: "disableUser", Method: http.MethodPost, Path: "/users/{user}/disable", Capability: identity.Administer, Effects: TakesAccess | Decides, Urgency: Urgent,
			Words: "Disable user", Summary: "Keep a user out, and end their sessions"},
		Subject: userSubject,
		Check: func(ctx context.Context, c *Caller, in UserName) error {
			return c.Identity.CheckDisabled(ctx, in.User, true)
		},
		Warning: endsOwn[UserName],
		Run: func(ctx context.Context, c *Caller, in UserName) (*identity.User, error) {
			return c.Identity.SetDisabled(ctx, in.User, true)
		},
	})
	EnableUser = define(Operation[UserName, *identity.User]{
		Route: Route{ID: "enableUser", Method: http.MethodPost, Path: "/users/{user}/enable", Capability: identity.Administer, Effects: GivesAccess | Decides, Urgency: Ordinary,
			Words: "Enable user", Summary: "Let a user in again"},
		Subject: userSubject,
		Check:   userExists,
		Run: func(ctx context.Context, c *Caller, in UserName) (*identity.User, error) {
			return c.Identity.SetDisabled(ctx, in.User, false)
		},
	})
	UnlockUser = define(Operation[UserName, *identity.User]{
		Route: Route{ID: "unlockUser", Method: http.MethodPost, Path: "/users/{user}/unlock", Capability: identity.Administer, Effects: GivesAccess, Urgency: Ordinary,
			Words: "Unlock user", Summary: "Let a user sign in again after too many wrong passwords"},
		Subject: userSubject,
		Check:   userExists,
		Run: func(ctx context.Context, c *Caller, in UserName) (*identity.User, error) {
			return c.Identity.Unlock(ctx, in.User)
		},
	})
	BindOIDC = define(Operation[OIDCBinding, *identity.User]{
		Route: Route{ID: "bindOIDC", Method: http.MethodPost, Path: "/users/{user}/oidc", Capability: identity.Administer, BeyondScope: true, Effects: GivesAccess | Decides, Urgency: Ordinary,
			Words: "Set single sign-on", Summary: "Let a user sign in by the OpenID provider"},
		Subject: func(ctx context.Context, c *Caller, in OIDCBinding) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in OIDCBinding) error {
			return c.Identity.CheckOIDC(ctx, c.Who, in.User, in.Email)
		},
		Run: func(ctx context.Context, c *Caller, in OIDCBinding) (*identity.User, error) {
			return c.Identity.BindOIDC(ctx, c.Who, in.User, in.Email)
		},
	})
	SetEmail = define(Operation[EmailAddress, *identity.User]{
		Route: Route{ID: "setEmail", Method: http.MethodPost, Path: "/users/{user}/email", Capability: identity.Administer, Effects: Leaves, Urgency: Ordinary,
			Words: "Set e-mail address", Summary: "Have notices of requests for approval go to an e-mail address of the user"},
		Subject: func(ctx context.Context, c *Caller, in EmailAddress) any { return in.subject(ctx, c) },
		Check: func(ctx context.Context, c *Caller, in EmailAddress) error {
			return c.Identity.CheckEmail(ctx, in.User, in.Email)
		},
		Run: func(ctx context.Context, c *Caller, in EmailAddress) (*identity.User, error) {
			return c.Identity.SetEmail(ctx, in.User, in.Email)
		},
	})
	DeleteUser = define(Operation[UserName, Nothing]{
		Route: Route{ID: "deleteUser", Method: http.MethodDelete, Path: "/users/{user}", Capability: identity.Administer, Effects: TakesAccess | Destroys | Decides, Urgency: Urgent,
			Words: "Delete user", Summary: "Remove a user"},
		Subject: userSubject,
		Check:   func(ctx context.Context, c *Caller, in UserName) error { return c.Identity.CheckDelete(ctx, in.User) },
		Warning: endsOwn[UserName],
		Run: func(ctx context.Context, c *Caller, in UserName) (Nothing, error) {
			return Nothing{}, c.Identity.DeleteUser(ctx, in.User)
		},
	})
	SignOutUser = define(Operation[UserName, Ended]{
		Route: Route{ID: "signOutUser", Method: http.MethodPost, Path: "/users/{user}/sign-out", Capability: identity.Administer, Effects: TakesAccess, Urgency: Urgent,
			Words: "Sign out user", Summary: "End all sessions of a user"},
		Subject: userSubject,
		Run: func(ctx context.Context, c *Caller, in UserName) (Ended, error) {
			if err := userExists(ctx, c, in); err != nil {
				return Ended{}, err
			}
			n, err := c.Identity.RevokeSessions(ctx, in.User)
			return Ended{n}, err
		},
	})
)
