package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
)

// floodedHints are those of a database whose superuser adds nodes all the time.
type floodedHints struct {
	mu    sync.Mutex
	reads int
}

// Announce implements [appliance.NodeHints].
func (*floodedHints) Announce(context.Context, appliance.NodeHint) error { return nil }

// RemoveNode implements [appliance.NodeHints].
func (*floodedHints) RemoveNode(context.Context, string) error { return nil }

// Nodes implements [appliance.NodeHints]. Each time there are others, the members among them.
func (h *floodedHints) Nodes(context.Context) (all []appliance.NodeHint, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	for i := range 1000 {
		all = append(all, appliance.NodeHint{ID: fmt.Sprintf("x%d-%d", h.reads, i), Address: fmt.Sprintf("10.%d.%d.%d:443", h.reads, i/250, i%250), At: time.Now().Add(time.Hour)})
	}
	return append(all, appliance.NodeHint{ID: "b", Address: "10.0.0.1:443", At: time.Now()}), nil
}

// TestHintsAreBounded: whoever fills the database's list of nodes has a node call few
// addresses, and remember few; members are called where their rows say.
func TestHintsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite()
		s.hints = &floodedHints{}
		s.found(t, "a", "b")
		a := s.nodes["a"]
		for range 60 {
			time.Sleep(10 * time.Second)
			s.mu.Lock()
			called := s.called
			s.called = map[string]int{}
			s.mu.Unlock()
			if len(called) > 2+4*maxStrangers { // of two nodes, before and after a reading
				t.Fatalf("in ten seconds %d addresses were called", len(called))
			}
			a.lock()
			known := len(a.peers)
			a.unlock()
			if known > 1+2*maxStrangers {
				t.Fatalf("%d nodes are known", known)
			}
			if called["b"] < 5 || called["10.0.0.1:443"] > 0 {
				t.Fatalf("the other member is called %d times, and %d times where the database says", called["b"], called["10.0.0.1:443"])
			}
			wantFresh(t, a, "")
		}
	})
}

// TestHintsAreCleared: the leader removes the rows of nodes that were removed, and of those
// that nobody announces any more; a node that was removed is not called for a hint, and not
// answered.
func TestHintsAreCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emptySite()
		later := time.Duration(0)
		hints := changelogtest.NewMemory(func() time.Time { return time.Now().Add(later) })
		for _, id := range []string{"c", "d", "stale"} {
			storeMust(t, hints.Announce(t.Context(), appliance.NodeHint{ID: id, Address: id + ":1"}))
		}
		later = hintKept + time.Minute
		storeMust(t, hints.Announce(t.Context(), appliance.NodeHint{ID: "new", Address: "new:1"}))
		s.hints = hints
		s.found(t, "a", "b", "c", "d")
		s.nodes["c"].stop() // and announces nothing more; d announces itself
		time.Sleep(2 * time.Second)
		a, d := s.nodes["a"], s.nodes["d"]
		storeMust(t, a.Remove(t.Context(), a, "d"))
		storeMust(t, a.Clear(t.Context(), a))
		time.Sleep(time.Minute)
		s.set(func() { s.called = map[string]int{} })
		time.Sleep(time.Minute)
		s.set(func() {
			if s.called["d:1"] > 0 || s.called["d"] > 0 || s.called["new:1"] == 0 {
				t.Errorf("called: %v", s.called)
			}
		})
		if _, err := a.Node.answer(d.message("a", newNonce())); err == nil {
			t.Error("a node that was removed is answered")
		}
		storeMust(t, a.dropHints(t.Context()))
		left, err := hints.Nodes(t.Context())
		storeMust(t, err)
		ids := []string{}
		for _, h := range left {
			ids = append(ids, h.ID)
		}
		slices.Sort(ids)
		if got := strings.Join(ids, " "); got != "a b c new" {
			t.Errorf("left: %s", got)
		}
	})
}
