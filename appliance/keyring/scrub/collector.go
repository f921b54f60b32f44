package scrub

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// What [Do] and [Erase] leave for the garbage collector is little: what Erase does
// not reach, and the registers that a signal has saved on its stack in the midst of Do,
// which the collector has overwritten (runtime, signalSecret). But by itself it may not
// run for minutes. So it is run.
const (
	// Longest is how long it may wait after Do was called.
	Longest = 10 * time.Second
	// Shortest is how long it rests between two runs that [Soon] asks for. A run takes
	// some milliseconds of a processor, so that costs a hundredth of it at most.
	Shortest = 500 * time.Millisecond
)

// armed says that the collector will run within Longest.
var armed atomic.Bool

func arm() {
	if !armed.Load() && armed.CompareAndSwap(false, true) {
		time.AfterFunc(Longest, func() {
			armed.Store(false) // what Do does from now on is for the next run
			runtime.GC()
		})
	}
}

// soon is the run that Soon asked for.
var soon struct {
	sync.Mutex
	asked bool
	last  time.Time
}

// Soon has the collector run within [Shortest], after a key went out of service. It does
// not wait.
func Soon() {
	if !Enabled {
		return
	}
	soon.Lock()
	defer soon.Unlock()
	if soon.asked {
		return
	}
	soon.asked = true
	time.AfterFunc(time.Until(soon.last.Add(Shortest)), func() {
		soon.Lock()
		soon.asked, soon.last = false, time.Now()
		soon.Unlock()
		runtime.GC()
	})
}
