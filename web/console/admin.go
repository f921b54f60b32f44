package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type hsmsData struct {
	status operation.Status
	now    time.Time
	probe  ui.Form
}

func hsms(p *page) (*view, error) {
	status, err := read(p, operation.ShowStatus, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &hsmsData{now: p.now, status: status}
	d.probe = p.form(operation.ProbeHSMs, "", ui.Form{Submit: "Do the test operation now", Kind: "quiet"})
	return &view{title: "HSMs", body: hsmsPage(d)}, nil
}

var roleOptions = []ui.Option{
	{Value: string(identity.RoleViewer), Text: "viewer: sees state and configuration"},
	{Value: string(identity.RoleAuditor), Text: "auditor: reads and verifies the audit log, too"},
	{Value: string(identity.RoleKeyAdministrator), Text: "key-administrator: manages keys, grants and credentials, too"},
	{Value: string(identity.RoleAdministrator), Text: "administrator: manages users, settings and backups, too"},
}

type usersData struct {
	users            []*identity.User
	invitations      []identity.Invitation
	sessions         []identity.Session
	tokens           []identity.Token
	invite, newToken ui.Form
	revoke           map[string]ui.Form // invitations, sessions and tokens by ID
	now              time.Time
}

func users(p *page) (*view, error) {
	d := &usersData{now: p.now, revoke: map[string]ui.Form{}}
	var errs [4]error
	d.users, errs[0] = read(p, operation.ListUsers, operation.Nothing{})
	d.invitations, errs[1] = read(p, operation.ListInvitations, operation.Nothing{})
	d.sessions, errs[2] = read(p, operation.ListSessions, operation.Nothing{})
	d.tokens, errs[3] = read(p, operation.ListTokens, operation.Nothing{})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.invite = p.form(operation.CreateInvitation, "", ui.Form{Folded: "Invite somebody", Submit: "Make the invitation", Note: "You get a link that is good once, for 72 hours. Hand it over so that nobody else sees it.", Fields: []ui.Field{
		{Name: "name", Label: "Name", Required: true, Autocomplete: "off"}, {Name: "role", Label: "Role", Type: "select", Value: string(identity.RoleViewer), Options: roleOptions}}})
	d.newToken = p.form(operation.CreateToken, "", ui.Form{Folded: "Make an API token", Submit: "Make the token", Kind: "quiet", Fields: []ui.Field{
		{Name: "name", Label: "Name", Required: true, Autocomplete: "off", Hint: "what uses it"}, {Name: "role", Label: "Role", Type: "select", Value: string(identity.RoleViewer), Options: roleOptions},
		{Name: "days", Label: "Good for, in days", Type: "number", Min: "1", Max: "365", Value: "90", Required: true}}})
	for _, i := range d.invitations {
		d.revoke[i.ID] = p.form(operation.RevokeInvitation, "", ui.Form{Submit: "Take back", Kind: "quiet", Inline: true, Label: "invitation of " + i.Name}, "invitation", i.ID)
	}
	for _, s := range d.sessions {
		d.revoke[s.ID] = p.form(operation.RevokeSession, "", ui.Form{Submit: "End", Kind: "quiet", Inline: true, Label: "session of " + s.UserName + " " + s.ID[:8]}, "session", s.ID)
	}
	for _, t := range d.tokens {
		if t.RevokedAt.IsZero() {
			d.revoke[t.ID] = p.form(operation.RevokeToken, "", ui.Form{Submit: "Revoke", Kind: "quiet", Inline: true, Label: "token " + t.Name}, "token", t.ID)
		}
	}
	return &view{title: "Users and tokens", body: usersPage(d)}, nil
}

type userData struct {
	*identity.User
	now   time.Time
	forms []ui.Form
}

func user(p *page) (*view, error) {
	id := p.param("user")
	found, err := read(p, operation.ShowUser, operation.UserName{User: id})
	if err != nil {
		return nil, err
	}
	d := &userData{User: found, now: p.now}
	add := func(o operation.Entry, f ui.Form) {
		d.forms = append(d.forms, p.form(o, operation.Revision(d.User), f, "user", id, "user_name", d.Name))
	}
	add(operation.SetRole, ui.Form{Folded: "Change the role", Submit: "Change the role", Kind: "quiet", Note: "Their sessions end with it.",
		Fields: []ui.Field{{Name: "role", Label: "Role", Type: "select", Value: string(d.Role), Options: roleOptions}}})
	add(operation.BindOIDC, ui.Form{Folded: "Single sign-on", Submit: "Store", Kind: "quiet", Fields: []ui.Field{
		{Name: "email", Label: "E-mail address at the OpenID provider", Type: "email", Value: d.OIDC, Autocomplete: "off", Hint: "empty: not by single sign-on"}}})
	if !d.LockedUntil.IsZero() {
		add(operation.UnlockUser, ui.Form{Submit: "End the lock-out", Kind: "quiet"})
	}
	add(operation.SignOutUser, ui.Form{Submit: "End all sessions", Kind: "quiet"})
	if d.Disabled {
		add(operation.EnableUser, ui.Form{Submit: "Let them in again", Kind: "quiet"})
	} else {
		add(operation.DisableUser, ui.Form{Submit: "Disable", Kind: "danger"})
	}
	add(operation.DeleteUser, ui.Form{Folded: "Remove", Submit: "Remove the user", Kind: "danger"})
	return &view{title: d.Name, crumbs: []ui.Link{{Text: "Users and tokens", URL: "/users"}}, body: userPage(d)}, nil
}

func createdInvitation(p *page, i operation.CreatedInvitation) (*view, error) {
	link := "https://" + p.Host + "/invitation/" + i.Token
	return &view{title: "Invitation", body: oncePage("Invitation for "+i.Name, "Send this link to "+i.Name+" so that nobody else sees it. It is good once, until "+ui.Stamp(i.ExpiresAt)+".", "Link", link, p.here())}, nil
}

func createdToken(p *page, t operation.CreatedToken) (*view, error) {
	return &view{title: "API token", body: oncePage("API token "+t.Name, "Put it into a file that only the program can read, and use it with holdfast --server https://"+p.Host+" --token-file FILE.", "Token", t.Secret, p.here())}, nil
}

type accountData struct {
	*operation.Account
	now               time.Time
	sessions          []identity.Session
	end               map[string]ui.Form
	remove            map[string]ui.Form // passkeys
	everywhere, codes ui.Form
	password          ui.Form
	passkeys          bool // can be made here
	fresh             bool // the proof of presence is
	asked             string
}

func account(p *page) (*view, error) {
	d := &accountData{now: p.now, end: map[string]ui.Form{}, remove: map[string]ui.Form{}, passkeys: p.c.Identity.PasskeysEnabled()}
	var errs [2]error
	d.Account, errs[0] = read(p, operation.ShowAccount, operation.Nothing{})
	d.sessions, errs[1] = read(p, operation.ListOwnSessions, operation.Nothing{})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.fresh = p.now.Sub(p.who.ProvenAt) < operation.PresenceTime
	text, _ := json.Marshal(proof{Values: map[string][]string{"back": {"/account"}}}) // strings always encode
	d.asked = string(text)
	for _, s := range d.sessions {
		d.end[s.ID] = p.form(operation.RevokeOwnSession, "", ui.Form{Submit: "End", Kind: "quiet", Inline: true, Label: "session " + s.ID[:8]}, "session", s.ID)
	}
	for _, k := range d.User.Passkeys {
		d.remove[k.ID] = p.form(operation.RemovePasskey, "", ui.Form{Submit: "Remove", Kind: "quiet", Inline: true, Label: "passkey " + k.Name}, "passkey", k.ID)
	}
	d.everywhere = p.form(operation.SignOutEverywhere, "", ui.Form{Submit: "Sign out everywhere", Kind: "danger"})
	d.codes = p.form(operation.NewRecoveryCodes, "", ui.Form{Submit: "Make new recovery codes", Kind: "quiet"})
	d.password = p.form(operation.BeginPassword, "", ui.Form{Submit: "Set password and authenticator app", Kind: "quiet"})
	return &view{title: "Account", body: accountPage(d)}, nil
}

func newRecoveryCodes(_ *page, codes operation.RecoveryCodes) (*view, error) {
	return &view{title: "Recovery codes", body: newCodesPage(codes.Codes)}, nil
}

func passwordPage(p *page, t operation.NewTOTP) (*view, error) {
	p.values.Set("back", "/account")
	f := p.form(operation.SetPassword, "", ui.Form{Submit: "Set both", Fields: []ui.Field{
		{Name: "password", Label: "New password", Type: "password", Required: true, Autocomplete: "new-password", Hint: "12 characters or more"},
		{Name: "code", Label: "Code that the app shows now", Required: true, Autocomplete: "one-time-code", InputMode: "numeric"}}})
	return &view{title: "Password", crumbs: []ui.Link{{Text: "Account", URL: "/account"}}, body: setPasswordPage(t.TOTP, qrCode(t.URI), f)}, nil
}

type approvalsData struct {
	list  []operation.ApprovalDetail
	forms map[string][]ui.Form
	now   time.Time
	names map[string]string // of operations
}

func approvals(p *page) (*view, error) {
	list, err := read(p, operation.ListApprovals, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &approvalsData{now: p.now, list: list, forms: map[string][]ui.Form{}, names: map[string]string{}}
	for _, r := range operation.Table() {
		d.names[r.ID] = r.Summary
	}
	for _, a := range d.list {
		if (a.State != approval.Pending && a.State != approval.Approved) || !p.may(identity.ManageKeys) {
			continue
		}
		revision := operation.Revision(a.Request)
		reject := "Reject"
		switch own := a.UserID == p.who.UserID; {
		case own:
			reject = "Take back"
			if a.State == approval.Approved {
				d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.PerformApproved, revision, ui.Form{Submit: "Do it now", Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
			}
		case a.State == approval.Pending:
			d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.Approve, revision, ui.Form{Submit: "Approve", Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
		}
		d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.Reject, revision, ui.Form{Submit: reject, Kind: "quiet", Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
	}
	return &view{title: "Approvals", body: approvalsPage(d)}, nil
}

func approvalBadge(s approval.State) ui.Badge {
	switch s {
	case approval.Pending:
		return ui.Badge{Kind: ui.Info, Text: "Waits"}
	case approval.Approved:
		return ui.Badge{Kind: ui.Info, Text: "Approved, not done yet"}
	case approval.Invalid:
		return ui.Badge{Kind: ui.Bad, Text: "Not valid"}
	case approval.Done:
		return ui.Badge{Kind: ui.OK, Text: "Approved, done"}
	case approval.Failed:
		return ui.Badge{Kind: ui.Bad, Text: "Approved, failed"}
	case approval.Rejected:
		return ui.Badge{Kind: ui.Off, Text: "Rejected"}
	}
	return ui.Badge{Kind: ui.Off, Text: "Expired"}
}

// approved shows the result of an approved operation. One that shows a secret is
// done by the person who asked, and only they come here with a result of it.
func approved(p *page, a operation.ApprovalDetail) (*view, error) {
	switch {
	case a.State == approval.Failed:
		return nil, fault.Errorf(fault.Conflict, "it was approved, and failed: %s", a.Outcome)
	case a.State == approval.Done && actions[a.Operation].show != nil:
		return actions[a.Operation].show(p, a.Answer())
	}
	return &view{title: "Approved", body: approvedPage(a)}, nil
}

type settingsData struct {
	*operation.SettingsDetail
	certificate                operation.Certificate
	fourEyes, request, install ui.Form
	revoke                     ui.Form
	administers                bool
	now                        time.Time
	status                     operation.Status
}

func settings(p *page) (*view, error) {
	d := &settingsData{now: p.now, administers: p.may(identity.Administer)}
	var errs [3]error
	d.SettingsDetail, errs[0] = read(p, operation.ShowSettings, operation.Nothing{})
	d.certificate, errs[1] = read(p, operation.ShowCertificate, operation.Nothing{})
	d.status, errs[2] = read(p, operation.ShowStatus, operation.Nothing{})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	var options []ui.Option
	for _, o := range d.Approvable {
		options = append(options, ui.Option{Value: o.ID, Text: o.Summary})
	}
	d.fourEyes = p.form(operation.SetSettings, operation.Revision(d.Settings), ui.Form{Submit: "Store", Label: "Four eyes", Fields: []ui.Field{
		{Name: "four_eyes", Label: "Operations that need a second person", Type: "checkboxes", Options: options, Values: d.FourEyes}}})
	d.request = p.form(operation.RequestCertificate, "", ui.Form{Folded: "Make a signing request", Submit: "Make a new key and request", Kind: "quiet", Note: "The key stays on this machine. KMS wants a certificate of a public authority.", Fields: []ui.Field{
		{Name: "names", Label: "DNS names and IP addresses", Mono: true, Required: true, Value: strings.Join(d.certificate.Names, " "), Hint: "with spaces between"}}})
	d.install = p.form(operation.InstallCertificate, "", ui.Form{Folded: "Install a certificate", Submit: "Install it", Kind: "quiet", Fields: []ui.Field{
		{Name: "chain", Label: "Certificate chain (PEM)", Type: "textarea", Mono: true, Rows: 10, Required: true, Hint: "the server's first, then those that signed it"}}})
	d.revoke = p.form(operation.RevokePolicies, "", ui.Form{Folded: "Revoke older policies", Submit: "Revoke for good", Kind: "danger", Note: "This machine's TPM then refuses policies and authorizations of older versions, and with them the releases that they name. It cannot be undone.",
		Fields: []ui.Field{{Name: "below", Label: "Refuse versions below", Type: "number", Min: "1", Required: true}}})
	return &view{title: "Settings", body: settingsPage(d)}, nil
}

func certificateRequested(_ *page, r operation.SigningRequest) (*view, error) {
	return &view{title: "Signing request", crumbs: []ui.Link{{Text: "Settings", URL: "/settings"}}, body: requestPage(r.PEM)}, nil
}

// ways are how a user can sign in, in words.
func ways(u *identity.User) string {
	var list []string
	if n := len(u.Passkeys); n == 1 {
		list = append(list, "passkey")
	} else if n > 1 {
		list = append(list, fmt.Sprintf("%d passkeys", n))
	}
	if u.Password {
		list = append(list, "password")
	}
	if u.OIDC != "" {
		list = append(list, "single sign-on")
	}
	return joined(list)
}

func userBadge(u *identity.User, now time.Time) ui.Badge {
	switch {
	case u.Refused:
		return ui.Badge{Kind: ui.Bad, Text: "Refused: changed in the database"}
	case u.Disabled:
		return ui.Badge{Kind: ui.Off, Text: "Disabled"}
	case u.LockedUntil.After(now):
		return ui.Badge{Kind: ui.Warn, Text: "Locked out"}
	}
	return ui.Badge{Kind: ui.OK, Text: "Enabled"}
}

func tokenBadge(t identity.Token, now time.Time) ui.Badge {
	switch {
	case t.Refused:
		return ui.Badge{Kind: ui.Bad, Text: "Refused: changed in the database"}
	case !t.RevokedAt.IsZero():
		return ui.Badge{Kind: ui.Off, Text: "Revoked"}
	case !now.Before(t.ExpiresAt):
		return ui.Badge{Kind: ui.Off, Text: "Expired"}
	}
	return ui.Badge{Kind: ui.OK, Text: "Good"}
}

func chosenOperations(d *settingsData) []string {
	var list []string
	for _, o := range d.Approvable {
		if slices.Contains(d.FourEyes, o.ID) {
			list = append(list, o.Summary)
		}
	}
	return list
}
