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
	stale atomic.Bool
}

func (n *staleNode) Fresh() error {
	if n.stale.Load() {
		return fault.Errorf(fault.FleetStale, "this node may lack a change")
	}
	return nil
}

func (*staleNode) Drained() bool                        { return false }
func (*staleNode) Join(appliance.Keyring, string) error { return nil }
func (*staleNode) Leave()                               {}

// TestStaleNodeEndsConnections: after the answer that this node cannot serve, KMS comes by
// another connection, which a balancer gives to another node. Other answers keep it.
func TestStaleNodeEndsConnections(t *testing.T) {
	for _, version := range []int{1, 2} {
		n := &staleNode{}
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
			stale, reused bool
			status        int
		}{{false, false, 200}, {false, true, 200}, {true, true, 500}, {true, false, 500}, {false, false, 200}, {false, true, 200}} {
			n.stale.Store(step.stale)
			if reused, status := call(); reused != step.reused || status != step.status {
				t.Errorf("HTTP/%d, request %d: status %d, reused %v; want %d, %v", version, i, status, reused, step.status, step.reused)
			}
		}
	}
}
