package fleet

import (
	"sync"
	"time"
)

// A question names an epoch of the node that it is for (RFC 9334 section 10.3: epoch IDs).
// A node accepts its present epoch and the one before, and keeps the nonces of the
// questions in both. So it answers each question once, and needs no clock of another node.
const (
	// epochTime is how long an epoch lasts at the most.
	epochTime = time.Minute
	// epochQuestions is how many questions it has at the most: nodes send some hundreds a
	// second. It bounds the nonces that are kept to a few MiB.
	epochQuestions = 1 << 16
)

// epochs are those of one node. The zero value is ready.
type epochs struct {
	mu          sync.Mutex
	now, before epoch
}

type epoch struct {
	id    string
	began time.Duration
	seen  map[string]bool // nonces
}

// freshness says how a question is to what was asked before.
type freshness int

const (
	// stale: it names no epoch that is accepted.
	stale freshness = iota
	// fresh: it was not asked before.
	fresh
	// replayed: it was.
	replayed
)

// take takes a question, and gives the epoch that the next one is to name.
func (e *epochs) take(id, nonce string, now time.Duration) (next string, how freshness) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now.id == "" || now-e.now.began >= epochTime || len(e.now.seen) >= epochQuestions {
		e.before = e.now
		e.now = epoch{id: newNonce(), began: now, seen: map[string]bool{}}
	}
	for _, one := range []epoch{e.now, e.before} {
		switch {
		case id == "" || id != one.id:
			continue
		case one.seen[nonce]:
			return e.now.id, replayed
		case len(one.seen) >= 2*epochQuestions:
			return e.now.id, stale
		}
		one.seen[nonce] = true
		return e.now.id, fresh
	}
	return e.now.id, stale
}
