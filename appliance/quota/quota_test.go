package quota_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"holdfast/appliance/quota"
)

// fleet is nodes with a clock of the test's, and messages that may be lost, late, or come twice.
type fleet struct {
	now    time.Time
	random *rand.Rand
	nodes  []*node
	queue  []message
	faults bool
}

type node struct {
	fleet *fleet
	id    int
	pool  *quota.Pool
	dead  bool
}

type message struct {
	at time.Time
	do func()
}

func newFleet(n int, seed uint64, faults bool) *fleet {
	f := &fleet{now: time.Unix(0, 0), random: rand.New(rand.NewPCG(seed, 1)), faults: faults}
	for i := range n {
		d := &node{fleet: f, id: i}
		d.pool = quota.New(d)
		f.nodes = append(f.nodes, d)
	}
	return f
}

// Others gives all that there are: who has died is missed later than it matters here.
func (n *node) Others() []string {
	var all []string
	for _, o := range n.fleet.nodes {
		if o != n {
			all = append(all, fmt.Sprint(o.id))
		}
	}
	return all
}

func (n *node) Ask(peer, keyStore string, want int, answer func(int)) {
	f := n.fleet
	f.send(func() {
		var i int
		_, _ = fmt.Sscan(peer, &i)
		if p := f.nodes[i]; !p.dead {
			lent := p.pool.Lend(keyStore, want, f.now)
			f.send(func() { answer(lent) })
		}
	})
}

// send delivers a message after a while: none, one or two times.
func (f *fleet) send(do func()) {
	times := 1
	delay := time.Millisecond
	if f.faults {
		times = []int{0, 1, 1, 1, 1, 2}[f.random.IntN(6)]
		delay = time.Duration(f.random.IntN(400)) * time.Millisecond
	}
	for range times {
		f.queue = append(f.queue, message{f.now.Add(delay), do})
	}
}

// pass lets time pass, with what arrives.
func (f *fleet) pass(d time.Duration) {
	f.now = f.now.Add(d)
	due := slices.Clone(f.queue)
	f.queue = nil
	for _, m := range due {
		if m.at.After(f.now) {
			f.queue = append(f.queue, m)
		} else {
			m.do()
		}
	}
}

func (f *fleet) allow(i, q int) bool { return f.nodes[i].pool.Bucket("k", q).AllowN(f.now, 1) }

// TestQuotaIsNeverExceeded: in random schedules of requests at random nodes, with messages lost,
// late and twice, and nodes that die, no window has more than the bound that the package states.
func TestQuotaIsNeverExceeded(t *testing.T) {
	schedules := 400
	if testing.Short() {
		schedules = 100
	}
	for seed := range uint64(schedules) {
		f := newFleet(1+int(seed%5), seed, true)
		q := 1 + f.random.IntN(200)
		// A bucket of the bound: whatever is admitted must be there.
		most := max(float64(q), float64(len(f.nodes))) + float64(q)*quota.Epsilon
		level, last, admitted := most, f.now, 0
		busy := 0
		for range 2000 {
			f.pass(time.Duration(f.random.IntN(20)) * time.Millisecond)
			if f.random.IntN(100) == 0 {
				busy = f.random.IntN(len(f.nodes))
			}
			if f.random.IntN(500) == 0 {
				f.nodes[f.random.IntN(len(f.nodes))].dead = true
			}
			level = min(most, level+float64(q)*f.now.Sub(last).Seconds())
			last = f.now
			for range f.random.IntN(8) {
				at := busy
				if f.random.IntN(4) == 0 {
					at = f.random.IntN(len(f.nodes))
				}
				if !f.nodes[at].dead && f.allow(at, q) {
					level--
					admitted++
				}
			}
			if level < -1e-6 {
				t.Fatalf("seed %d: %d nodes with a quota of %d have admitted %.1f too many", seed, len(f.nodes), q, -level)
			}
		}
		if admitted == 0 && !slices.ContainsFunc(f.nodes, func(n *node) bool { return n.dead }) {
			t.Errorf("seed %d: nothing was admitted", seed)
		}
	}
}

// TestOneNodeGetsTheWholeQuota: where all requests come to one node of three, it admits nearly
// as many as a single appliance, and the others what is left.
func TestOneNodeGetsTheWholeQuota(t *testing.T) {
	f := newFleet(3, 1, false)
	const q = 900
	for _, n := range f.nodes { // they have run for a while
		n.pool.Bucket("k", q)
		n.pool.Lend("k", 1, f.now)
	}
	f.pass(2 * time.Second)
	admitted := 0
	for range 10_000 { // ten seconds, with 2,000 requests a second
		f.pass(time.Millisecond)
		for range 2 {
			if f.allow(0, q) {
				admitted++
			}
		}
	}
	if admitted < 9*q || admitted > 11*q+q/5 {
		t.Errorf("%d were admitted in ten seconds, of a quota of %d a second", admitted, q)
	}
	if f.allow(1, q) != true {
		t.Error("a node that lends has nothing left for a request of its own")
	}
}

// TestNothingIsLostAtHalfTheQuota: no request is refused at half of the quota, wherever it
// comes, once the nodes have run for a second.
func TestNothingIsLostAtHalfTheQuota(t *testing.T) {
	f := newFleet(3, 1, false)
	const q = 1000
	for _, n := range f.nodes {
		n.pool.Bucket("k", q)
		n.pool.Lend("k", 1, f.now)
	}
	f.pass(2 * time.Second)
	refused := 0
	for i := range 10_000 {
		f.pass(time.Millisecond)
		if i%2 == 0 && !f.allow(0, q) {
			refused++
		}
	}
	if refused > 0 {
		t.Errorf("%d were refused", refused)
	}
}

// TestAlone: one node is as a single appliance, and asks nobody.
func TestAlone(t *testing.T) {
	f := newFleet(1, 1, false)
	n := 0
	for f.allow(0, 100) {
		n++
	}
	f.pass(500 * time.Millisecond)
	for f.allow(0, 100) {
		n++
	}
	if n != 150 || len(f.queue) != 0 {
		t.Errorf("%d, %d messages", n, len(f.queue))
	}
}

// TestLend: nothing of a key store that is not known or was forgotten, and not what nobody asked
// for.
func TestLend(t *testing.T) {
	f := newFleet(2, 1, false)
	p := f.nodes[0].pool
	b := p.Bucket("k", 100)
	b.AllowN(f.now, 1)
	f.now = f.now.Add(time.Minute)
	for _, want := range []int{0, -5} {
		if n := p.Lend("k", want, f.now); n != 0 {
			t.Errorf("lent %d of %d", n, want)
		}
	}
	if n := p.Lend("other", 10, f.now); n != 0 {
		t.Errorf("lent %d of an unknown key store", n)
	}
	if n := p.Lend("k", 1<<30, f.now); n < 20 || n > 50 {
		t.Errorf("lent %d of a share of 50", n)
	}
	p.Keep()
	if n := p.Lend("k", 10, f.now); n != 0 {
		t.Errorf("lent %d of a key store that is gone", n)
	}
}
