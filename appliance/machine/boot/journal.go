package boot

import (
	"context"
	"time"
)

// Journal keeps what became of the boots of this machine. Its rows are about the
// machine: no other machine shares them, and no backup has them. Each method is atomic
// and durable.
type Journal interface {
	// RecordBootStep adds a step of a boot; fault.Exists if its number is taken. Old ones
	// are dropped when there are many.
	RecordBootStep(ctx context.Context, b Step) error
	// RaisePolicyVersion notes that the machine has an appraisal policy of that version,
	// and gives the highest that it has had.
	RaisePolicyVersion(ctx context.Context, version uint64) (highest uint64, err error)
}

// Step is a state that a boot went through.
type Step struct {
	// Boot names the boot: 32 hexadecimal digits. Seq counts its steps from 1.
	Boot string `json:"boot"`
	Seq  int    `json:"seq"`
	// State is the state's name.
	State string    `json:"state"`
	Began time.Time `json:"began"`
	// Took is how long the state took; 0 for one without an end of its own.
	Took time.Duration `json:"took_ns"`
	// Code and Reason say why it failed, or why it was entered; Code is stable.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}
