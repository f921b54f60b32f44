package boot

import (
	"context"

	"holdfast/appliance/machine/boot/progress"
)

// Journal keeps what became of the boots of this machine. Its rows are about the
// machine: no other machine shares them, and no backup has them. Each method is atomic
// and durable.
type Journal interface {
	// RecordBootStep adds a step of a boot; fault.Exists if its number is taken. Old ones
	// are dropped when there are many.
	RecordBootStep(ctx context.Context, b progress.Step) error
	// RaisePolicyVersion notes that the machine has an appraisal policy of that version,
	// and gives the highest that it has had.
	RaisePolicyVersion(ctx context.Context, version uint64) (highest uint64, err error)
}
