package appliancetest_test

import (
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// TestRunning: time that passes while the process runs is counted, and no more than that.
func TestRunning(t *testing.T) {
	began, ran := time.Now(), appliancetest.Running(t)
	appliancetest.Eventually(t, "it has run", func() bool { return ran() >= 200*time.Millisecond })
	if took := time.Since(began); ran() > took+20*time.Millisecond || took < 180*time.Millisecond {
		t.Errorf("it has run for %v of %v", ran(), took)
	}
}
