package attest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/attest/nitro"
	"holdfast/attest/processor"
	"holdfast/attest/tpm"
)

// tying are the technologies whose evidence shows, by a root that software cannot
// have, which PCR values the machine's TPM has. A processor report does not: it has
// bytes that the guest chose. A TPM's quote does not either: the attestation key is
// not checked against a maker of TPMs.
var tying = []Technology{NitroTPM}

// Technologies gives all that there are, in the order in which evidence lists them.
func Technologies() []Technology {
	var all []Technology
	for _, name := range registered.names() {
		all = append(all, Technology(name))
	}
	return append(all, TPM, NitroTPM)
}

// maxUnproven is how long the words of [Policy.Unproven] may be, in characters.
const maxUnproven = 200

// validateUnproven says what is wrong with the words.
func (p *Policy) validateUnproven() error {
	words := p.Unproven
	if words == "" {
		return nil
	}
	if !utf8.ValidString(words) || utf8.RuneCountInString(words) > maxUnproven || strings.TrimSpace(words) == "" ||
		strings.ContainsFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("policy: unproven: use 1 to %d printable characters, which say why the policy is good enough", maxUnproven)
	}
	return nil
}

// Gaps says, one sentence each, why evidence that passes the policy does not prove
// which code the machine runs, or on whose machine. It is empty if the evidence does
// prove it: then a genuine TPM has the PCR values of a known release, and the processor
// is one that the policy means.
func (p *Policy) Gaps() []string {
	var gaps []string
	if !slices.Contains(p.Require, TPM) {
		gaps = append(gaps, fmt.Sprintf("require: without %q evidence needs no quote, and no PCR is compared with the references; add it", TPM))
	}
	if !slices.ContainsFunc(tying, func(t Technology) bool { return slices.Contains(p.Require, t) }) {
		gaps = append(gaps, fmt.Sprintf("require: nothing of %q shows that a genuine TPM has these PCRs, and a software TPM quotes any; add one of %q", p.Require, tying))
	}
	if slices.Contains(p.Require, NitroTPM) {
		gaps = append(gaps, p.nitroGaps()...)
	}
	for _, t := range p.Require {
		if section := p.Reports[processor.Section(string(t))]; section != nil {
			gaps = append(gaps, section.Gaps()...)
		}
	}
	return append(gaps, p.TPM.Gaps()...)
}

// nitroGaps says why the NitroTPM's document does not vouch for the PCRs that are
// compared with the references.
func (p *Policy) nitroGaps() []string {
	var gaps []string
	if p.TPM.Bank != nitro.Bank {
		gaps = append(gaps, fmt.Sprintf("tpm.bank: the NitroTPM document vouches for PCRs of the bank %s, and the references are of %s; use %s", nitro.Bank, p.TPM.Bank, nitro.Bank))
	}
	for _, n := range tpm.CodePCRs() {
		if n == tpm.ApplicationPCR {
			continue // Verify has it compared wherever a reference has it
		}
		if !slices.Contains(p.Nitro.ComparePCRs, n) {
			gaps = append(gaps, fmt.Sprintf("nitrotpm.compare_pcrs: PCR %d identifies code, and the document need not have it; add it", n))
		}
	}
	return gaps
}

// ErrUnproven says that a policy does not prove the code, and that nobody forced
// it.
var ErrUnproven = errors.New("the policy does not prove which code runs")

// CheckProof says why the policy must not be used: it does not prove the code, and
// no words force it ([ErrUnproven], with the [Policy.Gaps]); or it does, and words
// say that it does not.
func (p *Policy) CheckProof() error {
	gaps := p.Gaps()
	switch {
	case len(gaps) > 0 && p.Unproven == "":
		return fmt.Errorf("policy: %w: %s. Correct that; or use it all the same, and say why in it: holdfast policy sign --unproven \"WORDS\", or \"unproven\" in the file", ErrUnproven, strings.Join(gaps, "; "))
	case len(gaps) == 0 && p.Unproven != "":
		return fmt.Errorf("policy: unproven: the words %q stand in a policy that does prove which code runs; take them out", p.Unproven)
	}
	return nil
}

// Unproven says that a policy is used though it does not prove the code.
type Unproven struct {
	// Words are those of the person who forced it.
	Words string `json:"unproven,omitempty"`
	// Because are the policy's [Policy.Gaps].
	Because []string `json:"unproven_because,omitempty"`
}

// Forced gives the words and the reasons of a policy that is forced; the zero
// value if it proves the code.
func (p *Policy) Forced() Unproven {
	if p.Unproven == "" {
		return Unproven{}
	}
	return Unproven{p.Unproven, p.Gaps()}
}

// String is one line; empty for a policy that proves the code.
func (u Unproven) String() string {
	if u.Words == "" {
		return ""
	}
	return fmt.Sprintf("the policy does not prove which code runs, and is used because %q: %s", u.Words, strings.Join(u.Because, "; "))
}

// Accept says why a verdict under the policy must not be relied upon, by whoever gives a
// secret out or opens one. It is nil for a pass. The one exception is a policy that a
// person has forced: then nothing may be missing but what the policy does not ask for.
func (p *Policy) Accept(v *appraisal.Verdict) error {
	if v.Result == appraisal.Pass {
		return nil
	}
	if v.Result != appraisal.Incomplete || p.Unproven == "" || p.CheckProof() != nil {
		return v.Err()
	}
	unasked := p.unasked()
	for _, code := range v.Lacks() {
		if !slices.Contains(unasked, fault.Code(code)) {
			return v.Err()
		}
	}
	return nil
}

// unasked are the checks that a policy leaves out that does not prove the code.
func (p *Policy) unasked() []fault.Code {
	codes := []fault.Code{fault.PolicyUnproven}
	if len(p.TPM.References) == 0 {
		codes = append(codes, fault.TPMReference)
	}
	if !slices.Contains(p.Require, TPM) {
		codes = append(codes, fault.NitroPCRs) // there may be no quote to compare with
	}
	return codes
}
