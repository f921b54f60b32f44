package scrub_test

import (
	"os"
	"runtime"
	"testing"
	"time"

	"holdfast/appliance/keyring/scrub"
)

// runsWithin waits for a run of the garbage collector that begins after f.
func runsWithin(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	now = before
	f()
	for late := time.Now().Add(limit); now.NumForcedGC == before.NumForcedGC; {
		if time.Now().After(late) {
			t.Fatalf("the collector did not run within %s", limit)
		}
		time.Sleep(time.Millisecond)
		runtime.ReadMemStats(&now)
	}
}

// TestCollector: the garbage collector runs soon after it is asked to, and within
// seconds while keys are used, however rarely it would run by itself.
func TestCollector(t *testing.T) {
	if !scrub.Enabled {
		if os.Getenv("HOLDFAST_TEST_PACKAGES") != "" { // make test builds with it
			t.Fatal("built without GOEXPERIMENT=runtimesecret")
		}
		t.Skip("built without GOEXPERIMENT=runtimesecret")
	}
	for range 3 {
		runsWithin(t, 2*scrub.Shortest, scrub.Soon)
	}
	runsWithin(t, 2*scrub.Longest, func() { scrub.Do(func() {}) })
}
