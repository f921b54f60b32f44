package appliance_test

import (
	"context"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// updatedStore is one of a later release, whose fleet uses schema 5.
type updatedStore struct {
	appliance.Store
	raised chan int64
	newer  atomic.Bool // another node has raised the schema
}

func (*updatedStore) Schemas() appliance.Schemas { return appliance.Schemas{Used: 5, Known: 7} }

func (s *updatedStore) RaiseSchema(_ context.Context, to int64) error {
	s.raised <- to
	return nil
}

func (s *updatedStore) CatchUp(ctx context.Context) error {
	if s.newer.Load() {
		return fault.Errorf(fault.FleetNewer, "the fleet has schema 8: update this node")
	}
	return s.Store.CatchUp(ctx)
}

// knowingFleet is a fleet whose nodes know a schema.
type knowingFleet struct {
	knows int64
	leads bool
}

func (knowingFleet) Fresh() error                                       { return nil }
func (knowingFleet) Drained() bool                                      { return false }
func (knowingFleet) Fading() bool                                       { return false }
func (knowingFleet) Leave()                                             {}
func (knowingFleet) Join(appliance.Keyring, string) error               { return nil }
func (f knowingFleet) Knows() int64                                     { return f.knows }
func (f knowingFleet) Lead(ctx context.Context) (context.Context, bool) { return ctx, f.leads }

// startUpdated starts a node of such a fleet.
func startUpdated(t *testing.T, fleet knowingFleet) (*appliancetest.Bed, *appliancetest.Client, *updatedStore) {
	t.Helper()
	s := &updatedStore{raised: make(chan int64, 1)}
	f := newFleetBed()
	b := f.start(t, appliancetest.Options{
		Store:     func(real appliance.Store) appliance.Store { s.Store = real; return s },
		Appliance: appliance.Options{Fleet: fleet},
	})
	client := b.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
	b.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
	return b, client, s
}

// TestLeaderRaisesSchema: the leader has the fleet use the newest schema that all nodes know
// and it knows itself. It does nothing as long as one is left behind, and no other node does.
func TestLeaderRaisesSchema(t *testing.T) {
	for _, c := range []struct {
		fleet knowingFleet
		want  int64 // 0 for nothing
	}{
		{knowingFleet{7, true}, 7}, {knowingFleet{6, true}, 6}, {knowingFleet{9, true}, 7},
		{knowingFleet{5, true}, 0}, {knowingFleet{4, true}, 0}, {knowingFleet{0, true}, 0}, {knowingFleet{7, false}, 0},
	} {
		b, _, s := startUpdated(t, c.fleet)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what leads does is done once
		b.Appliance.Run(ctx)
		var got int64
		select {
		case got = <-s.raised:
		default:
		}
		if got != c.want {
			t.Errorf("%+v: raised to %d, want %d", c.fleet, got, c.want)
		}
	}
}

// TestOutdatedNodeStops: a node that does not know the schema to which the fleet was raised
// stops with a clear line, and there is nothing to accept.
func TestOutdatedNodeStops(t *testing.T) {
	b, client, s := startUpdated(t, knowingFleet{})
	client.OK(appliancetest.Encrypt("k", "plain"))
	s.newer.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Appliance.Run(ctx)
	if err := b.Appliance.Held(); fault.CodeOf(err) != fault.FleetNewer {
		t.Errorf("held: %v", err)
	}
	client.Fails(appliancetest.Encrypt("k", "plain"), fault.Locked)
	if _, err := b.Appliance.AcceptState(t.Context(), "a", "b"); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("accepted: %v", err)
	}
}
