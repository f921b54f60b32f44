package attest_test

import (
	"strings"
	"testing"

	"holdfast/attest"
	"holdfast/attest/snp"
)

// TestAdmits: what a policy lets in is said in whole sentences, and another policy in others.
func TestAdmits(t *testing.T) {
	for says, change := range map[string]func(p *attest.Policy){
		`It must have booted "release 1", by the values of its PCRs in the bank sha384.`: func(*attest.Policy) {},
		"It may run any code.": func(p *attest.Policy) { p.TPM.References = nil },
		`"release 1", "release 1", "release 1", "release 1", "release 1" or one of 3 more`: func(p *attest.Policy) {
			for range 7 {
				p.TPM.References = append(p.TPM.References, known("release 1", 4))
			}
		},
		"by tpm. It is not asked for sev-snp and nitrotpm. So nothing shows that its memory is encrypted.": func(p *attest.Policy) { p.Require = []attest.Technology{attest.TPM} },
		"any instance of EC2, in any account and Region":                                                   func(*attest.Policy) {},
		"It must be in a Region of eu-west-1, and may be of any account.":                                  func(p *attest.Policy) { p.Nitro.Regions = []string{"eu-west-1"} },
		"an instance of i-0123456789abcdef0":                                                               func(p *attest.Policy) { p.Nitro.Instances = []string{"i-0123456789abcdef0"} },
		"CN=cc-us-east-2.amazonaws.com, CN=cc-eu-west-1.amazonaws.com":                                     func(*attest.Policy) {},
		"or by the processor's own key (VCEK)":                                                             func(p *attest.Policy) { snp.PolicyOf(p.Reports).AllowVCEK = true },
		"That may be any chip that AMD has made.":                                                          func(p *attest.Policy) { snp.PolicyOf(p.Reports).AllowVCEK = true },
		"That must be one of 2 chips": func(p *attest.Policy) {
			q := snp.PolicyOf(p.Reports)
			q.AllowVCEK, q.ChipIDs = true, []string{"00", "01"}
		},
		"may say things that this program does not know": func(*attest.Policy) {},
		"no launch measurement is asked for":             func(*attest.Policy) {},
		"with the firmware of \"June\"":                  func(p *attest.Policy) { snp.PolicyOf(p.Reports).Measurements = []snp.Reference{{Name: "June"}} },
		"No list of AMD's revocations is asked for.":     func(*attest.Policy) {},
		"The host may still roll its firmware back.":     func(*attest.Policy) {},
		"may be 5 min old":                               func(*attest.Policy) {},
		"may be 24 h old":                                func(p *attest.Policy) { p.MaxAgeSeconds = 86400 },
		"may be 3601 s old":                              func(p *attest.Policy) { p.MaxAgeSeconds = 3601 },
		"PCRs [4 7 11 12]":                               func(*attest.Policy) {},
	} {
		p := proving()
		change(&p)
		all := p.Admits()
		if text := strings.Join(all, " "); !strings.Contains(text, says) {
			t.Errorf("want %q, got %s", says, text)
		}
		for _, sentence := range all {
			if !strings.HasSuffix(sentence, ".") || strings.Contains(sentence, "  ") || strings.Contains(sentence, "\n") {
				t.Errorf("%q is no sentence", sentence)
			}
		}
	}
}
