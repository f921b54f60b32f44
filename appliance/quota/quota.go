// Package quota shares the quota of a key store among the live nodes of a fleet. Each node
// has its share, and lends the others what it does not use, since KMS's few connections may
// sit on one node.
//
// # Guarantees
//
// Where n nodes see n live nodes, all together admit in any t seconds at most q·t + q·(1 + ε)
// requests, for a quota of q a second that is at least n; below that q·t + n + q·ε, as each
// node saves up for one request. A single appliance admits q·t + q. ε is [Epsilon]:
// what is lent can be used for a fifth of a second, in which the lender's share refills.
// Messages that are lost, late or come twice, and nodes that die with what they have borrowed,
// only make it less. A node that sees fewer nodes than there are takes a larger share: while
// the views differ, the sum is q times the sum of 1/n over the nodes' own n.
//
// No request waits for a message: what is needed soon is borrowed before.
package quota

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// The times of loans.
const (
	// slot is the time over which demand is measured.
	slot = 100 * time.Millisecond
	// loanTime is how long what is borrowed can be used, from when it was asked for.
	loanTime = 200 * time.Millisecond
)

// Epsilon is how much more than a single appliance's burst all nodes admit at once, as a part
// of the quota.
const Epsilon = float64(loanTime) / float64(time.Second)

// Peers are the other live nodes.
type Peers interface {
	// Others gives the IDs of the live nodes without this one. It is called with each
	// request, and must be quick.
	Others() []string
	// Ask asks a peer for tokens of a key store; the peer answers by [Pool.Lend]. It does not
	// wait: answer is called later, once, with what was lent, or never.
	Ask(peer, keyStore string, want int, answer func(lent int))
}

// Pool has the quotas of one node. Its methods may be called at once from several goroutines.
type Pool struct {
	peers Peers

	mu      sync.Mutex
	buckets map[string]*Bucket
}

// New makes one.
func New(peers Peers) *Pool { return &Pool{peers: peers, buckets: map[string]*Bucket{}} }

// Bucket gives the tokens of a key store with a quota a second: the same as before if there is
// one, so that no change of rows fills it.
func (p *Pool) Bucket(keyStore string, perSecond int) *Bucket {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.buckets[keyStore]
	if b == nil {
		b = &Bucket{pool: p, keyStore: keyStore}
		p.buckets[keyStore] = b
	}
	b.mu.Lock()
	b.quota = float64(perSecond)
	b.mu.Unlock()
	return b
}

// Keep forgets the key stores that are not named.
func (p *Pool) Keep(keyStores ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.buckets, func(id string, _ *Bucket) bool { return !slices.Contains(keyStores, id) })
}

// Lend gives a peer at most so many tokens of a key store, and has that many less from then on.
// It gives 0 for one that it does not know.
func (p *Pool) Lend(keyStore string, want int, now time.Time) int {
	p.mu.Lock()
	b := p.buckets[keyStore]
	p.mu.Unlock()
	if b == nil || want <= 0 {
		return 0
	}
	n := len(p.peers.Others()) + 1 // before the lock: it may wait
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now, n)
	b.notice(now, 0)
	spare := b.tokens - 2*b.demand() - b.quota/float64(n)/10
	lent := int(max(0, min(float64(want), math.Floor(spare))))
	b.tokens -= float64(lent)
	return lent
}

// Bucket is this node's tokens of one key store.
type Bucket struct {
	pool     *Pool
	keyStore string

	mu    sync.Mutex
	quota float64 // a second, of all nodes

	tokens   float64 // of this node's share
	filled   time.Time
	borrowed []loan

	slotAt     time.Time // when the present slot began
	count, was float64   // requests in it, and in the one before
	round      int       // of asking; an answer to an earlier round counts too, until it expires
	open       int       // peers that have not answered the round
	asked      time.Time
}

// loan is tokens of a peer.
type loan struct {
	tokens float64
	until  time.Time
}

// AllowN takes n tokens, and says whether there were as many. A node that starts has a tenth of
// its share, so that it adds little to what the others have; one that is alone has its quota at
// once.
func (b *Bucket) AllowN(now time.Time, n int) bool {
	others := b.pool.peers.Others()
	b.mu.Lock()
	b.refill(now, len(others)+1)
	b.notice(now, float64(n))
	ok := b.take(float64(n))
	ask := b.needs(now, others)
	round := b.round
	b.mu.Unlock()
	if ask > 0 {
		for _, peer := range others {
			b.ask(peer, ask, round, now)
		}
	}
	return ok
}

// refill gives what the time since the last call brings to the share of one of n nodes.
func (b *Bucket) refill(now time.Time, n int) {
	share := b.quota / float64(n)
	switch {
	case b.filled.IsZero() && n == 1:
		b.tokens = share
	case b.filled.IsZero():
		b.tokens = max(1, share/10)
	default:
		b.tokens += share * max(0, now.Sub(b.filled).Seconds())
	}
	b.tokens = min(b.tokens, max(1, share)) // a share below 1 would never admit one
	if now.After(b.filled) {
		b.filled = now
	}
	b.borrowed = slices.DeleteFunc(b.borrowed, func(l loan) bool { return !now.Before(l.until) })
}

// notice counts demand, whether it is admitted or not.
func (b *Bucket) notice(now time.Time, n float64) {
	switch d := now.Sub(b.slotAt); {
	case d >= 2*slot:
		b.slotAt, b.was, b.count = now, 0, 0
	case d >= slot:
		b.slotAt, b.was, b.count = b.slotAt.Add(slot), b.count, 0
	}
	b.count += n
}

// demand is how many tokens a slot needs.
func (b *Bucket) demand() float64 { return max(b.was, b.count) }

// take takes borrowed tokens first, as they do not last.
func (b *Bucket) take(n float64) bool {
	there := b.tokens
	for _, l := range b.borrowed {
		there += l.tokens
	}
	if there < n {
		return false
	}
	for i := range b.borrowed {
		part := min(n, b.borrowed[i].tokens)
		b.borrowed[i].tokens -= part
		n -= part
	}
	b.tokens -= n
	return true
}

// needs says how many tokens to ask each peer for: 0 if what is there lasts for a slot, or
// while peers are asked already.
func (b *Bucket) needs(now time.Time, others []string) int {
	if len(others) == 0 || b.open > 0 && now.Sub(b.asked) < loanTime {
		return 0
	}
	there := b.tokens
	for _, l := range b.borrowed {
		there += l.tokens
	}
	want := min(b.quota, 2*b.demand()) - there
	if there >= b.demand() || want < 1 {
		return 0
	}
	b.round++
	b.open, b.asked = len(others), now
	return int(math.Ceil(want / float64(len(others))))
}

func (b *Bucket) ask(peer string, want, round int, sent time.Time) {
	answered := false
	b.pool.peers.Ask(peer, b.keyStore, want, func(lent int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if answered { // a message that came twice
			return
		}
		answered = true
		if round == b.round {
			b.open--
		}
		if lent = min(lent, want); lent > 0 {
			b.borrowed = append(b.borrowed, loan{float64(lent), sent.Add(loanTime)})
		}
	})
}
