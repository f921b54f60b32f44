package xks_test

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/xks/xkstest"
)

// staleNode is the place of a node that may lack a change for as long as the test wants.
type staleNode struct {
	appliance.Fleet
	stale, drained, fading atomic.Bool
}

func (n *staleNode) Fresh() error {
	if n.stale.Load() {
		return fault.Errorf(fault.FleetStale, "this node may lack a change")
	}
	return nil
}

func (n *staleNode) Drained() bool                      { return n.drained.Load() }
func (n *staleNode) Fading() bool                       { return n.fading.Load() }
func (*staleNode) Join(appliance.Keyring, string) error { return nil }
func (*staleNode) Leave()                               {}

// TestNodeEndsConnections: a connection ends with the answer of a node that cannot serve, that
// stops soon, or that is drained, so that KMS comes by another one, which a balancer gives to
// another node. Other answers keep it.
func TestNodeEndsConnections(t *testing.T) {
	n := &staleNode{}
	for name, c := range map[string]struct {
		so     *atomic.Bool
		status int
	}{"stale": {&n.stale, 500}, "fading": {&n.fading, 200}, "drained": {&n.drained, 200}} {
		for _, version := range []int{1, 2} {
			b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Fleet: n}})
			kms := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
			kms.HTTP = b.HTTP(version)
			b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
			call := func() (reused bool, status int) {
				r := kms.Request("/keys/k/encrypt", xkstest.EncryptBody("plain"))
				trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
				status = kms.Do(r.WithContext(httptrace.WithClientTrace(context.Background(), trace))).Status
				return reused, status
			}
			for i, step := range []struct {
				so, reused bool
				status     int
			}{{false, false, 200}, {false, true, 200}, {true, true, c.status}, {true, false, c.status}, {false, false, 200}, {false, true, 200}} {
				c.so.Store(step.so)
				if reused, status := call(); reused != step.reused || status != step.status {
					t.Errorf("%s, HTTP/%d, request %d: status %d, reused %v; want %d, %v", name, version, i, status, reused, step.status, step.reused)
				}
			}
		}
	}
}
