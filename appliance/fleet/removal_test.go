package fleet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// removed gives a site of a and b from which d was removed, after it had served.
func removed(t *testing.T) (s *site, a, d *at) {
	s = newSite(t, "a", "b")
	time.Sleep(2 * time.Second)
	a, d = s.nodes["a"], s.start(t, "d")
	storeMust(t, d.Enter(t.Context(), d))
	time.Sleep(2 * time.Second)
	storeMust(t, a.Remove(t.Context(), a, "d"))
	storeMust(t, a.Clear(t.Context(), a))
	time.Sleep(2 * time.Second)
	return s, a, d
}

func (a *at) wantHeld(t *testing.T, code fault.Code) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if fault.CodeOf(a.held) != code {
		t.Errorf("node %s is held by %v, want %q", a.id, a.held, code)
	}
}

// TestRemovalLasts: a node that was removed says so while it runs, and is refused at each
// start, also with rows of when it was a member. It administers nothing.
func TestRemovalLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, d := removed(t)
		refused := func(when string, d *at) {
			t.Helper()
			wantFresh(t, d, fault.FleetRemoved)
			d.wantHeld(t, fault.FleetRemoved)
			for what, err := range map[string]error{"enters": d.Enter(t.Context(), d), "removes": d.Remove(t.Context(), d, "b"), "drains": d.Drain(t.Context(), d, "b", true)} {
				if fault.CodeOf(err) != fault.FleetRemoved {
					t.Errorf("%s, it %s: %v", when, what, err)
				}
			}
			if _, leads := d.Lead(t.Context(), d); leads {
				t.Errorf("%s, it leads", when)
			}
		}
		refused("while it runs", d)
		d.stop()
		d = s.start(t, "d")
		time.Sleep(2 * time.Second)
		refused("started again", d)
		d.stop()

		d = s.startAt(t, "d", s.log[:4]) // with its rows of when it served
		if d.Fresh() == nil {
			t.Error("put back, it serves")
		}
		time.Sleep(2 * time.Second)
		refused("put back", d)
		if got := len(a.FleetStatus().Nodes); got != 2 || a.Live() != 2 || len(a.Members()) != 2 {
			t.Errorf("the fleet has %d nodes, %d live", got, a.Live())
		}
		if err := a.Remove(t.Context(), a, "d"); fault.CodeOf(err) != fault.NotFound {
			t.Errorf("removed twice: %v", err)
		}
		e := s.start(t, "e") // the machine, with a new ID
		storeMust(t, e.Enter(t.Context(), e))
		wantFresh(t, e, "")
	})
}

// TestLeaderRemoved: another node leads once the one that led was removed.
func TestLeaderRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b")
		time.Sleep(2 * time.Second)
		a, b := s.nodes["a"], s.nodes["b"]
		if _, leads := b.Lead(t.Context(), b); !leads {
			t.Fatal("b does not lead")
		}
		storeMust(t, a.Remove(t.Context(), a, "b"))
		storeMust(t, a.Clear(t.Context(), a))
		time.Sleep(2 * time.Second)
		if _, leads := b.Lead(t.Context(), b); leads {
			t.Error("the one that was removed leads")
		}
		if _, leads := a.Lead(t.Context(), a); !leads {
			t.Error("nobody leads")
		}
	})
}

// TestRemovedAreBounded: rows of nodes that were removed do not grow over years.
func TestRemovedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite()
		for i := range maxRemoved + 3 {
			id := fmt.Sprint("gone", i)
			s.log = append(s.log, line{digest: id, node: appliance.Node{ID: id, State: appliance.NodeRemoved, Joined: time.Unix(int64(i), 0)}})
		}
		s.found(t, "a", "b", "c")
		time.Sleep(2 * time.Second)
		a := s.nodes["a"]
		storeMust(t, a.Remove(t.Context(), a, "c"))
		storeMust(t, a.Clear(t.Context(), a))
		_, rows := a.Roll()
		if len(rows) != 2+maxRemoved {
			t.Errorf("there are %d rows", len(rows))
		}
		for id, want := range map[string]bool{"gone0": false, "gone3": false, "gone4": true, "gone1002": true, "c": true} {
			if a.isRemoved(id) != want {
				t.Errorf("%s is removed: %t", id, !want)
			}
		}
	})
}

// TestRemovedRelyOnNothing: the reliance of a node that was cut off when it was removed goes,
// whenever it comes, also if its row went long ago.
func TestRemovedRelyOnNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, _ := removed(t)
		for i := range 3 {
			s.set(func() { s.rely["d"], s.rely["b"] = true, true })
			storeMust(t, a.Clear(t.Context(), a))
			s.set(func() {
				if s.rely["d"] {
					t.Errorf("time %d: it relies on the ground", i)
				}
				if !s.rely["b"] {
					t.Errorf("time %d: a member was forgotten", i)
				}
			})
			s.set(func() { s.noToken = true })
			time.Sleep(sweepEvery)
			if err := a.Clear(t.Context(), a); err == nil {
				t.Error("no error while the token is away")
			}
			s.set(func() { s.noToken = false })
		}
	})
}

// TestRemovedLeavesTheGround: a node that knows that it was removed releases its reliance and
// reads the ground no more, also once it was started again.
func TestRemovedLeavesTheGround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, d := removed(t)
		rests := func(when string) {
			t.Helper()
			s.set(func() { s.reads["d"] = 0 })
			time.Sleep(10 * grace)
			s.set(func() {
				if s.rely["d"] || s.reads["d"] != 0 {
					t.Errorf("%s: it relies %t, and has read the ground %d times", when, s.rely["d"], s.reads["d"])
				}
			})
		}
		rests("while it runs")
		d.stop()
		s.set(func() { s.rely["d"] = true }) // of the process before
		s.start(t, "d")
		time.Sleep(2 * time.Second)
		rests("started again")
	})
}

// TestDrainedReadsNoRows: each answer to KMS asks whether a node is drained.
func TestDrainedReadsNoRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "a", "b")
		time.Sleep(2 * time.Second)
		b := s.nodes["b"]
		for _, drained := range []bool{false, true, false} {
			storeMust(t, s.nodes["a"].Drain(t.Context(), s.nodes["a"], "b", drained))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			rolled := func() int { b.mu.Lock(); defer b.mu.Unlock(); return b.rolled }
			before := rolled()
			for range 100 {
				if b.Drained() != drained {
					t.Fatalf("drained: %t", !drained)
				}
			}
			if n := rolled() - before; n != 0 {
				t.Errorf("its rows were read %d times", n)
			}
		}
	})
}
