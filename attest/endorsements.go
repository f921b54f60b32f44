package attest

import (
	"crypto/x509"
	"fmt"

	"holdfast/attest/processor"
)

// Endorsements are what a verifier has of its own about processors and their keys (RFC
// 9334 section 4.1), so that the one who is judged has no say in it.
type Endorsements struct {
	// Revocations are lists of revocations, as their makers sign them. One that revokes
	// counts however old it is.
	Revocations [][]byte
	// Recovery raises the policy's floors; nil for none.
	Recovery *SignedRecovery
}

// MaxRevocations is the size of the largest list of revocations, in bytes.
const MaxRevocations = processor.MaxRevocations

// ReadRevocations reads a list of revocations (DER) that a verifier is given. It must be
// signed by a maker whose reports this program knows; nil roots trust the makers. It need
// not be in force.
func ReadRevocations(der []byte, roots *Roots) (*x509.RevocationList, error) {
	err := fmt.Errorf("no kind of processor report has lists of revocations")
	for _, kind := range roots.kinds().list {
		reader, ok := kind.(processor.Revoker)
		if !ok {
			continue
		}
		var list *x509.RevocationList
		if list, err = reader.ReadRevocations(der); err == nil {
			return list, nil
		}
	}
	return nil, err
}
