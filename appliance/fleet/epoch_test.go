package fleet

import (
	"strconv"
	"testing"
	"time"
)

// TestEpochs: each question of the present epoch and the one before is fresh once, and none
// of an earlier one, however many there are.
func TestEpochs(t *testing.T) {
	e := &epochs{}
	first, how := e.take("", "0", 0)
	if how != stale || first == "" {
		t.Fatal("a question that names no epoch is taken")
	}
	for i, want := range []freshness{fresh, replayed, replayed} {
		if id, how := e.take(first, "1", 0); how != want || id != first {
			t.Errorf("try %d: %d", i, how)
		}
	}
	second, how := e.take(first, "2", epochTime)
	if how != fresh || second == first {
		t.Errorf("a question of the epoch before: %d", how)
	}
	for _, nonce := range []string{"1", "2"} {
		if _, how := e.take(first, nonce, epochTime); how != replayed {
			t.Errorf("question %s again: %d", nonce, how)
		}
	}
	if _, how := e.take(first, "3", 2*epochTime); how != stale {
		t.Errorf("a question of an epoch that is over: %d", how)
	}
	id := second
	for i := range 5 * epochQuestions {
		next, how := e.take(id, strconv.Itoa(i+10), 2*epochTime+time.Second)
		if how == replayed || len(e.now.seen)+len(e.before.seen) > 3*epochQuestions+2 {
			t.Fatalf("question %d: %d, %d nonces are kept", i, how, len(e.now.seen)+len(e.before.seen))
		}
		if id = next; i%7 == 0 {
			id = second // one who does not take the new one
		}
	}
	if e.before.id == second || e.now.id == second {
		t.Error("an epoch has no end")
	}
}
