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
}
