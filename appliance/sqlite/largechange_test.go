package sqlite

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// slowLog is one whose changes take as long as they are large, and that may hang.
type slowLog struct {
	appliance.ChangeLog
	each  time.Duration
	hangs bool
	asked []int
}

func (l *slowLog) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fault.Wrapf(fault.DatabaseAway, ctx.Err(), "slow")
	case <-time.After(d):
		return nil
	}
}

// Changes implements [appliance.ChangeLog].
func (l *slowLog) Changes(ctx context.Context, _ uint64, most int) ([][]byte, error) {
	l.asked = append(l.asked, most)
	return make([][]byte, most), l.wait(ctx, time.Duration(most)*l.each)
}

// Newest implements [appliance.ChangeLog].
func (l *slowLog) Newest(ctx context.Context) (uint64, error) {
	if l.hangs {
		return 0, l.wait(ctx, time.Hour)
	}
	return 100, nil
}

// TestLargeChangesTakeLonger: what is large is waited for in proportion to its size, and a log
// that hangs is not.
func TestLargeChangesTakeLonger(t *testing.T) {
	for size, want := range map[int]time.Duration{0: 10 * time.Second, 1 << 20: 11 * time.Second, largestRead: 74 * time.Second} {
		if got := appendTime(size); got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
	for name, c := range map[string]struct {
		log    slowLog
		code   fault.Code
		within time.Duration
	}{
		"small": {slowLog{each: time.Millisecond}, "", time.Second},
		"large": {slowLog{each: 60 * time.Second}, "", 71 * time.Second},
		"hangs": {slowLog{each: time.Hour, hangs: true}, fault.DatabaseAway, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, err := (&replica{log: &c.log, at: begunAt}).changes(t.Context())
				if took := time.Since(began); fault.CodeOf(err) != c.code || took > c.within {
					t.Errorf("%v after %v, asked for %v", err, took, c.log.asked)
				}
			})
		})
	}
}
