package daemon

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance/fault"
)

// TestEntryIsAwaited: a boot waits for a node that joins, and not for one that serves, that
// never will, or that is held, also if that comes while it waits.
func TestEntryIsAwaited(t *testing.T) {
	const after = time.Second
	for name, c := range map[string]struct {
		fresh, then fault.Code // then is so after a second
		held        bool
		want        time.Duration
	}{
		"it serves":                    {want: 0},
		"it joins, then serves":        {fresh: fault.FleetJoining, want: after},
		"it is stale, then serves":     {fresh: fault.FleetStale, want: after},
		"it was removed":               {fresh: fault.FleetRemoved, then: fault.FleetRemoved, want: 0},
		"it was removed, and has left": {fresh: fault.FleetStale, then: fault.FleetJoining, held: true, want: after},
		"it joins for long":            {fresh: fault.FleetJoining, then: fault.FleetJoining, want: entersWithin},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				said := func(first, then fault.Code) error {
					code := first
					if time.Since(began) >= after {
						code = then
					}
					if code == "" {
						return nil
					}
					return fault.Errorf(code, "a test")
				}
				ctx, stop := context.WithTimeout(t.Context(), entersWithin)
				defer stop()
				awaitEntry(ctx, func() error { return said(c.fresh, c.then) }, func() error {
					if c.held {
						return said("", fault.FleetRemoved)
					}
					return nil
				})
				if took := time.Since(began); took < c.want || took > c.want+entryEvery {
					t.Errorf("it took %v, want %v", took, c.want)
				}
			})
		})
	}
}
