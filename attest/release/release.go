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

	"holdfast/attest/tpm/seal"
)

// Refusal is why the credential is not released, when trying again would not
// help. Its code is stable.
type Refusal = seal.Refusal

// CodeUnreachable is the code of what may be mended by trying again; CodeTPM is
// that of a TPM that failed.
const (
	CodeUnreachable = "E_BROKER_UNREACHABLE"
	CodeTPM         = "E_TPM"
)

// Code gives the code of why the credential was not released, and whether
// trying again may help.
func Code(err error) (code string, again bool) {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Code, false
	}
	return CodeUnreachable, true
}

// Sealed releases a credential from the machine's own TPM.
type Sealed struct {
	TPM            seal.TPM
	Blob           *seal.Blob
	Authorizations []seal.Authorization
}

// Release gives the credential, which the caller zeroizes, and what it was
// released to, such as "release 1.2.0".
// Errors: a [*Refusal].
func (s *Sealed) Release(context.Context) (credential []byte, to string, err error) {
	credential, to, err = seal.Unseal(s.TPM, s.Blob, s.Authorizations)
	if refusal := (*Refusal)(nil); err != nil && !errors.As(err, &refusal) {
		err = &Refusal{Code: CodeTPM, Reason: "the TPM failed", Err: err}
	}
	return credential, to, err
}
