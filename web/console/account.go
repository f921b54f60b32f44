package console

import (
	"errors"
	"fmt"
	"time"

	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// wayBack is what a user is told of their ways to sign in: on the overview and their own page, and
// nowhere else.
type wayBack struct {
	uses       []identity.RecoveryUse // of recovery codes, that the user has not said to know of
	left       int                    // recovery codes
	few        bool                   // they are few
	only       string                 // the one way to sign in; empty if there is another
	byCode     bool                   // one was used in this session, which so cannot confirm it
	confirm    ui.Form
	onAccount  bool
	canPasskey bool
}

// fewCodes is from how many recovery codes on a user is asked to make new ones.
const fewCodes = 3

// wayBack finds out what a user should know or do so that they can always sign in. A user who has
// one passkey and nothing else cannot, once they lose it; one with a password has recovery codes.
func (p *page) wayBack(u *identity.User) wayBack {
	b := wayBack{onAccount: p.URL.Path == "/account", canPasskey: p.c.Identity.PasskeysEnabled()}
	if u == nil {
		return b
	}
	b.uses, b.left = u.RecoveryUses, u.RecoveryCodes
	for _, use := range b.uses {
		b.byCode = b.byCode || use.Session == p.who.Session
	}
	if n := len(b.uses); n > 0 {
		b.confirm = p.form(operation.ConfirmRecoveryUses, "", ui.Form{Kind: "quiet"}, "until", b.uses[n-1].At.Format(time.RFC3339Nano))
	}
	if u.Ways() == 1 && (!u.Password || b.left == 0) {
		b.only = ways(u)
	}
	b.few = b.only == "" && u.Password && b.left <= fewCodes
	return b
}

type accountData struct {
	*operation.Account
	now               time.Time
	sessions          listed[identity.Session]
	end               map[string]ui.Form
	remove            map[string]ui.Form // passkeys
	everywhere, codes ui.Form
	password          ui.Form
	wayBack           wayBack
	passkeys          bool // can be made here
	fresh             bool // the proof of presence is
	shortcutsOff      bool
}

func account(p *page) (*view, error) {
	d := &accountData{now: p.now, end: map[string]ui.Form{}, remove: map[string]ui.Form{}, passkeys: p.c.Identity.PasskeysEnabled(), shortcutsOff: shortcutsOff(p.Request)}
	var errs [2]error
	d.Account, errs[0] = read(p, operation.ShowAccount, operation.Nothing{})
	d.sessions, errs[1] = listOf(p, "", operation.ListOwnSessions)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.fresh, d.wayBack = p.present(), p.wayBack(d.User)
	for _, s := range d.sessions.Items {
		d.end[s.ID] = p.form(operation.RevokeOwnSession, operation.Revision(s), ui.Form{Kind: "quiet", Inline: true, Label: "session " + s.ID[:8]}, "session", s.ID)
	}
	for _, k := range d.User.Passkeys {
		d.remove[k.ID] = p.form(operation.RemovePasskey, operation.Revision(k), ui.Form{Kind: "quiet", Inline: true, Label: "passkey " + k.Name}, "passkey", k.ID)
	}
	d.everywhere = p.form(operation.SignOutEverywhere, "", ui.Form{Kind: "danger"})
	d.codes = p.form(operation.NewRecoveryCodes, "", ui.Form{Kind: "quiet"})
	d.password = p.form(operation.BeginPassword, "", ui.Form{Kind: "quiet"})
	return &view{title: "Account", body: accountPage(d)}, nil
}

func newRecoveryCodes(_ *page, codes operation.RecoveryCodes) (*view, error) {
	return &view{title: "Recovery codes", body: newCodesPage(codes.Codes)}, nil
}

func passwordPage(p *page, t operation.NewTOTP) (*view, error) {
	p.values.Set("back", "/account")
	f := p.form(operation.SetPassword, "", ui.Form{Fields: []ui.Field{
		{Name: "password", Label: "New password", Type: "password", Required: true, Autocomplete: "new-password", Hint: "12 characters or more"},
		{Name: "code", Label: "Code that the app shows now", Required: true, Autocomplete: "one-time-code", InputMode: "numeric"}}})
	return &view{title: "Password", crumbs: []ui.Link{{Text: "Account", URL: "/account"}}, body: setPasswordPage(t.TOTP, qrCode(t.URI), f)}, nil
}

// codesLeft says how many recovery codes there are.
func codesLeft(n int) string {
	switch n {
	case 0:
		return "No recovery code is left."
	case 1:
		return "One recovery code is left."
	}
	return fmt.Sprintf("%d recovery codes are left.", n)
}
