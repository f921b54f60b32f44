//go:build !race

package xks

import "testing"

// TestAllocations fails when the JSON of a request or an answer costs more than before. Lower the numbers when it costs
// less.
func TestAllocations(t *testing.T) {
	most := map[string]float64{"read Encrypt": 6, "read Decrypt": 9, "write Encrypt": 1, "write Decrypt": 1}
	for name, do := range bodies() {
		if n := testing.AllocsPerRun(100, func() {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}); n > most[name] {
			t.Errorf("%s: %.0f allocations instead of %.0f", name, n, most[name])
		}
	}
}
