package identity

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Seals authenticates rows under the state key of the installation;
// [*appliance.Seals] is one, and says what it does in each state.
type Seals interface {
	Writing() (written func())
	Installed(ctx context.Context) (bool, error)
	Seal(ctx context.Context, b appliance.Binding) ([]byte, error)
	Verify(ctx context.Context, b appliance.Binding, seal []byte) error
	Renew(ctx context.Context, b appliance.Binding, seal []byte) ([]byte, error)
	Admit(b appliance.Binding, seal []byte) error
	Held() error
	SealShared(b appliance.Binding, secret []byte) ([]byte, error)
	OpenShared(b appliance.Binding, sealed []byte) ([]byte, error)
	MACShared(b appliance.Binding) ([]byte, error)
}

// rows is a [Store] whose rows are authenticated: what it gives has a good seal, or
// says that it has not.
//
// While the appliance is locked only the machine's seal can be looked at. Users that have
// it may sign in then, as somebody has to give the HSM's PIN, and are marked as unverified;
// invitations and API tokens are refused, and so is every change.
//
// A session has two seals. That of all unlocked nodes decides while the appliance is
// unlocked, so that a session goes on at another node, and after a restart. One of this
// process decides otherwise: while the appliance is locked or held a session is good as long as
// this process has it in memory. One that has ended leaves a row that it is spent, so that it is
// not good again on any node when its own row is put back.
//
// While the state is held, its rows may be those of an earlier one: nobody can tell
// whether an API token was revoked since, so all are refused. People sign in.
type rows struct {
	Store
	seals   Seals
	log     *slog.Logger
	process processKey
	told    sync.Map // what was refused and logged, by its ID: once is enough

	mu    sync.Mutex
	live  map[string]liveSession // by ID: the sessions that this process has made and not ended
	spent map[string]Spent       // by ID: what was used up in this process alone
	ended map[string]Spent       // by ID of the session: ended while no other node could be told
}

// refuse logs that a row is refused.
func (r *rows) refuse(what, name, id, remedy string) {
	if _, before := r.told.LoadOrStore(what+id, true); !before {
		r.log.Error(what+" is refused: the row does not match its seal, so the database was changed by hand; "+remedy, "name", name, "id", id)
	}
}

func newRows(store Store, seals Seals, log *slog.Logger) *rows {
	return &rows{Store: store, seals: seals, log: log, process: newProcessKey(), live: map[string]liveSession{}, spent: map[string]Spent{}, ended: map[string]Spent{}}
}

func accountBinding(text []byte) appliance.Binding {
	return appliance.Binding{Purpose: "user", Fields: []string{string(text)}}
}

// Text is the origin as it is stored, in JSON.
func (o Origin) Text() string {
	text, _ := json.Marshal(o) // never fails: it is strings and a time
	return string(text)
}

// Binding names the invitation with all that it admits to.
func (i *Invitation) Binding() appliance.Binding {
	return appliance.Binding{Purpose: "invitation", Fields: []string{i.ID, i.Name, string(i.Role), i.InvitedBy,
		appliance.BindTime(i.CreatedAt), appliance.BindTime(i.ExpiresAt), strconv.FormatBool(i.Setup), hex.EncodeToString(i.Digest), i.Origin.Text()}}
}

// Binding names the token with all that it may do. Its last use is left out. That of a token from
// before there were scopes has a field less, so a scope can neither be taken away nor be given.
func (t *Token) Binding() appliance.Binding {
	b := appliance.Binding{Purpose: "api-token", Fields: []string{t.ID, t.Name, string(t.Role), t.CreatedBy,
		appliance.BindTime(t.CreatedAt), appliance.BindTime(t.ExpiresAt), appliance.BindTime(t.RevokedAt), hex.EncodeToString(t.Digest), t.Origin.Text()}}
	if t.Scope != nil {
		b.Fields = append(b.Fields, t.Scope.Text())
	}
	return b
}

// Binding names the session with whose it is. Its last use is left out: who can
// write to the database could keep an idle session, but none beyond its end.
func (s *Session) Binding() appliance.Binding {
	return appliance.Binding{Purpose: "session", Fields: []string{s.ID, s.UserID, s.Address, s.UserAgent,
		appliance.BindTime(s.CreatedAt), appliance.BindTime(s.ExpiresAt), appliance.BindTime(s.ProvenAt), hex.EncodeToString(s.Digest)}}
}

// check marks an account whose seal is not good, or cannot be looked at. An error of
// fault.MachineKey says that not even the machine's can.
func (r *rows) check(ctx context.Context, a *Account) error {
	switch err := r.seals.Verify(ctx, accountBinding(a.Sealed), a.Seal); fault.CodeOf(err) {
	case "":
	case fault.Locked:
		a.Unverified = true
	case fault.MachineKey:
		a.Unverified = true
		return err
	case fault.Tampered:
		a.Refused = true
		r.refuse("a user", a.Name, a.ID, "remove the user, and invite them again")
	default:
		return err
	}
	return nil
}

// good gives an account that is not refused; fault.NotFound.
func (r *rows) good(ctx context.Context, a *Account, err error) (*Account, error) {
	if err == nil {
		err = r.check(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	if a.Refused {
		return nil, fault.Errorf(fault.NotFound, "there is no such user")
	}
	return a, nil
}

// Accounts gives also those that are refused, marked.
func (r *rows) Accounts(ctx context.Context) ([]*Account, error) {
	all, err := r.Store.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	return all, r.checkAll(ctx, all)
}

func (r *rows) checkAll(ctx context.Context, all []*Account) error {
	for _, a := range all {
		if err := r.check(ctx, a); err != nil && fault.CodeOf(err) != fault.MachineKey {
			return err
		}
	}
	return nil
}

func (r *rows) Account(ctx context.Context, id string) (*Account, error) {
	a, err := r.Store.Account(ctx, id)
	return r.good(ctx, a, err)
}

func (r *rows) AccountByName(ctx context.Context, name string) (*Account, error) {
	a, err := r.Store.AccountByName(ctx, name)
	return r.good(ctx, a, err)
}

func (r *rows) AccountByOIDC(ctx context.Context, email string) (*Account, error) {
	a, err := r.Store.AccountByOIDC(ctx, email)
	return r.good(ctx, a, err)
}

func (r *rows) CreateAccount(ctx context.Context, a *Account, invitation []byte, first Rule) error {
	defer r.seals.Writing()()
	if err := r.seal(ctx, a); err != nil {
		return err
	}
	return r.Store.CreateAccount(ctx, a, invitation, r.checked(ctx, first))
}

// seal seals an account as it is.
func (r *rows) seal(ctx context.Context, a *Account) (err error) {
	if a.Sealed, err = a.Text(); err != nil {
		return err
	}
	a.Seal, err = r.seals.Seal(ctx, accountBinding(a.Sealed))
	return err
}

func (r *rows) UpdateAccount(ctx context.Context, id string, f func(*Account) error, rule Rule) (*Account, error) {
	defer r.seals.Writing()()
	return r.Store.UpdateAccount(ctx, id, func(a *Account) error {
		if _, err := r.good(ctx, a, nil); err != nil {
			return err
		}
		if err := f(a); err != nil {
			return err
		}
		text, err := a.Text()
		if err != nil || string(text) == string(a.Sealed) {
			return err // what changed has no seal
		}
		return r.seal(ctx, a)
	}, r.checked(ctx, rule))
}

// DeleteAccount removes a user as it is now. When somebody else changes it meanwhile,
// it is removed all the same.
func (r *rows) DeleteAccount(ctx context.Context, id string, rule Rule) error {
	for attempt := 1; ; attempt++ {
		a, err := r.Store.Account(ctx, id)
		if err != nil {
			return err
		}
		err = r.Store.DeleteAccount(ctx, a, r.checked(ctx, rule))
		if err == nil {
			r.forget(func(_ string, s liveSession) bool { return s.user == id })
		}
		if fault.CodeOf(err) != fault.Changed || attempt == 3 {
			return err
		}
	}
}

// checked is a rule that is told which users are refused.
func (r *rows) checked(ctx context.Context, rule Rule) Rule {
	if rule == nil {
		return nil
	}
	return func(all []*Account) error {
		if err := r.checkAll(ctx, all); err != nil {
			return err
		}
		return rule(all)
	}
}

func (r *rows) CreateInvitation(ctx context.Context, i *Invitation) (err error) {
	defer r.seals.Writing()()
	if i.Seal, err = r.seals.Seal(ctx, i.Binding()); err != nil {
		return err
	}
	return r.Store.CreateInvitation(ctx, i)
}

func (r *rows) Invitation(ctx context.Context, digest []byte) (*Invitation, error) {
	i, err := r.Store.Invitation(ctx, digest)
	if err != nil {
		return nil, err
	}
	if err := r.seals.Verify(ctx, i.Binding(), i.Seal); fault.CodeOf(err) == fault.Tampered {
		r.refuse("an invitation", i.Name, i.ID, "take the invitation back")
		return nil, fault.Errorf(fault.NotFound, "there is no such invitation")
	} else if err != nil {
		return nil, err
	}
	return i, nil
}

func (r *rows) CreateToken(ctx context.Context, t *Token) (err error) {
	defer r.seals.Writing()()
	if t.Seal, err = r.seals.Seal(ctx, t.Binding()); err != nil {
		return err
	}
	return r.Store.CreateToken(ctx, t)
}

// Tokens gives also those that are refused, marked.
func (r *rows) Tokens(ctx context.Context) ([]Token, error) {
	all, err := r.Store.Tokens(ctx)
	for i := range all {
		t := &all[i]
		switch err := r.seals.Verify(ctx, t.Binding(), t.Seal); fault.CodeOf(err) {
		case "", fault.Locked, fault.MachineKey:
		case fault.Tampered:
			t.Refused = true
		default:
			return nil, err
		}
	}
	return all, err
}

func (r *rows) Token(ctx context.Context, digest []byte) (*Token, error) {
	t, err := r.Store.Token(ctx, digest)
	if err != nil {
		return nil, err
	}
	if held := r.seals.Held(); held != nil {
		return nil, fault.Errorf(fault.Locked, "the state is held (%s), and nobody can tell whether an API token was revoked: sign in as a person, or use the socket on the machine", fault.CodeOf(held))
	}
	switch err := r.seals.Verify(ctx, t.Binding(), t.Seal); fault.CodeOf(err) {
	case "":
		return t, nil
	case fault.Tampered:
		r.refuse("an API token", t.Name, t.ID, "revoke the token, and make another one")
		return nil, fault.Errorf(fault.NotFound, "there is no such API token")
	default:
		return nil, err
	}
}

// RevokeToken has a token refused from now on. One whose seal is not good gets
// none: it is refused with or without.
func (r *rows) RevokeToken(ctx context.Context, id string, at time.Time) (*Token, error) {
	defer r.seals.Writing()()
	return r.UpdateToken(ctx, id, func(t *Token) error {
		err := r.seals.Verify(ctx, t.Binding(), t.Seal)
		refused := fault.CodeOf(err) == fault.Tampered
		if err != nil && !refused {
			return err
		}
		if t.RevokedAt.IsZero() {
			t.RevokedAt = at
		}
		if t.Seal = nil; refused {
			t.Refused = true
			return nil
		}
		t.Seal, err = r.seals.Seal(ctx, t.Binding())
		return err
	})
}

// RenewSeals gives all rows that are good the seal of this machine too; each unlock calls
// it, if the machine's key is another than before.
func (d *Directory) RenewSeals(ctx context.Context) error {
	r := d.rows
	defer r.seals.Writing()()
	renew := func(b appliance.Binding, seal *[]byte) error {
		again, err := r.seals.Renew(ctx, b, *seal)
		if fault.CodeOf(err) == fault.Tampered {
			return nil // it stays as it is: refused
		}
		if err == nil {
			*seal = again
		}
		return err
	}
	return r.SealRows(ctx, func(a *Account) error { return renew(accountBinding(a.Sealed), &a.Seal) },
		func(i *Invitation) error { return renew(i.Binding(), &i.Seal) },
		func(t *Token) error { return renew(t.Binding(), &t.Seal) })
}

// EachSealed hands all users, invitations and API tokens of a store to f, with what their
// seals are of: for a store that is verified offline.
func EachSealed(ctx context.Context, s Store, f func(kind, id string, b appliance.Binding, seal []byte) error) error {
	users, err := s.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, a := range users {
		if err := f(appliance.DamagedUser, a.Name, accountBinding(a.Sealed), a.Seal); err != nil {
			return err
		}
	}
	invitations, err := s.Invitations(ctx)
	if err != nil {
		return err
	}
	for _, i := range invitations {
		if err := f(appliance.DamagedInvitation, i.ID, i.Binding(), i.Seal); err != nil {
			return err
		}
	}
	tokens, err := s.Tokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if err := f(appliance.DamagedToken, t.Name, t.Binding(), t.Seal); err != nil {
			return err
		}
	}
	return nil
}
