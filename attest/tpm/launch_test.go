package tpm_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-eventlog/tcg"

	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

var launchDigest = bytes.Repeat([]byte{15}, 32)

// withLaunch is what a machine measures that has a state volume and a launch file.
func withLaunch() []tpm.Measurement {
	return slices.Concat([]tpm.Measurement{tpm.StateVolume(identity), tpm.Launch(launchDigest)}, measurements())
}

// launchTold is the fact about the launch file.
func launchTold(t *testing.T, e *tpm.Evidence) string {
	t.Helper()
	var facts struct {
		TPM struct {
			Launch string `json:"launch"`
		} `json:"tpm"`
	}
	v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
	if err := json.Unmarshal(must(json.Marshal(v.Facts)), &facts); err != nil {
		t.Fatal(err)
	}
	return facts.TPM.Launch
}

// TestLaunch: evidence says which launch file was measured; its PCR has the value that
// holdfast launch show tells; and a release is the same one with any, or none.
func TestLaunch(t *testing.T) {
	e, without := collect(t, swtpm.Events(kernel), withLaunch()), collect(t, swtpm.Events(kernel), measurements())
	reference := must(tpm.NewReference("1", without, tpm.DefaultPolicy()))
	for _, tt := range []struct {
		e      *tpm.Evidence
		digest []byte
		fact   string
	}{{e, launchDigest, tpm.Hex(launchDigest).String()}, {without, nil, "none"}} {
		p := policy(tt.e)
		p.References = []tpm.Reference{reference}
		if failed := verify(tt.e, p, tpm.Expectation{QualifyingData: nonce}).Failed(); failed != nil {
			t.Errorf("%s: %v", tt.fact, failed)
		}
		if got := tt.e.Launch(); !bytes.Equal(got, tt.digest) || launchTold(t, tt.e) != tt.fact {
			t.Errorf("the launch file is %s, %q; want %s", got, launchTold(t, tt.e), tt.fact)
		}
	}
	for _, bank := range []string{"sha256", "sha384"} {
		if want := must(tpm.LaunchValue(bank, launchDigest)); !bytes.Equal(e.PCRs[bank][tpm.LaunchPCR], want) {
			t.Errorf("%s: PCR 15 is %s, and %s was told", bank, e.PCRs[bank][tpm.LaunchPCR], want)
		}
	}
	if _, err := tpm.LaunchValue("sha256", launchDigest[1:]); err == nil {
		t.Error("a digest of 31 bytes has a value")
	}
}

// TestLaunchForged: PCR 15 has the digest of the launch file and nothing else, before or
// after it, or it is refused.
func TestLaunchForged(t *testing.T) {
	other := tpm.Launch(bytes.Repeat([]byte{9}, 32))
	systemd := swtpm.Event{PCR: 15, Type: tcg.Ipl, Data: []byte("machine-id")}
	second := other
	second.Name = "second"
	// The measurement stands at index 1.
	for name, tt := range map[string]struct {
		events []swtpm.Event
		list   []tpm.Measurement
		claim  func(e *tpm.Evidence)
		codes  []string
		fact   string
	}{
		"as it was measured":    {list: withLaunch(), fact: tpm.Hex(launchDigest).String()},
		"taken out":             {list: withLaunch(), claim: func(e *tpm.Evidence) { e.Measurements = slices.Delete(e.Measurements, 1, 2) }, codes: []string{"E_TPM_LAUNCH"}},
		"another claimed":       {list: withLaunch(), claim: func(e *tpm.Evidence) { e.Measurements[1] = other }, codes: []string{"E_TPM_LAUNCH"}},
		"renamed":               {list: withLaunch(), claim: func(e *tpm.Evidence) { e.Measurements[1].Name = "file" }, codes: []string{"E_TPM_LAUNCH"}},
		"claimed and not there": {list: measurements(), claim: func(e *tpm.Evidence) { e.Measurements = append(e.Measurements, other) }, codes: []string{"E_TPM_LAUNCH"}},
		"in another PCR": {list: measurements(), claim: func(e *tpm.Evidence) {
			m := other
			m.PCR = tpm.StateVolumePCR
			e.Measurements = append(e.Measurements, m)
		}, codes: []string{"E_TPM_VOLUME"}, fact: "none"},
		"a second one, listed": {list: append(withLaunch(), second), codes: []string{"E_TPM_LAUNCH"}},
		"a second one, not listed": {list: append(withLaunch(), second), claim: func(e *tpm.Evidence) {
			e.Measurements = slices.Delete(e.Measurements, len(e.Measurements)-1, len(e.Measurements))
		}, codes: []string{"E_TPM_LAUNCH"}},
		"after systemd":              {events: []swtpm.Event{systemd}, list: withLaunch(), codes: []string{"E_TPM_LAUNCH", "E_TPM_LOG_REPLAY"}},
		"systemd and no launch file": {events: []swtpm.Event{systemd}, list: measurements(), fact: "none"},
		"not quoted": {list: withLaunch(), claim: func(e *tpm.Evidence) {
			delete(e.PCRs["sha256"], tpm.LaunchPCR)
			delete(e.PCRs["sha384"], tpm.LaunchPCR)
			newForger().quote(e)
		}, codes: []string{"E_TPM_LAUNCH"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := clone(collect(t, append(swtpm.Events(kernel), tt.events...), tt.list))
			if tt.claim != nil {
				tt.claim(e)
			}
			failed := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce}).Failed()
			slices.Sort(failed)
			if !slices.Equal(failed, tt.codes) || launchTold(t, e) != tt.fact {
				t.Errorf("failed %v, want %v; it says %q, want %q", failed, tt.codes, launchTold(t, e), tt.fact)
			}
		})
	}
}
