package fault

import "net/http"

// The codes of checks of the NitroTPM document.
const (
	NitroFormat    Code = "E_NITRO_FORMAT"
	NitroDigest    Code = "E_NITRO_DIGEST"
	NitroRoot      Code = "E_NITRO_ROOT"
	NitroChain     Code = "E_NITRO_CHAIN"
	NitroTime      Code = "E_NITRO_TIME"
	NitroSignature Code = "E_NITRO_SIGNATURE"
	NitroUserData  Code = "E_NITRO_USER_DATA"
	NitroNonce     Code = "E_NITRO_NONCE"
	NitroPCRs      Code = "E_NITRO_PCRS"
	NitroInstance  Code = "E_NITRO_INSTANCE"
)

var nitroCodes = []Entry{
	{Code: NitroFormat, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document is not well-formed."},
	{Code: NitroDigest, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document's PCRs are not SHA-384."},
	{Code: NitroRoot, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document's root is not AWS's."},
	{Code: NitroChain, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document's certificates do not lead from its root to its signer."},
	{Code: NitroTime, Class: TryAgain, Status: http.StatusForbidden, Do: clock,
		Title: "The NitroTPM document was signed when its certificates were not valid, or at another time than the evidence."},
	{Code: NitroSignature, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document is not signed by its signer."},
	{Code: NitroUserData, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document was not made for this evidence."},
	{Code: NitroNonce, Class: Refused,
		Title: "The NitroTPM document has another nonce than was asked for.",
		Do:    "Ask for evidence again, with a nonce of your own."},
	{Code: NitroPCRs, Class: Refused, Do: notGenuine,
		Title: "The NitroTPM document's PCRs are not the ones in the TPM's quote."},
	{Code: NitroInstance, Class: Refused,
		Title: "The NitroTPM document is of a Region or an instance that the policy does not name.",
		Do:    "Launch the instance where the policy allows it, or name its Region and ID in the policy."},
}
