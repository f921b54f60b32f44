package recorder

import (
	"context"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

// stepTimeout is how long a boot waits for the record of a step.
const stepTimeout = 5 * time.Second

// RecordBootStep records a step of a boot. Before the log is open the step is kept
// and written when it is.
func (r *Recorder) RecordBootStep(ctx context.Context, s progress.Step) error {
	record := ofStep(s)
	r.mu.Lock()
	if r.open == nil {
		r.early = append(r.early, record)
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return r.Record(ctx, record)
}

func ofStep(s progress.Step) *audit.Record {
	record := &audit.Record{Kind: audit.KindBoot, Operation: s.State, Result: audit.Allowed, Error: s.Code, Detail: s.Reason,
		Actor: "boot " + s.Boot, DurationUS: s.Took.Microseconds()}
	if s.Code != "" {
		record.Result = audit.Failed
	}
	if s.Code == string(fault.HSMAway) || s.Code == string(fault.HSMLease) {
		record.Kind = audit.KindLease
	}
	return record
}
