//go:build !race

package auditlog_test

import (
	"sync"
	"testing"
)

// TestAllocations fails when a record costs more than before on its way to the disk, be it alone in
// its batch or among others, where it depends on how many are. Lower the numbers when it costs less.
func TestAllocations(t *testing.T) {
	l := open(t, t.TempDir(), options())
	const records = 100
	write := func(n int) {
		r := record(1)
		for range n {
			must(t, l.Append(t.Context(), r))
		}
	}
	for callers, most := range map[int]float64{1: 5, 32: 1} {
		// The callers themselves cost a few allocations, which many records share.
		n := testing.AllocsPerRun(5, func() {
			var all sync.WaitGroup
			for range callers {
				all.Go(func() { write(records) })
			}
			all.Wait()
		}) / float64(callers*records)
		if n > most {
			t.Errorf("%d callers: %.2f allocations for a record instead of %.1f", callers, n, most)
		}
	}
}
