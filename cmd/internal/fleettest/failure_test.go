//go:build fleet

package fleettest_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/fleettest"
	"holdfast/cmd/internal/holdfastd"
)

// pause is shorter than the grace of a fleet, which is a minute by default.
var pause = flag.Duration("pause", 30*time.Second, "how long the database is paused; less than a minute")

// TestMain lets the test's binary be holdfastd.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfastd": func() { os.Exit(cli.Run(holdfastd.New())) }})
}

// The keys of these fleets.
const (
	cached = "cached"
	inHSM  = "in-hsm"
	other  = "other" // for what a test blocks
)

func start(t *testing.T, o fleettest.Options) *fleettest.Fleet {
	t.Helper()
	f := fleettest.Start(t, o)
	f.NewKey(cached, appliance.CustodyCached)
	f.NewKey(inHSM, appliance.CustodyHSM)
	f.NewKey(other, appliance.CustodyCached)
	return f
}

const blocked = "InvalidStateException"

// blockedEverywhere blocks the other key at a node, and gives how long it took until all
// others refuse it.
func blockedEverywhere(t *testing.T, f *fleettest.Fleet, at *fleettest.Node) time.Duration {
	t.Helper()
	began := time.Now()
	at.Block(other)
	for _, n := range f.Nodes {
		if n.Running() {
			n.Await("refuses the key that is blocked", func() bool { return n.Refuses(other, blocked) })
		}
	}
	return time.Since(began)
}

// TestNodeKilled: of a killed node's connections none fails for longer than two seconds; it
// comes back and has what was changed meanwhile.
func TestNodeKilled(t *testing.T) {
	f := start(t, fleettest.Options{})
	load := f.Load("killed", cached, inHSM)
	load.Await(200)
	dead := f.Nodes[1]
	dead.Kill()
	load.Await(500)
	t.Logf("a block was in effect at the others after %v", blockedEverywhere(t, f, f.Nodes[0]))
	dead.Start()
	if !dead.Refuses(other, blocked) {
		t.Error("the node that was dead serves a key that was blocked meanwhile")
	}
	load.Await(500)
	r := load.Done("a node killed")
	if r.Outage > 2*time.Second {
		t.Errorf("a connection had no answer for %v", r.Outage)
	}
	if r.Failed > 2*12 {
		t.Errorf("%d requests failed; a connection of the dead node has one or two", r.Failed)
	}
}

// TestPrimaryKilled: with the primary killed and its replica promoted, KMS notices nothing,
// nothing that was answered is lost, and changes go on.
func TestPrimaryKilled(t *testing.T) {
	f := start(t, fleettest.Options{Replica: true})
	load := f.Load("primary", cached, inHSM)
	load.Await(200)
	f.Nodes[0].Block(other) // it is answered just before
	f.Primary.Kill()
	for _, n := range f.Nodes[1:] {
		// What a node has not heard of yet comes when there is a database again.
		if _, err := n.Ask(cached); err != nil {
			t.Errorf("%s, without a database: %v", n.Name, err)
		}
	}
	f.Replica.Promote()
	began := time.Now()
	for _, n := range f.Nodes {
		n.Await("refuses the key that was blocked before", func() bool { return n.Refuses(other, blocked) })
	}
	t.Logf("all nodes had the last change %v after the promotion", time.Since(began))
	f.Nodes[1].Await("makes a change", func() bool { return f.Nodes[1].TryUnblock(other) == nil })
	for _, n := range f.Nodes {
		n.Await("serves the key that is not blocked any more", func() bool { _, err := n.Ask(other); return err == nil })
	}
	t.Logf("a change was in effect at all nodes %v after the promotion", time.Since(began))
	load.Await(500)
	if r := load.Done("the primary killed"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// TestDatabasePaused: unlocked keys serve as before while the database hangs for less than
// the grace; changes are refused, and work again after that.
func TestDatabasePaused(t *testing.T) {
	t.Parallel()
	f := start(t, fleettest.Options{Grace: time.Minute})
	load := f.LightLoad("paused", cached, inHSM)
	load.Await(50)
	f.Primary.Pause()
	began := time.Now()
	if err := f.Nodes[0].TryBlock(other); err == nil {
		t.Error("a change was made without the database")
	} else {
		t.Logf("a change is refused after %v: %v", time.Since(began), err)
	}
	if rest := *pause - time.Since(began); rest > 0 {
		time.Sleep(rest)
	}
	t.Logf("paused for %v", time.Since(began))
	f.Primary.Resume()
	f.Nodes[0].Await("makes a change", func() bool { return f.Nodes[0].TryBlock(other) == nil })
	for _, n := range f.Nodes {
		n.Await("refuses the key that is blocked", func() bool { return n.Refuses(other, blocked) })
	}
	load.Await(50)
	if r := load.Done("the database paused"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// TestNodeCutFromDatabase: it serves on until it may lack a change. Before that it fails
// /readyz and ends its connections, so that KMS notices nothing. It has what was changed once
// it reaches the database again.
func TestNodeCutFromDatabase(t *testing.T) {
	t.Parallel()
	f := start(t, fleettest.Options{})
	load := f.LightLoad("cut", cached, inHSM)
	load.Await(50)
	alone := f.Nodes[2]
	alone.CutDatabase()
	began := time.Now()
	f.Nodes[0].Block(other)
	t.Logf("the block returned after %v", time.Since(began))
	f.Nodes[1].Await("refuses the key that is blocked", func() bool { return f.Nodes[1].Refuses(other, blocked) })
	if _, err := alone.Ask(other); err == nil {
		t.Error("the block has returned, and a node serves the key")
	}
	if err := alone.TryUnblock(other); err == nil {
		t.Error("a node without the database has made a change")
	}
	load.Await(100)
	alone.HealDatabase()
	t.Logf("it had the change %v after it reached the database again", alone.Await("refuses the key that is blocked", func() bool { return alone.Refuses(other, blocked) }))
	if r := load.Done("a node cut from the database"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// TestNodesCutFromEachOther: nodes that do not hear each other serve on by the database and
// the HSM; a change is in effect at all at once, and returns within a little more than the
// grace, as nobody can say so.
func TestNodesCutFromEachOther(t *testing.T) {
	t.Parallel()
	f := start(t, fleettest.Options{})
	load := f.LightLoad("apart", cached, inHSM)
	load.Await(50)
	f.CutPeers()
	returned := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		f.Nodes[0].Block(other)
		returned <- time.Since(began)
	}()
	for _, n := range f.Nodes {
		n.Await("refuses the key that is blocked", func() bool { return n.Refuses(other, blocked) })
	}
	t.Logf("a block was in effect everywhere after %v", time.Since(began))
	took := <-returned
	t.Logf("the block returned after %v", took)
	if took > 2*fleettest.ShortestGrace {
		t.Errorf("the block returned after %v", took)
	}
	load.Await(100) // all have stopped by now that do not rely on the ground
	f.HealPeers()
	f.Nodes[1].Await("makes a change", func() bool { return f.Nodes[1].TryUnblock(other) == nil })
	for _, n := range f.Nodes {
		n.Await("serves the key that is not blocked any more", func() bool { _, err := n.Ask(other); return err == nil })
	}
	if r := load.Done("nodes cut from each other"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// TestDatabaseSlow: with the database far away, changes take longer and requests do not.
func TestDatabaseSlow(t *testing.T) {
	f := start(t, fleettest.Options{})
	for _, n := range f.Nodes {
		for _, w := range n.ToDatabase {
			w.Delay(50 * time.Millisecond)
		}
	}
	load := f.Load("slow", cached)
	t.Logf("a block was in effect everywhere after %v", blockedEverywhere(t, f, f.Nodes[2]))
	load.Await(500)
	if r := load.Done("the database 100 ms away"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}

// TestHSMCut: a node whose HSM is away serves what is in its memory; KMS hears of no error
// for a key in memory, and the others serve keys in the HSM.
func TestHSMCut(t *testing.T) {
	f := start(t, fleettest.Options{})
	load := f.Load("hsm", cached)
	load.Await(200)
	without := f.Nodes[1]
	without.HSM.Cut()
	without.Await("lacks its HSM", func() bool { _, err := without.Ask(inHSM); return err != nil })
	for _, n := range []*fleettest.Node{f.Nodes[0], f.Nodes[2]} {
		if _, err := n.Ask(inHSM); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	t.Logf("a block was in effect everywhere after %v", blockedEverywhere(t, f, without))
	load.Await(500)
	without.HSM.Restore()
	t.Logf("it used the HSM again after %v", without.Await("uses the HSM again", func() bool { _, err := without.Ask(inHSM); return err == nil }))
	if r := load.Done("the HSM cut for one node"); r.Failed > 0 {
		t.Errorf("%d requests failed", r.Failed)
	}
}
