package web

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
)

// The evidence that strangers may ask for: each costs the TPM a signature, and the TPM has
// other work. So one is made at a time, and after each the TPM rests as long as that took.
// Addresses take turns, whichever has asked more often, so that none keeps another out.
const (
	evidenceEvery = time.Second // for each address, after a burst
	evidenceBurst = 20
	// maxWaiting bounds who waits, and maxAddresses which addresses are remembered; one that
	// is forgotten has its whole burst again.
	maxWaiting   = 256
	maxAddresses = 10_000
)

// turns gives turns to addresses.
type turns struct {
	now func() time.Time
	// rest waits after a turn, until others may be given one.
	rest func(time.Duration)

	mu      sync.Mutex
	quotas  *lru.Cache[netip.Prefix, *rate.Limiter]
	busy    bool
	took    time.Duration // the last turn
	lines   map[netip.Prefix][]*waiter
	order   []netip.Prefix // of the lines: whose turn is next
	waiting int
}

// waiter is one who waits; refused, if not nil, is why in vain.
type waiter struct {
	turn    chan struct{}
	refused error
}

func newTurns() *turns {
	quotas, _ := lru.New[netip.Prefix, *rate.Limiter](maxAddresses) // fails only for a size below 1
	return &turns{now: time.Now, rest: time.Sleep, quotas: quotas, lines: map[netip.Prefix][]*waiter{}}
}

// do calls the function when it is the turn of the address. Errors: fault.Throttled, which
// says when to ask again; the context's; or the function's.
func (t *turns) do(ctx context.Context, remote string, call func() error) error {
	w, err := t.stand(network(remote))
	if err != nil {
		return err
	}
	select {
	case <-w.turn:
	case <-ctx.Done():
		t.leave(network(remote), w)
		return ctx.Err()
	}
	if w.refused != nil {
		return w.refused
	}
	began := t.now()
	defer func() {
		took := t.now().Sub(began)
		go func() { // the caller has its answer meanwhile
			t.rest(took)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.took, t.busy = took, false
			t.next()
		}()
	}()
	return call()
}

// stand puts one more into the line of the address.
func (t *turns) stand(from netip.Prefix) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	quota, known := t.quotas.Get(from)
	if !known {
		quota = rate.NewLimiter(rate.Every(evidenceEvery), evidenceBurst)
		t.quotas.Add(from, quota)
	}
	now := t.now()
	if !quota.AllowN(now, 1) {
		r := quota.ReserveN(now, 1)
		defer r.CancelAt(now)
		return nil, tooOften(r.DelayFrom(now))
	}
	if t.waiting >= maxWaiting && !t.makeRoom(from) {
		return nil, tooOften(2 * t.took * maxWaiting)
	}
	w := &waiter{turn: make(chan struct{})}
	if len(t.lines[from]) == 0 {
		t.order = append(t.order, from)
	}
	t.lines[from] = append(t.lines[from], w)
	t.waiting++
	t.next()
	return w, nil
}

// makeRoom sends the last of the longest line away, if that line is longer than the
// address's would be.
func (t *turns) makeRoom(from netip.Prefix) bool {
	longest := from
	for address, line := range t.lines {
		if len(line) > len(t.lines[longest])+1 {
			longest = address
		}
	}
	line := t.lines[longest]
	if longest == from || len(line) == 0 {
		return false
	}
	last := line[len(line)-1]
	last.refused = tooOften(2 * t.took * maxWaiting)
	t.remove(longest, last)
	close(last.turn)
	return true
}

// next gives the next turn, if there is none now.
func (t *turns) next() {
	if t.busy || len(t.order) == 0 {
		return
	}
	from := t.order[0]
	w := t.lines[from][0]
	t.remove(from, w)
	if i := slices.Index(t.order, from); i >= 0 { // it goes to the end
		t.order = append(slices.Delete(t.order, i, i+1), from)
	}
	t.busy = true
	close(w.turn)
}

// remove takes one out of a line; false if they are in none.
func (t *turns) remove(from netip.Prefix, w *waiter) bool {
	i := slices.Index(t.lines[from], w)
	if i < 0 {
		return false
	}
	t.waiting--
	if t.lines[from] = slices.Delete(t.lines[from], i, i+1); len(t.lines[from]) == 0 {
		delete(t.lines, from)
		t.order = slices.DeleteFunc(t.order, func(p netip.Prefix) bool { return p == from })
	}
	return true
}

// leave is for who waits no longer; a turn that they were given goes to the next.
func (t *turns) leave(from netip.Prefix, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.remove(from, w) && w.refused == nil {
		t.busy = false
		t.next()
	}
}

func tooOften(wait time.Duration) error {
	wait = max(wait, time.Second).Round(time.Second)
	return &fault.Fault{Code: fault.Throttled, Message: "evidence is asked for too often; try again in " + wait.String(), RetryAfter: wait}
}

// network is what counts as one address: of IPv6 the 64 bits that one subscriber has.
func network(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{} // all that have none share a line
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	p, _ := address.Prefix(bits) // fails only for more bits than it has
	return p
}
