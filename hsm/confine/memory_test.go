//go:build !race

// The race detector's own memory is more than any bound of these tests.

package confine_test

import (
	"slices"
	"strings"
	"testing"

	"holdfast/hsm/confine"
)

const bound = 512 << 20

// TestLeastMemory: the smallest bound is enough for this program.
func TestLeastMemory(t *testing.T) {
	r := confined(t, task{confine.Rules{MemoryBytes: confine.LeastMemoryBytes}, []attempt{{"allocate", "1048576"}}})
	if r.Errno[0] != 0 {
		t.Errorf("%+v", r)
	}
}

// TestMemory: Go's runtime and eight threads live under the bound; C code that leaks 1 GiB is told that there
// is no memory.
func TestMemory(t *testing.T) {
	s := newSite(t)
	r := confined(t, task{
		confine.Rules{Read: []string{s.module}, MemoryBytes: bound},
		[]attempt{{"allocate", "16777216"}, {"C", s.program + " leak"}, {"allocate", "16777216"}},
	})
	if r.Errno[0] != 0 || r.Errno[1] != 0 || r.Errno[2] != 0 || len(r.Lines[1]) != 3 || r.Told.MemoryBytes != bound ||
		!strings.Contains(r.Words, "512 MiB of memory") {
		t.Errorf("%+v", r)
	}
	t.Logf("C code got %s of 1024 MiB", r.Lines[1])
}

// TestLeak: Go code that leaks ends the process, and says why. Linux lets Go's heap grow over the bound, as
// it lies where Go has reserved addresses; what meets the bound is whatever is mapped next.
func TestLeak(t *testing.T) {
	words := []string{"out of memory", "cannot allocate memory", "pthread_create failed"} // the heap's, the runtime's own, a thread's
	_, stderr, err := try(t, task{confine.Rules{MemoryBytes: bound}, []attempt{{"allocate", "1073741824"}}})
	if err == nil || !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(string(stderr), w) }) {
		t.Errorf("%v: %.300s", err, stderr)
	}
}
