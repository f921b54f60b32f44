package appliance_test

import (
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/witness"
)

// TestDeletionIsWitnessed: a wall clock that jumps, for a moment or for hours, destroys no
// key; a key whose time has come by a day of running time as well is destroyed.
func TestDeletionIsWitnessed(t *testing.T) {
	now, elapsed := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC), time.Duration(0)
	clock := func() time.Time { return now }
	w := witness.New(clock, func() time.Duration { return elapsed })
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Now: clock, Witnessed: w.Now, Lease: 10000 * time.Hour}})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyHSM)
	must(b.Appliance.ScheduleDeletion(ctx, "demo", "k", 30))(t)
	pass := func(d time.Duration) {
		for ; d > 0; d -= time.Hour {
			now, elapsed = now.Add(time.Hour), elapsed+time.Hour
			b.Appliance.DeleteDueKeys(ctx)
		}
	}
	there := func(what string) {
		t.Helper()
		if _, err := b.Appliance.ShowKey(ctx, "demo", "k"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	const jump = 31 * 24 * time.Hour
	b.Appliance.DeleteDueKeys(ctx)
	for _, lasts := range []time.Duration{0, time.Hour, 22 * time.Hour} {
		now = now.Add(jump)
		b.Appliance.DeleteDueKeys(ctx)
		pass(lasts)
		there("while the clock is wrong for " + lasts.String())
		now = now.Add(-jump)
		pass(time.Hour)
		there("when it is right again")
	}
	pass(29 * 24 * time.Hour) // and the 26 hours before
	there("due, and not witnessed for a day")
	pass(24 * time.Hour)
	_, err := b.Appliance.ShowKey(ctx, "demo", "k")
	wantCode(t, err, fault.NotFound)
}
