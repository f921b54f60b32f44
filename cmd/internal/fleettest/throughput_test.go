//go:build fleet

package fleettest_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
)

// sizes are those of the fleets that are compared.
var sizes = []int{1, 2, 3}

// round is how long each fleet is loaded in a round.
const round = 3 * time.Second

// BenchmarkThroughput compares fleets of one, two and three nodes, each behind a balancer of
// its own: each round loads all of them, one after the other, and begins with another. It
// gives the median of each one's requests in a second, and of its ratio to the fleet of one
// node in the same round. Clients, balancer, nodes and PostgreSQL share this machine: more
// nodes give more only where there are more processors than one node uses.
func BenchmarkThroughput(b *testing.B) {
	fleets := make([]*fleettest.Fleet, len(sizes))
	for i, nodes := range sizes {
		fleets[i] = fleettest.Start(b, fleettest.Options{Nodes: nodes})
		fleets[i].NewKey(cached, appliance.CustodyCached)
	}
	perSecond := make([][]float64, len(sizes))
	ratio := make([][]float64, len(sizes))
	first := 0
	for b.Loop() {
		now := make([]float64, len(sizes))
		for i := range sizes {
			n := (first + i) % len(sizes)
			load := fleets[n].FullLoad(fmt.Sprintf("round-%d", first), cached)
			load.Await(200) // all connections are there
			before, began := load.Count(), time.Now()
			time.Sleep(round)
			now[n] = float64(load.Count()-before) / time.Since(began).Seconds()
			if r := load.Stop(); r.Failed > 0 || len(r.Wrong) > 0 {
				b.Fatalf("a fleet of %d: %v\n%s\n%v", sizes[n], r, r.Detail(), r.Wrong)
			}
		}
		first++
		for i := range sizes {
			perSecond[i] = append(perSecond[i], now[i])
			ratio[i] = append(ratio[i], now[i]/now[0])
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, nodes := range sizes {
		b.ReportMetric(middle(perSecond[i]), fmt.Sprintf("req/s-%d-nodes", nodes))
		b.ReportMetric(middle(ratio[i]), fmt.Sprintf("ratio-%d-nodes", nodes))
	}
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
