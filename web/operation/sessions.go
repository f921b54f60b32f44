package operation

import (
	"context"
	"net/http"
	"strings"

	"holdfast/appliance/identity"
)

// Ended is how many sessions were.
type Ended struct {
	Sessions int `json:"sessions" jsonschema:"How many sessions were ended."`
}

// SessionName names a session by the ID.
type SessionName struct {
	Session string `path:"session" json:"-" about:"The ID of the session."`
}

func sessionSubject(ctx context.Context, c *Caller, in SessionName) any {
	list, _ := c.Identity.Sessions(ctx, "")
	return oneOf(list, func(s identity.Session) bool { return s.ID == in.Session })
}

// sessions gives those of a user, or of all, with the caller's own marked.
func (c *Caller) sessions(ctx context.Context, user string) ([]identity.Session, error) {
	list, err := c.Identity.Sessions(ctx, user)
	for i := range list {
		list[i].Current = list[i].ID == c.Who.Session
	}
	return list, err
}

// session gives one of a user, or of all. fault.NotFound.
func (c *Caller) session(ctx context.Context, user string, in SessionName) (identity.Session, error) {
	list, err := c.sessions(ctx, user)
	return named(list, err, func(s identity.Session) bool { return s.ID == in.Session }, "there is no session of that ID, or it has ended")
}

// SessionPage asks for a page of sessions.
type SessionPage struct {
	Paging
	User    string `query:"user" about:"only sessions of users whose name has this text in it" json:"-"`
	Address string `query:"address" about:"only sessions whose address begins so" json:"-"`
}

func (p SessionPage) has(s identity.Session) bool {
	return contains(s.UserName, p.User) && strings.HasPrefix(s.Address, p.Address)
}

var sessionOrders = []Order[identity.Session]{
	{"user", func(s identity.Session) string { return textKey(s.UserName) }},
	{"created", func(s identity.Session) string { return timeKey(s.CreatedAt) }},
	{"last_seen", func(s identity.Session) string { return timeKey(s.LastSeenAt) }},
}

// The operations on sessions.
var (
	ListSessions = defineList(Listing[SessionPage, identity.Session]{
		Route: Route{ID: "listSessions", Method: http.MethodGet, Path: "/sessions", Capability: identity.Administer,
			Words: "List sessions", Summary: "The sessions of all users, the last seen first"},
		ID: func(s identity.Session) string { return s.ID },
		By: sessionOrders, Default: "-last_seen",
		All: func(ctx context.Context, c *Caller, in SessionPage) ([]identity.Session, error) {
			all, err := c.sessions(ctx, "")
			return keep(all, err, in.has)
		},
	})
	ShowSession = define(Operation[SessionName, identity.Session]{
		Route: Route{ID: "showSession", Method: http.MethodGet, Path: "/sessions/{session}", Capability: identity.Administer,
			Words: "Show session", Summary: "A session of any user"},
		Run: func(ctx context.Context, c *Caller, in SessionName) (identity.Session, error) {
			return c.session(ctx, "", in)
		},
	})
	RevokeSession = define(Operation[SessionName, Nothing]{
		Route: Route{ID: "revokeSession", Method: http.MethodDelete, Path: "/sessions/{session}", Capability: identity.Administer, Effects: TakesAccess, Urgency: Urgent,
			Words: "End session", Summary: "End a session"},
		Subject: sessionSubject,
		Run: func(ctx context.Context, c *Caller, in SessionName) (Nothing, error) {
			return Nothing{}, c.Identity.RevokeSession(ctx, in.Session)
		},
	})
	ListOwnSessions = defineList(Listing[SessionPage, identity.Session]{
		Route: Route{ID: "ownSessions", Method: http.MethodGet, Path: "/account/sessions", Capability: identity.Self, Conflicts: true,
			Words: "List own sessions", Summary: "One's own sessions, the last seen first"},
		ID: func(s identity.Session) string { return s.ID },
		By: sessionOrders, Default: "-last_seen",
		All: func(ctx context.Context, c *Caller, in SessionPage) ([]identity.Session, error) {
			id, err := c.user()
			if err != nil {
				return nil, err
			}
			all, err := c.sessions(ctx, id)
			return keep(all, err, in.has)
		},
	})
	ShowOwnSession = define(Operation[SessionName, identity.Session]{
		Route: Route{ID: "showOwnSession", Method: http.MethodGet, Path: "/account/sessions/{session}", Capability: identity.Self, Conflicts: true,
			Words: "Show own session", Summary: "One of one's own sessions"},
		Run: own(func(ctx context.Context, c *Caller, user string, in SessionName) (identity.Session, error) {
			return c.session(ctx, user, in)
		}),
	})
	SignOutEverywhere = define(Operation[Nothing, Ended]{
		Route: Route{ID: "signOutEverywhere", Method: http.MethodPost, Path: "/account/sign-out", Capability: identity.Self, WhileLocked: true, Urgency: Urgent,
			Words: "Sign out everywhere", Summary: "End all of one's own sessions"},
		Subject: apart[Nothing],
		Run: func(ctx context.Context, c *Caller, _ Nothing) (Ended, error) {
			id, err := c.user()
			if err != nil {
				return Ended{}, err
			}
			n, err := c.Identity.RevokeSessions(ctx, id)
			return Ended{n}, err
		},
	})
	RevokeOwnSession = define(Operation[SessionName, Nothing]{
		Route: Route{ID: "revokeOwnSession", Method: http.MethodDelete, Path: "/account/sessions/{session}", Capability: identity.Self, WhileLocked: true, Urgency: Urgent,
			Words: "End own session", Summary: "End one of one's own sessions"},
		Subject: func(ctx context.Context, c *Caller, in SessionName) any { // a session of another user is nothing that the caller may see
			if c.Who.UserID == "" {
				return nil
			}
			s, err := c.session(ctx, c.Who.UserID, in)
			return found(&s, err)
		},
		Run: func(ctx context.Context, c *Caller, in SessionName) (Nothing, error) {
			id, err := c.user()
			if err != nil {
				return Nothing{}, err
			}
			if _, err := c.session(ctx, id, in); err != nil {
				return Nothing{}, err
			}
			return Nothing{}, c.Identity.RevokeSession(ctx, in.Session)
		},
	})
)
