package appliance_test

import (
	"context"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// staleFleet is a fleet whose word may have run out.
type staleFleet struct {
	appliance.Fleet
	stale, drained, fading atomic.Bool
	asked                  atomic.Int64
	// suspends, if set, is called before the answer to that question.
	suspends func(asked int64)
}

func (f *staleFleet) Fresh() error {
	asked := f.asked.Add(1)
	if f.suspends != nil {
		f.suspends(asked)
	}
	if f.stale.Load() {
		return fault.Errorf(fault.FleetStale, "stale")
	}
	return nil
}

func (f *staleFleet) Drained() bool { return f.drained.Load() }
func (f *staleFleet) Fading() bool  { return f.fading.Load() }

// Join and Leave implement [appliance.Fleet].
func (*staleFleet) Join(appliance.Keyring, string) error { return nil }

func (*staleFleet) Leave() {}

// staleRecorder records, and then the node is stale if the test wants.
type staleRecorder struct {
	fleet *staleFleet
	after bool
	codes []fault.Code
}

func (*staleRecorder) Ready() error { return nil }

func (r *staleRecorder) RecordOutcome(_ context.Context, o *appliance.Outcome) error {
	r.codes = append(r.codes, fault.CodeOf(o.Err))
	if r.after {
		r.fleet.stale.Store(true)
	}
	return nil
}

// TestStaleNode: a node that may lack a change answers nothing, whether it comes to be so
// before the request, or while the answer is on its way. It asks twice for each request.
func TestStaleNode(t *testing.T) {
	fleet := &staleFleet{}
	records := &staleRecorder{fleet: fleet}
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Recorder: records, Fleet: fleet}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	for name, do := range sessionOperations {
		fleet.stale.Store(false)
		records.after = false
		a := ask(t, b, k, name)
		before := fleet.asked.Load()
		if err := do(a, must(a.open(&appliance.Outcome{}))(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if asked := fleet.asked.Load() - before; asked < 2 {
			t.Errorf("%s: asked %d times", name, asked)
		}

		s := must(a.open(&appliance.Outcome{}))(t)
		fleet.stale.Store(true)
		wantCode(t, do(a, s), fault.FleetStale)
		if _, err := a.open(&appliance.Outcome{}); fault.CodeOf(err) != fault.FleetStale {
			t.Errorf("%s: opened: %v", name, err)
		}

		fleet.stale.Store(false)
		records.codes, records.after = nil, true
		wantCode(t, do(a, must(a.open(&appliance.Outcome{}))(t)), fault.FleetStale)
		if len(records.codes) != 2 || records.codes[0] != "" || records.codes[1] != fault.FleetStale {
			t.Errorf("%s: recorded %q", name, records.codes)
		}
	}
}

// TestReadyNode: a node that is fading, drained or stale is not ready, and says which. It is
// to get no new requests then; until it is stale it answers what it is asked.
func TestReadyNode(t *testing.T) {
	fleet := &staleFleet{}
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Fleet: fleet}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	if ready, note := b.Appliance.Ready(ctx); !ready {
		t.Error(note)
	}
	if !b.Appliance.TakesNew() {
		t.Error("it is ready, and takes no new requests")
	}
	for note, so := range map[string]*atomic.Bool{"drained": &fleet.drained, "it stops soon unless it hears that it lacks no change": &fleet.fading} {
		so.Store(true)
		if ready, got := b.Appliance.Ready(ctx); ready || got != note {
			t.Errorf("%t, %s", ready, got)
		}
		if b.Appliance.TakesNew() {
			t.Errorf("%s, and it takes new requests", note)
		}
		if _, err := k.Call(appliancetest.Encrypt("k", "x")); err != nil {
			t.Error(err)
		}
		so.Store(false)
	}
	fleet.stale.Store(true)
	if ready, note := b.Appliance.Ready(ctx); ready || note != string(fault.FleetStale) {
		t.Errorf("%t, %s", ready, note)
	}
}

// TestSuspendedBeforeFresh: a machine that is suspended between looking at its key stores and
// asking whether it is fresh, and that has taken over a block when it wakes and is fresh
// again, answers nothing that the block forbids: at whichever question that is.
func TestSuspendedBeforeFresh(t *testing.T) {
	fleet := &staleFleet{}
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Recorder: &staleRecorder{fleet: fleet}, Fleet: fleet}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	everything := appliance.BlockTarget{Everything: true}
	for name, do := range sessionOperations {
		if name == "Attributes" || name == "Health" { // say of what is blocked that it is there
			continue
		}
		a := ask(t, b, k, name)
		before := fleet.asked.Load()
		if err := do(a, must(a.open(&appliance.Outcome{}))(t)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		questions := fleet.asked.Load() - before
		for at := range questions {
			before := fleet.asked.Load()
			fleet.suspends = func(asked int64) {
				if asked != before+at+1 {
					return
				}
				if _, err := b.Appliance.Block(context.Background(), everything, "a test", "alice"); err != nil {
					t.Error(err)
				}
			}
			s, err := a.open(&appliance.Outcome{})
			if err == nil {
				err = do(a, s)
			}
			if fault.CodeOf(err) != fault.Conflict {
				t.Errorf("%s, blocked at question %d of %d: %v", name, at+1, questions, err)
			}
			fleet.suspends = nil
			if err := b.Appliance.Unblock(t.Context(), everything); err != nil {
				t.Fatal(err)
			}
		}
	}
}
