//go:build !race

package xks_test

import "testing"

// TestAllocations: a request takes no more than it did. Each costs time where it is made
// and where it is collected. Who saves some lowers the number.
func TestAllocations(t *testing.T) {
	for _, e := range exercises(t) {
		if n := testing.AllocsPerRun(200, e.run); n > e.most {
			t.Errorf("%s: %v allocations, at most %v", e.name, n, e.most)
		} else if n < e.most {
			t.Logf("%s: %v allocations, of %v", e.name, n, e.most)
		}
	}
}
