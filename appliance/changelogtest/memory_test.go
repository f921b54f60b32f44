package changelogtest_test

import (
	"testing"
	"time"

	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
)

func TestMemory(t *testing.T) {
	changelogtest.Run(t, func(*testing.T) func(*testing.T) changelogtest.Log {
		m := changelogtest.NewMemory(nil)
		return func(*testing.T) changelogtest.Log { return m.Peer() }
	})
}

// TestMemoryFails: it fails where a test wants it to.
func TestMemoryFails(t *testing.T) {
	ctx := t.Context()
	now := time.Unix(1000, 0)
	a := changelogtest.NewMemory(func() time.Time { return now })
	b := a.Peer()
	a.Cut()
	if _, err := a.Newest(ctx); fault.CodeOf(err) != fault.DatabaseAway {
		t.Errorf("got %v", err)
	}
	if err := b.Append(ctx, 1, []byte("one")); err != nil {
		t.Fatal(err)
	}
	a.Mend()
	a.LoseAnswer()
	if err := a.Append(ctx, 2, []byte("two")); fault.CodeOf(err) != fault.DatabaseAway {
		t.Errorf("got %v", err)
	}
	if newest, err := a.Newest(ctx); err != nil || newest != 2 {
		t.Errorf("got %d %v", newest, err)
	}
	<-b.Changed()
	b.Edit(func(changes map[uint64][]byte) { delete(changes, 2); changes[1] = []byte("other") })
	if got, err := a.Changes(ctx, 1, 9); err != nil || len(got) != 1 || string(got[0]) != "other" {
		t.Errorf("got %q %v", got, err)
	}
	for _, c := range []struct {
		node string
		want bool
	}{{"a", true}, {"b", false}} {
		if ok, err := a.ClaimFounding(ctx, c.node, time.Minute); ok != c.want || err != nil {
			t.Errorf("%s: %v %v", c.node, ok, err)
		}
	}
	now = now.Add(time.Minute)
	if ok, err := b.ClaimFounding(ctx, "b", time.Minute); !ok || err != nil {
		t.Errorf("after the lease: %v %v", ok, err)
	}
}
