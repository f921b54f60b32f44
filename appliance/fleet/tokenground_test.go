package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// shared is a token and a log that nodes share.
type shared struct {
	open    func(t *testing.T) keyring.Token
	cut     func()
	restore func()
	wrapped []byte
	changes *changelogtest.Memory
	logged  bytes.Buffer
	owner   error
}

// sharedTokens are tokens of each kind.
var sharedTokens = map[string]func(t *testing.T) *shared{
	"in memory": func(t *testing.T) *shared {
		m := appliancetest.NewMemory()
		return newShared(m, m.Cut, m.Restore)
	},
	"SoftHSM2": func(t *testing.T) *shared {
		c, shim := hsmtest.NewBehindShim(t)
		c.Pause = func(int) time.Duration { return time.Millisecond }
		return newShared(appliancetest.PKCS11(c), shim.Cut, shim.Restore)
	},
}

func newShared(d appliancetest.Device, cut, restore func()) *shared {
	return &shared{cut: cut, restore: restore, changes: changelogtest.NewMemory(nil), open: func(t *testing.T) keyring.Token {
		token, err := d.Open(t.Context(), appliancetest.Opening{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = token.Close() })
		return token
	}}
}

const testInstallation = "1f0e4b6e8f2c4d5a9b7c6d5e4f3a2b1c"

// ring gives an unlocked keyring over the token.
func (s *shared) ring(t *testing.T, token keyring.Token) *keyring.Keyring {
	t.Helper()
	ring := keyring.New(token)
	var err error
	if s.wrapped == nil {
		s.wrapped, err = ring.NewStateKey(t.Context(), testInstallation)
	} else {
		err = ring.OpenStateKey(t.Context(), testInstallation, s.wrapped)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Lock)
	return ring
}

// node gives the ground of a node that has just been unlocked.
func (s *shared) node(t *testing.T, id string, token keyring.Token) *TokenGround {
	t.Helper()
	return s.nodeOf(t, "the log", id, token)
}

// nodeOf gives the ground of a node of the log that begins with that change.
func (s *shared) nodeOf(t *testing.T, origin, id string, token keyring.Token) *TokenGround {
	t.Helper()
	return NewTokenGround(TokenGroundOptions{Ring: s.ring(t, token), Changes: s.changes.Peer(), Installation: testInstallation, Origin: origin, Node: id,
		CheckOwner: func(context.Context, appliance.Keyring) error { return s.owner }, Log: slog.New(slog.NewTextHandler(&s.logged, nil))})
}

// numbers are those of positions, in order.
func numbers(all []appliance.Position) string {
	var out []uint64
	for _, p := range all {
		out = append(out, p.Number)
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

func position(n uint64) appliance.Position {
	return appliance.Position{Number: n, Digest: fmt.Sprintf("digest-%d", n)}
}

func upTo(n uint64) func(appliance.Position) bool {
	return func(p appliance.Position) bool { return p.Number <= n }
}

func wantRead(t *testing.T, g *TokenGround, want string) {
	t.Helper()
	if got, err := g.Read(t.Context()); err != nil || numbers(got) != want {
		t.Errorf("node %s read %v %v, want %s", g.o.Node, got, err, want)
	}
}

func wantPost(t *testing.T, g *TokenGround, n uint64, others string, relying ...string) {
	t.Helper()
	got, rely, err := g.Post(t.Context(), position(n), upTo(n))
	if err != nil || numbers(got) != others || !slices.Equal(rely, relying) {
		t.Errorf("node %s posted %d: others %v, relying %v, %v; want %s %v", g.o.Node, n, got, rely, err, others, relying)
	}
}

func eachToken(t *testing.T, test func(t *testing.T, s *shared)) {
	for name, make := range sharedTokens {
		t.Run(name, func(t *testing.T) { test(t, make(t)) })
	}
}

// TestGroundMeets: of a node that relies and one that posts at least one sees the other, in
// each order, and after a crash of either.
func TestGroundMeets(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		token := s.open(t)
		a, b := s.node(t, "a", token), s.node(t, "b", s.open(t))
		wantRead(t, a, "[0]")
		wantPost(t, b, 3, "[]", "a")
		wantRead(t, a, "[0 3]")
		if err := s.changes.Append(t.Context(), 1, []byte("one")); err != nil {
			t.Fatal(err)
		}
		wantRead(t, a, "[1 3]")
		wantRead(t, b, "[1 3]")
		wantPost(t, b, 5, "[3]", "a", "b") // 3 goes
		wantPost(t, b, 5, "[]", "a", "b")
		wantPost(t, a, 5, "[5]", "a", "b")
		a = s.node(t, "a", token) // it crashed: its reliance is there
		wantPost(t, b, 6, "[5]", "a", "b")
		wantRead(t, a, "[1 6]")
		for range 2 {
			if err := a.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		wantPost(t, b, 7, "[6]", "b")
		if err := a.Forget(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		wantPost(t, a, 8, "[7]")
		// It is told that its reliance was removed, and then relies once more.
		if _, err := b.Read(t.Context()); fault.CodeOf(err) != fault.Conflict {
			t.Errorf("read after it was forgotten: %v", err)
		}
		wantRead(t, b, "[1 8]")
		wantPost(t, a, 9, "[8]", "b")
		for _, o := range objectsOf(t, token) {
			if !strings.HasPrefix(o.Label, "holdfast-position-") && !strings.HasPrefix(o.Label, "holdfast-reliance-") {
				t.Errorf("the token has %s", o.Label)
			}
		}
		if n := len(objectsOf(t, token)); n != 2 {
			t.Errorf("%d objects are in the token, want a position and a reliance", n)
		}
	})
}

// TestGroundRestarts: a node that starts again and again leaves one reliance.
func TestGroundRestarts(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		token := s.open(t)
		for range 5 {
			wantRead(t, s.node(t, "a", token), "[0]")
		}
		if all := objectsOf(t, token); len(all) != 1 {
			t.Errorf("%d objects are in the token", len(all))
		}
	})
}

func objectsOf(t *testing.T, token keyring.Token) []hsm.DataObject {
	t.Helper()
	all, err := token.DataObjects(t.Context(), hsm.ReachAny)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestForeignObjects count for nothing and stay: those of another installation, those that
// do not match their seal, and those of another purpose. Only the second are told of, once.
func TestForeignObjects(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		token := s.open(t)
		a := s.node(t, "a", token)
		wantRead(t, a, "[0]")
		wantPost(t, a, 4, "[]", "a")
		var foreign []hsm.DataObject
		put := func(o hsm.DataObject) {
			t.Helper()
			if err := token.CreateDataObject(t.Context(), o, hsm.ReachMost); err != nil {
				t.Fatal(err)
			}
			foreign = append(foreign, o)
		}
		forged := 0
		for i, o := range objectsOf(t, token) {
			for k, change := range [][2]string{{`"4"`, `"9"`}, {"digest-4", "digest-5"}, {`"a"]`, `"b"]`}, {`"the log","a"]`, `]`}, {`"the log"`, `"another log"`}, {`"seal":"`, `"seal":"AAAA`}, {`"position"`, `"reliance"`}, {`"reliance"`, `"position"`},
				{`,"seal"`, `,"none"`}, {testInstallation, "another"}, {`{`, ``}, {`"position"`, `"new"`}} {
				if value := bytes.Replace(o.Value, []byte(change[0]), []byte(change[1]), 1); !bytes.Equal(value, o.Value) {
					put(hsm.DataObject{Label: fmt.Sprintf("%s-%d-%d", o.Label[:20], i, k), Value: value})
					if k < 9 {
						forged++
					}
				}
			}
		}
		put(hsm.DataObject{Label: "empty"})
		otherRing := keyring.New(token)
		if _, err := otherRing.NewStateKey(t.Context(), "another"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(otherRing.Lock)
		for _, purpose := range []appliance.ObjectPurpose{appliance.ObjectPosition, appliance.ObjectReliance} {
			for _, installation := range []string{"another", testInstallation} {
				o, err := appliance.NewSealedObject(otherRing, purpose, installation, "a", "b")
				if err != nil {
					t.Fatal(err)
				}
				put(hsm.DataObject{Label: o.Label, Value: o.Value})
				if installation == testInstallation {
					forged++
				}
			}
		}
		own, err := appliance.NewSealedObject(a.o.Ring, appliance.ObjectInstallation, testInstallation, "i", "1", "1", "r")
		if err != nil {
			t.Fatal(err)
		}
		put(hsm.DataObject{Label: own.Label, Value: own.Value})
		for range 2 {
			wantRead(t, a, "[0 4]")
		}
		wantPost(t, a, 9, "[4]", "a")
		wantPost(t, a, 10, "[9]", "a")
		for _, id := range []string{"a", "b", ""} {
			if err := a.Forget(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
		left := objectsOf(t, token)
		for _, o := range foreign {
			if !slices.ContainsFunc(left, func(l hsm.DataObject) bool { return l.Label == o.Label && bytes.Equal(l.Value, o.Value) }) {
				t.Errorf("%s is gone: %s", o.Label, o.Value)
			}
		}
		if len(left) != len(foreign)+1 {
			t.Errorf("%d objects are left, want %d and the position", len(left), len(foreign))
		}
		if got := strings.Count(s.logged.String(), "does not match its seal, and counts for nothing"); got != forged || forged < 8 {
			t.Errorf("%d were told of, want %d:\n%s", got, forged, s.logged.String())
		}
	})
}

// faultyToken fails at its nth call for data objects, before or after its effect.
type faultyToken struct {
	keyring.Token
	left  int // calls until then; negative for never
	after bool
	// full says that it takes no object.
	full bool
}

var errToken = errors.New("CKR_DEVICE_MEMORY")

func (f *faultyToken) call(do func() error) error {
	f.left--
	if f.left != 0 {
		return do()
	}
	if f.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errToken
}

func (f *faultyToken) DataObjects(ctx context.Context, r hsm.Reach) (all []hsm.DataObject, err error) {
	err = f.call(func() (err error) {
		all, err = f.Token.DataObjects(ctx, r)
		return err
	})
	return all, err
}

func (f *faultyToken) CreateDataObject(ctx context.Context, o hsm.DataObject, r hsm.Reach) error {
	if f.full {
		return errToken
	}
	return f.call(func() error { return f.Token.CreateDataObject(ctx, o, r) })
}

func (f *faultyToken) DestroyDataObject(ctx context.Context, o hsm.DataObject) error {
	return f.call(func() error { return f.Token.DestroyDataObject(ctx, o) })
}

// TestGroundFails: whichever call of the token fails, before or after its effect, what the
// ground has said stays true, the same works afterwards, by this process and by one that
// starts after a crash, and nothing is left over.
func TestGroundFails(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		token := s.open(t)
		b := s.node(t, "b", token)
		number := uint64(1)
		wantPost(t, b, number, "[]")
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				for call := 1; call <= 7; call++ {
					faulty := &faultyToken{Token: token}
					a := s.node(t, "a", faulty)
					faulty.left, faulty.after = call, after
					what := fmt.Sprintf("call %d, after %v, crash %v", call, after, crash)
					read, err := a.Read(t.Context())
					if err == nil {
						if numbers(read) != fmt.Sprintf("[0 %d]", number) {
							t.Errorf("%s: read %v", what, read)
						}
						if _, relying, err := b.Post(t.Context(), position(number), upTo(0)); err != nil || !slices.Contains(relying, "a") {
							t.Errorf("%s: it relies, and b sees %v %v", what, relying, err)
						}
					}
					number++
					if _, _, err := a.Post(t.Context(), position(number), upTo(number)); err == nil {
						if got, err := b.Read(t.Context()); err != nil || !slices.Contains(got, position(number)) {
							t.Errorf("%s: it has posted %d, and b reads %v %v", what, number, got, err)
						}
					}
					_ = a.Release(t.Context())
					faulty.left = -1
					if crash {
						a = s.node(t, "a", faulty)
					}
					if _, err := a.Read(t.Context()); err != nil {
						t.Errorf("%s: read again: %v", what, err)
					}
					number++
					if _, relying, err := a.Post(t.Context(), position(number), upTo(number)); err != nil || !slices.Contains(relying, "a") {
						t.Errorf("%s: post again: %v %v", what, relying, err)
					}
					if err := errors.Join(a.Release(t.Context()), b.Release(t.Context())); err != nil {
						t.Errorf("%s: release again: %v", what, err)
					}
					if left := objectsOf(t, token); len(left) != 1 {
						t.Fatalf("%s: %d objects are left, want the position: %+v", what, len(left), left)
					}
					b = s.node(t, "b", token)
				}
			}
		}
	})
}

// TestFullToken: a token that takes no object more proves nothing, and loses nothing.
func TestFullToken(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		faulty := &faultyToken{Token: s.open(t)}
		a := s.node(t, "a", faulty)
		wantPost(t, a, 2, "[]")
		faulty.full = true
		if got, err := a.Read(t.Context()); err == nil {
			t.Errorf("read %v", got)
		}
		if got, _, err := a.Post(t.Context(), position(3), upTo(3)); err == nil {
			t.Errorf("posted: %v", got)
		}
		if err := a.Release(t.Context()); err != nil {
			t.Error(err)
		}
		faulty.full = false
		wantRead(t, a, "[0 2]")
		// More objects than are read are an error, and none is left out in silence.
		for i := range hsm.MaxDataObjects {
			if err := faulty.Token.CreateDataObject(t.Context(), hsm.DataObject{Label: fmt.Sprint("filler", i)}, hsm.ReachAny); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := a.Read(t.Context()); err == nil || !strings.Contains(err.Error()+fmt.Sprint(errors.Unwrap(err)), "more than 256 data objects") {
			t.Errorf("read %v %v", got, err)
		}
	})
}

// groundMethods are all methods of a ground that use the token.
var groundMethods = map[string]func(ctx context.Context, g *TokenGround) error{
	"Read":    func(ctx context.Context, g *TokenGround) error { _, err := g.Read(ctx); return err },
	"Release": func(ctx context.Context, g *TokenGround) error { return g.Release(ctx) },
	"Forget":  func(ctx context.Context, g *TokenGround) error { return g.Forget(ctx, "b") },
	"Post": func(ctx context.Context, g *TokenGround) error {
		_, _, err := g.Post(ctx, position(9), upTo(9))
		return err
	},
}

// TestNothingProven: without the token, the log, the ownership, the keys or time, no method
// says that all is well that needs it; all do again when it is back.
func TestNothingProven(t *testing.T) {
	eachToken(t, func(t *testing.T, s *shared) {
		token := s.open(t)
		log := s.changes.Peer()
		ended, end := context.WithCancel(t.Context())
		end()
		for what, way := range map[string]struct {
			begin, end func(*TokenGround)
			ctx        context.Context
			only       string // the one method that needs it; empty for all
		}{
			"token away": {begin: func(*TokenGround) { s.cut() }, end: func(*TokenGround) {
				s.restore()
				appliancetest.Eventually(t, "back", func() bool { _, err := token.DataObjects(t.Context(), hsm.ReachAny); return err == nil })
			}},
			"database away": {begin: func(*TokenGround) { log.Cut() }, end: func(*TokenGround) { log.Mend() }, only: "Read"},
			"another copy is the owner": {begin: func(*TokenGround) { s.owner = fault.Errorf(fault.Conflict, "another") },
				end: func(*TokenGround) { s.owner = nil }, only: "Read"},
			"locked": {begin: func(g *TokenGround) { g.o.Ring.Lock() }, end: func(g *TokenGround) {
				if err := g.o.Ring.OpenStateKey(t.Context(), testInstallation, s.wrapped); err != nil {
					t.Fatal(err)
				}
			}},
			"no time": {begin: func(*TokenGround) {}, end: func(*TokenGround) {}, ctx: ended},
		} {
			for name, call := range groundMethods {
				g := s.node(t, "a", token)
				g.o.Changes = log
				wantRead(t, g, numbersNow(t, g))
				g = s.node(t, "a", token)
				g.o.Changes = log
				way.begin(g)
				ctx := t.Context()
				if way.ctx != nil {
					ctx = way.ctx
				}
				err := call(ctx, g)
				if needs := way.only == "" || way.only == name; needs != (err != nil) {
					t.Errorf("%s: %s: %v", what, name, err)
				}
				way.end(g)
				if err := call(t.Context(), g); err != nil {
					t.Errorf("%s: %s afterwards: %v", what, name, err)
				}
			}
		}
	})
}

// numbersNow gives what is there to read.
func numbersNow(t *testing.T, g *TokenGround) string {
	t.Helper()
	got, err := g.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return numbers(got)
}

// TestHangingToken: no method returns while the token may still do what it was told.
func TestHangingToken(t *testing.T) {
	for name, function := range map[string]string{"Read": "C_CreateObject", "Post": "C_CreateObject", "Release": "C_DestroyObject", "Forget": "C_DestroyObject"} {
		t.Run(name, func(t *testing.T) {
			c, shim := hsmtest.NewBehindShim(t)
			s := newShared(appliancetest.PKCS11(c), shim.Cut, shim.Restore)
			token := s.open(t)
			a := s.node(t, "a", token)
			if function == "C_DestroyObject" {
				wantRead(t, a, "[0]")
				wantRead(t, s.node(t, "b", token), "[0]")
			}
			shim.Hang(function)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- groundMethods[name](ctx, a) }()
			<-ctx.Done()
			select {
			case err := <-done:
				t.Errorf("it has returned: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			shim.Release()
			<-done // with an error or not: the time is over for what comes after
			if err := groundMethods[name](t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGroundOfCluster: without more than half of the HSMs nothing is read and nothing
// written; with all, what was written is in all.
func TestGroundOfCluster(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	for i := range configs {
		configs[i].Pause = func(int) time.Duration { return time.Millisecond }
	}
	cluster, err := hsm.OpenCluster(t.Context(), configs)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cluster.Close() }()
	s := &shared{changes: changelogtest.NewMemory(nil)}
	a := s.node(t, "a", cluster)
	wantRead(t, a, "[0]")
	wantPost(t, a, 3, "[]", "a")
	there := func(member int) bool { return cluster.Members()[member].Probe(t.Context()) == nil }
	shim.Cut()
	appliancetest.Eventually(t, "away", func() bool { return !there(0) })
	before := objectsOf(t, cluster) // of the other one
	if len(before) != 2 {
		t.Errorf("the second HSM has %d objects", len(before))
	}
	for name, call := range groundMethods {
		if err := call(t.Context(), s.node(t, "a", cluster)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if after := objectsOf(t, cluster); len(after) != len(before) {
		t.Errorf("the second HSM has %d objects", len(after))
	}
	shim.Restore()
	appliancetest.Eventually(t, "back", func() bool { return there(0) })
	wantPost(t, a, 4, "[3]", "a")
	wantRead(t, a, "[0 4]")
}

// withheldLog tells the node of no change that it does not have already, if the database
// withholds from it.
type withheldLog struct {
	*changelogtest.Memory
	at *at
}

func (l withheldLog) Newest(ctx context.Context) (uint64, error) {
	l.at.mu.Lock()
	defer l.at.mu.Unlock()
	if l.at.withheld {
		return uint64(len(l.at.log)), nil
	}
	return l.Memory.Newest(ctx)
}

// newTokenSite is a fleet over a token in memory.
func newTokenSite(t *testing.T, ids ...string) (*site, *shared) {
	m := appliancetest.NewMemory()
	sh := newShared(m, m.Cut, m.Restore)
	token := sh.open(t)
	s := emptySite()
	s.ground = func(a *at) Ground {
		g := sh.node(t, a.id, token)
		g.o.Changes = withheldLog{sh.changes, a}
		return g
	}
	s.found(t, ids...)
	for n := range ids {
		if err := sh.changes.Append(t.Context(), uint64(n+1), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	return s, sh
}

// TestPartnerOfDeadNode: over the token a node whose peer died goes on, for as long as
// database and token are there.
func TestPartnerOfDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sh := newTokenSite(t, "a", "b")
		time.Sleep(10 * time.Second)
		s.nodes["b"].stop()
		s.cut("b", true)
		a := s.nodes["a"]
		for range 4 {
			time.Sleep(grace)
			wantFresh(t, a, "")
		}
		sh.cut()
		time.Sleep(grace + 5*time.Second)
		wantFresh(t, a, fault.FleetStale)
		sh.restore()
		time.Sleep(5 * time.Second)
		wantFresh(t, a, "")
		a.stop()
	})
}

// TestPairBehindLyingDatabase: two nodes hear each other and not the third, and the database
// keeps its change from them: by the token they stop before the change is in effect.
func TestPairBehindLyingDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sh := newTokenSite(t, "a", "b", "c")
		time.Sleep(5 * time.Second)
		s.cut("a", true)
		s.nodes["b"].withhold(true)
		s.nodes["c"].withhold(true)
		time.Sleep(grace) // they rely on the ground
		wantFresh(t, s.nodes["b"], "")
		a := s.nodes["a"]
		a.change(line{digest: "block"})
		if err := sh.changes.Append(t.Context(), 4, []byte("block")); err != nil {
			t.Fatal(err)
		}
		if got := a.Settle(t.Context()); got.Nodes != 1 || got.Of != 3 || len(got.Late) > 0 {
			t.Errorf("%+v", got)
		}
		wantFresh(t, s.nodes["b"], fault.FleetStale)
		wantFresh(t, s.nodes["c"], fault.FleetStale)
		wantFresh(t, a, "")
		for _, n := range s.nodes {
			n.stop()
		}
	})
}

// hangingGround does not answer until it is released.
type hangingGround struct {
	Ground
	hang chan struct{}
}

func (h hangingGround) Post(ctx context.Context, at appliance.Position, covered func(appliance.Position) bool) ([]appliance.Position, []string, error) {
	<-h.hang
	return h.Ground.Post(ctx, at, covered)
}

// TestSettleBesideHangingToken: what an administrator waits for ends with the request, also
// if the token hangs; so does the removal of a node. When it answers, all goes on.
func TestSettleBesideHangingToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite()
		hang := make(chan struct{})
		s.ground = func(a *at) Ground { return hangingGround{token{s, a.id}, hang} }
		s.found(t, "a", "b")
		time.Sleep(20 * time.Second)
		a := s.nodes["a"]
		s.nodes["b"].stop()
		s.cut("b", true)
		a.change(line{digest: "block"})
		for range 2 {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			got := a.Settle(ctx)
			cancel()
			if took := time.Since(began); took > 11*time.Second || len(got.Late) != 1 || !got.Late[0].Until.IsZero() {
				t.Errorf("%+v after %s", got, took)
			}
		}
		close(hang)
		if got := a.Settle(t.Context()); len(got.Late) != 0 || got.Of != 2 {
			t.Errorf("%+v", got)
		}
		a.stop()
	})
}

// TestGroundOfAnotherLog: what nodes of an earlier log of the installation left in the token,
// or somebody has put back there, says nothing of the log of now, and is not removed with it.
func TestGroundOfAnotherLog(t *testing.T) {
	s := sharedTokens["in memory"](t)
	token := s.open(t)
	before, now := s.nodeOf(t, "the log of before", "n1", token), s.nodeOf(t, "the log of now", "n1", token)
	wantRead(t, before, "[0]")
	if _, _, err := before.Post(t.Context(), position(900), upTo(0)); err != nil {
		t.Fatal(err)
	}
	wantRead(t, now, "[0]")
	others, relying, err := now.Post(t.Context(), position(3), upTo(1000))
	if err != nil || len(others) > 0 || fmt.Sprint(relying) != "[n1]" {
		t.Errorf("%v %v %v", others, relying, err)
	}
	other := s.nodeOf(t, "the log of now", "n2", token)
	if others, relying, err := other.Post(t.Context(), position(4), upTo(0)); err != nil || numbers(others) != "[3]" || fmt.Sprint(relying) != "[n1]" {
		t.Errorf("%v %v %v", others, relying, err)
	}
	if err := now.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRead(t, before, "[0 900]") // its reliance is still there
}

// TestWordsOfAnotherLog: what was said in an earlier log of the installation, with the same
// state key, does not authenticate in the log of now, whatever it is.
func TestWordsOfAnotherLog(t *testing.T) {
	s := sharedTokens["in memory"](t)
	ring := s.ring(t, s.open(t))
	of := func(origin string) code {
		key, err := ring.PeerKey(testInstallation, origin)
		if err != nil {
			t.Fatal(err)
		}
		return code{key, testInstallation}
	}
	before, now, again := of("the log of before"), of("the log of now"), of("the log of now")
	heard := &Message{From: "a", To: "b", Nonce: newNonce(), Report: Report{Position: position(900)}}
	for _, direction := range []string{calling, answering} {
		for opener, want := range map[*code]fault.Code{&now: fault.FleetMessage, &before: ""} {
			text, err := before.seal(direction, heard, []byte("call"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := opener.open(direction, text, []byte("call")); fault.CodeOf(err) != want {
				t.Errorf("a heartbeat, %s: %v, want %q", direction, err, want)
			}
			said, err := frame(question{From: "a", To: "b", Nonce: newNonce(), Kind: "head"}, []byte("body"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := opener.openFrame(direction, before.sealFrame(direction, said, []byte("asked")), []byte("asked"), &question{}); fault.CodeOf(err) != want {
				t.Errorf("a question, %s: %v, want %q", direction, err, want)
			}
		}
	}
	text, err := now.seal(calling, heard, nil)
	if err == nil {
		_, err = again.open(calling, text, nil)
	}
	if err != nil {
		t.Errorf("of the same log: %v", err)
	}
}
