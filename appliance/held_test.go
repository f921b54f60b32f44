package appliance_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// execute runs statements on a database beside those who have it open.
func execute(t testing.TB, dir string, statements ...string) {
	t.Helper()
	db := must(sql.Open("sqlite", filepath.Join(dir, "holdfast.db")+"?_pragma=busy_timeout(5000)"))(t)
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, st := range statements {
		must(db.Exec(st))(t)
	}
}

var ofHeld = identity.Client{Address: "192.0.2.1:4711", UserAgent: "test"}

// signIn signs ann in.
func (g *target) signIn(t *testing.T, s *served) (token string) {
	t.Helper()
	g.clock.Pass(time.Minute) // a code is good once
	in, err := s.users.SignInPassword(ctx, "ann", "a sentence long enough", must(totp.GenerateCode(g.password["ann"], g.clock.Now()))(t), ofHeld)
	return tamperDo(t, in.Token, err)
}

// goodToken gives an API token that was not revoked.
func (g *target) goodToken(t *testing.T) string {
	t.Helper()
	for name, secret := range g.token {
		if decision := g.ofPeople[name]; strings.HasPrefix(name, "bearer ") && !strings.HasPrefix(decision, "refused") {
			return secret
		}
	}
	t.Fatal("all tokens are revoked")
	return ""
}

// good says whether a session is.
func good(t *testing.T, s *served, token string) bool {
	t.Helper()
	_, err := s.users.Session(ctx, token, false)
	if err != nil && !errors.Is(err, identity.ErrProof) && fault.CodeOf(err) != fault.StateChanged {
		t.Errorf("a session: %v", err)
	}
	return err == nil
}

// heldRunning gives an appliance whose state is held while it runs, with the row of a
// session that has ended put back.
func (g *target) heldRunning(t *testing.T) *served {
	dir := copied(t, g.present)
	s := must(g.start(t, dir, nil))(t)
	live, ended := g.signIn(t, s), g.signIn(t, s)
	execute(t, dir, `ATTACH '`+dir+`/kept' AS kept`, `CREATE TABLE kept.sessions AS SELECT * FROM main.sessions`)
	if err := s.users.SignOut(ctx, ended); err != nil {
		t.Fatal(err)
	}
	execute(t, dir, `ATTACH '`+dir+`/kept' AS kept`, `INSERT OR IGNORE INTO main.sessions SELECT * FROM kept.sessions`, `DELETE FROM invitations`)
	if good(t, s, ended) {
		t.Error("a session that has ended is good again, while the state is open")
	}
	if _, err := s.VerifyState(ctx); err != nil && fault.CodeOf(err) != fault.Locked { // it may be held already
		t.Fatal(err)
	}
	appliancetest.Eventually(t, "it is held", func() bool { return s.Held() != nil })
	if good(t, s, ended) {
		t.Error("a session that has ended is good again")
	}
	if !good(t, s, live) {
		t.Error("a session that has not ended is refused")
	}
	return s
}

// TestHeldAdmitsPeople: a state that is held admits people who sign in, and neither API
// tokens nor sessions that have ended or are of another process, whatever rows were put
// back. People can accept it, and then tokens are good again.
func TestHeldAdmitsPeople(t *testing.T) {
	g := newTarget(t, false)
	for name, hold := range map[string]func(t *testing.T) *served{
		"at the start": func(t *testing.T) *served {
			dir := copied(t, g.present)
			execute(t, dir, `DELETE FROM invitations`)
			s, err := g.start(t, dir, nil)
			if !appliance.IsHeld(err) {
				t.Fatal(err)
			}
			return s
		},
		"while it runs": func(t *testing.T) *served { return g.heldRunning(t) },
	} {
		t.Run(name, func(t *testing.T) {
			s := hold(t)
			defer s.stop()
			for token, secret := range g.token {
				var err error
				switch what := token[:6]; what {
				case "bearer":
					_, err = s.users.Bearer(ctx, secret, ofHeld)
				case "sessio":
					_, err = s.users.Session(ctx, secret, false)
				default:
					continue
				}
				if err == nil {
					t.Errorf("%s: it is admitted", token)
				}
			}
			_, err := s.users.Bearer(ctx, g.goodToken(t), ofHeld)
			if fault.CodeOf(err) != fault.Locked {
				t.Errorf("a token: %v", err)
			}
			person := g.signIn(t, s)
			if !good(t, s, person) {
				t.Error("a person who has signed in is refused")
			}
			tamperDo(t, "", errorOf(s.AcceptState(ctx, "ann", "a test")))
			if _, err := s.users.Bearer(ctx, g.goodToken(t), ofHeld); err != nil {
				t.Errorf("a token, after the state was accepted: %v", err)
			}
			if !good(t, s, person) {
				t.Error("a person's session, after the state was accepted, is refused")
			}
		})
	}
}

// TestSessionsEndInMemory: a session that has ended stays so, however it ended, though its
// row is put back while the appliance is locked, where no row is held against memory.
func TestSessionsEndInMemory(t *testing.T) {
	g := newTarget(t, false)
	for i, end := range []func(s *served, token string, p identity.Principal) error{
		func(s *served, token string, _ identity.Principal) error { return s.users.SignOut(ctx, token) },
		func(s *served, _ string, p identity.Principal) error { return s.users.RevokeSession(ctx, p.Session) },
		func(s *served, _ string, p identity.Principal) error {
			return errorOf(s.users.RevokeSessions(ctx, p.UserID))
		},
		func(s *served, token string, _ identity.Principal) error {
			g.clock.Pass(13 * time.Hour)
			_, err := s.users.Session(ctx, token, false)
			if !errors.Is(err, identity.ErrProof) {
				return fmt.Errorf("it is good after 13 hours: %v", err)
			}
			g.clock.Pass(-13 * time.Hour)
			return nil
		},
	} {
		dir := copied(t, g.present)
		s := must(g.start(t, dir, nil))(t)
		g.clock.Pass(time.Minute)
		in, err := s.users.SignInPassword(ctx, "ann", "a sentence long enough", must(totp.GenerateCode(g.password["ann"], g.clock.Now()))(t), ofHeld)
		tamperDo(t, "", err)
		execute(t, dir, `ATTACH '`+dir+`/kept' AS kept`, `CREATE TABLE kept.sessions AS SELECT * FROM main.sessions`)
		if err := end(s, in.Token, in.Principal); err != nil {
			t.Errorf("way %d: %v", i, err)
		}
		s.Lock()
		execute(t, dir, `ATTACH '`+dir+`/kept' AS kept`, `INSERT OR IGNORE INTO main.sessions SELECT * FROM kept.sessions`)
		if _, err := s.users.Session(ctx, in.Token, false); !errors.Is(err, identity.ErrProof) {
			t.Errorf("way %d: a session that has ended is good again: %v", i, err)
		}
		if list, err := s.users.Sessions(ctx, ""); err != nil || len(list) != 0 {
			t.Errorf("way %d: the list has %v, %v", i, list, err)
		}
		s.stop()
	}
}
