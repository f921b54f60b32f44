package sqlite

import (
	"runtime/debug"
	"sync"

	"holdfast/appliance"
)

// tally counts many rows in. Another goroutine than the one that reads them encodes them
// and makes their tags, so that all rows are counted in hardly more time than it takes to
// read them.
type tally struct {
	key    appliance.ManifestKey
	full   chan *rowBatch
	empty  chan *rowBatch
	batch  *rowBatch // at hand
	result chan *delta
	pace   int // of the garbage collector, as it was
}

// rowBatch is rows that are handed over at once.
type rowBatch struct {
	specs  []*spec
	values []any // of all rows, one after the other
}

// rowsAtOnce is how many rows a batch has.
const rowsAtOnce = 256

// collectorPace is that of the garbage collector while rows are counted, in the sense of
// GOGC: each row leaves garbage, and little else is live, so that collecting it often costs
// little. The appliance's own pace would let a million rows take hundreds of megabytes.
const collectorPace = 50

// counting is held by the tally that counts, since the collector has one pace.
var counting sync.Mutex

func newTally(key appliance.ManifestKey) *tally {
	counting.Lock()
	t := &tally{key: key, full: make(chan *rowBatch, 2), empty: make(chan *rowBatch, 3), result: make(chan *delta, 1)}
	t.pace = debug.SetGCPercent(collectorPace)
	for range cap(t.empty) {
		t.empty <- &rowBatch{}
	}
	go t.tag()
	return t
}

// add counts a row in.
func (t *tally) add(sp *spec, row []any) {
	if t.batch == nil {
		t.batch = <-t.empty
	}
	b := t.batch
	b.specs, b.values = append(b.specs, sp), append(b.values, row...)
	if len(b.specs) == rowsAtOnce {
		t.full <- b
		t.batch = nil
	}
}

// end gives what all rows are. It must be called, also after an error.
func (t *tally) end() *delta {
	if t.batch != nil {
		t.full <- t.batch
	}
	close(t.full)
	there := <-t.result
	debug.SetGCPercent(t.pace)
	counting.Unlock()
	return there
}

func (t *tally) tag() {
	there, sums := newDelta(), map[string]*appliance.Sum{}
	var encoded []byte
	for b := range t.full {
		values := b.values
		for _, sp := range b.specs {
			row := values[:len(sp.columns)]
			values = values[len(sp.columns):]
			encoded = sp.encode(encoded[:0], row)
			tag, at := t.key.Tag(encoded), sp.place(row)
			there.groups[at.group] += tag.Short()
			if sp.whole != 0 {
				there.groups[sp.whole] += tag.Short()
			}
			if !sp.kept {
				continue
			}
			sum := sums[at.scope]
			if sum == nil {
				sum = &appliance.Sum{}
				sums[at.scope] = sum
			}
			sum.Add(&tag)
		}
		clear(b.values)
		b.specs, b.values = b.specs[:0], b.values[:0]
		t.empty <- b
	}
	for scope, sum := range sums {
		there.sums[scope] = *sum
	}
	t.result <- there
}
