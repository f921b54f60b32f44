// Package attest makes and appraises evidence of what a machine runs, in the
// terms of RFC 9334: the appliance is the attester; whoever holds an appraisal
// policy is a verifier.
//
// Its packages collect and check one technology each: attest/tpm the TPM's quote
// and event log, attest/nitro the AWS NitroTPM document, attest/snp the AMD SEV-SNP
// report, which is one kind of the processor reports that attest/processor
// describes and kinds.go registers. attest/appraisal is the list of checks that all
// write to. attest/device opens the hardware, on machines; all else works without
// any. attest/release frees a secret for a machine whose evidence is good.
package attest
