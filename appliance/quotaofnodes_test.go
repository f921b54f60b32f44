package appliance_test

import (
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// lender is a peer that lends what it has.
type lender struct {
	mu    sync.Mutex
	has   int
	asked []string
}

func (l *lender) Others() []string { return []string{"other"} }

func (l *lender) Ask(peer, keyStore string, want int, answer func(int)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, peer+" "+keyStore)
	n := min(want, l.has)
	l.has -= n
	go answer(n)
}

// TestQuotaIsShared: a node of two has half of the quota and what its peer lends, and lends what
// it does not need; while it is locked it lends nothing.
func TestQuotaIsShared(t *testing.T) {
	peer := &lender{}
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Now: clock, Peers: peer}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt", appliance.CustodyCached)
	ks := must(b.Appliance.SetQuota(ctx, "demo", 20))(t)
	admitted := func() (n int) {
		for range 40 {
			_, err := k.Call(appliancetest.Encrypt("k", "x"))
			if err == nil {
				n++
			} else if fault.CodeOf(err) != fault.Throttled {
				t.Fatal(err)
			}
		}
		return n
	}
	admitted()
	pass(10 * time.Second)
	if n := admitted(); n != 10 {
		t.Errorf("%d admitted without a loan", n)
	}
	if len(peer.asked) == 0 || peer.asked[0] != "other "+ks.ID {
		t.Errorf("asked %q", peer.asked)
	}
	pass(10 * time.Second)
	if n := b.Appliance.LendQuota(ks.ID, 1000); n < 5 || n > 10 {
		t.Errorf("lent %d", n)
	}
	b.Appliance.Lock()
	if n := b.Appliance.LendQuota(ks.ID, 1000); n != 0 {
		t.Errorf("lent %d while locked", n)
	}
}
