//go:build !race

package audit_test

import "testing"

// TestAllocations: a record is framed in memory that is there already.
func TestAllocations(t *testing.T) {
	for name, do := range framing() {
		if n := testing.AllocsPerRun(100, do); n > 0 {
			t.Errorf("%s: %.0f allocations instead of none", name, n)
		}
	}
}
