package identity

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Detail says in words what the user may do, and how they prove who they are.
func (a *Account) Detail() string {
	ways := []string{string(a.Role)}
	if a.Disabled {
		ways = append(ways, "disabled")
	}
	for i := range a.Passkeys {
		ways = append(ways, fmt.Sprintf("passkey %q", a.Passkeys[i].Name))
	}
	if a.Password != "" {
		ways = append(ways, fmt.Sprintf("password with an authenticator app, %d recovery codes", len(a.Recovery)))
	}
	if a.OIDC != "" {
		ways = append(ways, "OpenID provider: "+a.OIDC)
	}
	return strings.Join(ways, ", ")
}

func (a *Account) admitted(refused bool) appliance.Admitted {
	return appliance.Admit(appliance.AdmittedUser, a.Name, a.Detail(), accountBinding(a.Sealed), refused)
}

func (i *Invitation) admitted(refused bool) appliance.Admitted {
	by := i.InvitedBy
	if i.Setup {
		by = "the setup code, good only while there is no user"
	}
	return appliance.Admit(appliance.AdmittedInvitation, i.Name, fmt.Sprintf("%s, invited by %s, until %s", i.Role, by, i.ExpiresAt.UTC().Format(timeShown)), i.Binding(), refused)
}

func (t *Token) admitted(refused bool) appliance.Admitted {
	detail := fmt.Sprintf("%s, for %s, made by %s, until %s", t.Role, t.Scope, t.CreatedBy, t.ExpiresAt.UTC().Format(timeShown))
	if !t.RevokedAt.IsZero() {
		detail += ", revoked"
	}
	return appliance.Admit(appliance.AdmittedToken, t.Name, detail, t.Binding(), refused)
}

// timeShown is how times are written for people.
const timeShown = "2006-01-02 15:04 MST"

// own gives a token of before origins were kept its maker, of whom only the name is known.
func (t *Token) own(byName map[string]string) {
	if len(t.Origin.MadeBy) == 0 && !strings.HasPrefix(t.CreatedBy, "local") {
		t.Origin.MadeBy = []string{cmp.Or(byName[t.CreatedBy], unknownMaker)}
	}
}

// admission goes over the rows for the first unlock.
type admission struct {
	*rows
	good   func(b appliance.Binding, seal []byte) error // fault.Tampered if not
	all    []appliance.Admitted
	seen   map[string]bool   // by kind and ID: a store may call twice for a row
	byName map[string]string // the IDs of the users
}

func (r *rows) newAdmission(good func(b appliance.Binding, seal []byte) error) *admission {
	return &admission{rows: r, good: good, seen: map[string]bool{}, byName: map[string]string{}}
}

// admits says whether a row is good.
func (m *admission) admits(b appliance.Binding, seal []byte) (bool, error) {
	err := m.good(b, seal)
	if code := fault.CodeOf(err); code == fault.Tampered || code == fault.MachineKey {
		return false, nil
	}
	return err == nil, err
}

func (m *admission) note(id string, a appliance.Admitted) {
	if key := a.Kind + id; !m.seen[key] {
		m.seen[key] = true
		m.all = append(m.all, a)
	}
	if a.Refused {
		m.refuse("a row ("+a.Kind+")", a.Name, id, "it is not among those that are sealed now")
	}
}

func (m *admission) account(a *Account) (bool, error) {
	ok, err := m.admits(accountBinding(a.Sealed), a.Seal)
	if err != nil {
		return false, err
	}
	if ok {
		m.byName[a.Name] = a.ID
	}
	m.note(a.ID, a.admitted(!ok))
	return ok, nil
}

func (m *admission) invitation(i *Invitation) (bool, error) {
	ok, err := m.admits(i.Binding(), i.Seal)
	if err == nil {
		m.note(i.ID, i.admitted(!ok))
	}
	return ok, err
}

func (m *admission) token(t *Token) (bool, error) {
	ok, err := m.admits(t.Binding(), t.Seal)
	if err != nil {
		return false, err
	}
	if ok {
		t.own(m.byName)
	}
	m.note(t.ID, t.admitted(!ok))
	return ok, nil
}

// Admissions lists what the first unlock would seal, and what it would refuse. Once there
// is an installation, it lists what is sealed.
func (d *Directory) Admissions(ctx context.Context) ([]appliance.Admitted, error) {
	installed, err := d.rows.seals.Installed(ctx)
	if err != nil {
		return nil, err
	}
	m := d.rows.newAdmission(d.rows.seals.Admit)
	if installed {
		m.good = func(b appliance.Binding, seal []byte) error { return d.rows.seals.Verify(ctx, b, seal) }
	}
	accounts, err := d.rows.Store.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	invitations, err := d.rows.Store.Invitations(ctx)
	if err != nil {
		return nil, err
	}
	tokens, err := d.rows.Store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range accounts {
		if _, err := m.account(a); err != nil {
			return nil, err
		}
	}
	for i := range invitations {
		if _, err := m.invitation(&invitations[i]); err != nil {
			return nil, err
		}
	}
	for i := range tokens {
		if _, err := m.token(&tokens[i]); err != nil {
			return nil, err
		}
	}
	return m.all, nil
}

// SealAll seals all rows that are good; the first unlock calls it
// ([appliance.Identities]). It lists who can act from then on, and who is refused.
func (d *Directory) SealAll(ctx context.Context, set func(name, value string) error) ([]appliance.Admitted, error) {
	r := d.rows
	m := r.newAdmission(r.seals.Admit)
	err := r.SealRows(ctx, func(a *Account) error {
		ok, err := m.account(a)
		if !ok || err != nil {
			return err
		}
		return r.seal(ctx, a)
	}, func(i *Invitation) error {
		ok, err := m.invitation(i)
		if ok {
			i.Seal, err = r.seals.Seal(ctx, i.Binding())
		}
		return err
	}, func(t *Token) error {
		ok, err := m.token(t)
		if ok {
			t.Seal, err = r.seals.Seal(ctx, t.Binding())
		}
		return err
	})
	if err == nil && len(m.byName) > 0 {
		err = set(appliance.SettingSetup, appliance.SettingDone)
	}
	return m.all, err
}
