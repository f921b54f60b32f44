package boot_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
)

// TestUnproven: a policy that does not prove the code is not used, at the start and
// later. Words force it, and are told each time.
func TestUnproven(t *testing.T) {
	for name, change := range map[string]func(p *attest.Policy){
		"no references": func(p *attest.Policy) { p.TPM.References = nil },
		"a TPM alone":   func(p *attest.Policy) { p.Require = []attest.Technology{attest.TPM} },
		"words without need": func(p *attest.Policy) {
			p.Unproven = "to be safe"
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			proves := s.policy
			change(&s.policy)
			forced, code := s.policy, fault.PolicyUnproven
			if s.policy.Unproven != "" {
				forced, code = proves, fault.PolicyFile
			}
			s.start()
			s.locks(code)
			if len(s.unlocks) != 0 {
				t.Error("it was unlocked")
			}

			s = newSite(t)
			s.options.Every = time.Hour
			weak := s.policy
			change(&weak)
			s.start()
			s.waits()
			if a := s.is(progress.Serving, "").Attestation; a.Unproven != "" || strings.Contains(s.log.String(), "unproven") {
				t.Errorf("a policy that proves the code: %+v", a)
			}
			s.change(func() { s.policy = weak })
			s.pass(time.Hour)
			s.is(progress.Degraded, code)

			if forced.CheckProof() == nil {
				return
			}
			s = newSite(t)
			s.options.Every = time.Hour
			change(&s.policy)
			s.policy.Unproven = "only a test"
			s.start()
			s.waits()
			if a := s.is(progress.Serving, "").Attestation; a.Unproven != "only a test" || a.Result != appraisal.Incomplete || !a.Accepted {
				t.Errorf("%+v", a)
			}
			s.pass(time.Hour)
			if got := strings.Count(s.log.String(), `unproven="only a test" because=`); got != 2 {
				t.Errorf("the words are logged %d times: %s", got, s.log.String())
			}
		})
	}
}
