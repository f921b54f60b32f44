package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/hsm/hsmtest"
	"holdfast/web/operation"
)

// search gives the records of all nodes.
func (r *running) search(kind audit.Kind) (*operation.Records, error) {
	found := &operation.Records{}
	return found, r.do("GET", fmt.Sprintf("audit/records?kind=%s&limit=1000", kind), nil, found)
}

// twoNodes starts a fleet of two nodes over a PostgreSQL. Each site is changed first.
func twoNodes(t *testing.T, change ...func(*site)) (a, b *running) {
	t.Helper()
	token, shim := hsmtest.NewBehindShim(t)
	url := postgrestest.Start(t).Database(t)
	node := func() *running {
		s := newSiteWith(t, token, shim)
		s.cfg.State.Database = url
		for _, c := range change {
			c(s)
		}
		return s.start()
	}
	return node(), node()
}

// TestNodesAskEachOther: two nodes of a fleet join; each answers searches and proofs of the
// other's log, has on record who is in the fleet, and countersigns the other's head; a node
// that is gone is named.
func TestNodesAskEachOther(t *testing.T) {
	a, b := twoNodes(t)
	nodes := []*running{a, b}
	ids := map[*running]string{}
	for _, r := range nodes {
		eventually(t, func() error {
			var status appliance.FleetStatus
			if err := r.do("GET", "fleet", nil, &status); err != nil {
				return err
			}
			for _, n := range status.Nodes {
				if !n.Heard || n.State != appliance.NodeServing {
					return fmt.Errorf("%s hears %+v", status.Node, n)
				}
			}
			if ids[r] = status.Node; len(status.Nodes) != 2 {
				return fmt.Errorf("there are %d nodes", len(status.Nodes))
			}
			return nil
		})
	}
	for _, r := range nodes {
		other := b
		if r == b {
			other = a
		}
		eventually(t, func() error {
			found, err := r.search(audit.KindFleet)
			if err != nil {
				return err
			}
			if len(found.Nodes) != 2 || found.Silent != nil {
				return fmt.Errorf("%v answer, and not %+v", found.Nodes, found.Silent)
			}
			var of []string
			for _, record := range found.Records {
				if record.Node == ids[other] {
					of = append(of, record.Operation+" "+audit.NamedLog(record.Record))
				}
			}
			for _, want := range []string{"NodeJoined " + ids[a], "NodeJoined " + ids[b], "CountersignHead " + ids[r]} {
				if got := strings.Count(strings.Join(of, ", "), want); got == 0 || got > 1 && strings.HasPrefix(want, "NodeJoined") {
					return fmt.Errorf("%q is on record %d times: %v", want, got, of)
				}
			}
			return nil
		})
		var record audit.NodeRecord
		r.ok("GET", "audit/records/0?node="+ids[other], nil, &record)
		if record.Node != ids[other] {
			t.Errorf("the record is %+v", record)
		}
	}
	b.stop()
	found, err := a.search(audit.KindBoot)
	if err != nil || len(found.Silent) != 1 || found.Silent[0].Node != ids[b] || len(found.Records) == 0 {
		t.Errorf("%v: without the other: %+v", err, found.Silent)
	}
	a.stop()
}
