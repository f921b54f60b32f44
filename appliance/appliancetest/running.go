package appliancetest

import (
	"sync/atomic"
	"testing"
	"time"
)

// Running gives how long this process has run since, for tests of how long something may take: the
// time in which the machine stands still does not count, as no ticks of it are made up for. It is
// never more than what has passed.
func Running(t testing.TB) func() time.Duration {
	const every = 10 * time.Millisecond
	var ticks atomic.Int64
	ticker, ended := time.NewTicker(every), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				ticks.Add(1)
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() {
		ticker.Stop()
		close(ended)
	})
	return func() time.Duration { return time.Duration(ticks.Load()) * every }
}
