package activity_test

import (
	"sync"
	"testing"
	"time"

	"holdfast/appliance/activity"
)

func TestMinutes(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 30, 0, time.UTC)
	r := activity.New(func() time.Time { return now })
	for range 98 {
		r.Observe(200, 900*time.Microsecond)
	}
	r.Observe(400, 30*time.Millisecond)
	r.Observe(500, 300*time.Millisecond)
	got := r.Last(2)
	if len(got) != 2 || got[0].Requests != 0 || got[0].P99 != 0 {
		t.Fatalf("the minute before: %+v", got)
	}
	want := activity.Minute{Start: now.Truncate(time.Minute), Requests: 100, Refused: 1, Failed: 1, P50: 1, P99: 50, Slow: 1}
	if got[1] != want {
		t.Errorf("got %+v, want %+v", got[1], want)
	}

	now = now.Add(activity.Minutes * time.Minute) // the same slot
	if got := r.Last(1)[0]; got.Requests != 0 {
		t.Errorf("a day later: %+v", got)
	}
	r.Observe(200, 2*time.Second)
	if got := r.Last(1)[0]; got.Requests != 1 || got.P99 != 2000 || got.Slow != 1 {
		t.Errorf("a day later: %+v", got)
	}
}

func TestConcurrent(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 30, 0, time.UTC)
	r := activity.New(func() time.Time { return now })
	r.Observe(200, 0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				r.Observe(200, time.Millisecond)
				r.Last(1)
			}
		})
	}
	wg.Wait()
	if got := r.Last(1)[0].Requests; got != 8001 {
		t.Errorf("%d requests counted", got)
	}
}
