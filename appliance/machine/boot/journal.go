package boot

import (
	"context"

	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
)

// Journal keeps what became of the boots of this machine. Its rows are about the
// machine: no other machine shares them, and no backup has them. Each method is atomic
// and durable.
type Journal interface {
	// RecordBootStep adds a step of a boot; fault.Exists if its number is taken. Old ones
	// are dropped when there are many.
	RecordBootStep(ctx context.Context, b progress.Step) error
	// RaisePolicyVersion notes that the machine has that appraisal policy, and gives the
	// one of the highest version that it has had: of two of one version the first.
	RaisePolicyVersion(ctx context.Context, policy attest.SignedID) (highest attest.SignedID, err error)
	// RaiseRecovery does the same for the TCB recovery file, which is of version 0 where the
	// machine has none.
	RaiseRecovery(ctx context.Context, recovery attest.SignedID) (highest attest.SignedID, err error)
}

// Noted are the signed texts that a machine is appraised by, and exchanges for newer ones
// alone. Recovery is of version 0 if there is no TCB recovery file.
type Noted struct{ Policy, Recovery attest.SignedID }

// Is says whether both are the same, byte for byte.
func (n Noted) Is(other Noted) bool {
	return n.Policy.Is(other.Policy) && n.Recovery.Is(other.Recovery)
}

// With gives what is noted with what the other one has.
func (n Noted) With(other Noted) Noted {
	if other.Policy.Version > 0 {
		n.Policy = other.Policy
	}
	if other.Recovery.Version > 0 {
		n.Recovery = other.Recovery
	}
	return n
}
