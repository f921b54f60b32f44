package identity_test

import (
	"context"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// unwritable is a store in which uses cannot be noted.
type unwritable struct {
	identity.Store
	why error // nil: they can
}

func (s *unwritable) TouchSession(ctx context.Context, id string, at time.Time) error {
	if s.why != nil {
		return s.why
	}
	return s.Store.TouchSession(ctx, id, at)
}

func (s *unwritable) TouchToken(ctx context.Context, id string, at time.Time) error {
	if s.why != nil {
		return s.why
	}
	return s.Store.TouchToken(ctx, id, at)
}

func (s *unwritable) UpdateSession(ctx context.Context, id string, change func(*identity.Session) error) error {
	if s.why != nil {
		return s.why
	}
	return s.Store.UpdateSession(ctx, id, change)
}

func (s *unwritable) Spend(ctx context.Context, u identity.Spent) error {
	if s.why != nil {
		return s.why
	}
	return s.Store.Spend(ctx, u)
}

// TestUseThatCannotBeNoted: whatever is wrong with the fleet or its database, people and tools go
// on with sessions and tokens that are good, and with no others. Another trouble is told.
func TestUseThatCannotBeNoted(t *testing.T) {
	ctx := t.Context()
	s := &unwritable{}
	a, _, _ := two(t, func(c *identity.Config) { s.Store, c.Store = c.Store, s })
	u := a.enrol("alice", identity.RoleAdministrator)
	p, err := a.Session(ctx, u.token, true)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := a.CreateToken(ctx, p, identity.NewToken{Name: "ci", Role: identity.RoleAuditor, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	a.vault.set(false, true)
	a.pass(2 * time.Minute)
	local, err := a.SignInPassword(ctx, "alice", password, a.code(u.secret), from)
	if err != nil {
		t.Fatal(err)
	}
	a.vault.set(false, false)
	uses := map[string]func() error{
		"a session":                        func() error { return errorOf(a.Session(ctx, u.token, true)) },
		"a session that others know not":   func() error { return errorOf(a.Session(ctx, local.Token, true)) },
		"an API token":                     func() error { return errorOf(a.Bearer(ctx, secret, from)) },
		"a session of a page that watches": func() error { return errorOf(a.Session(ctx, u.token, false)) },
	}
	all := func(when string, wanted func(what string, e fault.Entry) fault.Code) {
		for _, e := range fault.All() {
			if e.Code == fault.NotFound || e.Code == fault.Exists { // it is gone, or told already
				continue
			}
			s.why = fault.Errorf(e.Code, "a test")
			for what, use := range uses {
				wants(t, when+", "+what+", "+string(e.Code), use(), wanted(what, e))
			}
		}
	}
	all("good", func(what string, e fault.Entry) fault.Code {
		if e.Code.OfFleet() || what == "a session of a page that watches" {
			return ""
		}
		return e.Code
	})
	delete(uses, "an API token")
	a.pass(a.Idle)
	delete(uses, "a session that others know not") // it ends with no word to them, once
	all("expired", func(what string, e fault.Entry) fault.Code {
		if e.Code.OfFleet() {
			return fault.Unauthenticated
		}
		return e.Code
	})
}
