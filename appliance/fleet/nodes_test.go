package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

const grace = 60 * time.Second

// site is a fleet in one process: a log, a token and a network that do as they are told.
type site struct {
	schemas map[string]int64 // that nodes report; guarded by mu
	mu      sync.Mutex
	log     []line
	down    map[string]bool // nodes that nobody reaches, and that reach nobody
	posts   []appliance.Position
	rely    map[string]bool
	reads   map[string]int // of the ground, by node
	// noToken says that the token does not answer.
	noToken bool
	// slow is how long a reading takes.
	slow time.Duration
	// ground makes that of a node; nil for one that tests lead by the fields above.
	ground func(a *at) Ground
	hints  appliance.NodeHints
	called map[string]int // addresses; guarded by mu
	nodes  map[string]*at
	began  time.Time
	leader appliance.LeaderRow
}

// line is a change of the log.
type line struct {
	digest string
	node   appliance.Node
	gone   bool
}

// at is a node of the site.
type at struct {
	site *site
	id   string
	*Node
	mu        sync.Mutex
	log       []line
	withheld  bool
	suspended time.Duration
	rolled    int // how often its rows were read
	held      error
	stop      func()
}

func newSite(t *testing.T, ids ...string) *site {
	s := emptySite()
	s.found(t, ids...)
	return s
}

func emptySite() *site {
	return &site{schemas: map[string]int64{}, down: map[string]bool{}, rely: map[string]bool{}, reads: map[string]int{}, called: map[string]int{}, nodes: map[string]*at{}, began: time.Now()}
}

// found begins the log with nodes that serve, and starts them.
func (s *site) found(t *testing.T, ids ...string) {
	for _, id := range ids {
		s.log = append(s.log, line{digest: "f" + id, node: appliance.Node{ID: id, Address: id, State: appliance.NodeServing}})
	}
	for _, id := range ids {
		s.start(t, id)
	}
}

// start starts a node with all that is in the log.
func (s *site) start(t *testing.T, id string) *at {
	s.mu.Lock()
	log := s.log
	s.mu.Unlock()
	return s.startAt(t, id, log)
}

// startAt starts a node with the beginning of the log that it has.
func (s *site) startAt(t *testing.T, id string, log []line) *at {
	a := &at{site: s, id: id, log: slices.Clone(log)}
	key := testKey("installation")
	if s.ground == nil {
		s.ground = func(a *at) Ground { return token{s, a.id} }
	}
	a.Node = New(Options{ID: id, Address: id, Installation: "installation", Key: &key, Rows: a, Transport: network{s, id}, Ground: s.ground(a), Grace: grace, Hints: s.hints,
		BootTime: func() time.Duration {
			a.mu.Lock()
			defer a.mu.Unlock()
			return time.Since(s.began) + a.suspended
		},
		Report: func() Report {
			s.mu.Lock()
			defer s.mu.Unlock()
			return Report{Schema: s.schemas[id]}
		},
		Hold: func(err error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.held = err
		}})
	s.mu.Lock()
	s.nodes[id] = a
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { a.Run(ctx) })
	done.Go(func() { a.follow(ctx) })
	a.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(a.stop)
	return a
}

// testKey is an HMAC key.
type testKey []byte

func (k *testKey) MAC(message []byte) []byte {
	m := hmac.New(sha256.New, *k)
	m.Write(message)
	return m.Sum(nil)
}

func (k *testKey) Wipe() {
	*k = make([]byte, 32)
	_, _ = rand.Read(*k)
}

// Written implements [Rows].
func (a *at) Written() uint64 { at, _ := a.Roll(); return at.Number }

// Roll implements [Rows].
func (a *at) Roll() (appliance.Position, []appliance.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rolled++
	var members []appliance.Node
	for _, l := range a.log {
		members = slices.DeleteFunc(members, func(m appliance.Node) bool { return m.ID == l.node.ID })
		if l.node.ID != "" && !l.gone {
			members = append(members, l.node)
		}
	}
	return appliance.Position{Number: uint64(len(a.log)), Digest: a.log[len(a.log)-1].digest}, members
}

// Passed implements [Rows].
func (a *at) Passed(p appliance.Position) (passed, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log[p.Number-1].digest == p.Digest, true
}

// CatchUp implements [Rows].
func (a *at) CatchUp() { go a.take() }

func (a *at) take() {
	a.mu.Lock()
	a.site.mu.Lock()
	before := len(a.log)
	if !a.withheld && len(a.site.log) > before {
		a.log = slices.Clone(a.site.log)
	}
	a.site.mu.Unlock()
	after := len(a.log)
	a.mu.Unlock()
	if after > before {
		a.Advanced()
	}
}

// follow asks the log each second.
func (a *at) follow(ctx context.Context) {
	for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
		a.take()
		select {
		case <-ctx.Done():
			tick.Stop()
		case <-tick.C:
		}
	}
}

// change makes a change on the node.
func (a *at) change(l line) {
	a.mu.Lock()
	a.site.mu.Lock()
	a.site.log = append(a.site.log, l)
	a.log = slices.Clone(a.site.log)
	a.site.mu.Unlock()
	a.mu.Unlock()
	a.Advanced()
}

// PutNode implements [Register].
func (a *at) PutNode(_ context.Context, n appliance.Node, _ *appliance.Node) error {
	a.change(line{digest: fmt.Sprint(n.ID, n.State), node: n})
	return nil
}

// DeleteNode implements [Register].
func (a *at) DeleteNode(_ context.Context, n appliance.Node) error {
	a.change(line{digest: n.ID + "gone", node: n, gone: true})
	return nil
}

// Leader implements [Register].
func (a *at) Leader(context.Context) (appliance.LeaderRow, error) {
	a.site.mu.Lock()
	defer a.site.mu.Unlock()
	return a.site.leader, nil
}

// TakeLead implements [Register].
func (a *at) TakeLead(_ context.Context, node string, was appliance.LeaderRow) (appliance.LeaderRow, error) {
	a.site.mu.Lock()
	defer a.site.mu.Unlock()
	if a.site.leader.Token != was.Token {
		return appliance.LeaderRow{}, fault.Errorf(fault.Changed, "another was faster")
	}
	a.site.leader = appliance.LeaderRow{Node: node, Token: was.Token + 1}
	return a.site.leader, nil
}

// network is the network as a node has it.
type network struct {
	site *site
	from string
}

// Call implements [Transport].
func (l network) Call(ctx context.Context, address string, message []byte) ([]byte, error) {
	l.site.mu.Lock()
	l.site.called[address]++
	to := l.site.nodes[address]
	silent := to == nil || l.site.down[address] || l.site.down[l.from]
	l.site.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, fault.Errorf(fault.Unreachable, "silent")
	}
	return to.Handle(message)
}

// token is the ground of a node.
type token struct {
	site *site
	id   string
}

func (g token) away() error {
	if g.site.noToken {
		return fault.Errorf(fault.Internal, "the token is away")
	}
	return nil
}

// Read implements [Ground].
func (g token) Read(context.Context) ([]appliance.Position, error) {
	g.site.mu.Lock()
	a, slow := g.site.nodes[g.id], g.site.slow
	g.site.mu.Unlock()
	time.Sleep(slow)
	a.mu.Lock()
	defer a.mu.Unlock()
	g.site.mu.Lock()
	defer g.site.mu.Unlock()
	g.site.rely[g.id] = true
	g.site.reads[g.id]++
	newest := len(g.site.log)
	if a.withheld {
		newest = len(a.log)
	}
	return append(slices.Clone(g.site.posts), appliance.Position{Number: uint64(newest)}), g.away()
}

// Release implements [Ground].
func (g token) Release(context.Context) error {
	g.site.mu.Lock()
	defer g.site.mu.Unlock()
	delete(g.site.rely, g.id)
	return g.away()
}

// Post implements [Ground].
func (g token) Post(_ context.Context, at appliance.Position, covered func(appliance.Position) bool) (others []appliance.Position, rely []string, err error) {
	g.site.set(func() {
		if err = g.away(); err == nil {
			others = slices.Clone(g.site.posts)
			rely = slices.Collect(maps.Keys(g.site.rely))
			g.site.posts = append(g.site.posts, at)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	var gone []appliance.Position // asked without the lock: it looks at the rows
	for _, p := range others {
		if p != at && covered(p) {
			gone = append(gone, p)
		}
	}
	g.site.set(func() {
		g.site.posts = slices.DeleteFunc(g.site.posts, func(p appliance.Position) bool { return slices.Contains(gone, p) })
	})
	return others, rely, nil
}

// Forget implements [Ground].
func (g token) Forget(_ context.Context, ids ...string) error {
	g.site.mu.Lock()
	defer g.site.mu.Unlock()
	for _, id := range ids {
		delete(g.site.rely, id)
	}
	return g.away()
}

func (s *site) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// withhold has the database keep changes from the node.
func (a *at) withhold(withheld bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.withheld = withheld
}

func (s *site) cut(id string, down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[id] = down
}

func wantFresh(t *testing.T, a *at, code fault.Code) {
	t.Helper()
	if err := a.Fresh(); fault.CodeOf(err) != code {
		t.Errorf("after %s, node %s: %v, want %q", time.Since(a.site.began), a.id, err, code)
	}
}

// TestSettlesAtOnce: a change is in effect in all nodes as soon as they have it, and not a
// beat later.
func TestSettlesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		a := s.nodes["a"]
		time.Sleep(5500 * time.Millisecond)
		for _, n := range s.nodes {
			wantFresh(t, n, "")
			if n.Live() != 3 {
				t.Errorf("node %s: %d live", n.id, n.Live())
			}
		}
		began := time.Now()
		a.change(line{digest: "block"})
		if got := a.Settle(t.Context()); got.Nodes != 3 || got.Of != 3 || len(got.Late) > 0 || time.Since(began) > 100*time.Millisecond {
			t.Errorf("%+v after %s", got, time.Since(began))
		}
		if s.posts != nil {
			t.Errorf("the token was asked: %v", s.posts)
		}
	})
}

// TestSilentNode: a node that is cut off, and to which the database says that all is well,
// stops within T; the change waits for that, and no longer than a little more than T.
func TestSilentNode(t *testing.T) {
	for _, way := range []struct {
		name       string
		withheld   bool
		cut, noHSM bool
		nodes      int
		least      time.Duration // how long the change waits
		stops      fault.Code    // why the node does not serve then
	}{
		{name: "cut off, and the database honest", cut: true, nodes: 2, stops: ""},
		{name: "cut off, and the database withholds", withheld: true, cut: true, nodes: 2, least: grace - 5*time.Second, stops: fault.FleetStale},
		{name: "heard, and the database withholds", withheld: true, nodes: 2, least: grace - 5*time.Second, stops: fault.FleetStale},
		{name: "nothing is wrong", nodes: 3},
	} {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "a", "b", "c")
				a, c := s.nodes["a"], s.nodes["c"]
				time.Sleep(3500 * time.Millisecond)
				s.cut("c", way.cut)
				c.withhold(way.withheld)
				began := time.Now()
				a.change(line{digest: "block"})
				got := a.Settle(t.Context())
				if took := time.Since(began); got.Nodes != way.nodes || got.Of != 3 || len(got.Late) > 0 || took < way.least || took > grace+3*time.Second {
					t.Errorf("%+v after %s", got, took)
				}
				wantFresh(t, a, "")
				wantFresh(t, s.nodes["b"], "")
				wantFresh(t, c, way.stops)
				// It serves again as soon as it knows.
				s.cut("c", false)
				c.withhold(false)
				time.Sleep(3 * time.Second)
				wantFresh(t, c, "")
			})
		})
	}
}

// TestTwoDoNotKeepEachOtherFresh: nodes that hear each other and not the third stop, if the
// database keeps from them what that one has changed.
func TestTwoDoNotKeepEachOtherFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		time.Sleep(5 * time.Second)
		s.cut("a", true)
		s.nodes["b"].withhold(true)
		s.nodes["c"].withhold(true)
		a := s.nodes["a"]
		a.change(line{digest: "block"})
		if got := a.Settle(t.Context()); got.Nodes != 1 || got.Of != 3 || len(got.Late) > 0 {
			t.Errorf("%+v", got)
		}
		wantFresh(t, s.nodes["b"], fault.FleetStale)
		wantFresh(t, s.nodes["c"], fault.FleetStale)
		wantFresh(t, a, "")
	})
}

// TestFading: a node that does not hear whether it lacks a change is fading for the last third
// of the time for which it serves, and not any more once it hears it. One that hears it,
// of the others or of the ground, never is.
func TestFading(t *testing.T) {
	for name, lacks := range map[string]func(s *site, so bool){
		"the change":                             func(s *site, so bool) { s.nodes["b"].withhold(so) },
		"the change, with a ground that is slow": func(s *site, so bool) { s.nodes["b"].withhold(so); s.set(func() { s.slow = grace / 5 }) },
		"an answer, and ground":                  func(s *site, so bool) { s.cut("b", so); s.set(func() { s.noToken = so }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "a", "b", "c")
				b := s.nodes["b"]
				time.Sleep(5 * time.Second)
				lacks(s, true)
				s.nodes["a"].change(line{digest: "block"})
				for _, step := range []struct {
					after  time.Duration
					fading bool
					stale  fault.Code
				}{{2*grace/3 - 3*time.Second, false, ""}, {6 * time.Second, true, ""}, {grace/3 - 6*time.Second, true, ""}, {6 * time.Second, true, fault.FleetStale}} {
					time.Sleep(step.after)
					if fading := b.Fading(); fading != step.fading {
						t.Errorf("after %v more: %t", step.after, fading)
					}
					wantFresh(t, b, step.stale)
				}
				lacks(s, false)
				time.Sleep(grace)
				if wantFresh(t, b, ""); b.Fading() {
					t.Error("it hears the others, and is fading")
				}
				s.cut("c", true) // the ground stands for it
				for range 3 * grace / time.Second {
					if time.Sleep(time.Second); b.Fading() {
						t.Fatal("the ground says that it lacks nothing, and it is fading")
					}
				}
			})
		})
	}
}

// TestBoundedWait: what an administrator waits for ends with the request, and says which
// node stops by when. That is kept.
func TestBoundedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		time.Sleep(2 * time.Second)
		s.cut("c", true)
		s.nodes["c"].withhold(true)
		time.Sleep(10 * time.Second)
		a := s.nodes["a"]
		a.change(line{digest: "block"})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := a.Settle(ctx)
		if got.Nodes != 2 || len(got.Late) != 1 || got.Late[0].ID != "c" {
			t.Fatalf("%+v", got)
		}
		left := time.Until(got.Late[0].Until)
		if left < 40*time.Second || left > grace+2*time.Second {
			t.Errorf("it stops in %s", left)
		}
		time.Sleep(left)
		wantFresh(t, s.nodes["c"], fault.FleetStale)

		s.set(func() { s.noToken = true }) // then nobody can say when a node stops that relies on it
		a.change(line{digest: "block again"})
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if got := a.Settle(ctx); len(got.Late) != 1 || !got.Late[0].Until.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}

// TestDeadNode: a node that died while all heard each other costs a change T once, and
// nothing after.
func TestDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		time.Sleep(20 * time.Second) // no reliance of the start is left
		s.nodes["c"].stop()
		s.cut("c", true)
		time.Sleep(grace + 10*time.Second)
		for range 2 {
			began := time.Now()
			s.nodes["a"].change(line{digest: time.Now().String()})
			if got := s.nodes["a"].Settle(t.Context()); got.Nodes != 2 || got.Of != 3 || len(got.Late) > 0 || time.Since(began) > 4*time.Second {
				t.Errorf("%+v after %s", got, time.Since(began))
			}
		}
		wantFresh(t, s.nodes["a"], "")
		wantFresh(t, s.nodes["b"], "")
	})
}

// TestSuspended: a machine that was suspended does not serve when it wakes.
func TestSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b")
		time.Sleep(2500 * time.Millisecond) // between two beats
		wantFresh(t, s.nodes["b"], "")
		b := s.nodes["b"]
		b.mu.Lock()
		b.suspended = grace
		b.mu.Unlock()
		wantFresh(t, b, fault.FleetStale)
		time.Sleep(2 * time.Second)
		wantFresh(t, b, "")
	})
}

// TestNothingToHear: without another node a node serves by the ground alone, and stops T
// after it was last there.
func TestNothingToHear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a")
		a := s.nodes["a"]
		time.Sleep(5 * time.Minute)
		wantFresh(t, a, "")
		a.change(line{digest: "block"})
		if got := a.Settle(t.Context()); got.Nodes != 1 || got.Of != 1 || len(got.Late) > 0 {
			t.Errorf("%+v", got)
		}
		s.set(func() { s.noToken = true })
		time.Sleep(grace/2 - time.Second)
		wantFresh(t, a, "")
		time.Sleep(grace / 2)
		time.Sleep(2 * time.Second)
		wantFresh(t, a, fault.FleetStale)
		s.set(func() { s.noToken = false })
		time.Sleep(2 * time.Second)
		wantFresh(t, a, "")
	})
}

// TestBranch: nodes that were shown two logs both stop, and say so.
func TestBranch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		time.Sleep(2 * time.Second)
		c := s.nodes["c"]
		c.mu.Lock()
		c.withheld = true
		c.log = append(c.log, line{digest: "another"})
		c.mu.Unlock()
		s.nodes["a"].change(line{digest: "one"})
		time.Sleep(3 * time.Second)
		for _, n := range s.nodes {
			wantFresh(t, n, fault.FleetBranch)
			n.mu.Lock()
			if fault.CodeOf(n.held) != fault.FleetBranch {
				t.Errorf("node %s holds nothing: %v", n.id, n.held)
			}
			n.mu.Unlock()
		}
	})
}

// TestMembership: a node joins, serves, is drained and removed; it serves only between.
func TestMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b")
		time.Sleep(2 * time.Second)
		a, d := s.nodes["a"], s.start(t, "d")
		time.Sleep(2 * time.Second)
		wantFresh(t, d, fault.FleetJoining)
		if err := d.Enter(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		wantFresh(t, d, "")
		time.Sleep(2 * time.Second)
		if live := a.Live(); live != 3 {
			t.Errorf("%d live", live)
		}
		if err := a.Drain(t.Context(), a, "d", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		wantFresh(t, d, "") // it answers what it is still asked
		if live := a.Live(); live != 2 {
			t.Errorf("%d live", live)
		}
		if err := a.Remove(t.Context(), a, "d"); err != nil {
			t.Fatal(err)
		}
		if got := a.Settle(t.Context()); got.Nodes != 3 || len(got.Late) > 0 {
			t.Errorf("%+v", got)
		}
		wantFresh(t, d, fault.FleetRemoved)
		if err := a.Clear(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if got := a.Settle(t.Context()); got.Nodes != 2 || got.Of != 2 {
			t.Errorf("%+v", got)
		}
		if err := d.Enter(t.Context(), d); fault.CodeOf(err) != fault.FleetRemoved && err != nil {
			t.Errorf("%v", err)
		}
		for name, err := range map[string]error{"itself": a.Remove(t.Context(), a, "a"), "unknown": a.Remove(t.Context(), a, "x"), "unknown, drained": a.Drain(t.Context(), a, "x", true)} {
			if code := fault.CodeOf(err); code != fault.NotFound && code != fault.Conflict {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestJoiningAlone: a node does not join if no other answers, until those were removed.
func TestJoiningAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b")
		time.Sleep(2 * time.Second)
		s.cut("a", true)
		s.cut("b", true)
		d := s.start(t, "d")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := d.Enter(ctx, d); fault.CodeOf(err) != fault.FleetJoining {
			t.Errorf("%v", err)
		}
		wantFresh(t, d, fault.FleetJoining)
		for _, id := range []string{"a", "b"} {
			if err := d.Remove(t.Context(), d, id); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Enter(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		wantFresh(t, d, "")
	})
}

// TestLeader: one node leads; another takes over, with the next token, when that one is
// silent for T or is drained.
// TestKnows: the newest schema that all know is that of the node furthest behind, and is not
// known while one is not heard. One that was removed does not count.
func TestKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite()
		s.found(t, "a", "b", "c")
		want := func(schema int64) {
			t.Helper()
			time.Sleep(5 * time.Second)
			if got := s.nodes["a"].Knows(); got != schema {
				t.Errorf("all know %d, want %d", got, schema)
			}
		}
		set := func(id string, schema int64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.schemas[id] = schema
		}
		want(0) // none has said so
		for _, id := range []string{"a", "b", "c"} {
			set(id, 22)
		}
		want(22)
		set("a", 23)
		set("b", 24)
		want(22)
		set("c", 23)
		want(23)
		set("a", 25)
		s.cut("b", true)
		want(0)
		time.Sleep(grace)
		want(0)
		storeMust(t, s.nodes["a"].Remove(t.Context(), s.nodes["a"], "b"))
		want(23)
	})
}

func storeMust(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b", "c")
		time.Sleep(5 * time.Second)
		lead := func(id string) (uint64, bool) {
			ctx, leads := s.nodes[id].Lead(t.Context(), s.nodes[id])
			token, fenced := appliance.Fence(ctx)
			if leads != fenced {
				t.Errorf("node %s leads: %t, fenced: %t", id, leads, fenced)
			}
			return token, leads
		}
		want := func(id string, token uint64) {
			t.Helper()
			for other := range s.nodes {
				if s.down[other] || other == id {
					continue
				}
				if _, leads := lead(other); leads {
					t.Errorf("node %s leads beside %s", other, id)
				}
			}
			if got, leads := lead(id); !leads || got != token {
				t.Errorf("node %s leads: %t, with token %d, want %d", id, leads, got, token)
			}
		}
		time.Sleep(grace + time.Second)
		if token, leads := lead("b"); !leads || token != 1 {
			t.Fatalf("%d, %t", token, leads)
		}
		want("b", 1)
		s.cut("b", true)
		time.Sleep(grace / 2)
		if _, leads := lead("a"); leads {
			t.Error("it is taken over before the lease has ended")
		}
		time.Sleep(grace)
		if token, leads := lead("a"); !leads || token != 2 {
			t.Fatalf("%d, %t", token, leads)
		}
		s.cut("b", false)
		time.Sleep(5 * time.Second)
		want("a", 2)
		if err := s.nodes["b"].Drain(t.Context(), s.nodes["b"], "a", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if _, leads := lead("a"); leads {
			t.Error("a drained node leads")
		}
		if token, leads := lead("c"); !leads || token != 3 {
			t.Fatalf("%d, %t", token, leads)
		}
		want("c", 3)
	})
}

// TestEmptySeatIsWaitedForShortly: who changes something at a node that is locked does not wait
// as for a silent one, and hears that others may not have it.
func TestEmptySeatIsWaitedForShortly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		began := time.Now()
		got := (&Seat{}).Settle(ctx)
		if d := time.Since(began); d > 5*time.Second || len(got.Late) != 1 || !got.Late[0].Until.IsZero() {
			t.Errorf("after %v: %+v", d, got)
		}
	})
}
