package console

import (
	"errors"
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

var roleOptions = []ui.Option{
	{Value: string(identity.RoleViewer), Text: "viewer: sees state and configuration"},
	{Value: string(identity.RoleAuditor), Text: "auditor: reads and verifies the audit log, too"},
	{Value: string(identity.RoleKeyAdministrator), Text: "key-administrator: manages keys, grants and credentials, too"},
	{Value: string(identity.RoleAdministrator), Text: "administrator: manages users, settings and backups, too"},
}

type usersData struct {
	users            listed[*identity.User]
	invitations      listed[identity.Invitation]
	sessions         listed[identity.Session]
	tokens           listed[identity.Token]
	invite, newToken ui.Form
	revoke           map[string]ui.Form // invitations, sessions and tokens by ID
	now              time.Time
}

func users(p *page) (*view, error) {
	d := &usersData{now: p.now, revoke: map[string]ui.Form{}}
	var errs [5]error
	d.users, errs[0] = listOf(p, "", operation.ListUsers)
	d.invitations, errs[1] = listOf(p, "invitation_", operation.ListInvitations)
	d.sessions, errs[2] = listOf(p, "session_", operation.ListSessions)
	d.tokens, errs[3] = listOf(p, "token_", operation.ListTokens)
	keyStores, err := read(p, operation.ListKeyStores, operation.KeyStorePage{Paging: operation.Paging{Limit: 1000}})
	errs[4] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.invite = p.form(operation.CreateInvitation, "", ui.Form{Folded: true, Note: "You get a link that is good once, for 72 hours. Hand it over so that nobody else sees it.", Fields: []ui.Field{
		{Name: "name", Label: "Name", Required: true, Autocomplete: "off"}, {Name: "role", Label: "Role", Type: "select", Value: string(identity.RoleViewer), Options: roleOptions}}})
	d.newToken = newTokenForm(p, keyStores.Items)
	for _, i := range d.invitations.Items {
		d.revoke[i.ID] = p.form(operation.RevokeInvitation, operation.Revision(i), ui.Form{Kind: "quiet", Inline: true, Label: "invitation of " + i.Name}, "invitation", i.ID)
	}
	for _, s := range d.sessions.Items {
		d.revoke[s.ID] = p.form(operation.RevokeSession, operation.Revision(s), ui.Form{Kind: "quiet", Inline: true, Label: "session of " + s.UserName + " " + s.ID[:8]}, "session", s.ID)
	}
	for _, t := range d.tokens.Items {
		if t.RevokedAt.IsZero() {
			d.revoke[t.ID] = p.form(operation.RevokeToken, operation.Revision(t), ui.Form{Kind: "quiet", Inline: true, Label: "token " + t.Name}, "token", t.ID)
		}
	}
	return &view{title: "Users and tokens", body: usersPage(d)}, nil
}

// newTokenForm asks for an API token. Nothing of its scope is chosen: who wants no limit says so.
func newTokenForm(p *page, keyStores []*appliance.KeyStore) ui.Form {
	stores := []ui.Option{{Value: identity.Everything, Text: "all key stores, also those of later"}}
	for _, ks := range keyStores {
		stores = append(stores, ui.Option{Value: ks.Name, Text: ks.Name})
	}
	operations := []ui.Option{{Value: identity.Everything, Text: "all operations that the role may perform"}}
	for _, r := range operation.Table() {
		operations = append(operations, ui.Option{Value: r.ID, Text: r.Words + " (" + r.ID + ")"})
	}
	return p.form(operation.CreateToken, "", ui.Form{Folded: true, Kind: "quiet", Fields: []ui.Field{
		{Name: "name", Label: "Name", Required: true, Autocomplete: "off", Hint: "what uses it"}, {Name: "role", Label: "Role", Type: "select", Value: string(identity.RoleViewer), Options: roleOptions},
		{Name: "key_stores", Label: "For the key stores", Type: "checkboxes", Options: stores, Grows: true},
		{Name: "networks", Label: "From the networks", Required: true, Autocomplete: "off", Hint: "such as 10.20.0.0/16 192.0.2.7/32; * for all"},
		{Name: "operations", Label: "For the operations", Type: "checkboxes", Options: operations},
		{Name: "days", Label: "Good for, in days", Type: "number", Min: "1", Max: "365", Value: "90", Required: true}}})
}

type userData struct {
	*identity.User
	now   time.Time
	forms []ui.Form
	life  life // what was done to the user
	deeds life // what the user did or approved
}

func user(p *page) (*view, error) {
	id := p.param("user")
	found, err := read(p, operation.ShowUser, operation.UserName{User: id})
	if err != nil {
		return nil, err
	}
	d := &userData{User: found, now: p.now}
	if d.life, err = p.lifeOf(operation.AuditFilter{Object: id}); err != nil && fault.CodeOf(err) != fault.Invalid {
		return nil, err
	}
	if d.deeds, err = p.lifeOf(operation.AuditFilter{Actor: found.Name}); err != nil && fault.CodeOf(err) != fault.Invalid {
		return nil, err
	}
	add := func(o operation.Entry, f ui.Form) {
		d.forms = append(d.forms, p.form(o, operation.Revision(d.User), f, "user", id, "user_name", d.Name))
	}
	add(operation.SetRole, ui.Form{Folded: true, Kind: "quiet", Note: "Their sessions end with it.",
		Fields: []ui.Field{{Name: "role", Label: "Role", Type: "select", Value: string(d.Role), Options: roleOptions}}})
	add(operation.BindOIDC, ui.Form{Folded: true, Kind: "quiet", Fields: []ui.Field{
		{Name: "email", Label: "E-mail address at the OpenID provider", Type: "email", Value: d.OIDC, Autocomplete: "off", Hint: "empty: not by single sign-on"}}})
	add(operation.SetEmail, ui.Form{Folded: true, Kind: "quiet", Fields: []ui.Field{
		{Name: "email", Label: "E-mail address for notices", Type: "email", Value: d.Email, Autocomplete: "off", Hint: "requests for approval that the user may decide are told there; empty: none"}}})
	if !d.LockedUntil.IsZero() {
		add(operation.UnlockUser, ui.Form{Kind: "quiet"})
	}
	add(operation.SignOutUser, ui.Form{Kind: "quiet"})
	if d.Disabled {
		add(operation.EnableUser, ui.Form{Kind: "quiet"})
	} else {
		add(operation.DisableUser, ui.Form{Kind: "danger"})
	}
	add(operation.DeleteUser, ui.Form{Kind: "danger"})
	return &view{title: d.Name, crumbs: []ui.Link{{Text: "Users and tokens", URL: "/users"}}, body: userPage(d)}, nil
}

// address is that of the console, for what people hand on. It is of the configuration or the
// certificate, and never what a request calls the appliance (its header Host). If it is not known,
// the second value says so.
func (p *page) address() (origin, unknown string) {
	if p.c.Identity.URL != "" {
		return p.c.Identity.URL, ""
	}
	return "", " The console does not know its own address: put \"https://\", its name and the port before what begins with a slash here, or set admin.url in the configuration."
}

func createdInvitation(p *page, i operation.CreatedInvitation) (*view, error) {
	origin, unknown := p.address()
	note := "Send this link to " + i.Name + " so that nobody else sees it. It is good once, until " + ui.Stamp(i.ExpiresAt) + "." + unknown
	return &view{title: "Invitation", body: oncePage("Invitation for "+i.Name, note, "Link", origin+"/invitation/"+i.Token, p.here())}, nil
}

func createdToken(p *page, t operation.CreatedToken) (*view, error) {
	server, _ := p.address()
	if server == "" {
		server = "https://HOST:PORT"
	}
	return &view{title: "API token", body: oncePage("API token "+t.Name, "Put it into a file that only the program can read, and use it with holdfast --server "+server+" --token-file FILE.", "Token", t.Secret, p.here())}, nil
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
