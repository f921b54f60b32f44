package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/attest"
	"holdfast/attest/appraisal"
)

// Seen is what a machine showed at one look, of what must not change unnoticed. Digests are
// SHA-256, in hexadecimal; what the evidence does not have is empty. Of evidence that fails
// there is nothing but the verdict, as nothing else in it can be relied on.
type Seen struct {
	Verdict appraisal.Result `json:"verdict"`
	// Checks are the codes of those that did not pass and had to.
	Checks []string `json:"checks,omitempty"`
	// Reference is the name of the release whose PCR values the machine has.
	Reference string `json:"reference,omitempty"`
	// Software is the version that the appliance says, under the evidence's signatures.
	Software string `json:"software,omitempty"`
	// TLSKey is the digest of the TLS key, TPMKey that of the TPM's attestation key.
	TLSKey string `json:"tls_key_sha256,omitempty"`
	TPMKey string `json:"tpm_key_sha256,omitempty"`
	// Instance is the cloud's name of the machine (the NitroTPM document's module_id).
	Instance string `json:"instance,omitempty"`
	// Volume is the identity of the state volume, or "none" for a machine that measures none.
	Volume string `json:"volume,omitempty"`
	// Policy is the digest of the appraisal policy that the machine has, Launch that of its
	// launch file, Owner that of its owner's key.
	Policy string `json:"policy_sha256,omitempty"`
	Launch string `json:"launch_sha256,omitempty"`
	Owner  string `json:"owner_sha256,omitempty"`
	// Appraised is the digest of the verifier's policy, under which the verdict stands, and the
	// ID of the key that signed it.
	Appraised string `json:"appraised_under,omitempty"`
	// State is the head of the stored state; nil while the machine serves none.
	State *State `json:"state,omitempty"`
}

// State is a head of the stored state: the number of its last change, and a digest of it and
// all before it.
type State struct {
	Number uint64 `json:"number"`
	Digest string `json:"digest"`
}

// facts are those of a verdict that are looked at.
type facts struct {
	TPM struct {
		Reference string `json:"reference"`
		AK        string `json:"ak_sha256"`
		Volume    string `json:"state_volume"`
	} `json:"tpm"`
	Nitro struct {
		ModuleID string `json:"module_id"`
	} `json:"nitro"`
}

// NewSeen gives what the evidence shows, of which v is the verdict.
func NewSeen(e *attest.Evidence, v *appraisal.Verdict) (*Seen, error) {
	s := &Seen{Verdict: v.Result, Checks: slices.Concat(v.Failed(), v.Lacks())}
	if v.Policy != nil {
		s.Appraised = v.Policy.Digest + " " + v.Policy.Signer
	}
	if v.Result == appraisal.Fail {
		return s, nil
	}
	text, err := json.Marshal(v.Facts)
	if err != nil {
		return nil, fmt.Errorf("watch: the verdict's facts: %w", err)
	}
	var f facts
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("watch: the verdict's facts: %w", err)
	}
	s.Reference, s.TPMKey, s.Instance, s.Software = f.TPM.Reference, f.TPM.AK, f.Nitro.ModuleID, e.Software
	s.Volume = f.TPM.Volume
	key := sha256.Sum256(e.TLSKey)
	s.TLSKey = hex.EncodeToString(key[:])
	s.Policy, s.Launch, s.Owner = hex.EncodeToString(e.PolicyDigest), hex.EncodeToString(e.LaunchDigest), hex.EncodeToString(e.OwnerDigest)
	if e.State != nil {
		s.State = &State{e.State.Sequence, hex.EncodeToString(e.State.Digest)}
	}
	return s, nil
}

// Digest names what was seen, so that a person accepts what they have looked at.
func (s *Seen) Digest() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has texts and numbers alone
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// property is one of Seen that must stay as it is.
type property struct {
	// name is that of the member in JSON; words say what it is.
	name, words string
	of          func(*Seen) string
}

// properties are all but the state, which moves.
var properties = []property{
	{"verdict", "the verdict", func(s *Seen) string { return string(s.Verdict) }},
	{"reference", "the release", func(s *Seen) string { return s.Reference }},
	{"software", "the software's version", func(s *Seen) string { return s.Software }},
	{"tls_key_sha256", "the TLS key", func(s *Seen) string { return s.TLSKey }},
	{"tpm_key_sha256", "the TPM's key", func(s *Seen) string { return s.TPMKey }},
	{"instance", "the instance", func(s *Seen) string { return s.Instance }},
	{"volume", "the state volume", func(s *Seen) string { return s.Volume }},
	{"policy_sha256", "the machine's policy", func(s *Seen) string { return s.Policy }},
	{"launch_sha256", "the launch file", func(s *Seen) string { return s.Launch }},
	{"owner_sha256", "the owner", func(s *Seen) string { return s.Owner }},
	{"appraised_under", "the policy that the verdict is under", func(s *Seen) string { return s.Appraised }},
}

// Change is a difference between what is known of a machine and what was seen.
type Change struct {
	// What is the name of the member of [Seen], or of [Unreachable].
	What string `json:"what"`
	Was  string `json:"was,omitempty"`
	Is   string `json:"is,omitempty"`
	// Text says it in a sentence.
	Text string `json:"text"`
}

// changes are the differences between what is known and what is seen.
func changes(known, seen *Seen) (list []Change) {
	for _, p := range properties {
		was, is := p.of(known), p.of(seen)
		if was == is || seen.Verdict == appraisal.Fail && p.name != "verdict" {
			continue
		}
		list = append(list, Change{p.name, was, is, p.words + " was " + orNone(was) + " and is " + orNone(is)})
	}
	if seen.Verdict == appraisal.Fail {
		return list
	}
	if text := stateChange(known.State, seen.State); text != "" {
		list = append(list, Change{"state", known.State.String(), seen.State.String(), text})
	}
	return list
}

// stateChange says what is wrong with a state that comes after another; empty for nothing.
func stateChange(was, is *State) string {
	switch {
	case was == nil:
		return ""
	case is == nil:
		return fmt.Sprintf("the state's number was %d and is not shown: the machine serves no state now", was.Number)
	case is.Number < was.Number:
		return fmt.Sprintf("the state's number was %d and has gone back to %d: an older state was put back", was.Number, is.Number)
	case is.Number == was.Number && is.Digest != was.Digest:
		return fmt.Sprintf("there are two states with the number %d: the history was written anew", is.Number)
	}
	return ""
}

// String is the number and the digest; empty for none.
func (s *State) String() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%d %s", s.Number, s.Digest)
}

func orNone(text string) string {
	if text == "" {
		return "absent"
	}
	return text
}
