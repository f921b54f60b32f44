package attest

import (
	"bytes"
	"fmt"
)

// PolicyID says which policy something is: its version, and the SHA-256 of its text.
// Whoever keeps a policy keeps this of it, and holds the next one against it by
// [PolicyID.CheckNext]. Without a digest it is of a policy that a former release kept;
// the zero value is of no policy.
type PolicyID struct {
	Version uint64 `json:"version"`
	Digest  []byte `json:"sha256"`
}

// ID says which policy it is.
func (p *SignedPolicy) ID() PolicyID { return PolicyID{p.Version, p.Digest} }

// Is says whether both are the same policy, byte for byte.
func (kept PolicyID) Is(other PolicyID) bool {
	return kept.Version == other.Version && bytes.Equal(kept.Digest, other.Digest)
}

// CheckNext says why the next policy may not take the place of the one that is kept; nil
// if it may. It must have a higher version, or be the same policy: of two policies of one
// version nobody could say which is the newer one.
func (kept PolicyID) CheckNext(next PolicyID) error {
	switch {
	case next.Version < kept.Version:
		return fmt.Errorf("version %d is older than version %d, which was in force before; install that or a newer one", next.Version, kept.Version)
	case next.Version == kept.Version && len(kept.Digest) > 0 && !bytes.Equal(next.Digest, kept.Digest):
		return fmt.Errorf("it has version %d and the SHA-256 %x, and another policy of version %d, with the SHA-256 %x, was in force before; if this is the newer one, raise its version and sign it again",
			next.Version, next.Digest, kept.Version, kept.Digest)
	}
	return nil
}
