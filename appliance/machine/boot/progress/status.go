// Package progress is what is told of a boot: its states, why it failed, and how it
// stands. Who asks an appliance needs no more; package boot does the boot.
package progress

import (
	"time"

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
	Boot string `json:"boot" jsonschema:"The ID of the present boot, 32 hexadecimal digits."`
	// State is the present one, Since when it began.
	State State     `json:"state" jsonschema:"The present state of the boot."`
	Since time.Time `json:"since" jsonschema:"When the present state began."`
	// Code and Reason say why it is locked or degraded, or why the state is tried
	// again; empty otherwise.
	Code   string `json:"code,omitempty" jsonschema:"The code of why the boot is locked or degraded, or is tried again; absent otherwise."`
	Reason string `json:"reason,omitempty" jsonschema:"Why the boot is locked or degraded, or is tried again; absent otherwise."`
	// Owner is the ID of the key of the machine's owner, who alone gives it the PIN; empty
	// if it has none.
	Owner string `json:"owner,omitempty" jsonschema:"The ID of the key of the machine's owner, who alone gives it the PIN; absent if it has none." example:"b7d0a1c2e3f4a5b6"`
	// Steps are the states so far, each with how long it took.
	Steps []Step `json:"steps" jsonschema:"The steps of the boot so far."`
	// Attestation is the last appraisal; nil before the first.
	Attestation *Attestation `json:"attestation,omitempty" jsonschema:"The last appraisal of the machine's evidence; absent before the first."`
}

// Attestation is what came of the last appraisal of the appliance's own
// evidence.
type Attestation struct {
	Time   time.Time        `json:"time" jsonschema:"When the evidence was appraised."`
	Result appraisal.Result `json:"result" jsonschema:"What the appraisal found."`
	// Accepted says whether the machine may have its secret, and serve, by that result: it
	// passed, or a person has forced the policy and nothing else is missing.
	Accepted bool `json:"accepted" jsonschema:"Whether the machine may serve by that result: it passed, or a person has forced the policy and nothing else is missing." example:"true"`
	// Policy is the name of the policy, Version its version.
	Policy  string `json:"policy" jsonschema:"The name of the policy."`
	Version uint64 `json:"policy_version" jsonschema:"The version of the policy."`
	// Unproven are the words by which a policy is used that does not prove the code;
	// empty if it does.
	Unproven string `json:"unproven,omitempty" jsonschema:"The words by which a policy is used that does not prove the code; absent if it does."`
	// Reference says which release the PCRs match; empty without reference values.
	Reference string `json:"reference,omitempty" jsonschema:"Which release the PCRs match; absent without reference values."`
	// KeyExpires is when the certificate of the processor's key does; zero without a
	// processor report.
	KeyExpires time.Time `json:"key_expires,omitzero" jsonschema:"When the certificate of the processor's key expires; absent without a report of the processor."`
	// Next is when evidence is renewed.
	Next time.Time `json:"next,omitzero" jsonschema:"When evidence is renewed."`
}

// Serves says whether keys can be used.
func (s Status) Serves() bool { return s.State == Serving || s.State == Degraded }

// Step is a state that a boot went through.
type Step struct {
	// Boot names the boot: 32 hexadecimal digits. Seq counts its steps from 1.
	Boot string `json:"boot" jsonschema:"The ID of the boot, 32 hexadecimal digits."`
	Seq  int    `json:"seq" jsonschema:"The number of the step in its boot, from 1."`
	// State is the state's name.
	State string    `json:"state" jsonschema:"The name of the boot's state."`
	Began time.Time `json:"began" jsonschema:"When the step began."`
	// Took is how long the state took; 0 for one without an end of its own.
	Took time.Duration `json:"took_ns" jsonschema:"How long the step took, in nanoseconds; 0 for one without an end of its own."`
	// Code and Reason say why it failed, or why it was entered; Code is stable.
	Code   string `json:"code,omitempty" jsonschema:"The code of why the step failed, or why it was entered."`
	Reason string `json:"reason,omitempty" jsonschema:"Why the step failed, or why it was entered."`
}
