package appliance_test

import (
	"context"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// openedRing tells when the state key was opened.
type openedRing struct {
	appliance.Keyring
	opened *func()
}

func (r openedRing) OpenStateKey(ctx context.Context, installation string, wrapped []byte) error {
	err := r.Keyring.OpenStateKey(ctx, installation, wrapped)
	(*r.opened)()
	return err
}

// TestLockWhileResuming: who locks the appliance while it unlocks by itself,
// because the HSM is back, finds it locked afterwards.
func TestLockWhileResuming(t *testing.T) {
	now := appliancetest.NewClock()
	opened := func() {}
	var ring appliance.Keyring
	b := appliancetest.Start(t, appliancetest.Options{
		Appliance: appliance.Options{Now: now.Now, Lease: time.Minute},
		Keyring: func(r appliance.Keyring) appliance.Keyring {
			ring = r
			return openedRing{r, &opened}
		},
	})
	b.NewKeyStore(t, "demo", "/demo", "")
	now.Pass(2 * time.Minute)
	b.Appliance.KeepLease(ctx) // wipes
	if !b.Appliance.Locked() {
		t.Fatal("the lease did not run out")
	}
	resumed := false
	opened = func() {
		resumed = true
		b.Appliance.Lock()
	}
	b.Appliance.KeepLease(ctx) // unlocks again
	if !resumed {
		t.Fatal("the appliance did not try to unlock again")
	}
	if !b.Appliance.Locked() {
		t.Error("the appliance was locked and is not")
	}
	_, err := ring.Seal(appliance.Binding{}, nil)
	wantCode(t, err, fault.Locked)
	now.Pass(time.Second)
	b.Appliance.KeepLease(ctx)
	if !b.Appliance.Locked() {
		t.Error("it unlocked by itself later")
	}
}
