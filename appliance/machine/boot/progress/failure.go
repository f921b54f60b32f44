package progress

import "errors"

// The codes of failures that are not those of checks (package attest) or of
// releases (packages release and seal). They are stable.
const (
	CodePolicy        = "E_POLICY_FILE"
	CodeUnproven      = "E_POLICY_UNPROVEN"
	CodePolicyVersion = "E_POLICY_VERSION"
	CodePlatform      = "E_PLATFORM"
	CodeMeasure       = "E_MEASURE"
	CodeMeasuredTwice = "E_MEASURED_TWICE"
	CodeCollect       = "E_COLLECT"
	CodeAppraise      = "E_APPRAISE"
	CodeCap           = "E_CAP"
	// CodeAttestationLease: evidence could not be renewed for too long.
	CodeAttestationLease = "E_ATTESTATION_LEASE"
	// CodeSealMissing: nothing is sealed on this machine yet.
	CodeSealMissing = "E_SEAL_MISSING"
)

// Failure is why a boot does not go on.
type Failure struct {
	// Code is stable, such as E_SEAL_PCRS.
	Code string
	// Reason is one line for a person who has not seen the code.
	Reason string
	// Again says that another attempt may help.
	Again bool
	Err   error
}

func (f *Failure) Error() string {
	if f.Err != nil {
		return f.Reason + ": " + f.Err.Error()
	}
	return f.Reason
}

func (f *Failure) Unwrap() error { return f.Err }

// ErrNoPlatform says that there is no evidence, as no hardware was found that
// could sign any.
var ErrNoPlatform = errors.New("this machine has no hardware that gives evidence; holdfast status says what was found missing")
