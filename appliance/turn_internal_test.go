package appliance

import (
	"context"
	"sync"
	"testing"
)

// TestTurn: one at a time has the turn, whoever gives up waiting; at the end it is free, and has
// nothing in memory for those who waited.
func TestTurn(t *testing.T) {
	var r turn
	var has, had int
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%3 == 0 { // gives up, at about the time when it would have its turn
				go cancel()
			}
			if !r.take(ctx) {
				return
			}
			if has++; has != 1 {
				t.Error("two have the turn at once")
			}
			had++
			has--
			r.giveBack()
		})
	}
	all.Wait()
	if had < 100 {
		t.Errorf("%d had the turn", had)
	}
	if r.taken || r.waiting != 0 || r.handed != nil {
		t.Errorf("nobody has it or waits, and it is taken: %v, with %d who wait", r.taken, r.waiting)
	}
	if !r.take(t.Context()) {
		t.Error("it cannot be taken any more")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r.take(ctx) {
		t.Error("it was taken twice")
	}
}
