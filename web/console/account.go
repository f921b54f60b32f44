package console

import (
	"errors"
	"time"

	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type accountData struct {
	*operation.Account
	now               time.Time
	sessions          listed[identity.Session]
	end               map[string]ui.Form
	remove            map[string]ui.Form // passkeys
	everywhere, codes ui.Form
	password          ui.Form
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
	d.fresh = p.present()
	for _, s := range d.sessions.Items {
		d.end[s.ID] = p.form(operation.RevokeOwnSession, "", ui.Form{Kind: "quiet", Inline: true, Label: "session " + s.ID[:8]}, "session", s.ID)
	}
	for _, k := range d.User.Passkeys {
		d.remove[k.ID] = p.form(operation.RemovePasskey, "", ui.Form{Kind: "quiet", Inline: true, Label: "passkey " + k.Name}, "passkey", k.ID)
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
