package operation

import (
	"context"
	"net/http"

	"holdfast/appliance/identity"
)

// NewInvitation asks for a one-time link that makes a user.
type NewInvitation struct {
	Name string        `json:"name" jsonschema:"The name of the user whom the link makes." example:"bob" pattern:"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"`
	Role identity.Role `json:"role" jsonschema:"The role of the new user." example:"auditor"`
}

// CreatedInvitation shows the link's token for the only time. The link is
// /invitation/ and the token, on the console.
type CreatedInvitation struct {
	identity.Invitation
	Token string `json:"token" jsonschema:"The secret part of the link, which is the console's address, /invitation/ and this. It is shown this once."`
}

func (i CreatedInvitation) withoutSecret() any { return i.Invitation }

// InvitationName names an invitation by the ID.
type InvitationName struct {
	Invitation string `path:"invitation" json:"-" about:"The ID of the invitation; not the token of its link."`
}

// InvitationPage asks for a page of the invitations.
type InvitationPage struct {
	Paging
	Name string        `query:"name" about:"only invitations of a name that has this text in it" json:"-"`
	Role identity.Role `query:"role" enum:"viewer,auditor,key-administrator,administrator" about:"only invitations with this role" json:"-"`
}

// The operations on invitations.
var (
	ListInvitations = defineList(Listing[InvitationPage, identity.Invitation]{
		Route: Route{ID: "listInvitations", Method: http.MethodGet, Path: "/invitations", Capability: identity.Administer,
			Words: "List invitations", Summary: "Invitations that nobody has used yet"},
		ID: func(i identity.Invitation) string { return i.ID },
		By: []Order[identity.Invitation]{
			{"name", func(i identity.Invitation) string { return textKey(i.Name) }},
			{"created", func(i identity.Invitation) string { return timeKey(i.CreatedAt) }},
			{"expires", func(i identity.Invitation) string { return timeKey(i.ExpiresAt) }},
		},
		Default: "-created",
		All: func(ctx context.Context, c *Caller, in InvitationPage) ([]identity.Invitation, error) {
			all, err := c.Identity.Invitations(ctx)
			return keep(all, err, func(i identity.Invitation) bool { return contains(i.Name, in.Name) && is(i.Role, in.Role) })
		},
	})
	CreateInvitation = define(Operation[NewInvitation, CreatedInvitation]{
		Route: Route{ID: "createInvitation", Method: http.MethodPost, Path: "/invitations", Makes: "/invitations/{id}", Capability: identity.Administer, BeyondScope: true, Effects: GivesAccess | Decides, Urgency: Ordinary,
			Words: "Create invitation", Summary: "Invite a user by a one-time link"},
		Subject: makes[NewInvitation],
		Check: func(ctx context.Context, c *Caller, in NewInvitation) error {
			return c.Identity.CheckInvite(ctx, c.Who, in.Name, in.Role)
		},
		Run: func(ctx context.Context, c *Caller, in NewInvitation) (CreatedInvitation, error) {
			i, token, err := c.Identity.Invite(ctx, c.Who, in.Name, in.Role)
			return CreatedInvitation{i, token}, err
		},
	})
	ShowInvitation = define(Operation[InvitationName, identity.Invitation]{
		Route: Route{ID: "showInvitation", Method: http.MethodGet, Path: "/invitations/{invitation}", Capability: identity.Administer,
			Words: "Show invitation", Summary: "An invitation that nobody has used yet, without its link"},
		Run: func(ctx context.Context, c *Caller, in InvitationName) (identity.Invitation, error) {
			list, err := c.Identity.Invitations(ctx)
			return named(list, err, func(i identity.Invitation) bool { return i.ID == in.Invitation }, "there is no invitation of that ID that nobody has used yet")
		},
	})
	RevokeInvitation = define(Operation[InvitationName, Nothing]{
		Route: Route{ID: "revokeInvitation", Method: http.MethodDelete, Path: "/invitations/{invitation}", Capability: identity.Administer, Effects: TakesAccess, Urgency: Urgent,
			Words: "Revoke invitation", Summary: "Take an invitation back"},
		Subject: func(ctx context.Context, c *Caller, in InvitationName) any {
			list, _ := c.Identity.Invitations(ctx)
			return oneOf(list, func(i identity.Invitation) bool { return i.ID == in.Invitation })
		},
		Run: func(ctx context.Context, c *Caller, in InvitationName) (Nothing, error) {
			return Nothing{}, c.Identity.RevokeInvitation(ctx, in.Invitation)
		},
	})
)
