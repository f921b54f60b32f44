package operation

import (
	"context"
	"net/http"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// NewToken asks for an API token.
type NewToken struct {
	Name string        `json:"name" jsonschema:"The name of the token, for people and the audit log." example:"backup-job" pattern:"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"`
	Role identity.Role `json:"role" jsonschema:"The role of the token: that of its maker at most." example:"auditor"`
	// Scope is needed: who wants no limit says so.
	Scope identity.Scope `json:"scope" jsonschema:"What the token may be used for besides its role. Each list names values, or says * alone for all; none may be empty."`
	// Days it is good for, 1 to 365.
	Days int `json:"days" jsonschema:"For how many days the token is good, 1 to 365." example:"90" least:"1" most:"365"`
}

// wanted is the token as the directory makes it.
func (t NewToken) wanted(ctx context.Context, c *Caller) (identity.NewToken, error) {
	if t.Days < 1 || t.Days > 365 {
		return identity.NewToken{}, fault.Errorf(fault.Invalid, "%d days: use 1 to 365", t.Days)
	}
	want := identity.NewToken{Name: t.Name, Role: t.Role, Scope: &t.Scope, Lifetime: time.Duration(t.Days) * 24 * time.Hour}
	if err := c.Identity.CheckToken(ctx, c.Who, want); err != nil {
		return want, err
	}
	return want, checkScope(ctx, c, &t.Scope)
}

// CreatedToken shows the token for the only time.
type CreatedToken struct {
	identity.Token
	Secret string `json:"secret" jsonschema:"The API token, to be sent as bearer token. It is shown this once."`
}

func (t CreatedToken) withoutSecret() any { return t.Token }

// TokenName names an API token by the ID.
type TokenName struct {
	Token string `path:"token" json:"-" about:"The ID of the API token; not the token itself."`
}

// TokenPage asks for a page of the API tokens.
type TokenPage struct {
	Paging
	Name  string        `query:"name" about:"only tokens whose name has this text in it" json:"-"`
	Role  identity.Role `query:"role" enum:"viewer,auditor,key-administrator,administrator" about:"only tokens with this role" json:"-"`
	State string        `query:"state" enum:"good,expired,revoked,refused" about:"only tokens in this state" json:"-"`
}

func (p TokenPage) has(t identity.Token, now time.Time) bool {
	state := "good"
	switch {
	case t.Refused:
		state = "refused"
	case !t.RevokedAt.IsZero():
		state = "revoked"
	case !now.Before(t.ExpiresAt):
		state = "expired"
	}
	return contains(t.Name, p.Name) && is(t.Role, p.Role) && is(state, p.State)
}

// The operations on API tokens.
var (
	ListTokens = defineList(Listing[TokenPage, identity.Token]{
		Route: Route{ID: "listTokens", Method: http.MethodGet, Path: "/tokens", Capability: identity.Administer,
			Words: "List API tokens", Summary: "API tokens, without their secrets"},
		ID: func(t identity.Token) string { return t.ID },
		By: []Order[identity.Token]{
			{"name", func(t identity.Token) string { return textKey(t.Name) }},
			{"created", func(t identity.Token) string { return timeKey(t.CreatedAt) }},
			{"expires", func(t identity.Token) string { return timeKey(t.ExpiresAt) }},
			{"last_used", func(t identity.Token) string { return timeKey(t.LastUsedAt) }},
		},
		Default: "name",
		All: func(ctx context.Context, c *Caller, in TokenPage) ([]identity.Token, error) {
			all, err := c.Identity.Tokens(ctx)
			return keep(all, err, func(t identity.Token) bool { return in.has(t, c.Now()) })
		},
	})
	CreateToken = define(Operation[NewToken, CreatedToken]{
		Route: Route{ID: "createToken", Method: http.MethodPost, Path: "/tokens", Makes: "/tokens/{id}", Capability: identity.Administer, Effects: GivesAccess | Decides, Urgency: Ordinary,
			Words: "Create API token", Summary: "Make an API token; it is shown this once"},
		Subject: makes[NewToken],
		Check: func(ctx context.Context, c *Caller, in NewToken) error {
			_, err := in.wanted(ctx, c)
			return err
		},
		Run: func(ctx context.Context, c *Caller, in NewToken) (CreatedToken, error) {
			want, err := in.wanted(ctx, c)
			if err != nil {
				return CreatedToken{}, err
			}
			before, err := c.Identity.Tokens(ctx)
			if err != nil {
				return CreatedToken{}, err
			}
			t, secret, err := c.Identity.CreateToken(ctx, c.Who, want)
			if err != nil {
				return CreatedToken{}, err
			}
			return CreatedToken{t, secret}, c.forgotten(ctx, before, t.CreatedAt)
		},
	})
	ShowToken = define(Operation[TokenName, identity.Token]{
		Route: Route{ID: "showToken", Method: http.MethodGet, Path: "/tokens/{token}", Capability: identity.Administer,
			Words: "Show API token", Summary: "An API token, without its secret"},
		Run: func(ctx context.Context, c *Caller, in TokenName) (identity.Token, error) {
			list, err := c.Identity.Tokens(ctx)
			return named(list, err, func(t identity.Token) bool { return t.ID == in.Token }, "there is no API token of that ID")
		},
	})
	RevokeToken = define(Operation[TokenName, identity.Token]{
		Route: Route{ID: "revokeToken", Method: http.MethodDelete, Path: "/tokens/{token}", Capability: identity.Administer, Effects: TakesAccess, Urgency: Urgent,
			Words: "Revoke API token", Summary: "Refuse an API token from now on"},
		Subject: func(ctx context.Context, c *Caller, in TokenName) any {
			list, _ := c.Identity.Tokens(ctx)
			return oneOf(list, func(t identity.Token) bool { return t.ID == in.Token })
		},
		Run: func(ctx context.Context, c *Caller, in TokenName) (identity.Token, error) {
			return c.Identity.RevokeToken(ctx, in.Token)
		},
	})
)

// forgotten records which API tokens were dropped with the making of a new one.
func (c *Caller) forgotten(ctx context.Context, all []identity.Token, at time.Time) error {
	for _, t := range all {
		if !t.Forgotten(at) {
			continue
		}
		o := objectIn(t)
		rec := &audit.Record{Kind: audit.KindAdmin, Operation: forgetToken, Result: audit.Allowed, Actor: "holdfast", Action: "Forget API token",
			ObjectKind: o.kind, ObjectID: o.id, Object: o.words, Before: encoded(t)}
		if err := c.write(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// forgetToken is the operation of the record that an API token is not kept any more.
const forgetToken = "forget API token"
