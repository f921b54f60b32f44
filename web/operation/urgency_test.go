package operation

import (
	"testing"
	"time"
)

// TestTurns: which changes wait for a change that is under way.
func TestTurns(t *testing.T) {
	for _, tt := range []struct {
		under, next Urgency
		waits       bool
	}{
		{Ordinary, Ordinary, true}, {Ordinary, Urgent, false}, {Ordinary, Exclusive, true}, {Ordinary, Independent, false},
		{Urgent, Ordinary, false}, {Urgent, Urgent, true}, {Urgent, Exclusive, true}, {Urgent, Independent, false},
		{Exclusive, Ordinary, true}, {Exclusive, Urgent, true}, {Exclusive, Exclusive, true}, {Exclusive, Independent, false},
		{Independent, Ordinary, false}, {Independent, Urgent, false}, {Independent, Exclusive, false}, {Independent, Independent, false},
	} {
		var turns turns
		done := turns.take(tt.under)
		taken := make(chan struct{})
		go func() {
			defer close(taken)
			turns.take(tt.next)()
		}()
		select {
		case <-taken:
			if tt.waits {
				t.Errorf("%s does not wait for %s", tt.next, tt.under)
			}
		case <-wait(tt.waits):
			if !tt.waits {
				t.Errorf("%s waits for %s", tt.next, tt.under)
			}
		}
		done()
		<-taken
	}
}

// wait gives up at once where the change is to wait, and late where it is not.
func wait(waits bool) <-chan time.Time {
	if waits {
		return time.After(0)
	}
	return time.After(time.Minute)
}

// TestExclusiveLetsUrgentPass: a change that waits for ordinary ones does not make
// urgent ones wait.
func TestExclusiveLetsUrgentPass(t *testing.T) {
	var turns turns
	done := turns.take(Ordinary)
	exclusive := make(chan struct{})
	go func() {
		defer close(exclusive)
		turns.take(Exclusive)()
	}()
	for range 1000 { // whenever the other one begins to wait
		turns.take(Urgent)()
	}
	done()
	<-exclusive
}
