package attest

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
)

// RecoveryFormat names the TCB recovery file, and its version.
const RecoveryFormat = "holdfast-tcb/v1"

// recoveryType is the payload type of a signed one (DSSE).
const recoveryType = "application/vnd.holdfast.tcb.v1+json"

// maxFloors bounds how many floors a file has.
const maxFloors = 100

// Recovery are floors that take effect at a time, for when firmware turns out to be
// broken: it raises the floors of each policy of its signer, and lowers none. As a file
// it is a signed envelope ([SignRecovery]).
type Recovery struct {
	Format string `json:"format"`
	// Name is for people; Version counts up, as that of a policy.
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	// SNP are the floors of SEV-SNP platforms.
	SNP []snp.Floor `json:"sev_snp"`
}

// Validate says what is wrong with it, all at once.
func (r *Recovery) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("TCB recovery: "+format, args...)) }
	if r.Format != RecoveryFormat {
		bad("the format is %q, and this program reads %q", r.Format, RecoveryFormat)
	}
	if r.Name == "" || len(r.Name) > 200 {
		bad("name: use 1 to 200 characters")
	}
	if r.Version == 0 || r.Version > maxVersion {
		bad("version: %d is not 1 to %d", r.Version, uint64(maxVersion))
	}
	if len(r.SNP) == 0 || len(r.SNP) > maxFloors {
		bad("sev_snp: it has %d floors; write 1 to %d", len(r.SNP), maxFloors)
	}
	for _, f := range r.SNP {
		if err := f.Validate(); err != nil {
			bad("sev_snp: %w", err)
		}
	}
	return errors.Join(errs...)
}

// SignedRecovery is a TCB recovery file as its signer wrote it.
type SignedRecovery struct {
	Recovery
	// Envelope is the file, Digest the SHA-256 of the text in it.
	Envelope []byte
	Digest   []byte
	// Signer is the ID of the key that it is signed by ([KeyID]).
	Signer string
}

// ID says which file it is. Another takes its place by the rule for policies,
// [SignedID.CheckNext].
func (r *SignedRecovery) ID() SignedID { return SignedID{r.Version, r.Digest} }

// ParseRecovery reads the text of a TCB recovery file that is not signed yet.
func ParseRecovery(text []byte) (*Recovery, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("TCB recovery: the file has more than %d bytes", MaxPolicy)
	}
	var r Recovery
	if err := decode(text, &r); err != nil {
		return nil, fmt.Errorf("TCB recovery: %w", err)
	}
	return &r, errors.Join(written(text, reflect.TypeFor[Recovery](), ""), r.Validate())
}

// SignRecovery gives it as a file: a DSSE envelope, signed by Ed25519, by the signer of
// the policies whose floors it raises.
func SignRecovery(r *Recovery, key ed25519.PrivateKey) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("TCB recovery: %w", err)
	}
	return seal(recoveryType, text, key)
}

// ErrRecovery says that a TCB recovery file cannot be used: it is unreadable, or not
// signed by the policy's signer.
var ErrRecovery = errors.New("the TCB recovery file cannot be used")

// OpenRecovery reads a signed one and verifies that the signer of the policy signed it.
// Errors: [ErrRecovery].
func OpenRecovery(file []byte, key ed25519.PublicKey) (*SignedRecovery, error) {
	text, err := unseal(recoveryType, file, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecovery, err)
	}
	r, err := ParseRecovery(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecovery, err)
	}
	return &SignedRecovery{Recovery: *r, Envelope: file, Digest: digest(text), Signer: KeyID(key)}, nil
}

// raise gives the policy with the floors that are in effect at the time, and says so.
// It adds no product line: what the policy refuses stays refused.
func raise(s *appraisal.Sheet, p *Policy, r *SignedRecovery, at time.Time) *Policy {
	if r == nil {
		return p
	}
	s.Fact("tcb_recovery", map[string]any{"name": r.Name, "version": r.Version, "digest": hex.EncodeToString(r.Digest), "signer": r.Signer})
	section := snp.PolicyOf(p.Reports)
	if section == nil {
		return p
	}
	raised := *p
	raised.Reports = maps.Clone(p.Reports)
	raised.Reports[snp.Section] = section.Raise(r.SNP, at)
	return &raised
}
