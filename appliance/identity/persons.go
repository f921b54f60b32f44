package identity

import (
	"context"
	"maps"
	"slices"

	"holdfast/appliance/fault"
)

// Two users may be one person: who asks for an invitation has its link, and can be
// the one who enrols by it. So a user does not count as the second person for
// anything that is asked by somebody who helped to make that user.
//
// Who helped is kept with a user that is made while four eyes are on. Users who were
// there when they were switched on count as different persons: until then each
// administrator could do everything alone. What is kept names everybody in whose
// hands the makers were, so that it says the same when a maker is removed.

// origin is that of an identity which a principal makes now.
func (d *Directory) origin(ctx context.Context, by Principal) (Origin, error) {
	all, err := d.rows.Accounts(ctx)
	if err != nil {
		return Origin{}, err
	}
	found := map[string]bool{}
	for _, id := range by.persons() {
		newPeople(all).hands(id, found)
	}
	return Origin{MadeBy: slices.Sorted(maps.Keys(found)), ApprovedBy: by.ApproverID, MadeAt: d.stamp()}, nil
}

// ofUser is the origin that a user gets: none while four eyes are off.
func (d *Directory) ofUser(ctx context.Context, o Origin) (Origin, error) {
	on, err := d.fourEyes(ctx)
	if err != nil || !on {
		return Origin{}, err
	}
	return o, nil
}

// AllArePersons has all users count as different persons from now on: four eyes are
// about to be switched on.
func (d *Directory) AllArePersons(ctx context.Context) error {
	defer d.rows.seals.Writing()()
	keep := func(*Invitation) error { return nil }
	return d.rows.SealRows(ctx, func(a *Account) error {
		if err := d.rows.check(ctx, a); err != nil || a.Refused || len(a.MadeBy) == 0 && a.ApprovedBy == "" {
			return err
		}
		a.Origin = Origin{}
		return d.rows.seal(ctx, a)
	}, keep, func(*Token) error { return nil })
}

// and adds those who gave an identity another way to sign in.
func (o Origin) and(by Origin) Origin {
	o.MadeBy = slices.Compact(slices.Sorted(slices.Values(slices.Concat(o.MadeBy, by.MadeBy))))
	if by.ApprovedBy != "" {
		o.ApprovedBy = by.ApprovedBy
	}
	o.MadeAt = by.MadeAt
	return o
}

// people knows which users may be the same person.
type people struct {
	accounts map[string]*Account
}

func newPeople(all []*Account) people {
	p := people{map[string]*Account{}}
	for _, a := range all {
		p.accounts[a.ID] = a
	}
	return p
}

// hands are the users in whose hands an identity is, or may be: itself, those who
// had the link that made it, and those in whose hands they are.
func (p people) hands(id string, found map[string]bool) map[string]bool {
	if found[id] {
		return found
	}
	found[id] = true
	if a := p.accounts[id]; a != nil {
		for _, maker := range a.MadeBy {
			p.hands(maker, found)
		}
	}
	return found
}

// second says why a user does not count as the second person for what the asking
// users ask; nil if they do.
func (p people) second(approver string, asking []string) error {
	a := p.accounts[approver]
	if a == nil {
		return fault.Errorf(fault.Forbidden, "you are no user any more; sign in again")
	}
	own := p.hands(approver, map[string]bool{})
	for _, asker := range asking {
		if asker == unknownMaker {
			return fault.Errorf(fault.Forbidden, "nobody knows whose the API token is that asked for this: make another token, and ask with that")
		}
		if asker == approver {
			return fault.Errorf(fault.Forbidden, "you asked for this yourself: another person has to approve it")
		}
		if b := p.accounts[asker]; b != nil && a.Subject != "" && a.Subject == b.Subject {
			return fault.Errorf(fault.Forbidden, "you and %s sign in as the same person at the OpenID provider: another person has to approve it", b.Name)
		}
		theirs := p.hands(asker, map[string]bool{})
		if theirs[a.ApprovedBy] {
			return fault.Errorf(fault.Forbidden, "%s, who asked for this, helped to make your user: another person has to approve it", p.name(a.ApprovedBy))
		}
		for id := range own {
			if theirs[id] {
				return fault.Errorf(fault.Forbidden, "you and the one who asked may be the same person, as %s helped to make a user: another person has to approve it", p.name(id))
			}
		}
	}
	return nil
}

// unknownMaker stands for the maker of a token of an earlier release, if it is not
// known.
const unknownMaker = "unknown"

func (p people) name(id string) string {
	if a := p.accounts[id]; a != nil {
		return a.Name
	}
	return "a user who was removed"
}

// pair says whether there are two administrators each of whom can approve what the
// other one asks.
func (p people) pair() bool {
	var administrators []*Account
	for _, a := range p.accounts {
		if a.Role == RoleAdministrator && !a.Disabled && !a.Refused {
			administrators = append(administrators, a)
		}
	}
	for i, a := range administrators {
		for _, b := range administrators[:i] {
			if p.second(a.ID, []string{b.ID}) == nil && p.second(b.ID, []string{a.ID}) == nil {
				return true
			}
		}
	}
	return false
}

// MayApprove says why a user may not be the second person for what the principal
// has asked; nil if they may. fault.Forbidden.
func (d *Directory) MayApprove(ctx context.Context, approver string, asker Principal) error {
	all, err := d.rows.Accounts(ctx)
	if err != nil {
		return err
	}
	return newPeople(all).second(approver, asker.persons())
}

// TwoCanApprove says why nothing may be made to need two persons; nil if it may.
// fault.Conflict.
func (d *Directory) TwoCanApprove(ctx context.Context) error {
	all, err := d.rows.Accounts(ctx)
	if err != nil {
		return err
	}
	on, err := d.fourEyes(ctx)
	if err != nil {
		return err
	}
	if !on {
		for _, a := range all { // they will count as different persons
			a.Origin = Origin{}
		}
	}
	return twoCanApprove(all)
}

func twoCanApprove(all []*Account) error {
	if !newPeople(all).pair() {
		return fault.Errorf(fault.Conflict, "there would not be two administrators who can approve for each other, and nobody could change that again; invite another administrator first, or switch four eyes off")
	}
	return nil
}

func (d *Directory) fourEyes(ctx context.Context) (on bool, err error) {
	if d.FourEyes == nil {
		return false, nil
	}
	return d.FourEyes(ctx)
}

// enough gives the rule that enough administrators are left.
func (d *Directory) enough(ctx context.Context) (Rule, error) {
	on, err := d.fourEyes(ctx)
	if err != nil {
		return nil, err
	}
	if on { // what is not there cannot be taken away, and must not keep anybody from mending it
		before, err := d.rows.Accounts(ctx)
		if err != nil {
			return nil, err
		}
		on = newPeople(before).pair()
	}
	return func(all []*Account) error {
		if !slices.ContainsFunc(all, func(a *Account) bool { return a.Role == RoleAdministrator && !a.Disabled && !a.Refused }) {
			return fault.Errorf(fault.Conflict, "no administrator would be left; make another one first")
		}
		if on {
			return twoCanApprove(all)
		}
		return nil
	}, nil
}

// stillEnough says whether enough administrators would be left if a user were as
// changed, or removed if that is nil.
func (d *Directory) stillEnough(ctx context.Context, id string, changed *Account) error {
	rule, err := d.enough(ctx)
	if err != nil {
		return err
	}
	all, err := d.rows.Accounts(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(a *Account) bool { return a.ID == id })
	if changed != nil {
		all = append(all, changed)
	}
	return rule(all)
}

// Principal gives who asked for something, a user or the bearer of a token, with
// the role of now. fault.NotFound if they may not do anything any more.
func (d *Directory) Principal(ctx context.Context, userID, tokenID string) (Principal, error) {
	gone := fault.Errorf(fault.NotFound, "there is no such user or API token any more")
	if tokenID == "" {
		a, err := d.rows.Account(ctx, userID)
		if err == nil && a.Disabled {
			err = gone
		}
		if err != nil {
			return Principal{}, err
		}
		return Principal{UserID: a.ID, Name: a.Name, Role: a.Role, Unverified: a.Unverified}, nil
	}
	all, err := d.rows.Tokens(ctx)
	if err != nil {
		return Principal{}, err
	}
	i := slices.IndexFunc(all, func(t Token) bool { return t.ID == tokenID })
	if i < 0 || all[i].Refused || !all[i].RevokedAt.IsZero() || !d.Now().Before(all[i].ExpiresAt) {
		return Principal{}, gone
	}
	return all[i].principal(), nil
}

// Still gives a principal as they are now, with the role of now: a request may be under
// way for long, and its caller may be stopped meanwhile. When they proved to be present
// stays as it was. Root on the machine itself cannot be stopped. ErrProof if the session
// has ended, the API token is not good any more, or the user may not sign in.
func (d *Directory) Still(ctx context.Context, was Principal) (Principal, error) {
	if was.UserID == "" && was.Token == "" {
		return was, nil
	}
	now, err := d.Principal(ctx, was.UserID, was.Token)
	if fault.CodeOf(err) == fault.NotFound {
		err = ErrProof
	}
	if err != nil {
		return Principal{}, err
	}
	if was.Session != "" {
		live, err := d.Sessions(ctx, was.UserID)
		if err != nil {
			return Principal{}, err
		}
		if !slices.ContainsFunc(live, func(s Session) bool { return s.ID == was.Session }) {
			return Principal{}, ErrProof
		}
	}
	was.Role, was.Unverified, was.Scope = now.Role, now.Unverified, now.Scope
	return was, nil
}
