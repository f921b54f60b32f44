package web

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"holdfast/appliance/fault"
)

// line is turns whose rests end at once, and a first turn that lasts until it is let go.
func line(t *testing.T) (q *turns, letGo func()) {
	t.Helper()
	q = newTurns()
	now := time.Now()
	q.now, q.rest = func() time.Time { return now }, func(time.Duration) {}
	has, release := make(chan struct{}), make(chan struct{})
	go func() {
		_ = q.do(context.Background(), "192.0.2.1:1", func() error { close(has); <-release; return nil })
	}()
	<-has
	return q, func() { close(release) }
}

func (t *turns) waits(n int) {
	for {
		t.mu.Lock()
		is := t.waiting
		t.mu.Unlock()
		if is == n {
			return
		}
	}
}

// TestTurns: addresses take turns, whichever has asked more often and first, and one thing is
// done at a time.
func TestTurns(t *testing.T) {
	q, letGo := line(t)
	got := make(chan string, 20)
	ask := func(from string) {
		q.mu.Lock()
		before := q.waiting
		q.mu.Unlock()
		go func() { _ = q.do(context.Background(), from, func() error { got <- from; return nil }) }()
		q.waits(before + 1)
	}
	for range 6 {
		ask("192.0.2.2:1")
	}
	ask("[2001:db8::1]:1")
	ask("[2001:db8::2]:1") // the same network
	ask("192.0.2.3:1")
	letGo()
	want := []string{"192.0.2.2:1", "[2001:db8::1]:1", "192.0.2.3:1", "192.0.2.2:1", "[2001:db8::2]:1", "192.0.2.2:1", "192.0.2.2:1", "192.0.2.2:1", "192.0.2.2:1"}
	for i, w := range want {
		if g := <-got; g != w {
			t.Errorf("turn %d is of %s, want %s", i, g, w)
		}
	}
}

// TestTurnsAreBounded: who asks too often is told when to ask again; a full line sends away
// who has most in it, and who gives up leaves no turn unused.
func TestTurnsAreBounded(t *testing.T) {
	q, letGo := line(t)
	results := make(chan error, maxWaiting)
	for i := range maxWaiting {
		go func() { // 13 of them each have a burst in it
			results <- q.do(context.Background(), fmt.Sprintf("192.0.2.%d:1", 10+i/evidenceBurst), func() error { return nil })
		}()
	}
	q.waits(maxWaiting)
	err := q.do(context.Background(), "192.0.2.10:1", func() error { return nil })
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok || f.Code != fault.Throttled || f.RetryAfter != time.Second {
		t.Errorf("one more than the burst: %v", err)
	}
	auditor := make(chan error, 1)
	go func() { auditor <- q.do(context.Background(), "198.51.100.1:1", func() error { return nil }) }()
	if err := <-results; fault.CodeOf(err) != fault.Throttled { // who made room
		t.Errorf("who made room got %v", err)
	}
	ctx, giveUp := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() { gone <- q.do(ctx, "198.51.100.2:1", func() error { return nil }) }()
	if err := <-results; fault.CodeOf(err) != fault.Throttled {
		t.Errorf("who made room got %v", err)
	}
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	letGo()
	if err := <-auditor; err != nil {
		t.Errorf("the auditor got %v", err)
	}
	for range maxWaiting - 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if q.waits(0); len(q.lines) != 0 || len(q.order) != 0 {
		t.Errorf("left over are %v", q.lines)
	}
}
