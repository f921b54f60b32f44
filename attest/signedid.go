package attest

import (
	"bytes"
	"fmt"
)

// SignedID says which signed text something is, such as a policy, a TCB recovery file or a
// launch file: its version, and the SHA-256 of its exact bytes. Whoever keeps one keeps
// this of it, and holds the next one against it by [SignedID.CheckNext]. Without a digest
// it is of one that a former release kept; the zero value is of none.
type SignedID struct {
	Version uint64 `json:"version"`
	Digest  []byte `json:"sha256"`
}

// ID says which policy it is.
func (p *SignedPolicy) ID() SignedID { return SignedID{p.Version, p.Digest} }

// Is says whether both are the same, byte for byte.
func (kept SignedID) Is(other SignedID) bool {
	return kept.Version == other.Version && bytes.Equal(kept.Digest, other.Digest)
}

// CheckNext says why the next one may not take the place of the one that is kept; nil if
// it may. It must have a higher version, or be the same: of two of one version nobody could
// say which is the newer one.
func (kept SignedID) CheckNext(next SignedID) error {
	switch {
	case next.Version < kept.Version:
		return fmt.Errorf("version %d is older than version %d, which was in force before; install that or a newer one", next.Version, kept.Version)
	case next.Version == kept.Version && len(kept.Digest) > 0 && !bytes.Equal(next.Digest, kept.Digest):
		return fmt.Errorf("it has version %d and the SHA-256 %x, and another one of version %d, with the SHA-256 %x, was in force before; if this is the newer one, raise its version and sign it again",
			next.Version, next.Digest, kept.Version, kept.Digest)
	}
	return nil
}
