package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Settings keeps whether setup is over; [*appliance.Appliance] is one.
type Settings interface {
	Setting(ctx context.Context, name string) (string, error)
	SetSetting(ctx context.Context, name, value string) error
}

// SetupOpen says whether the setup code admits somebody: while there is no user,
// and never was one. An installation remembers that, so that nobody opens setup
// again who removes all users from the database. fault.Locked while there is an
// installation and nobody can tell.
func (d *Directory) SetupOpen(ctx context.Context) (bool, error) {
	users, err := d.anyUser(ctx)
	if err != nil || users {
		return false, err
	}
	value, err := d.Settings.Setting(ctx, appliance.SettingSetup)
	switch fault.CodeOf(err) {
	case "":
		return value == appliance.SettingOpen, nil
	case fault.NotFound: // there is no installation yet
		return true, nil
	case fault.Tampered: // the row was changed by hand: it may have said so
		return false, nil
	}
	return false, err
}

// anyUser says whether there is a user, other than those that are refused.
func (d *Directory) anyUser(ctx context.Context) (bool, error) {
	all, err := d.rows.Accounts(ctx)
	return slices.ContainsFunc(all, func(a *Account) bool { return !a.Refused }), err
}

// noUser is the rule of an invitation of the setup code.
func noUser(all []*Account) error {
	if slices.ContainsFunc(all, func(a *Account) bool { return !a.Refused }) {
		return fault.Errorf(fault.NotFound, "setup is over: there is a user")
	}
	return nil
}

// endSetup remembers that there was a user.
func (d *Directory) endSetup(ctx context.Context) error {
	if users, err := d.anyUser(ctx); err != nil || !users {
		return err
	}
	value, err := d.Settings.Setting(ctx, appliance.SettingSetup)
	switch code := fault.CodeOf(err); {
	case code == fault.Locked, code == fault.MachineKey, code == fault.NotFound, code == fault.Tampered:
		return nil // the first unlock does it; or it counts as over
	case err != nil:
		return err
	case value == appliance.SettingDone:
		return nil
	}
	return d.Settings.SetSetting(ctx, appliance.SettingSetup, appliance.SettingDone)
}

// AcceptSetupCode has the setup code be the one with that SHA-256, which somebody
// else has made, in the place of one that [Directory.SetupCode] would make.
func (d *Directory) AcceptSetupCode(sum [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setup, d.setupSum = "", &sum
}

// SetupCode gives the setup code while there is no user, and writes it into the
// file for root. It is made once per process. It is empty, and the file removed, if
// there is a user or if somebody else has made it.
func (d *Directory) SetupCode(ctx context.Context) (string, error) {
	open, err := d.SetupOpen(ctx)
	if err == nil {
		err = d.admits()
	}
	if err == nil && !open {
		err = d.endSetup(ctx)
	}
	if err != nil {
		return "", err
	}
	if users, err := d.anyUser(ctx); err == nil && !users && !open {
		d.Log.Error("there is no user, and setup is over, so that nobody can sign in: the users were removed from the database; restore a backup into a fresh appliance; or, as root on the machine, call holdfast user invite NAME --role administrator")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !open {
		d.setup, d.setupSum = "", nil
	}
	if given := d.setupSum != nil && d.setup == ""; given || !open {
		if err := os.Remove(d.SetupFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("setup code: %w", err)
		}
		return "", nil
	}
	if d.setup == "" {
		b := make([]byte, 15)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		s := base32.StdEncoding.EncodeToString(b)
		d.setup = strings.Join([]string{s[:6], s[6:12], s[12:18], s[18:]}, "-")
		sum := sha256.Sum256([]byte(d.setup))
		d.setupSum = &sum
	}
	if err := writeSecret(d.SetupFile, d.setup+"\n"); err != nil {
		return "", fmt.Errorf("setup code: %w", err)
	}
	return d.setup, nil
}

// writeSecret writes a file that only its owner can read, whole or not at all.
func writeSecret(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".setup-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// RedeemSetupCode gives an invitation as administrator for the setup code.
// ErrProof if it is wrong; fault.Invalid for a name that cannot be.
func (d *Directory) RedeemSetupCode(ctx context.Context, code, name string, from Client) (invitation string, err error) {
	defer d.observed(BySetupCode, &err)
	if err := validName(name); err != nil {
		return "", err
	}
	if err := d.proveSetupCode(ctx, code, from); err != nil {
		return "", err
	}
	_, token, err := d.invite(ctx, Invitation{Name: name, Role: RoleAdministrator, InvitedBy: "setup code", Setup: true})
	return token, err
}

// ProveSetupCode says whether a setup code is the right one, and uses nothing up: for what the
// first administrator does before there can be a user. ErrProof if it is wrong.
func (d *Directory) ProveSetupCode(ctx context.Context, code string, from Client) (err error) {
	defer d.observed(BySetupCode, &err)
	return d.proveSetupCode(ctx, code, from)
}

func (d *Directory) proveSetupCode(ctx context.Context, code string, from Client) error {
	if err := d.attempt(bySetupCode, from); err != nil {
		return err
	}
	open, err := d.SetupOpen(ctx)
	if err != nil {
		return err
	}
	code = strings.TrimSpace(code)
	if !open || !d.isSetupCode(code) && !d.isSetupCodeOfNode(ctx, code) {
		return d.failed(from, "", "wrong setup code, or setup is over")
	}
	return nil
}

func (d *Directory) isSetupCode(given string) bool {
	d.mu.Lock()
	own, want := d.setup, d.setupSum
	d.mu.Unlock()
	if own != "" {
		given = strings.ToUpper(given) // as it is printed
	}
	sum := sha256.Sum256([]byte(given))
	return want != nil && subtle.ConstantTimeCompare(sum[:], want[:]) == 1
}

// Each node of a fleet has a setup code, and says it on its machine. Once a node is unlocked
// it leaves its code's digest for the others as an invitation that invites nobody, so that any
// node takes it.
const (
	setupCodeName = "setup code" // no name of a user: it has a space
	setupCodeTime = 30 * 24 * time.Hour
)

// Unlocked is called when the appliance has been unlocked. It tells the other nodes of the
// setup code of this one, and which sessions have ended while it was locked.
func (d *Directory) Unlocked(ctx context.Context) error {
	return errors.Join(d.rows.tell(ctx, d.stamp()), d.shareSetupCode(ctx))
}

// shareSetupCode has the other nodes take the setup code of this one.
func (d *Directory) shareSetupCode(ctx context.Context) error {
	d.mu.Lock()
	sum := d.setupSum
	d.mu.Unlock()
	if d.Nodes == nil || sum == nil {
		return nil
	}
	if open, err := d.SetupOpen(ctx); err != nil || !open {
		return err
	}
	now := d.stamp()
	err := d.rows.CreateInvitation(ctx, &Invitation{ID: hex.EncodeToString(sum[:16]), Name: setupCodeName, Role: RoleAdministrator, InvitedBy: setupCodeName,
		CreatedAt: now, ExpiresAt: now.Add(setupCodeTime), Setup: true, Digest: sum[:]})
	if fault.CodeOf(err) == fault.Exists {
		return nil
	}
	return err
}

// isSetupCodeOfNode says whether a code is that of any node.
func (d *Directory) isSetupCodeOfNode(ctx context.Context, given string) bool {
	if d.Nodes == nil {
		return false
	}
	for _, code := range []string{given, strings.ToUpper(given)} { // as it was given, or as it is printed
		i, err := d.rows.Invitation(ctx, digest(code))
		if err == nil && i.Setup && i.Name == setupCodeName && d.Now().Before(i.ExpiresAt) {
			return true
		}
	}
	return false
}

// Invite makes an invitation for a new user, and gives the token of its link,
// which is not shown again. fault.Invalid, fault.Exists; fault.Forbidden if the role may
// more than that of the inviting one.
func (d *Directory) Invite(ctx context.Context, by Principal, name string, role Role) (Invitation, string, error) {
	if err := d.CheckInvite(ctx, by, name, role); err != nil {
		return Invitation{}, "", err
	}
	origin, err := d.origin(ctx, by)
	if err != nil {
		return Invitation{}, "", err
	}
	return d.invite(ctx, Invitation{Name: name, Role: role, InvitedBy: by.Name, Origin: origin})
}

// CheckInvite gives the error that Invite would, and makes nothing.
func (d *Directory) CheckInvite(ctx context.Context, by Principal, name string, role Role) error {
	if err := d.admits(); err != nil {
		return err
	}
	if err := validName(name); err != nil {
		return err
	}
	if err := role.within(by); err != nil {
		return err
	}
	switch _, err := d.rows.AccountByName(ctx, name); fault.CodeOf(err) {
	case "":
		return fault.Errorf(fault.Exists, "there is a user %q already", name)
	case fault.NotFound:
		return nil
	default:
		return err
	}
}

func (d *Directory) invite(ctx context.Context, i Invitation) (Invitation, string, error) {
	if err := d.admits(); err != nil {
		return Invitation{}, "", err
	}
	token := newSecret()
	i.ID, i.Digest, i.CreatedAt = newID(), digest(token), d.stamp()
	i.ExpiresAt = i.CreatedAt.Add(InvitationLifetime)
	if err := d.rows.CreateInvitation(ctx, &i); err != nil {
		return Invitation{}, "", err
	}
	return i, token, nil
}

// Invitations gives those that nobody has used yet.
func (d *Directory) Invitations(ctx context.Context) ([]Invitation, error) {
	all, err := d.rows.Invitations(ctx)
	var good []Invitation
	for _, i := range all {
		if !i.Setup && d.Now().Before(i.ExpiresAt) {
			good = append(good, i)
		}
	}
	return good, err
}

// RevokeInvitation takes one back. fault.NotFound.
func (d *Directory) RevokeInvitation(ctx context.Context, id string) error {
	return d.rows.DeleteInvitation(ctx, id)
}

// OpenInvitation gives the invitation of a link. ErrProof if there is none, and fault.Throttled if
// such a one came too often. One that is good is never refused for what others did.
func (d *Directory) OpenInvitation(ctx context.Context, token string, from Client) (Invitation, error) {
	if err := d.admits(); err != nil {
		return Invitation{}, err
	}
	i, err := d.rows.Invitation(ctx, digest(token))
	switch {
	case fault.CodeOf(err) == fault.NotFound, err == nil && i.Name == setupCodeName:
		return Invitation{}, d.refuse(byInvitation, from, unproven{"", "there is no such invitation, or it was used"}, from.atAddress()...)
	case err != nil:
		return Invitation{}, err
	case !d.Now().Before(i.ExpiresAt):
		return Invitation{}, d.refuse(byInvitation, from, unproven{i.Name, "the invitation has expired"}, from.atAddress()...)
	}
	return *i, nil
}

// newcomer is the user that an invitation makes.
func (d *Directory) newcomer(ctx context.Context, token string, from Client) (*Account, string, error) {
	i, err := d.OpenInvitation(ctx, token, from)
	if err != nil {
		return nil, "", err
	}
	// The ID is that of the invitation, so that a ceremony has it from the beginning.
	origin, err := d.ofUser(ctx, i.Origin)
	if err != nil {
		return nil, "", err
	}
	a := &Account{ID: i.ID, Name: i.Name, Role: i.Role, CreatedAt: d.stamp(), Origin: origin}
	return a, "enrol " + i.ID, nil
}

// BeginEnrolPasskey begins to make the first passkey of an invited user.
func (d *Directory) BeginEnrolPasskey(ctx context.Context, token string, from Client) (Ceremony, error) {
	a, purpose, err := d.newcomer(ctx, token, from)
	if err != nil {
		return Ceremony{}, err
	}
	return d.beginCreate(a, purpose)
}

// FinishEnrolPasskey makes the user, uses the invitation up, and signs in.
func (d *Directory) FinishEnrolPasskey(ctx context.Context, token, ceremonyID, name string, response []byte, from Client) (in SignedIn, err error) {
	defer d.observed(ByInvitation, &err)
	a, purpose, err := d.newcomer(ctx, token, from)
	if err != nil {
		return SignedIn{}, err
	}
	p, err := d.finishCreate(ctx, a, purpose, ceremonyID, name, response)
	if err != nil {
		return SignedIn{}, err
	}
	a.Passkeys = []StoredPasskey{*p}
	return d.enrol(ctx, a, token, from)
}

// BeginEnrolPassword gives the secret for the authenticator app of an invited
// user; the same one if it is called again.
func (d *Directory) BeginEnrolPassword(ctx context.Context, token string, from Client) (TOTP, error) {
	a, purpose, err := d.newcomer(ctx, token, from)
	if err != nil {
		return TOTP{}, err
	}
	return d.newTOTP(purpose, a.Name)
}

// FinishEnrolPassword makes the user, uses the invitation up, and signs in.
// fault.Invalid for a password or code that will not do.
func (d *Directory) FinishEnrolPassword(ctx context.Context, token, password, code string, from Client) (in SignedIn, err error) {
	defer d.observed(ByInvitation, &err)
	a, purpose, err := d.newcomer(ctx, token, from)
	if err != nil {
		return SignedIn{}, err
	}
	set, err := d.newPassword(purpose, a.Name, password, code)
	if err != nil {
		return SignedIn{}, err
	}
	set(a)
	return d.enrol(ctx, a, token, from)
}

func (d *Directory) enrol(ctx context.Context, a *Account, token string, from Client) (SignedIn, error) {
	var codes []string
	if a.Password != "" { // they take the place of its second factor
		codes, a.Recovery = newRecoveryCodes()
	}
	if err := d.rows.CreateAccount(ctx, a, digest(token), noUser); err != nil {
		return SignedIn{}, err
	}
	d.Log.Info("a user has enrolled", "user", a.Name, "role", a.Role, "remote", from.Address)
	if _, err := d.SetupCode(ctx); err != nil { // there is a user now: it is removed
		d.Log.Error("the file of the setup code could not be removed; the code is of no use any more", "error", err)
	}
	in, err := d.signIn(ctx, a, newID(), from)
	in.RecoveryCodes = codes
	return in, err
}
