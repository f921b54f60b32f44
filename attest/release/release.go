// Package release frees the credential of the HSM for a machine that has shown
// what it runs. There are two mechanisms, and the machine can talk its way
// around neither:
//
//   - Sealed: the machine's own TPM holds the credential and gives it out only
//     in an authorized state (package attest/tpm/seal).
//   - A broker that the company runs beside its HSM appraises the machine's
//     evidence and encrypts the credential to a key which that evidence names.
package release

import (
	"context"
	"errors"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm/seal"
)

// Sealed releases a credential from the machine's own TPM.
type Sealed struct {
	TPM seal.TPM
	// Object is the sealed credential; or Bound is, and VolumeKey opens it together with the
	// TPM.
	Object    seal.Object
	Bound     *seal.Bound
	VolumeKey []byte
	// By is what those have signed by whose signatures it opens.
	By seal.Signed
}

// Release gives the credential, which the caller zeroizes, and what it was
// released to, such as "release 1.2.0".
// Errors: a [*fault.Fault].
func (s *Sealed) Release(context.Context) (credential []byte, to string, err error) {
	if s.Bound != nil {
		credential, to, err = seal.UnsealBound(s.TPM, s.Bound, s.VolumeKey, s.By)
	} else {
		credential, to, err = s.Object.Open(s.TPM, s.By)
	}
	if _, known := errors.AsType[*fault.Fault](err); err != nil && !known {
		err = fault.Wrapf(fault.TPMFailed, err, "the TPM failed")
	}
	return credential, to, err
}
