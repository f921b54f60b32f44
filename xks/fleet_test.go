package xks_test

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/xks/xkstest"
)

// staleNode is the place of a node that may lack a change for as long as the test wants. When
// the node has left, its seat is empty.
type staleNode struct {
	fleet.Seat
	stale, drained, fading, left atomic.Bool
}

func (n *staleNode) Fresh() error {
	if n.left.Load() {
		return n.Seat.Fresh()
	}
	if n.stale.Load() {
		return fault.Errorf(fault.FleetStale, "this node may lack a change")
	}
	return nil
}

func (n *staleNode) Drained() bool { return n.drained.Load() }
func (n *staleNode) Fading() bool  { return n.fading.Load() }
func (n *staleNode) Leave()        { n.left.Store(true) }

func (n *staleNode) Join(appliance.Keyring, string) error {
	n.left.Store(false)
	return nil
}

// TestNodeEndsConnections: a connection ends with the answer of a node that cannot serve, that
// stops soon, or that is drained, so that KMS comes by another one, which a balancer gives to
// another node. Other answers keep it.
func TestNodeEndsConnections(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		set     func(b *xkstest.Bed, n *staleNode, so bool)
		status  int
		forGood bool
	}{
		"stale":   {set: func(_ *xkstest.Bed, n *staleNode, so bool) { n.stale.Store(so) }, status: 500},
		"fading":  {set: func(_ *xkstest.Bed, n *staleNode, so bool) { n.fading.Store(so) }, status: 200},
		"drained": {set: func(_ *xkstest.Bed, n *staleNode, so bool) { n.drained.Store(so) }, status: 200},
		"opens its rows again": {set: func(b *xkstest.Bed, _ *staleNode, so bool) {
			if so {
				b.Appliance.Unfit(fault.Errorf(fault.FleetBehind, "the database has forgotten change 7"))
				return
			}
			b.Appliance.KeepLease(ctx)
		}, status: 500},
		"removed": {set: func(b *xkstest.Bed, _ *staleNode, so bool) {
			if so {
				b.Appliance.Unfit(fault.Errorf(fault.FleetRemoved, "this node was removed"))
			}
		}, status: 500, forGood: true},
		"locked": {set: func(b *xkstest.Bed, _ *staleNode, so bool) {
			if so {
				b.Appliance.Lock()
			}
		}, status: 500, forGood: true},
	} {
		for _, version := range []int{1, 2} {
			n := &staleNode{}
			b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Fleet: n, ChangeLog: changelogtest.NewMemory(nil)}})
			kms := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
			kms.HTTP = b.HTTP(version)
			b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
			call := func() (reused bool, status int) {
				r := kms.Request("/keys/k/encrypt", xkstest.EncryptBody("plain"))
				trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
				status = kms.Do(r.WithContext(httptrace.WithClientTrace(ctx, trace))).Status
				return reused, status
			}
			for i, step := range []struct {
				so, reused bool
				status     int
			}{{false, false, 200}, {false, true, 200}, {true, true, c.status}, {true, false, c.status}, {false, false, 200}, {false, true, 200}} {
				if i > 3 && c.forGood {
					break
				}
				c.set(b, n, step.so)
				if reused, status := call(); reused != step.reused || status != step.status {
					t.Errorf("%s, HTTP/%d, request %d: status %d, reused %v; want %d, %v", name, version, i, status, reused, step.status, step.reused)
				}
			}
		}
	}
}
