package daemon_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/operation"
)

// fresh starts an appliance on a new machine with a new token: it waits for the PIN.
func fresh(t *testing.T) (*site, *running) {
	t.Helper()
	return freshOf(t, newSite(t))
}

func freshOf(t *testing.T, s *site) (*site, *running) {
	t.Helper()
	s.noPIN = true
	r := s.begin()
	s.logged(0, `code=E_SEAL_MISSING`)
	s.noPIN, s.asIs = false, true
	return s, r
}

// admission gives who is about to be sealed, or is.
func (r *running) admission() operation.AdmissionDetail {
	r.s.t.Helper()
	var a operation.AdmissionDetail
	r.ok("GET", "admission", nil, &a)
	return a
}

// seal gives the PIN, with the word for those whom the first unlock seals.
func (r *running) seal() {
	r.s.t.Helper()
	r.ok("POST", "seal", operation.SealRequest{PIN: r.s.pin, Admission: r.admission().Digest}, nil)
}

// beginBeside has an installation begun beside the traces of another.
func (r *running) beginBeside() error {
	r.s.t.Helper()
	return r.do("POST", "installation/begin", operation.Beginning{Reason: "its disk is gone", Admission: r.admission().Digest}, nil)
}

// TestPINIsGivenForThoseWhoWereSeen: where somebody can act already, the PIN is taken only
// with the digest of those who are there.
func TestPINIsGivenForThoseWhoWereSeen(t *testing.T) {
	s, r := fresh(t)
	if a := r.admission(); a.Unconfirmed || a.Installed {
		t.Errorf("with nobody: %+v", a)
	}
	r.enrol(<-s.welcomed, "alice")
	a := r.admission()
	if !a.Unconfirmed || a.Alone == "" || len(a.All) != 4 || a.All[0].Name != "alice" || !strings.Contains(a.All[0].Detail, "administrator, password with an authenticator app, 10 recovery codes") {
		t.Errorf("%+v", a)
	}
	refused := func(what, digest string, want fault.Code) {
		t.Helper()
		if err := r.do("POST", "seal", operation.SealRequest{PIN: s.pin, Admission: digest}, nil); fault.CodeOf(err) != want {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(s.cfg.SealedPIN()); err == nil {
			t.Fatalf("%s: the PIN was sealed", what)
		}
	}
	refused("nobody's word", "", fault.AdmissionUnconfirmed)
	refused("another digest", strings.Repeat("0", 64), fault.AdmissionChanged)
	// Each kind of row is among what is confirmed.
	var token operation.CreatedToken
	r.ok("POST", "tokens", operation.NewToken{Name: "robot", Role: identity.RoleViewer, Days: 1, Scope: *identity.Unlimited()}, &token)
	refused("a token was made since", a.Digest, fault.AdmissionChanged)
	a = r.admission()
	r.ok("POST", "invitations", operation.NewInvitation{Name: "bob", Role: identity.RoleAdministrator}, nil)
	refused("somebody was invited since", a.Digest, fault.AdmissionChanged)
	a = r.admission()
	r.ok("DELETE", "tokens/"+token.Token.ID, nil, nil)
	refused("a token was revoked since", a.Digest, fault.AdmissionChanged)
	before := len(s.log.String())
	r.seal()
	s.logged(before, `msg=serving `)
	r.recorded(`"by":"local`, "user alice: administrator", "invitation bob: administrator")
	if a := r.admission(); !a.Installed || a.Unconfirmed || !strings.HasPrefix(a.Confirmed.By, "local") {
		t.Errorf("%+v", a)
	}
}

// recorded says that one record has who was sealed, with the texts.
func (r *running) recorded(texts ...string) {
	r.s.t.Helper()
	var found operation.Records
	r.ok("GET", "audit/records?kind=admin", nil, &found)
	n := 0
	for _, record := range found.Records {
		if record.Operation != "seal users" {
			continue
		}
		n++
		for _, text := range texts {
			if !strings.Contains(string(record.After), text) {
				r.s.t.Errorf("the record lacks %s: %s", text, record.After)
			}
		}
	}
	if n != 1 {
		r.s.t.Errorf("%d records of who was sealed", n)
	}
}

// TestFirstUnlockWaits: where the PIN comes by itself, as at a restart or from a broker,
// and somebody is there already, the first unlock waits until somebody confirms.
func TestFirstUnlockWaits(t *testing.T) {
	s, r := fresh(t)
	r.enrol(<-s.welcomed, "alice")
	r.stop()
	s.asIs = false // the PIN comes with the start
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `state=locked .*code=E_ADMISSION_UNCONFIRMED`)
	if b := r.status().Boot; b.State != progress.Locked || b.Code != string(fault.AdmissionUnconfirmed) || !strings.Contains(b.Reason, "1 users, invitations, API tokens and requests") {
		t.Errorf("%+v", b)
	}
	if _, refused := r.refusedUsers(); refused != 0 {
		t.Error("while it waits, who could sign in before cannot")
	}
	// A user who is put into the database meanwhile, as it runs or before, is named and not sealed.
	s.edit(`INSERT INTO users (id, name, role, disabled, account) SELECT 'e4', 'eve', role, 0, replace(replace(account, id, 'e4'), 'alice', 'eve') FROM users`)
	a := r.admission()
	if len(a.All) != 5 || !slices.ContainsFunc(a.All, func(e appliance.Admitted) bool { return e.Name == "eve" && e.Refused }) {
		t.Errorf("%+v", a.All)
	}
	r.ok("POST", "admission/confirm", operation.ConfirmedAdmission{Digest: a.Digest}, nil)
	s.logged(before, `msg=serving `)
	if all, refused := r.refusedUsers(); all != 2 || refused != 1 {
		t.Errorf("%d users, of whom %d are refused", all, refused)
	}
	r.recorded(`"by":"local`, "user alice")
	r.stop()
	// It was the first unlock: no other asks.
	before = len(s.log.String())
	s.begin()
	s.logged(before, `msg=serving `)
}

// TestNobodyWaits: an appliance that nobody has been in yet is unlocked at once, and
// whoever comes later needs no word.
func TestNobodyWaits(t *testing.T) {
	s := newSite(t)
	r := s.start()
	r.enrol(<-s.welcomed, "alice")
	if a := r.admission(); a.Unconfirmed || !a.Installed {
		t.Errorf("%+v", a)
	}
	if !strings.HasPrefix(r.admission().Confirmed.By, "nobody") {
		t.Errorf("%+v", r.admission().Confirmed)
	}
	r.stop()
	s.start()
}
