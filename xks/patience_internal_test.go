package xks

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: the time of a request is over when it was said to be, never later than
// the timeout and by a sixteenth earlier at most, whoever else waits.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patience{timeout: DefaultTimeout}
		began := time.Now()
		var all []*waiting
		shared := 0
		for range 200 { // at each millisecond
			now := time.Now()
			w := &waiting{Context: t.Context(), moment: p.until(now)}
			if at, ok := w.Deadline(); !ok || at.After(now.Add(DefaultTimeout)) || !at.After(now.Add(DefaultTimeout-DefaultTimeout/sharing)) {
				t.Errorf("one that begins after %s has time until %s", now.Sub(began), at.Sub(began))
			}
			if n := len(all); n > 0 && all[n-1].moment == w.moment {
				shared++
			}
			all = append(all, w)
			time.Sleep(time.Millisecond)
		}
		if shared < 180 {
			t.Errorf("only %d of 200 share what tells the one before that its time is over", shared)
		}
		for i, w := range all {
			if i%2 == 0 { // the others ask when it is over already
				select {
				case <-w.Done():
					t.Fatal("it is over before it was asked for")
				default:
				}
			}
		}
		for _, w := range all {
			if err := w.Err(); time.Now().Before(w.at) != (err == nil) {
				t.Errorf("at %s, with time until %s: %v", time.Since(began), w.at.Sub(began), err)
			}
			<-w.Done()
			if time.Now().Before(w.at) || w.Err() != context.DeadlineExceeded {
				t.Errorf("it was over %s before its time: %v", time.Until(w.at), w.Err())
			}
		}
		if took := time.Since(began); took > 199*time.Millisecond+DefaultTimeout {
			t.Errorf("the last was over after %s", took)
		}
	})
}

// TestPatienceEnds: with the request, and with a caller who has left.
func TestPatienceEnds(t *testing.T) {
	p := &patience{timeout: time.Hour}
	caller, leave := context.WithCancel(t.Context())
	w, other := &waiting{Context: caller, moment: p.until(time.Now())}, &waiting{Context: t.Context(), moment: p.until(time.Now())}
	if err := w.Err(); err != nil || w.moment != other.moment {
		t.Fatal(err)
	}
	if leave(); w.Err() != context.Canceled || other.Err() != nil {
		t.Errorf("the caller has left: %v, and to another %v", w.Err(), other.Err())
	}
	if other.end(); other.Err() != context.Canceled {
		t.Errorf("it is answered: %v", other.Err())
	}
}
