package identity_test

import (
	"context"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/oidctest"
	"holdfast/appliance/identity/passkeytest"
)

// The tests here have two directories over one store, as two nodes of a fleet whose rows are
// taken over at once. Each step goes to the other one.

// touches counts what a store is asked to note of uses.
type touches struct {
	identity.Store
	sessions, spends atomic.Int64
	away             atomic.Bool
}

func (s *touches) TouchSession(ctx context.Context, id string, at time.Time) error {
	s.sessions.Add(1)
	if s.away.Load() {
		return fault.Errorf(fault.DatabaseAway, "the database does not answer")
	}
	return s.Store.TouchSession(ctx, id, at)
}

func (s *touches) Spend(ctx context.Context, u identity.Spent) error {
	s.spends.Add(1)
	return s.Store.Spend(ctx, u)
}

// two gives two nodes; the clock, the vault and the helpers are the first one's.
func two(t *testing.T, change func(*identity.Config)) (a *directory, b *identity.Directory, s *touches) {
	t.Helper()
	s = &touches{}
	a = open(t, func(c *identity.Config) {
		s.Store = c.Store
		c.Store, c.Nodes = s, func() int { return 2 }
		if change != nil {
			change(c)
		}
	})
	return a, a.another(), s
}

// another gives one more node, or the same after a restart.
func (d *directory) another() *identity.Directory {
	d.t.Helper()
	again, err := identity.New(d.Config)
	if err != nil {
		d.t.Fatal(err)
	}
	again.HashCheaply(true)
	return again
}

// TestSessionOnTwoNodes: a session works at each node, one that was proven at one is proven at
// the other, and one that ended at one has ended at the other, also when its row is put back.
func TestSessionOnTwoNodes(t *testing.T) {
	ctx := t.Context()
	for name, end := range map[string]func(b *identity.Directory, u *user) error{
		"signed out": func(b *identity.Directory, u *user) error { return b.SignOut(ctx, u.token) },
		"revoked":    func(b *identity.Directory, u *user) error { return b.RevokeSession(ctx, u.Session) },
		"revoked with all of the user": func(b *identity.Directory, u *user) error {
			_, err := b.RevokeSessions(ctx, u.id)
			return err
		},
		"another role": func(b *identity.Directory, u *user) error {
			_, err := b.SetRole(ctx, u.id, identity.RoleViewer)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := two(t, nil)
			a.enrol("admin", identity.RoleAdministrator)
			u := a.enrol("alice", identity.RoleAdministrator)
			a.pass(time.Minute)
			before, err := b.Session(ctx, u.token, true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.ProvePassword(ctx, before, password, a.code(u.secret), from); err != nil {
				t.Fatal(err)
			}
			after, err := a.Session(ctx, u.token, true)
			if err != nil || !after.ProvenAt.After(before.ProvenAt) {
				t.Errorf("proven at the other node: %+v %v", after, err)
			}
			a.exec(`CREATE TABLE kept AS SELECT * FROM sessions`)
			if err := end(b, u); err != nil {
				t.Fatal(err)
			}
			wants(t, "at the first node", errorOf(a.Session(ctx, u.token, true)), fault.Unauthenticated)
			a.exec(`INSERT OR IGNORE INTO sessions SELECT * FROM kept`)
			for what, d := range map[string]*identity.Directory{"the first node": a.Directory, "the second": b, "one that was restarted": a.another()} {
				wants(t, "put back, at "+what, errorOf(d.Session(ctx, u.token, true)), fault.Unauthenticated)
				if list, err := d.Sessions(ctx, u.id); err != nil || len(list) != 0 {
					t.Errorf("put back, listed at %s: %v %v", what, list, err)
				}
			}
		})
	}
}

// TestSessionUseIsNotedOncePerMinute: however many nodes a browser asks. While the database
// is away it is left out, and the session goes on.
func TestSessionUseIsNotedOncePerMinute(t *testing.T) {
	a, b, s := two(t, nil)
	u := a.enrol("alice", identity.RoleAdministrator)
	for range 60 { // three minutes
		a.pass(3 * time.Second)
		if err := errorOf(a.Session(t.Context(), u.token, true)); err != nil {
			t.Fatal(err)
		}
		if err := errorOf(b.Session(t.Context(), u.token, true)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.sessions.Load(); n != 3 {
		t.Errorf("%d writes in three minutes", n)
	}
	s.away.Store(true)
	a.pass(time.Minute)
	if err := errorOf(b.Session(t.Context(), u.token, true)); err != nil {
		t.Errorf("while the database is away: %v", err)
	}
}

// TestSessionMadeWhileLocked works at its own node alone, and everywhere from its first use
// there once the appliance is unlocked. One that ended while it was locked stays so.
func TestSessionMadeWhileLocked(t *testing.T) {
	ctx := t.Context()
	a, b, _ := two(t, nil)
	u := a.enrol("alice", identity.RoleAdministrator)
	a.vault.set(false, true)
	a.pass(time.Minute)
	in, err := a.SignInPassword(ctx, "alice", password, a.code(u.secret), from)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "at the other node", errorOf(b.Session(ctx, in.Token, true)), fault.Unauthenticated)
	a.exec(`CREATE TABLE kept AS SELECT * FROM sessions`)
	if err := a.SignOut(ctx, u.token); err != nil {
		t.Fatal(err)
	}
	a.exec(`INSERT OR IGNORE INTO sessions SELECT * FROM kept`)
	wants(t, "ended and put back, locked", errorOf(a.Session(ctx, u.token, true)), fault.Unauthenticated)
	a.vault.set(false, false)
	if err := a.Unlocked(ctx); err != nil {
		t.Fatal(err)
	}
	for what, d := range map[string]*identity.Directory{"the node": a.Directory, "the other": b} {
		wants(t, "ended while locked, at "+what, errorOf(d.Session(ctx, u.token, true)), fault.Unauthenticated)
	}
	if err := errorOf(a.Session(ctx, in.Token, true)); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	if err := errorOf(b.Session(ctx, in.Token, true)); err != nil {
		t.Errorf("unlocked, at the other node: %v", err)
	}
}

// TestPasskeyOnTwoNodes: each step of each ceremony at another node, and none of them twice.
func TestPasskeyOnTwoNodes(t *testing.T) {
	for _, locked := range []bool{false, true} {
		ctx := t.Context()
		a, b, _ := two(t, nil)
		if locked { // before there is an installation: as on one machine
			a.vault.set(true, false)
			b = a.Directory
		}
		key := passkeytest.New(t, "https://console.test")
		_, token, err := a.Invite(ctx, root, "alice", identity.RoleAdministrator)
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.BeginEnrolPasskey(ctx, token, from)
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.FinishEnrolPasskey(ctx, token, c.ID, "laptop", key.Create(c), from)
		if err != nil {
			t.Fatalf("enrol: %v; %s", err, a.log.String())
		}
		id := in.Principal.UserID
		wants(t, "enrol again", errorOf(a.FinishEnrolPasskey(ctx, token, c.ID, "laptop", key.Create(c), from)), fault.Unauthenticated)

		second := passkeytest.New(t, "https://console.test")
		if c, err = b.BeginAddPasskey(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := a.FinishAddPasskey(ctx, id, c.ID, "phone", second.Create(c)); err != nil {
			t.Fatalf("add: %v", err)
		}
		third := passkeytest.New(t, "https://console.test")
		wants(t, "add again", errorOf(b.FinishAddPasskey(ctx, id, c.ID, "phone", third.Create(c))), fault.Conflict)
		wants(t, "add again at the first", errorOf(a.FinishAddPasskey(ctx, id, c.ID, "phone", third.Create(c))), fault.Conflict)

		if c, err = a.BeginPasskey(ctx); err != nil {
			t.Fatal(err)
		}
		answer := key.Get(c)
		wants(t, "as another ceremony", b.FinishProvePasskey(ctx, in.Principal, c.ID, answer, from), fault.Unauthenticated)
		wants(t, "with a wrong answer", errorOf(b.FinishPasskey(ctx, c.ID, []byte(`{}`), from)), fault.Unauthenticated)
		signed, err := b.FinishPasskey(ctx, c.ID, answer, from)
		if err != nil {
			t.Fatalf("sign in: %v; %s", err, a.log.String())
		}
		for what, d := range map[string]*identity.Directory{"first": a.Directory, "second": b} {
			wants(t, "sign in again at the "+what, errorOf(d.FinishPasskey(ctx, c.ID, key.Get(c), from)), fault.Unauthenticated)
		}
		if !locked {
			wants(t, "sign in again after a restart", errorOf(a.another().FinishPasskey(ctx, c.ID, key.Get(c), from)), fault.Unauthenticated)
		}

		if c, err = b.BeginProvePasskey(ctx, signed.Principal); err != nil {
			t.Fatal(err)
		}
		wants(t, "in another session", a.FinishProvePasskey(ctx, in.Principal, c.ID, key.Get(c), from), fault.Unauthenticated)
		if err := a.FinishProvePasskey(ctx, signed.Principal, c.ID, key.Get(c), from); err != nil {
			t.Errorf("prove: %v", err)
		}
		wants(t, "prove again", b.FinishProvePasskey(ctx, signed.Principal, c.ID, key.Get(c), from), fault.Unauthenticated)

		if c, err = a.BeginPasskey(ctx); err != nil {
			t.Fatal(err)
		}
		a.pass(5 * time.Minute)
		wants(t, "after five minutes", errorOf(b.FinishPasskey(ctx, c.ID, key.Get(c), from)), fault.Unauthenticated)
	}
}

// TestStrangersWriteNothing: what nobody has proven uses no row up, however often it is sent.
func TestStrangersWriteNothing(t *testing.T) {
	a, b, s := two(t, nil)
	for range 5 {
		c, err := a.BeginPasskey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = b.FinishPasskey(t.Context(), c.ID, passkeytest.New(t, "https://console.test").Get(c), from)
	}
	if n := s.spends.Load(); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// TestPasswordOnTwoNodes: enrolling, and another password, with the secret of one node and
// the code at the other.
func TestPasswordOnTwoNodes(t *testing.T) {
	ctx := t.Context()
	a, b, _ := two(t, nil)
	_, token, err := a.Invite(ctx, root, "alice", identity.RoleAdministrator)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := a.BeginEnrolPassword(ctx, token, from)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := b.BeginEnrolPassword(ctx, token, from); err != nil || same != secret {
		t.Errorf("the page at the other node shows another secret: %v", err)
	}
	a.pass(9 * time.Minute)
	in, err := b.FinishEnrolPassword(ctx, token, password, a.code(secret.Secret), from)
	if err != nil {
		t.Fatal(err)
	}
	id := in.Principal.UserID
	next, err := b.BeginPassword(ctx, id)
	if err != nil || next.Secret == secret.Secret {
		t.Fatalf("another secret: %v", err)
	}
	if err := a.FinishPassword(ctx, id, password, a.code(next.Secret)); err != nil {
		t.Fatal(err)
	}
	wants(t, "once more", b.FinishPassword(ctx, id, password, a.code(next.Secret)), fault.Invalid)
	if next, err = b.BeginPassword(ctx, id); err != nil {
		t.Fatal(err)
	}
	a.pass(20 * time.Minute)
	wants(t, "twenty minutes later", a.FinishPassword(ctx, id, password, a.code(next.Secret)), fault.Invalid)
}

// TestOIDCOnTwoNodes: begun at one node, finished at the other, once.
func TestOIDCOnTwoNodes(t *testing.T) {
	ctx := t.Context()
	p := oidctest.New(t)
	a, b, _ := two(t, func(c *identity.Config) {
		c.OIDC = &identity.OIDC{Issuer: p.URL, ClientID: "console", HTTP: p.Client()}
	})
	u := a.enrol("alice", identity.RoleAdministrator)
	if _, err := a.BindOIDC(ctx, root, u.id, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	to, state, err := a.BeginOIDC(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	if len(state) > 512 {
		t.Errorf("the state has %d characters", len(state))
	}
	q, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p.Challenge = q.Query().Get("code_challenge")
	p.Claims = map[string]any{"iss": p.URL, "aud": "console", "sub": "1234", "email": "alice@example.com", "email_verified": true,
		"iat": a.clock().Unix(), "exp": a.clock().Add(time.Minute).Unix(), "nonce": q.Query().Get("nonce")}
	in, err := b.FinishOIDC(ctx, state, "good", from)
	if err != nil {
		t.Fatalf("%v; %s", err, a.log.String())
	}
	if _, err := a.Session(ctx, in.Token, true); err != nil {
		t.Error(err)
	}
	for what, d := range map[string]*identity.Directory{"first": a.Directory, "second": b, "after a restart": a.another()} {
		wants(t, "again, "+what, errorOf(d.FinishOIDC(ctx, state, "good", from)), fault.Unauthenticated)
	}
}

// TestSetupCodeOfAnotherNode: each node of a fleet takes the setup codes of the others once they
// are unlocked, until there is a user.
func TestSetupCodeOfAnotherNode(t *testing.T) {
	ctx := t.Context()
	a, b, _ := two(t, nil)
	first, err := a.SetupCode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.SetupCode(ctx)
	if err != nil || first == second {
		t.Fatalf("%q %q %v", first, second, err)
	}
	wants(t, "before it was told", errorOf(b.RedeemSetupCode(ctx, first, "alice", from)), fault.Unauthenticated)
	for range 2 { // again after a restart
		if err := a.Unlocked(ctx); err != nil {
			t.Fatal(err)
		}
		if err := b.Unlocked(ctx); err != nil {
			t.Fatal(err)
		}
	}
	wants(t, "as an invitation", errorOf(a.OpenInvitation(ctx, second, from)), fault.Unauthenticated)
	wants(t, "a code made up", errorOf(b.RedeemSetupCode(ctx, "AAAAAA-BBBBBB-CCCCCC-DDDDDD", "alice", from)), fault.Unauthenticated)
	token, err := b.RedeemSetupCode(ctx, first, "alice", from)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.RedeemSetupCode(ctx, second, "alice", from); err != nil {
		t.Fatal(err)
	}
	if list, err := a.Invitations(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed: %v %v", list, err)
	}
	a.accept(token, "alice")
	wants(t, "once there is a user", errorOf(a.RedeemSetupCode(ctx, second, "eve", from)), fault.Unauthenticated)
	wants(t, "once there is a user, its own node", errorOf(b.RedeemSetupCode(ctx, second, "eve", from)), fault.Unauthenticated)
}

// TestLimitsOfTwoNodes: an attacker who goes from node to node has no more attempts than at
// one appliance, but one for each node; and a user is locked after ten failures in all.
func TestLimitsOfTwoNodes(t *testing.T) {
	ctx := t.Context()
	nodes := 1
	a, b, _ := two(t, func(c *identity.Config) { c.Nodes = func() int { return nodes } })
	nodes = 2
	made := 0
	attempts := func() (taken int) {
		for range 40 {
			for _, d := range []*identity.Directory{a.Directory, b} {
				made++ // each is another token
				if _, err := d.Bearer(ctx, "hf_wrong"+strconv.Itoa(made), from); fault.CodeOf(err) != fault.Throttled {
					taken++
				}
			}
		}
		return taken
	}
	if n := attempts(); n < 20 || n > 22 {
		t.Errorf("%d attempts at once", n)
	}
	a.pass(30 * time.Second)
	if n := attempts(); n < 9 || n > 11 {
		t.Errorf("%d attempts in the next half minute", n)
	}
	u := a.enrol("alice", identity.RoleAdministrator)
	a.pass(time.Hour)
	from := from
	for i := range 10 {
		from.Address = "192.0.2." + strconv.Itoa(i) + ":1" // each from elsewhere: the count is the user's
		_, err := []*identity.Directory{a.Directory, b}[i%2].SignInPassword(ctx, "alice", "wrong", "000000", from)
		wants(t, "a wrong password", err, fault.Unauthenticated)
	}
	a.pass(time.Minute)
	for what, d := range map[string]*identity.Directory{"first": a.Directory, "second": b} {
		wants(t, "the right password, "+what, errorOf(d.SignInPassword(ctx, "alice", password, a.code(u.secret), from)), fault.Unauthenticated)
	}
}
