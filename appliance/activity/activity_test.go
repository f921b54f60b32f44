package activity_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/fault"
)

// outcome is of a request that ended with the code; "" if it was performed.
func outcome(code fault.Code, took time.Duration) *appliance.Outcome {
	o := &appliance.Outcome{Took: took}
	if code != "" {
		o.Err = fault.Errorf(code, "refused")
	}
	return o
}

func TestMinutes(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 30, 0, time.UTC)
	r := activity.New(func() time.Time { return now })
	for range 98 {
		r.Observe(outcome("", 900*time.Microsecond))
	}
	r.Observe(outcome(fault.Invalid, 30*time.Millisecond))
	r.Observe(outcome(fault.Internal, 300*time.Millisecond))
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
	r.Observe(outcome("", 2*time.Second))
	if got := r.Last(1)[0]; got.Requests != 1 || got.P99 != 2000 || got.Slow != 1 {
		t.Errorf("a day later: %+v", got)
	}
}

func TestConcurrent(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 30, 0, time.UTC)
	r := activity.New(func() time.Time { return now })
	r.Observe(outcome("", 0))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				r.Observe(outcome("", time.Millisecond))
				r.Last(1)
			}
		})
	}
	wg.Wait()
	if got := r.Last(1)[0].Requests; got != 8001 {
		t.Errorf("%d requests counted", got)
	}
}

// TestSum: what several recorders have counted is one minute, with the quantiles of all.
func TestSum(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 30, 0, time.UTC)
	clock := func() time.Time { return now }
	a, b := activity.New(clock), activity.New(clock)
	b.Observe(outcome(fault.Internal, 300*time.Millisecond))
	now = now.Add(time.Minute)
	for range 3 {
		a.Observe(outcome("", 900*time.Microsecond))
	}
	b.Observe(outcome(fault.Invalid, 30*time.Millisecond))
	got := a.Last(2, b.Counts(2))
	want := []activity.Minute{
		{Start: now.Truncate(time.Minute).Add(-time.Minute), Requests: 1, Failed: 1, P50: 500, P99: 500, Slow: 1},
		{Start: now.Truncate(time.Minute), Requests: 4, Refused: 1, P50: 1, P99: 50}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := b.Counts(1); len(got) != 1 {
		t.Errorf("of one minute there are %+v", got)
	}
	if got := a.Last(1, b.Counts(2)); len(got) != 1 || got[0] != want[1] {
		t.Errorf("of one minute: %+v", got)
	}
}
