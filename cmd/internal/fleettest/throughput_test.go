//go:build fleet

package fleettest_test

import (
	"fmt"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
	"holdfast/cmd/internal/kmsload"
)

const (
	// turn is how long each number of nodes has the load before it is the next one's.
	turn = 5 * time.Second
	// busy is how many connections send without a pause.
	busy = 24
)

// BenchmarkNodes: how many requests a second are answered through a balancer with 1, 2 and 3
// nodes, in turns, and how many times as many as with one. KMS, balancer, database and all
// nodes share the processors of this machine, so on few of them more nodes answer no more:
// what is measured then is that they cost each other nothing.
func BenchmarkNodes(b *testing.B) {
	f := fleettest.Start(b, fleettest.Options{})
	f.NewKey(cached, appliance.CustodyCached)
	answered := make([]int, len(f.Nodes)+1)
	var took time.Duration
	for round := 0; b.Loop(); round++ {
		for n := 1; n <= len(f.Nodes); n++ {
			r := f.Through(n, kmsload.Options{Connections: busy, Keys: []string{cached}, Name: fmt.Sprintf("bench-%d-%d", round, n)}, turn)
			if r.Failed > 0 || len(r.Wrong) > 0 {
				b.Fatalf("with %d nodes: %v, %d wrong\n%s", n, r, len(r.Wrong), r.Detail())
			}
			answered[n] += len(r.Answered)
		}
		took += turn
	}
	b.ReportMetric(0, "ns/op") // a turn has its length
	for n := 1; n <= len(f.Nodes); n++ {
		b.ReportMetric(float64(answered[n])/took.Seconds(), fmt.Sprintf("requests/s-with-%d", n))
		if n > 1 {
			b.ReportMetric(float64(answered[n])/float64(answered[1]), fmt.Sprintf("times-1-with-%d", n))
		}
	}
}
