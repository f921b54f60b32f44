package tpm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// lastStaticPCR is the last that a policy may name: 16 and 23 can be reset by
// anybody, 17 to 22 belong to a dynamic launch (TCG PC Client Platform TPM
// Profile, section 4.6).
const lastStaticPCR = 15

// Policy says which evidence is good.
type Policy struct {
	// Bank is sha256 or sha384: the one whose values are compared.
	Bank string `json:"bank"`
	// RequiredPCRs, of 0 to 15, must be in the quote.
	RequiredPCRs []int `json:"required_pcrs"`
	// References are the known releases. Without any, [Verify] says what the
	// values are, not whether they are good.
	References []Reference `json:"references,omitempty"`
}

// Reference is the PCR values of one release. Evidence matches if all of them
// are its [Evidence.ReferenceValues].
type Reference struct {
	// Name says whose values they are, as in "release 1.2.0".
	Name string `json:"name"`
	// PCRs are the values by index: all that the policy requires, but that
	// [ApplicationPCR] may be left out, as configurations differ. Its value is the
	// one before the cap.
	PCRs map[int]Hex `json:"pcrs"`
}

// NewReference gives the reference that the evidence matches: the values of all
// PCRs that the policy requires, and of [ApplicationPCR]. The evidence's verdict
// under the policy must have passed.
func NewReference(name string, e *Evidence, p Policy) (Reference, error) {
	r := Reference{Name: name, PCRs: map[int]Hex{}}
	values := e.ReferenceValues(p.Bank)
	for _, n := range append([]int{ApplicationPCR}, p.RequiredPCRs...) {
		value, ok := values[n]
		if !ok {
			return r, fmt.Errorf("reference %q: the evidence has no PCR %d in bank %s; collect evidence that quotes it", name, n, p.Bank)
		}
		r.PCRs[n] = value
	}
	if zero(r.PCRs[ApplicationPCR]) {
		return r, fmt.Errorf("reference %q: nothing was measured into PCR %d, so the reference would not say what runs; collect evidence from a running Holdfast", name, ApplicationPCR)
	}
	return r, nil
}

// DefaultPolicy requires what Holdfast's image is known by: boot loader (4),
// Secure Boot (7), unified kernel image (11), what came in from outside of it
// (12 and 13), and what Holdfast itself measured. The bank is the one in which
// AWS publishes and NitroTPM attests. It has no reference values.
func DefaultPolicy() Policy {
	return Policy{Bank: "sha384", RequiredPCRs: []int{4, 7, 11, 12, 13, ApplicationPCR}}
}

// CodePCRs are those without which PCR values do not identify code. PCR 4 has the
// kernel image, with its initrd, its command line and the root file system's hash:
// the firmware measures it before it runs. PCR 12 has a command line from outside,
// which replaces the image's where Secure Boot is off. [ApplicationPCR] has the
// program's configuration and the HSM's module, and whether it runs at all. The others
// do not do it alone: 7 says which keys may sign, 11 is extended by the code itself, so
// that other code can give it the same value; so it could PCR 14, without the others.
func CodePCRs() []int { return []int{4, 12, ApplicationPCR} }

// Gaps says, one sentence each, why the references do not identify code. It is
// empty if each of them does.
func (p Policy) Gaps() []string {
	if len(p.References) == 0 {
		return []string{"tpm.references: no reference values are given, so that machines with any code pass; add a release's with holdfast policy predict or holdfast policy reference"}
	}
	var gaps []string
	for _, n := range CodePCRs() {
		var without []string
		for _, r := range p.References {
			if _, ok := r.PCRs[n]; !ok {
				without = append(without, r.Name)
			}
		}
		if without != nil {
			gaps = append(gaps, fmt.Sprintf("tpm.references: %d of %d, such as %q, have no value of PCR %d, without which they do not identify code; add %d to tpm.required_pcrs, and make them again", len(without), len(p.References), without[0], n, n))
		}
	}
	for _, r := range p.References {
		if value, ok := r.PCRs[ApplicationPCR]; ok && zero(value) {
			gaps = append(gaps, fmt.Sprintf("tpm.references: %q has zero for PCR %d, which is a machine on which Holdfast has measured nothing; make it again", r.Name, ApplicationPCR))
		}
	}
	return gaps
}

// Validate says what is wrong with the policy, all at once.
func (p Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("policy: tpm."+format, args...)) }
	b, err := findBank(p.Bank)
	if err != nil {
		bad("bank: %w", err)
	}
	if len(p.RequiredPCRs) == 0 {
		bad("required_pcrs: name at least one, or the quote proves nothing")
	}
	for i, n := range p.RequiredPCRs {
		if n < 0 || n > lastStaticPCR || slices.Contains(p.RequiredPCRs[:i], n) {
			bad("required_pcrs: %d is not 0 to %d, or is named twice; others can be reset while the machine runs", n, lastStaticPCR)
		}
	}
	const maxReferences = 1000
	if len(p.References) > maxReferences {
		bad("references: %d are more than %d", len(p.References), maxReferences)
	}
	for i, r := range p.References {
		if r.Name == "" || len(r.Name) > 200 {
			bad("references[%d]: the name has %d bytes, not 1 to 200", i, len(r.Name))
		}
		if slices.ContainsFunc(p.References[:i], func(o Reference) bool { return o.Name == r.Name }) {
			bad("references[%d]: the name %q is used twice", i, r.Name)
		}
		for _, n := range slices.Sorted(maps.Keys(r.PCRs)) {
			if n < 0 || n > lastStaticPCR {
				bad("references[%d]: PCR %d is not 0 to %d", i, n, lastStaticPCR)
			}
			if b != nil && len(r.PCRs[n]) != b.hash.Size() {
				bad("references[%d]: the value of PCR %d has %d bytes, not the %d of %s", i, n, len(r.PCRs[n]), b.hash.Size(), b.name)
			}
		}
		for _, n := range p.RequiredPCRs {
			if _, ok := r.PCRs[n]; !ok && n != ApplicationPCR {
				bad("references[%d]: PCR %d is required and has no value here: what is not compared may be anything", i, n)
			}
		}
	}
	return errors.Join(errs...)
}
