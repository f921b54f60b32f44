//go:build !race

package keyring_test

import "testing"

// TestAllocations fails when the use of an unlocked key costs more than before. Lower the numbers when it costs less.
func TestAllocations(t *testing.T) {
	most := map[string]float64{"Encrypt": 3, "Decrypt": 4, "Sign": 1}
	for name, do := range onUnlocked(t) {
		if n := testing.AllocsPerRun(100, func() {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}); n > most[name] {
			t.Errorf("%s: %.0f allocations instead of %.0f", name, n, most[name])
		}
	}
}
