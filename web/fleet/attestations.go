package fleet

import (
	"context"
	"encoding/json"

	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// The kinds of questions for evidence of what a node runs.
const (
	askEvidence = "attestation evidence"
	askReport   = "attestation report"
)

// attestationsAtOnce is how many such questions of each kind a node answers at once: each
// costs its TPM a signature.
const attestationsAtOnce = 2

// Attestations are evidence of the nodes of a fleet. They implement
// [operation.AttestationPeers].
type Attestations struct{ calls *fleet.Calls }

var _ operation.AttestationPeers = (*Attestations)(nil)

// NewAttestations makes them.
func NewAttestations(calls *fleet.Calls) *Attestations { return &Attestations{calls} }

// Give has other nodes' questions answered by evidence of this machine.
func (a *Attestations) Give(own operation.Boot) {
	a.calls.On(askEvidence, attestationsAtOnce, answering(func(ctx context.Context, nonce string) ([]byte, error) {
		return operation.Evidence(ctx, own, operation.Nonce{Nonce: nonce})
	}))
	a.calls.On(askReport, attestationsAtOnce, answering(func(ctx context.Context, nonce string) ([]byte, error) {
		report, err := operation.MakeReport(ctx, own, operation.Nonce{Nonce: nonce})
		return written(report, err)
	}))
}

// Evidence implements [operation.AttestationPeers].
func (a *Attestations) Evidence(ctx context.Context, node, nonce string) ([]byte, error) {
	evidence, err := ask(ctx, a.calls, node, askEvidence, nonce)
	if err == nil && !json.Valid(evidence) {
		err = fault.Errorf(fault.FleetMessage, "the node %s gives evidence that is not JSON", node)
	}
	return evidence, err
}

// Report implements [operation.AttestationPeers].
func (a *Attestations) Report(ctx context.Context, node, nonce string) (*operation.Report, error) {
	text, err := ask(ctx, a.calls, node, askReport, nonce)
	if err != nil {
		return nil, err
	}
	var r *operation.Report
	if json.Unmarshal(text, &r) != nil || r == nil || r.Verdict == nil {
		return nil, fault.Errorf(fault.FleetMessage, "the node %s gives a report on its evidence that cannot be read; see that all nodes run the same release", node)
	}
	return r, nil
}
