package appliance_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
)

// unfoundedLog is one whose founding cannot be read at times, so that no unlock succeeds.
type unfoundedLog struct {
	appliance.ChangeLog
	away  atomic.Bool
	asked atomic.Int64
}

// Founding implements [appliance.ChangeLog].
func (l *unfoundedLog) Founding(ctx context.Context) (*appliance.Founding, error) {
	l.asked.Add(1)
	if l.away.Load() {
		return nil, fault.Errorf(fault.DatabaseAway, "the test has it away")
	}
	return l.ChangeLog.Founding(ctx)
}

// TestReopeningPauses: rows that are opened again and again are opened after pauses that
// grow, as each opening raises the TPM's counter; and they are opened in the end.
func TestReopeningPauses(t *testing.T) {
	log := &unfoundedLog{ChangeLog: changelogtest.NewMemory(nil)}
	var passed atomic.Int64
	began := time.Now()
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.NewMemory(), Appliance: appliance.Options{ChangeLog: log, Lease: 24 * time.Hour,
		Now: func() time.Time { return began.Add(time.Duration(passed.Load())) }}})
	client := b.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
	b.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
	second := func() {
		passed.Add(int64(time.Second))
		b.Appliance.KeepLease(t.Context())
	}
	branch := fault.Errorf(fault.FleetBranch, "a test")
	b.Appliance.Unfit(branch)
	b.Appliance.KeepLease(t.Context()) // the first time at once
	client.OK(appliancetest.Encrypt("k", "plain"))

	opened := 0
	for range 5 * 60 { // another node goes on to have another log
		if !b.Appliance.Locked() {
			opened++
			b.Appliance.Unfit(branch)
		}
		second()
	}
	if opened < 3 || opened > 20 {
		t.Errorf("within five minutes the rows were opened %d times", opened)
	}

	log.away.Store(true)
	for b.Appliance.Locked() == false {
		b.Appliance.Unfit(branch)
	}
	before := log.asked.Load()
	for range 5 * 60 {
		second()
	}
	if tried := log.asked.Load() - before; tried < 2 || tried > 20 {
		t.Errorf("within five minutes it was tried %d times", tried)
	}
	log.away.Store(false)
	for range 61 {
		second()
	}
	client.OK(appliancetest.Encrypt("k", "plain"))
}
