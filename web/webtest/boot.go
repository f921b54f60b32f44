package webtest

import (
	"bytes"
	"context"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
)

// Boot is a boot that is where it is said to be. A simulated machine with evidence is
// elsewhere (cmd/holdfast-dev).
type Boot struct {
	// State is what Status gives.
	State progress.Status
	// Err is that of Evidence and Appraise.
	Err error
	// History is what a broker has on record; nil if no broker releases the PIN.
	History *progress.Releases
	// Away is why the broker does not tell; nil if it does.
	Away error
	// PIN was sealed last, Below is what was revoked last.
	PIN   []byte
	Below uint64
}

// Status gives State.
func (b *Boot) Status() progress.Status { return b.State }

// Evidence gives evidence with the nonce, which proves nothing, or Err.
func (b *Boot) Evidence(_ context.Context, nonce []byte) (*attest.Evidence, error) {
	if b.Err != nil {
		return nil, b.Err
	}
	return &attest.Evidence{Format: attest.Format, Created: time.Now(), Nonce: nonce, TLSKey: []byte("key"), Report: snp.NewReport(snp.Evidence{})}, nil
}

// Appraise passes the evidence, or gives Err.
func (b *Boot) Appraise(ctx context.Context, nonce []byte) (*attest.Evidence, *appraisal.Verdict, error) {
	e, err := b.Evidence(ctx, nonce)
	if err != nil {
		return nil, nil, err
	}
	return e, &appraisal.Verdict{Result: appraisal.Pass, Checks: []appraisal.Check{{Code: string(fault.EvidenceNonce), Name: "The evidence has the nonce.", Result: appraisal.Pass}}, Facts: map[string]any{}}, nil
}

// Releases gives History.
func (b *Boot) Releases(context.Context) (*progress.Releases, error) {
	if b.Away != nil {
		return nil, b.Away
	}
	if b.History == nil {
		return nil, fault.Errorf(fault.Conflict, "no broker releases the PIN of this machine")
	}
	return b.History, nil
}

// Seal sets PIN.
func (b *Boot) Seal(_ context.Context, credential []byte) error {
	b.PIN = bytes.Clone(credential)
	return nil
}

// PINChallenge is that of a machine without an owner.
func (b *Boot) PINChallenge(context.Context, []byte) ([]byte, error) {
	return nil, fault.Errorf(fault.PINOwner, "this machine has no owner")
}

// GivePIN is that of a machine without an owner.
func (b *Boot) GivePIN(ctx context.Context, _ []byte) error {
	_, err := b.PINChallenge(ctx, nil)
	return err
}

// CheckRevoke is as if the policy in force had version 5.
func (b *Boot) CheckRevoke(_ context.Context, below uint64, _ bool) error {
	if below > 5 {
		return fault.Errorf(fault.Conflict, "the policy in force has version 5")
	}
	return nil
}

// Revoke sets Below.
func (b *Boot) Revoke(ctx context.Context, below uint64, approvals bool) error {
	if err := b.CheckRevoke(ctx, below, approvals); err != nil {
		return err
	}
	b.Below = below
	return nil
}
