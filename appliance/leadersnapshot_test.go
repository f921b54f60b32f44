package appliance_test

import (
	"context"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// followingFleet is a fleet whose leader is another node.
type followingFleet struct{ *staleFleet }

func (followingFleet) Lead(ctx context.Context) (context.Context, bool) { return ctx, false }

func (followingFleet) Knows() int64 { return 0 }

// leadingFleet is one that this node leads.
type leadingFleet struct{ followingFleet }

func (leadingFleet) Lead(ctx context.Context) (context.Context, bool) { return ctx, true }

// TestLeaderWritesSnapshots: the leader writes the first snapshot, and other nodes write none
// beside it.
func TestLeaderWritesSnapshots(t *testing.T) {
	f := newFleetBed()
	for _, c := range []struct {
		fleet appliance.Fleet
		want  fault.Code
	}{{followingFleet{&staleFleet{}}, fault.NotFound}, {leadingFleet{followingFleet{&staleFleet{}}}, ""}} {
		b := f.start(t, appliancetest.Options{Appliance: appliance.Options{Fleet: c.fleet}})
		b.Appliance.KeepSnapshot(t.Context())
		if _, _, err := f.log.Peer().Snapshot(t.Context()); fault.CodeOf(err) != c.want {
			t.Errorf("%T: %v, want %q", c.fleet, err, c.want)
		}
	}
}
