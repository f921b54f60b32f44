// Package boot brings the appliance from the start of its process to serving,
// and has it proven what it is before it gets the HSM's credential:
//
//	probe → measure → collect → appraise → release → unlock → serving ⇄ degraded
//	                                (any failure)  → locked
//
// The states are:
//
//   - probe finds the hardware that can prove something, and the policy.
//   - measure extends a PCR with the digests of what the appliance is made of.
//   - collect makes evidence, appraise checks it as any verifier would. That is
//     for an early and readable refusal. It is not what protects the credential.
//   - release gets the credential: from the TPM, or from a broker, which decide
//     for themselves. Then the PCR is capped: nothing else in this boot of the
//     machine gets it again. A boot that fails or is shut down before caps it, too.
//   - unlock logs into the HSM and opens the keys.
//
// Until serving, nothing but this package's last step touches the HSM. Each
// state is timed, logged and stored. While it serves, the appliance makes and
// appraises fresh evidence every hour, and before the certificate of its
// processor's key expires.
package boot
