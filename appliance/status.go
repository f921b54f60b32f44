package appliance

import (
	"context"
	"slices"
	"time"
)

// Status is what administrators see at a glance.
type Status struct {
	// Standing says whether requests of KMS are answered, and why not.
	Standing Standing `json:"standing" jsonschema:"Whether the appliance serves, and what decides that."`
	Locked   bool     `json:"locked" jsonschema:"Whether the appliance is locked: it has no keys in memory and serves nothing."`
	// Reason says why it is locked; empty if it is not.
	Reason string `json:"reason,omitempty" jsonschema:"Why the appliance is locked; absent if it is not."`
	// LeaseSeconds is how long keys would stay in memory if no HSM answered from
	// now on; 0 while locked.
	LeaseSeconds int `json:"lease_seconds" jsonschema:"For how many seconds keys would stay in memory if no HSM answered from now on; 0 while locked."`
	KeyStores    int `json:"key_stores" jsonschema:"How many key stores there are."`
	// Installation says which copy of its installation it is.
	Installation InstallationState `json:"installation,omitzero" jsonschema:"Which copy of its installation the appliance is."`
	HSMs         []HSMHealth       `json:"hsms" jsonschema:"The health of each HSM."`
	// Blocked says that everything is out of service by a block, and why.
	Blocked Block `json:"blocked,omitzero" jsonschema:"The block of everything; absent if there is none."`
	// BlockedKeyStores are the names of key stores that are blocked by themselves.
	BlockedKeyStores []string `json:"blocked_key_stores,omitempty" jsonschema:"The names of the key stores that are blocked by themselves."`
	// OutOfService are key stores that refuse all requests, by no block, and why. Each is
	// tried again by itself.
	OutOfService []KeyStoreOutage `json:"out_of_service,omitempty" jsonschema:"The key stores that refuse all requests without a block, and why. Each is tried again by itself."`
	// State is what is known of the stored state as a whole, without reading it.
	State *StateStatus `json:"state,omitempty" jsonschema:"What is known of the stored state as a whole."`
	// Replication is how a node of a fleet stands to the log of changes; missing for an
	// appliance on its own.
	Replication *ReplicationState `json:"replication,omitempty" jsonschema:"How this node of a fleet follows the log of changes; absent for an appliance on its own."`
	Time        time.Time         `json:"time" jsonschema:"The appliance's wall clock."`
	// Clock says by how much the time differs from the one that keys are destroyed by.
	Clock ClockState `json:"clock,omitzero" jsonschema:"By how much the wall clock differs from the time that keys are destroyed by."`
}

// Status gives the state of the appliance; it never fails.
func (s *Service) Status(ctx context.Context) Status {
	st := Status{Time: s.stamp(), Installation: s.installation(), State: s.state(ctx), Replication: s.replication(), Clock: s.clock()}
	if v, err := s.view(); err != nil {
		st.Locked, st.Reason = true, err.Error()
	} else {
		st.KeyStores, st.LeaseSeconds = len(v.byID), int(s.lease.remaining()/time.Second)
		st.Blocked, st.OutOfService = v.blocked, v.outages()
		for _, e := range v.byID {
			if !e.store.Blocked.IsZero() {
				st.BlockedKeyStores = append(st.BlockedKeyStores, e.store.Name)
			}
		}
		slices.Sort(st.BlockedKeyStores)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	st.HSMs, _ = s.Health(ctx)
	st.Standing = s.Standing() // with what came of the probe
	return st
}
