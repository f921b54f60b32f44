package daemon_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/cmd/internal/consoletest"
	"holdfast/hsm/hsmtest"
	"holdfast/web/console/browsertest"
	"holdfast/web/operation"
)

// sentence is the password of users in browsers.
const sentence = "a sentence long enough"

var recoveryCodes = regexp.MustCompile(`[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}`)

// admin is an administrator with a browser.
type admin struct {
	*browsertest.Browser
	name  string
	codes []string // the recovery codes that are left
}

// browser opens one for the appliance's console; in a fleet, behind a balancer.
func (r *running) browser() *browsertest.Browser {
	r.s.t.Helper()
	if r.s.alone != "" {
		return consoletest.Alone(r.s.t, "", r.Admin.String(), r.s.alone).Browser()
	}
	r.console = consoletest.New(r.s.t, "", r.Admin.String())
	return r.console.Browser()
}

// theirMachine is why tests look at one appliance alone where rows of its file were changed.
const theirMachine = "the rows of a node of a fleet are loaded from the fleet's log if its file was changed, so there is nothing to decide"

// consoleSite makes a site whose appliance is a node of a fleet where there is one.
func consoleSite(t *testing.T) *site {
	t.Helper()
	token, shim := hsmtest.NewBehindShim(t)
	s := newSiteWith(t, token, shim)
	s.token = token
	s.newDatabase()
	return s
}

// newDatabase gives a fleet an empty database.
func (s *site) newDatabase() {
	s.t.Helper()
	if consoletest.Nodes(s.t) > 1 {
		s.cfg.State.Database = postgrestest.Start(s.t).Database(s.t)
	}
}

// joined starts the other nodes of the fleet once the first one has made the installation, and
// looks at a page of each.
func (r *running) joined(a *admin, path string, texts ...string) {
	r.s.t.Helper()
	a.Open(path)
	a.Has(texts...)
	for range consoletest.Nodes(r.s.t) - 1 {
		s := newSiteWith(r.s.t, r.s.token, r.s.shim)
		s.cfg.State.Database = r.s.cfg.State.Database
		r.console.Join(s.start().Admin.String())
	}
	for range consoletest.Nodes(r.s.t) {
		a.Open(path)
		a.Has(texts...)
	}
	r.console.AllServed()
}

// setUp enrols the first administrator in a browser.
func (r *running) setUp(name string) *admin {
	r.s.t.Helper()
	b := r.browser()
	b.Open("/setup")
	b.Fill("Continue", "setup_code", <-r.s.welcomed, "name", name)
	return enrolled(r.s.t, b, name)
}

// enrolled sets the password on the page of an invitation.
func enrolled(t *testing.T, b *browsertest.Browser, name string) *admin {
	t.Helper()
	b.Has("Welcome, " + name)
	secret := b.Value(`document.querySelector("#totp-secret").textContent`)
	code, err := totp.GenerateCode(strings.ReplaceAll(strings.TrimSpace(secret), " ", ""), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.Fill("Set password and sign in", "password", sentence, "code", code)
	return &admin{b, name, recoveryCodes.FindAllString(b.Text(), -1)}
}

// signIn signs in with a recovery code, in a browser for the appliance as it runs now.
func (a *admin) signIn(r *running) {
	r.s.t.Helper()
	a.Browser = r.browser()
	a.Open("/signin")
	a.Fill("Sign in with the password", "name", a.name, "password", sentence, "code", a.codes[0])
	a.codes = a.codes[1:]
	a.Has("Overview")
}

// TestFirstUnlockInTheConsole: the form for the PIN shows who is about to be sealed. If
// they are others when it is sent, it is refused, and shows them as they are now.
func TestFirstUnlockInTheConsole(t *testing.T) {
	s, r := freshOf(t, consoleSite(t))
	a := r.setUp("alice")
	a.Open("/")
	a.Has("E_SEAL_MISSING", "First boot: seal the HSM's PIN", "By giving it you confirm them", "alice", "administrator, password with an authenticator app, 10 recovery codes", "four_eyes", "not possible", r.admission().Digest)
	a.Accessible()
	r.ok("POST", "invitations", operation.NewInvitation{Name: "mallory", Role: identity.RoleAdministrator}, nil)
	a.Fill("Seal PIN", "pin", string(s.pin))
	a.Has("somebody was added, removed or changed since", "mallory", "invited by local")
	before := len(s.log.String())
	a.Fill("Seal PIN", "pin", string(s.pin))
	a.Has("The PIN is sealed to this machine's TPM")
	s.logged(before, `msg=serving `)
	r.recorded(`"by":"alice"`, "invitation mallory")
	r.joined(a, "/state", "Who can act", "alice, 20", "Ownership", "owner")
	r.stop()
}

// TestWaitingUnlockInTheConsole: an unlock that waits is told in the console, with a form.
func TestWaitingUnlockInTheConsole(t *testing.T) {
	s, r := freshOf(t, consoleSite(t))
	a := r.setUp("alice")
	r.stop()
	s.asIs = false
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `state=locked .*code=E_ADMISSION_UNCONFIRMED`)
	a.signIn(r)
	a.Has("E_ADMISSION_UNCONFIRMED")
	a.Follow("Decide about the state")
	a.Has("nobody has confirmed that they are the right ones", "alice", "by nobody")
	a.Accessible()
	r.ok("POST", "tokens", operation.NewToken{Name: "robot", Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, nil)
	a.Fill("Confirm admission")
	a.Has("somebody was added, removed or changed since", "robot")
	a.Fill("Confirm admission")
	a.Has("They are confirmed")
	s.logged(before, `msg=serving `)
	r.joined(a, "/state", "alice, 20")
	r.recorded(`"by":"alice"`, "API token robot")
}

// TestBeginInTheConsole: an empty database beside the traces of an installation.
func TestBeginInTheConsole(t *testing.T) {
	s := consoleSite(t)
	s.start().stop()
	<-s.welcomed
	if err := os.RemoveAll(s.cfg.State.Dir); err != nil {
		t.Fatal(err)
	}
	s.newDatabase()
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `state=locked .*code=E_STATE_MISSING`)
	a := r.setUp("alice")
	a.Open("/state")
	a.Has("E_STATE_MISSING", "The database has no installation", "Put the database back, or restore a backup", "alice")
	a.Accessible()
	r.ok("POST", "tokens", operation.NewToken{Name: "robot", Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, nil)
	a.Fill("Begin installation", "reason", "its disk is gone")
	a.Has("somebody was added, removed or changed since", "robot")
	a.Fill("Begin installation", "reason", "its disk is gone")
	a.Has("A new installation was begun")
	s.logged(before, `msg=serving `)
	r.recorded(`"by":"alice"`)
	r.joined(a, "/state", "alice, 20")
}

// TestAcceptInTheConsole: a state that does not match is told in plain words with its
// code. Where two can approve, two accept it; each sees what the other has said.
func TestAcceptInTheConsole(t *testing.T) {
	s := newSite(t)
	s.alone = theirMachine
	r := s.start()
	a := r.setUp("alice")
	var link operation.CreatedInvitation
	r.ok("POST", "invitations", operation.NewInvitation{Name: "bob", Role: identity.RoleAdministrator}, &link)
	b := a.Another()
	b.Open("/invitation/" + link.Token)
	bob := enrolled(t, b, "bob")
	r.ok("POST", "tokens", operation.NewToken{Name: "robot", Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, nil)
	r.stop()
	s.edit(`DELETE FROM api_tokens`)
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `state=locked .*code=E_STATE_CHANGED`)
	a.signIn(r)
	a.Has("E_STATE_CHANGED")
	a.Follow("Decide about the state")
	a.Has("E_STATE_CHANGED", "Rows of the database were changed, removed, added or put back by something else than Holdfast", "Find out who changed it")
	a.Accessible()
	a.Fill("Accept state", "reason", "the disk had failed")
	a.Has("Noted. Another administrator must accept it as well, until", "alice has accepted it: the disk had failed")
	a.Fill("Accept state", "reason", "once more")
	a.Has("Noted. Another administrator must accept it as well") // the same person is no second one
	bob.signIn(r)
	bob.Open("/state")
	bob.Has("alice has accepted it: once more")
	bob.Fill("Accept state", "reason", "I have seen it")
	bob.Has("The state is accepted as it is")
	s.logged(before, `state=serving`)
	a.Open("/state?verify=1")
	a.HasNot("has accepted it", "E_STATE_CHANGED")
	a.Has("Verification", "Digest")
}

// TestTakeOverInTheConsole: a copy of the installation is made the owner.
func TestTakeOverInTheConsole(t *testing.T) {
	s := newSite(t)
	s.alone = theirMachine
	r := s.start()
	a := r.setUp("alice")
	r.stop()
	putBack := s.copyOf()
	s.start().stop() // another start of the owner
	putBack()
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `state=locked .*code=E_STATE_ROLLED_BACK`)
	a.signIn(r)
	a.Open("/state")
	a.Has("E_STATE_ROLLED_BACK", "The database is older than an anchor outside of it says")
	a.Fill("Accept state", "reason", "the newer one is lost")
	a.Has("The state is accepted as it is") // there is no second administrator
	s.logged(before, `state=serving`)
	a.Open("/state")
	a.Has("Ownership", "copy")
	a.Fill("Take over installation", "reason", "the other copy is gone")
	a.Has("This copy has taken over the installation", "owner")
	var now appliance.InstallationState
	r.ok("GET", "installation", nil, &now)
	if now.Ownership != appliance.OwnershipOwner || now.Epoch != 2 {
		t.Errorf("%+v", now)
	}
}

// TestDiscardInTheConsole: damaged rows are discarded, good ones are not.
func TestDiscardInTheConsole(t *testing.T) {
	s := newSite(t)
	s.alone = theirMachine
	r := s.start()
	a := r.setUp("alice")
	r.newKeyStore()
	key := operation.NewKey{ID: "k", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached}
	r.ok("POST", "keystores/p/keys", key, nil)
	r.ok("POST", "keystores/p/keys/k/rotate", operation.Rotation{}, nil)
	var c operation.List[appliance.Credential]
	r.ok("GET", "keystores/p/credentials", nil, &c)
	a.Open("/state")
	a.Has("Damaged rows")
	a.Fill("Discard credential", "keystore", "p", "credential", c.Items[0].AccessKeyID)
	a.Has("is not damaged")
	a.Open("/state")
	a.Fill("Discard setting", "setting", "four_eyes")
	a.Has("is not damaged")
	r.stop()
	s.edit(`UPDATE credentials SET secret = x'00'; UPDATE key_versions SET material = x'00' WHERE version = 1`)
	r = s.start()
	a.signIn(r)
	a.Open("/state")
	a.Fill("Discard credential", "keystore", "p", "credential", c.Items[0].AccessKeyID)
	a.Confirm()
	a.Has("The damaged row was discarded")
	a.Fill("Discard key", "keystore", "p", "key", "k", "key_version", "2")
	a.Has("is not damaged")
	a.Open("/state")
	a.Fill("Discard key", "keystore", "p", "key", "k", "key_version", "1")
	a.Confirm()
	a.Has("The damaged row was discarded")
	a.Open("/state?verify=1")
	a.Has("Rows do not match their manifests", "Accept state") // as the discard leaves it, until somebody accepts
	a.Fill("Accept state", "reason", "what was damaged is discarded")
	a.Has("The state is accepted as it is")
	r.ok("GET", "keystores/p/credentials", nil, &c)
	if len(c.Items) != 0 {
		t.Errorf("%d credentials are left", len(c.Items))
	}
}
