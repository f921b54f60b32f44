//go:build !race

package sigv4_test

import "testing"

// TestAllocations fails when a request's signature costs more than before. Lower the number when it costs less.
func TestAllocations(t *testing.T) {
	const most = 1
	do := verifying(t)
	if n := testing.AllocsPerRun(100, func() {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}); n > most {
		t.Errorf("%.0f allocations instead of %d", n, most)
	}
}
