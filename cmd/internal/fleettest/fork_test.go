//go:build fleet

package fleettest_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
	"holdfast/web/operation"
)

// change is a block that a node has made, as one of two changes with the same number.
type change struct {
	key    string
	by     *fleettest.Node
	effect operation.Effect
}

func (c *change) make() error {
	var said struct {
		Effect operation.Effect `json:"effect"`
	}
	target := appliance.BlockTarget{KeyStore: fleettest.KeyStore, KeyID: c.key}
	err := c.by.Try(http.MethodPost, operation.NewBlock{BlockTarget: target, Reason: "a test"}, &said, "block")
	c.effect = said.Effect
	return err
}

// promised says whether the command has said that no node serves the key by now.
func (c *change) promised() bool {
	return !slices.ContainsFunc(c.effect.Late, func(l operation.LateNode) bool { return l.Until.IsZero() || time.Now().Before(l.Until) })
}

// forkWithin is how long two nodes have until both are about to append. A node waits for ten
// seconds for an append.
const forkWithin = 10 * time.Second

// TestForked: two nodes make a change with the same number each, as a database can have it
// that has no primary key any more. It is told at once. What the commands have promised is
// kept, no node serves the key that it has blocked, and by the end of the grace at most one of
// the two logs is served.
func TestForked(t *testing.T) {
	t.Parallel()
	f := start(t, fleettest.Options{})
	m := &matrix{superuser: newSuperuser(t, f)}
	changes := []*change{{key: other, by: f.Nodes[0]}, {key: inHSM, by: f.Nodes[1]}}
	since := m.logs()
	m.psql(fmt.Sprintf(dropConstraints, "changes"))
	// Both nodes are at the same change when they may append.
	m.must("BEGIN; LOCK TABLE public.changes IN EXCLUSIVE MODE")
	var done sync.WaitGroup
	for _, c := range changes {
		done.Go(func() {
			if err := c.make(); err != nil {
				t.Errorf("%s: %v", c.by.Name, err)
			}
		})
	}
	locked := time.Now()
	for waiting := 0; waiting < len(changes); time.Sleep(5 * time.Millisecond) {
		if time.Since(locked) > forkWithin {
			t.Fatalf("%d of %d changes wait for the table within %v", waiting, len(changes), forkWithin)
		}
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
	served := map[string]string{}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, c := range changes {
			for _, n := range f.Nodes {
				if _, err := n.Ask(c.key); err != nil {
					continue
				}
				if served[c.key] = n.Name; n == c.by || c.promised() {
					t.Fatalf("%s serves %s, which %s has blocked: %v", n.Name, c.key, c.by.Name, c.effect)
				}
			}
		}
		if len(served) == len(changes) {
			t.Fatalf("two logs are served: %v", served)
		}
	}
	t.Logf("%s: %v; %s: %v; served after the grace: %v", changes[0].key, &changes[0].effect, changes[1].key, &changes[1].effect, served)
}
