package attest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest/ec2"
	"holdfast/attest/nitro"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// PolicyFormat names the appraisal policy, and its version.
const PolicyFormat = "holdfast-policy/v1"

// policyType is the payload type of a signed policy (DSSE).
const policyType = "application/vnd.holdfast.policy.v1+json"

// MaxPolicy is the size of the largest policy file, in bytes.
const MaxPolicy = 1 << 20

// maxVersion is the highest version of a policy: what all readers of JSON take
// (RFC 8259 section 6).
const maxVersion = 1<<53 - 1

// Technology is one by which a machine proves something.
type Technology string

// The technologies.
const (
	SEVSNP   Technology = snp.Name
	TPM      Technology = "tpm"
	NitroTPM Technology = "nitrotpm"
)

// Policy is an appraisal policy with its reference values (RFC 9334 section
// 8.3 and 8.5): which evidence is good. As a file it is a signed envelope
// ([SignPolicy]).
type Policy struct {
	Format string `json:"format"`
	// Name is for people; Version counts up: whoever keeps a policy takes no
	// lower version in its place.
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	// Unproven are the words of a person who has the policy used though it does not
	// prove which code a machine runs ([Policy.Gaps]), 1 to 200 printable characters.
	// Such a policy is refused without them, and one that does prove it is with them.
	Unproven string `json:"unproven,omitempty"`
	// Require are the technologies that evidence must have. What it has besides
	// is checked all the same.
	Require []Technology `json:"require"`
	// MaxAgeSeconds is how old evidence may be for whom freshness matters.
	MaxAgeSeconds int `json:"max_age_seconds"`

	// Reports are what is asked of processor reports, each kind's in a section of its
	// own, as SEV-SNP's in "sev_snp". Evidence with a report of a kind that has none is
	// refused.
	Reports processor.Policies `json:",embed"`

	TPM   tpm.Policy   `json:"tpm"`
	Nitro nitro.Policy `json:"nitrotpm"`

	// Instance asks for EC2's signed instance identity document: of which account, Region,
	// image and owner the machine may be. Nil does not ask.
	Instance *ec2.Policy `json:"instance,omitempty"`
}

// DefaultPolicy is what EC2 offers today, as strictly as it can be met; it has
// no reference values yet.
func DefaultPolicy() Policy {
	ofSNP := snp.DefaultPolicy()
	return Policy{Format: PolicyFormat, Name: "default", Version: 1, Require: []Technology{SEVSNP, TPM, NitroTPM}, MaxAgeSeconds: 300,
		Reports: processor.Policies{snp.Section: &ofSNP}, TPM: tpm.DefaultPolicy(), Nitro: nitro.DefaultPolicy()}
}

// MaxAge is how old evidence may be.
func (p *Policy) MaxAge() time.Duration { return time.Duration(p.MaxAgeSeconds) * time.Second }

// Validate says what is wrong with the policy, all at once.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("policy: "+format, args...)) }
	if p.Format != PolicyFormat {
		bad("the format is %q, and this program reads %q", p.Format, PolicyFormat)
	}
	if p.Name == "" || len(p.Name) > 200 {
		bad("name: use 1 to 200 characters")
	}
	if p.Version == 0 || p.Version > maxVersion {
		bad("version: %d is not 1 to %d", p.Version, uint64(maxVersion))
	}
	if len(p.Require) == 0 {
		bad("require: name at least one of %q; evidence would prove nothing", p.technologies())
	}
	for i, t := range p.Require {
		if !slices.Contains(p.technologies(), t) {
			bad("require: %q is none of %q, of which the policy says what is good", t, p.technologies())
		}
		if slices.Contains(p.Require[:i], t) {
			bad("require: %q is named twice", t)
		}
	}
	if p.MaxAgeSeconds < 1 || p.MaxAgeSeconds > 24*3600 {
		bad("max_age_seconds: use 1 to 86400")
	}
	errs = append(errs, p.validateUnproven())
	for _, section := range slices.Sorted(maps.Keys(p.Reports)) {
		if r := p.Reports[section]; r != nil {
			errs = append(errs, r.Validate())
		} else {
			bad("%s: it says nothing", section)
		}
	}
	if p.Instance != nil {
		errs = append(errs, p.Instance.Validate())
		if !slices.Contains(p.Require, NitroTPM) {
			bad("instance: require %q as well: what EC2 says of an instance counts only beside a NitroTPM document that names it", NitroTPM)
		}
	}
	return errors.Join(append(errs, p.TPM.Validate(), p.Nitro.Validate())...)
}

// technologies are those that the policy can require: it says which evidence of
// them is good.
func (p *Policy) technologies() (all []Technology) {
	for _, kind := range slices.Sorted(slices.Values(p.Reports.Kinds())) {
		all = append(all, Technology(kind))
	}
	return append(all, TPM, NitroTPM)
}

// MarshalJSON gives the policy as its file has it.
func (p Policy) MarshalJSON() ([]byte, error) {
	type plain Policy // without this method
	return json.Marshal(plain(p), json.Deterministic(true))
}

// SignedPolicy is a policy as its signer wrote it.
type SignedPolicy struct {
	Policy
	// Envelope is the file, Digest the SHA-256 of the policy's own text in it.
	Envelope []byte
	Digest   []byte
	// Signer is the ID of the key that it is signed by ([KeyID]).
	Signer string
}

// KeyID names a policy key: the first 8 bytes of its SHA-256, in hexadecimal.
func KeyID(key ed25519.PublicKey) string {
	d := sha256.Sum256(key)
	return hex.EncodeToString(d[:8])
}

// SignPolicy gives the policy as a file: a DSSE envelope, signed by Ed25519.
// Errors: those of [Policy.Validate] and [Policy.CheckProof].
func SignPolicy(p *Policy, key ed25519.PrivateKey) ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := p.CheckProof(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	file, err := seal(policyType, text, key)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return file, nil
}

// OpenPolicy reads a signed policy, to appraise evidence by it. Errors: those of
// [ReadPolicy] and of [Policy.CheckProof].
func OpenPolicy(file []byte, key ed25519.PublicKey) (*SignedPolicy, error) {
	return registered.OpenPolicy(file, key)
}

// OpenPolicy is [OpenPolicy] for these kinds of processor reports.
func (k *Kinds) OpenPolicy(file []byte, key ed25519.PublicKey) (*SignedPolicy, error) {
	p, err := k.readPolicy(file, key)
	if err != nil {
		return nil, err
	}
	if err := p.CheckProof(); err != nil {
		return nil, err
	}
	return p, nil
}

// ReadPolicy reads a signed policy and verifies its signature. The policy may be
// one by which nothing must be appraised, as it does not prove the code: this is
// to show it, or to replace it. Errors: [ErrSignature]; or what is wrong with
// the file or the policy in it.
func ReadPolicy(file []byte, key ed25519.PublicKey) (*SignedPolicy, error) {
	return registered.readPolicy(file, key)
}

func (k *Kinds) readPolicy(file []byte, key ed25519.PublicKey) (*SignedPolicy, error) {
	text, err := unseal(policyType, file, key)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := k.parsePolicy(text)
	if err != nil {
		return nil, err
	}
	return &SignedPolicy{Policy: *p, Envelope: file, Digest: digest(text), Signer: KeyID(key)}, nil
}

// ParsePolicy reads the text of a policy without a signature, such as one that
// its reader has written. It need not prove the code yet: before evidence is
// appraised by it, call [Policy.CheckProof].
func ParsePolicy(text []byte) (*Policy, error) { return registered.parsePolicy(text) }

func (k *Kinds) parsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("policy: the file has more than %d bytes", MaxPolicy)
	}
	var p Policy
	if err := decode(text, &p, k.sections()); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return &p, errors.Join(written(text, reflect.TypeFor[Policy](), ""), p.Validate())
}
