package boot

import (
	"context"
	"errors"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/tpm"
)

// Launch is what a boot knows of the launch file of its machine (package
// appliance/machine/ownership), on an image that asks for one.
type Launch struct {
	// Digest is the SHA-256 of the launch file, Owner that of its owner's key, as evidence
	// names them.
	Digest, Owner []byte
	// Why says why there is no launch file that counts; nil if there is one. With it the
	// boot ends locked, and nothing is measured.
	Why *fault.Fault
	// Ignored says what was found and does not count; nil if nothing was. It is a step of
	// the boot, which goes on.
	Ignored *fault.Fault
}

// measureLaunch extends the launch file's PCR, and has evidence name file and owner.
func (b *Boot) measureLaunch(ctx context.Context) error {
	l := b.o.Launch
	if l == nil {
		return nil
	}
	if l.Why != nil {
		return l.Why
	}
	if err := b.collector.MeasureLaunch(l.Digest, l.Owner); err != nil {
		if errors.Is(err, tpm.ErrExtended) {
			return fault.Errorf(fault.MeasuredTwice, "PCR %d was extended already since the machine was started: Holdfast ran before, or something else uses it; restart the machine", tpm.LaunchPCR)
		}
		return fault.Wrapf(fault.Measure, err, "the launch file cannot be measured")
	}
	if l.Ignored != nil {
		b.record(ctx, progress.Step{State: string(progress.Measure), Began: b.o.Now(), Code: l.Ignored.Codes(), Reason: l.Ignored.Reason()})
	}
	return nil
}
