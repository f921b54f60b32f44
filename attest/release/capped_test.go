package release_test

import (
	"context"
	"slices"
	"testing"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// TestBrokerRefusesCapped: a machine that has had the PIN, or that has locked
// itself, gets it no more before it is restarted, whatever it tells of what it has
// measured. An auditor's check of what it tells honestly passes as before.
func TestBrokerRefusesCapped(t *testing.T) {
	program, later := tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "program", Digest: make([]byte, 32)}, tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "later", Digest: make([]byte, 32)}
	without := func(p *attest.Policy) {
		pcrs := map[int]tpm.Hex{}
		for n, value := range p.TPM.References[0].PCRs {
			if n != tpm.ApplicationPCR {
				pcrs[n] = value
			}
		}
		p.TPM.References = []tpm.Reference{{Name: "release 1", PCRs: pcrs}}
		p.Unproven = "a test of the cap"
	}
	// Each knows the release, with PCR 14 or without.
	policies := map[string]func(*attest.Policy){
		"with PCR 14":                func(*attest.Policy) {},
		"a reference without PCR 14": without,
		"PCR 14 not required": func(p *attest.Policy) {
			without(p)
			p.TPM.RequiredPCRs = slices.DeleteFunc(slices.Clone(p.TPM.RequiredPCRs), func(n int) bool { return n == tpm.ApplicationPCR })
		},
	}
	for _, tt := range []struct {
		name  string
		after []tpm.Measurement // extended after the cap
		told  func(c tpm.Measurement) []tpm.Measurement
		code  string
		// audited says that the offline check passes, if PCR 14 is not compared.
		audited bool
	}{
		{"the cap last", nil, func(c tpm.Measurement) []tpm.Measurement { return []tpm.Measurement{program, c} }, "E_BROKER_CAPPED", true},
		{"the cap in the middle", []tpm.Measurement{later}, func(c tpm.Measurement) []tpm.Measurement { return []tpm.Measurement{program, c, later} }, "E_BROKER_CAPPED", true},
		{"the cap twice", []tpm.Measurement{tpm.Cap()}, func(c tpm.Measurement) []tpm.Measurement { return []tpm.Measurement{program, c, c} }, "E_TPM_FORMAT", false},
		{"the cap taken out", nil, func(tpm.Measurement) []tpm.Measurement { return []tpm.Measurement{program} }, "E_TPM_MEASUREMENTS", false},
		{"the cap under another name", nil, func(c tpm.Measurement) []tpm.Measurement {
			return []tpm.Measurement{program, {PCR: c.PCR, Name: "cap2", Digest: c.Digest}}
		}, "E_TPM_MEASUREMENTS", false},
		{"the cap of another PCR", nil, func(c tpm.Measurement) []tpm.Measurement {
			return []tpm.Measurement{program, {PCR: 13, Name: c.Name, Digest: c.Digest}}
		}, "E_TPM_MEASUREMENTS", false},
		{"the list taken out", nil, func(tpm.Measurement) []tpm.Measurement { return nil }, "E_TPM_MEASUREMENTS", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.releases(t)
			c, err := s.platform.TPM.Cap()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tt.after {
				if err := s.platform.TPM.Measure(m); err != nil {
					t.Fatal(err)
				}
			}
			collector := s.platform.Collector()
			collector.Measurements = tt.told(c)
			s.client.Collect = collector.Collect
			for name, change := range policies {
				s.setPolicy(t, change)
				s.refuses(t, tt.code)
				if name == "with PCR 14" && len(tt.after) > 0 {
					continue // other values than the reference's
				}
				p := s.policy()
				change(&p)
				nonce := make([]byte, 32)
				e, err := collector.Collect(context.Background(), nonce, []byte("a TLS key"), nil)
				if err != nil {
					t.Fatal(err)
				}
				if v := attest.Verify(e, &p, attest.Expectation{Nonce: nonce, TLSKey: []byte("a TLS key"), Roots: s.platform.Roots()}); (v.Result != appraisal.Fail) != tt.audited {
					t.Errorf("%s: the auditor's verdict is %s: %v", name, v.Result, v.Err())
				}
			}
		})
	}
}
