package seal

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxAttempts is in how many sessions one after the other a secret is asked for while PCRs are extended.
const maxAttempts = 8

// ErrExtended says that PCRs were extended each time while the TPM was asked for a secret.
var ErrExtended = errors.New("something extends PCRs of this machine all the time, such as Linux IMA, so the TPM finds no moment to compare them (TPM_RC_PCR_CHANGED). The machine's state was not found to be wrong. Try again when it has started; if it stays, stop what extends PCRs")

// unextended has open ask the TPM for a secret, again in new sessions if a PCR was extended meanwhile. A TPM
// counts the extensions of all PCRs together, and refuses a session in which TPM2_PolicyPCR compared some
// before the last of any (TPM 2.0 Part 1, section 19.7.7.6; Part 3, TPM2_PolicyPCR): that the state is a wrong
// one, open says of the values themselves. Every secret under PCRs is asked for here. Errors: those of open;
// [ErrExtended].
func unextended(open func() error) error {
	compared := false
	for range maxAttempts {
		err := open()
		if errors.Is(err, tpm2.TPMRCValue) && !compared {
			compared = true // of a PCR of the policy: open says which, as it compares them first
			continue
		}
		if !errors.Is(err, tpm2.TPMRCPCRChanged) {
			return err
		}
	}
	return fmt.Errorf("%w; %d sessions were begun", ErrExtended, maxAttempts)
}
