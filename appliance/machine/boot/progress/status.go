// Package progress is what is told of a boot: its states, why it failed, and how it
// stands. Who asks an appliance needs no more; package boot does the boot.
package progress

import (
	"time"

	"holdfast/appliance"
	"holdfast/attest/appraisal"
)

// State is where a boot is.
type State string

// The states, in their order.
const (
	Probe    State = "probe"
	Measure  State = "measure"
	Collect  State = "collect"
	Appraise State = "appraise"
	Release  State = "release"
	Unlock   State = "unlock"
	Serving  State = "serving"
	// Degraded: keys serve, but the HSM is away or evidence could not be renewed.
	Degraded State = "degraded"
	// Locked: nothing serves; the reason says why.
	Locked State = "locked"
)

// Status is what is known of a boot.
type Status struct {
	Boot string `json:"boot"`
	// State is the present one, Since when it began.
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Code and Reason say why it is locked or degraded, or why the state is tried
	// again; empty otherwise.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Steps are the states so far, each with how long it took.
	Steps []appliance.BootStep `json:"steps"`
	// Attestation is the last appraisal; nil before the first.
	Attestation *Attestation `json:"attestation,omitempty"`
}

// Attestation is what came of the last appraisal of the appliance's own
// evidence.
type Attestation struct {
	Time   time.Time        `json:"time"`
	Result appraisal.Result `json:"result"`
	// Policy is the name of the policy, Version its version.
	Policy  string `json:"policy"`
	Version uint64 `json:"policy_version"`
	// Unproven are the words by which a policy is used that does not prove the code;
	// empty if it does.
	Unproven string `json:"unproven,omitempty"`
	// Reference says which release the PCRs match; empty without reference values.
	Reference string `json:"reference,omitempty"`
	// KeyExpires is when the certificate of the processor's key does; zero without a
	// processor report.
	KeyExpires time.Time `json:"key_expires,omitzero"`
	// Next is when evidence is renewed.
	Next time.Time `json:"next,omitzero"`
}

// Serves says whether keys can be used.
func (s Status) Serves() bool { return s.State == Serving || s.State == Degraded }
