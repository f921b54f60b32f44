package appliance_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// phase is a time in the life of an appliance: before its first unlock, locked after one,
// or unlocked.
type phase struct {
	name      string
	installed bool // there was a first unlock
	unlocked  bool
}

var phases = []phase{{"before the first unlock", false, false}, {"locked", true, false}, {"unlocked", true, true}}

// newLockedTarget makes a state with users and all else that counts while it is locked, as
// it was and as it is in the phase.
func newLockedTarget(t testing.TB, p phase) *target {
	t.Helper()
	g := &target{device: appliancetest.NewMemory(), clock: appliancetest.NewClock(), machine: appliancetest.NewMachineKey(t), token: map[string]string{}, password: map[string]string{}}
	dir := t.TempDir()
	s := must(g.open(t, dir, nil))(t)
	if err := s.Found(ctx); err != nil {
		t.Fatal(err)
	}
	if p.installed {
		if err := s.Unlock(ctx, s.ring, nil); err != nil {
			t.Fatal(err)
		}
	}
	g.people(t, s)
	if p.installed { // as the daemon does after each unlock
		if err := s.RenewSeals(ctx, func() error {
			return errors.Join(s.users.RenewSeals(ctx), approval.RenewSeals(ctx, s.store, s.Seals()))
		}); err != nil {
			t.Fatal(err)
		}
	}
	g.keep(t, dir)
	g.changePeople(t, s)
	g.keep(t, dir)
	s.stop()
	g.dumped = must(g.device.Dump())(t)
	g.old, g.present = checkpointed(t, g.moments[0]), checkpointed(t, dir)
	return g
}

// changePeople changes each decision about people.
func (g *target) changePeople(t testing.TB, s *served) {
	t.Helper()
	user := func(name string) string {
		list := must(s.users.Users(ctx))(t)
		return list[slices.IndexFunc(list, func(u *identity.User) bool { return u.Name == name })].ID
	}
	must(s.users.RevokeToken(ctx, must(s.users.Tokens(ctx))(t)[0].ID))(t)
	g.invite(t, s, "eve")
	must(s.users.SetDisabled(ctx, user("ben"), true))(t)
	must(s.users.SetRole(ctx, user("cid"), identity.RoleAuditor))(t)
	r := *must(s.approvals.Approval(ctx, fmt.Sprintf("%032x", 0)))(t)
	was := r
	r.State, r.DecidedBy, r.DecidedAt = approval.Rejected, "ben", g.clock.Now().UTC().Truncate(time.Millisecond)
	if err := s.approvals.DecideApproval(ctx, &r, &was); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{appliance.SettingFourEyes: `{"operations":["scheduleKeyDeletion"]}`, appliance.SettingBootstrap: appliance.SettingDone} {
		if err := s.SetSetting(ctx, name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// enter brings an appliance over a copy of the file into the phase.
func (g *target) enter(t testing.TB, p phase, file string) (s *served, dir string) {
	t.Helper()
	dir = copied(t, file)
	s = must(g.open(t, dir, nil))(t)
	if p.unlocked {
		if err := s.Unlock(ctx, s.ring, nil); err != nil {
			t.Fatal(err)
		}
	}
	return s, dir
}

// signedIn signs somebody in, and gives the session.
func (g *target) signedIn(t testing.TB, s *served, name string) string {
	t.Helper()
	code := must(totp.GenerateCode(g.password[name], g.clock.Now().Add(30*time.Second)))(t) // another than the last one
	in := must(s.users.SignInPassword(ctx, name, "a sentence long enough", code, identity.Client{Address: "192.0.2.1:4711"}))(t)
	return in.Token
}

// decidesOnPeople gives all decisions about people, with those that come of settings.
func (g *target) decidesOnPeople(t testing.TB, s *served, session string) map[string]string {
	t.Helper()
	out := map[string]string{}
	g.decisionsOnPeople(t, s, out)
	if session != "" {
		p, err := s.users.Session(ctx, session, false)
		out["session that is open"] = said1(err, fmt.Sprint(p.Role, p.Name, p.UserID))
	}
	open, err := s.users.SetupOpen(ctx)
	if out["setup code"] = said1(err, "admits"); err == nil && !open {
		out["setup code"] = "refused: setup is over"
	}
	f, err := approval.Chosen(ctx, s)
	if out["four eyes"] = said1(err, fmt.Sprint(f.Operations)); f.Every {
		out["four eyes"] = "refused: every operation needs two"
	}
	return out
}

// others gives the decisions that are neither as they were, nor refusals, nor allowed besides.
func others(want, allowed, got map[string]string) (list []string) {
	for name, is := range got {
		if is != want[name] && !strings.HasPrefix(is, "refused: ") && (allowed == nil || is != allowed[name]) {
			list = append(list, fmt.Sprintf("%s: %q, and was %q", name, is, want[name]))
		}
	}
	slices.Sort(list)
	return list
}

// putsBack says whether the change puts whole rows back as they were: each of them was
// sealed once.
func (c *tampering) putsBack() bool {
	return strings.HasSuffix(c.name, ": as it was before") || strings.HasSuffix(c.name, ": rows of before back in")
}

// notWhileLocked are tables without rows in the target, each with the reason for which it does
// not count before the first unlock or while it is locked.
var notWhileLocked = map[string]string{
	"key_stores": "read with the state key", "external_keys": "read with the state key", "key_versions": "read with the state key", "credentials": "read with the state key",
	"grants": "read with the state key", "token_objects": "read with the state key", "installation": "there is none before the first unlock",
	"manifests": "there is none before the first unlock", "manifest_history": "digests for people", "audit_head": "sealed under the state key",
	"witnessed_time": "nothing is destroyed while it is locked: TestWitnessedRow", "spent": "written while unlocked; while it is locked the process remembers", "answers": "written while unlocked; while it is locked the process remembers", "leader": "rows of a fleet", "nodes": "rows of a fleet", "seen_head": "in the machine's file of a fleet's node: TestNodePutBack", "taken_changes": "in a fleet alone, and sealed: sqlite's TestOwnRowsEdited",
	"boot_steps": "a diary for people", "policy_version": "its seal is the daemon's: TestPolicyVersionIsSealed there", "master_key_making": "gone with the first unlock",
}

// emptyTables gives the tables without rows. A new one has to have rows here, or a reason.
func (g *target) emptyTables(t testing.TB) map[string]bool {
	t.Helper()
	empty := map[string]bool{}
	tables, _, _, _ := schemaOfDatabase(t, g.present)
	db := must(sql.Open("sqlite", g.present))(t)
	defer db.Close()
	for _, table := range tables {
		var some bool
		if err := db.QueryRow(`SELECT EXISTS (SELECT 1 FROM ` + table + `)`).Scan(&some); err != nil {
			t.Fatal(err)
		}
		if empty[table] = !some; !some && notWhileLocked[table] == "" {
			t.Errorf("the table %s has no rows: make some in newLockedTarget, or say in notWhileLocked why it does not count", table)
		}
	}
	return empty
}

// decided is what a target decides in a phase.
type decided struct {
	phase
	confirmed string // the digest of those whom somebody has confirmed before the first unlock
	// now is in the phase, later after the unlock that follows, before as it was in the phase.
	now, later, before map[string]string
}

// TestTamperedLocked edits each column and row of each table in each phase, while the
// appliance runs: nothing is decided otherwise, now or after the unlock that follows. It is
// generated from the schema. Whole rows that are put back as they were count again while
// only the machine's seal can be looked at; the unlock then refuses them: the first one
// as they are not those whom a person has confirmed, any other as the state was changed.
func TestTamperedLocked(t *testing.T) {
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) {
			g := newLockedTarget(t, p)
			d := &decided{phase: p}
			s, _ := g.enter(t, p, g.present)
			d.now = g.decidesOnPeople(t, s, "")
			if !p.installed {
				d.confirmed = must(s.Admission(ctx))(t).Digest
				must(s.ConfirmAdmission(ctx, d.confirmed, "ann"))(t)
			}
			if !p.unlocked {
				if err := s.Unlock(ctx, s.ring, nil); err != nil {
					t.Fatal(err)
				}
			}
			d.later = g.decidesOnPeople(t, s, "")
			s.stop()
			s, _ = g.enter(t, p, g.old)
			d.before = g.decidesOnPeople(t, s, "")
			s.stop()
			if n := len(others(d.now, nil, d.before)); n < 2 {
				t.Fatalf("only %d decisions have changed: %v, %v", n, d.now, d.before)
			}
			empty := g.emptyTables(t)
			cases := slices.DeleteFunc(g.tamperings(t), func(c tampering) bool { return c.schema || empty[c.table] })
			each(t, cases, func(t *testing.T, c tampering, n *counts) { n.add(g.tamperedIn(t, d, c)) })
		})
	}
}

// tamperedIn tries one change, and says how it ended.
func (g *target) tamperedIn(t *testing.T, d *decided, c tampering) string {
	s, dir := g.enter(t, d.phase, g.present)
	defer s.stop()
	session, want := "", d.now
	if c.table == "sessions" || c.table == "users" {
		session = g.signedIn(t, s, "ann")
		want = g.decidesOnPeople(t, s, session)
	}
	if !g.tamper(t, filepath.Join(dir, "holdfast.db"), c) {
		return "changes nothing"
	}
	var allowed map[string]string
	if c.putsBack() && !d.unlocked {
		allowed = d.before
	}
	// While the state is held, people sign in by the rows that there are, to look and to accept.
	if got := g.decidesOnPeople(t, s, session); s.Held() == nil {
		for _, d := range others(want, allowed, got) {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	s.stop()
	s, err := g.open(t, dir, nil)
	if err != nil {
		return "not opened: " + string(fault.CodeOf(err))
	}
	defer s.stop()
	if d.confirmed != "" {
		if _, err := s.ConfirmAdmission(ctx, d.confirmed, "ann"); err != nil {
			if s.Unlock(ctx, s.ring, nil) == nil {
				t.Errorf("%s: those who are there are not those whom a person has seen (%v), and it is unlocked", c.name, err)
			}
			return "not confirmed: " + string(fault.CodeOf(err))
		}
	}
	if err := s.Unlock(ctx, s.ring, nil); err != nil {
		return "not unlocked: " + string(fault.CodeOf(err))
	}
	for _, d := range others(d.later, nil, g.decidesOnPeople(t, s, "")) {
		t.Errorf("%s, after the unlock: %s", c.name, d)
	}
	return "without effect, or that thing refused"
}
