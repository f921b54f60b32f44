package fleet

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
)

// askQuota is the kind of questions for requests of a quota.
const askQuota = "quota"

const (
	// quotaTime is how long an answer is waited for: after it, what was lent cannot be used.
	quotaTime = 200 * time.Millisecond
	// quotasAtOnce is how many such questions are under way at once, and how many are
	// answered at once.
	quotasAtOnce = 64
	// maxWant bounds what is asked for at once.
	maxWant = 1 << 20
	// othersEvery is how often it is looked which nodes are live.
	othersEvery = 100 * time.Millisecond
)

// Quotas ask the other live nodes for requests of key stores' quotas. They implement
// quota.Peers.
type Quotas struct {
	calls *fleet.Calls
	free  chan struct{} // has one for each question that may begin
	look  sync.Mutex    // held while it is looked which nodes are live
	live  atomic.Pointer[liveNodes]
}

// liveNodes are the other live nodes, and when to look again.
type liveNodes struct {
	ids   []string
	until time.Time
}

// loan is what is asked for.
type loan struct {
	KeyStore string `json:"key_store"`
	Want     int    `json:"want"`
}

// NewQuotas makes them.
func NewQuotas(calls *fleet.Calls) *Quotas {
	q := &Quotas{calls: calls, free: make(chan struct{}, quotasAtOnce)}
	for range quotasAtOnce {
		q.free <- struct{}{}
	}
	return q
}

// Lend has other nodes' questions answered by a function (appliance.Service.LendQuota). Call
// it before anything is asked.
func (q *Quotas) Lend(lend func(keyStore string, want int) int) {
	q.calls.On(askQuota, quotasAtOnce, answering(func(_ context.Context, in loan) ([]byte, error) {
		if in.Want < 1 || in.Want > maxWant {
			return nil, fault.Errorf(fault.Invalid, "%d requests cannot be lent", in.Want)
		}
		return json.Marshal(lend(in.KeyStore, in.Want))
	}))
}

// Others implements quota.Peers. It waits for nobody: while one request looks which nodes
// are live, others take what was seen last.
func (q *Quotas) Others() []string {
	now, seen := time.Now(), q.live.Load()
	if seen != nil && (now.Before(seen.until) || !q.look.TryLock()) {
		return seen.ids
	}
	if seen == nil {
		q.look.Lock()
	}
	defer q.look.Unlock()
	n := q.calls.Seat().Node()
	if n == nil {
		q.live.Store(nil)
		return nil
	}
	ids := n.Others(false)
	q.live.Store(&liveNodes{ids, now.Add(othersEvery)})
	return ids
}

// Ask implements quota.Peers.
func (q *Quotas) Ask(peer, keyStore string, want int, answer func(lent int)) {
	select {
	case <-q.free:
	default: // the nodes do not keep up, and get no more to do
		return
	}
	go func() {
		defer func() { q.free <- struct{}{} }()
		ctx, cancel := context.WithTimeout(context.Background(), quotaTime)
		defer cancel()
		want = min(want, maxWant)
		text, err := ask(ctx, q.calls, peer, askQuota, loan{keyStore, want})
		if err != nil { // there is no loan, as when the message is lost
			return
		}
		var lent int
		if json.Unmarshal(text, &lent) == nil && lent >= 0 && lent <= want {
			answer(lent)
		}
	}()
}
