package fault

import "net/http"

// The codes of what a verifier has of its own besides the policy.
const (
	RevocationsFile Code = "E_CRL_FILE"
	RecoveryFile    Code = "E_TCB_FILE"
)

// Broker and boot refuse by them, with 403 as for all that a broker refuses.
var endorsementCodes = []Entry{
	{Code: RevocationsFile, Class: WrongState, Status: http.StatusForbidden,
		Title: "A list of revocations of the verifier's own cannot be used, so nothing is released.",
		Do:    "Put AMD's list, in DER, in its place: attestation.crl of the appliance, or `holdfast broker crl FILE` at the broker."},
	{Code: RecoveryFile, Class: WrongState, Status: http.StatusForbidden,
		Title: "The TCB recovery file cannot be used: it is damaged, older than one before it, or not signed by the policy's signer.",
		Do:    "Install the newest file that the policy's signer has signed: attestation.tcb of the appliance, or `holdfast broker tcb FILE` at the broker."},
}
