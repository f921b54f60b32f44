//go:build fleet

package fleettest_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/cmd/internal/fleettest"
)

// TestForked: two nodes make a change with the same number each, as a database can have it
// that has no primary key any more. It is told at once, and by the end of the grace no node
// serves what either has blocked. It stays so until people do something.
func TestForked(t *testing.T) {
	t.Parallel()
	f := start(t, fleettest.Options{})
	m := &matrix{superuser: newSuperuser(t, f)}
	keys := []string{other, inHSM}
	since := m.logs()
	m.psql(fmt.Sprintf(dropConstraints, "changes"))
	// Both nodes are at the same change when they may append.
	m.must("BEGIN; LOCK TABLE public.changes IN EXCLUSIVE MODE")
	var done sync.WaitGroup
	for i, key := range keys {
		done.Go(func() { f.Nodes[i].Block(key) })
	}
	for waiting := 0; waiting < len(keys); {
		if err := m.conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.changes'::regclass").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	m.must("COMMIT")
	began := time.Now()
	for !slices.Contains(m.told(since, ""), "E_FLEET_BRANCH") {
		if time.Since(began) > foundWithin {
			t.Fatalf("not told within %v: %v", foundWithin, m.told(since, ""))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("told after %v: %v", time.Since(began), m.told(since, ""))
	done.Wait()
	time.Sleep(time.Until(began.Add(fleettest.ShortestGrace + time.Second)))
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, n := range f.Nodes {
			for _, key := range keys {
				if _, err := n.Ask(key); err == nil {
					t.Fatalf("%s serves %s, which a node has blocked", n.Name, key)
				}
			}
		}
	}
}
