package tpm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-eventlog/tcg"

	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

var identity = bytes.Repeat([]byte{8}, 32)

// withVolume is what a machine measures that has a state volume.
func withVolume() []tpm.Measurement {
	return append([]tpm.Measurement{tpm.StateVolume(identity)}, measurements()...)
}

// told is the fact about the state volume.
func told(t *testing.T, e *tpm.Evidence) string {
	t.Helper()
	v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
	var facts struct {
		TPM struct {
			StateVolume string `json:"state_volume"`
		} `json:"tpm"`
	}
	if err := json.Unmarshal(must(json.Marshal(v.Facts)), &facts); err != nil {
		t.Fatal(err)
	}
	return facts.TPM.StateVolume
}

// TestStateVolume: evidence says which state volume a machine has, and a release is the
// same one with any, or none.
func TestStateVolume(t *testing.T) {
	e, without := collect(t, swtpm.Events(kernel), withVolume()), collect(t, swtpm.Events(kernel), measurements())
	reference := must(tpm.NewReference("1", without, tpm.DefaultPolicy()))
	for _, tt := range []struct {
		e        *tpm.Evidence
		identity []byte
		fact     string
	}{{e, identity, tpm.Hex(identity).String()}, {without, nil, "none"}} {
		p := policy(tt.e)
		p.References = []tpm.Reference{reference}
		if failed := verify(tt.e, p, tpm.Expectation{QualifyingData: nonce}).Failed(); failed != nil {
			t.Errorf("%s: %v", tt.fact, failed)
		}
		if got := tt.e.StateVolume(); !bytes.Equal(got, tt.identity) || told(t, tt.e) != tt.fact {
			t.Errorf("the volume is %s, %q; want %s", got, told(t, tt.e), tt.fact)
		}
	}
	capped := collect(t, swtpm.Events(kernel), append(withVolume(), tpm.Cap()))
	if got := capped.ReferenceValues("sha384")[tpm.ApplicationPCR]; !capped.Capped() || !bytes.Equal(got, reference.PCRs[tpm.ApplicationPCR]) {
		t.Errorf("capped, PCR 14 is %s, want %s", got, reference.PCRs[tpm.ApplicationPCR])
	}
}

// TestStateVolumeForged: PCR 8 has the identity of the volume and nothing else, before
// or after it, or it is refused.
func TestStateVolumeForged(t *testing.T) {
	other := tpm.StateVolume(bytes.Repeat([]byte{9}, 32))
	grub := swtpm.Event{PCR: 8, Type: tcg.Ipl, Data: []byte("grub_cmd: linux")}
	second := other
	second.Name = "second"
	for name, tt := range map[string]struct {
		events []swtpm.Event     // besides those of a boot
		list   []tpm.Measurement // that is measured
		claim  func(e *tpm.Evidence)
		codes  []string
		fact   string
	}{
		"as it was measured":    {list: withVolume(), fact: tpm.Hex(identity).String()},
		"taken out":             {list: withVolume(), claim: func(e *tpm.Evidence) { e.Measurements = e.Measurements[1:] }, codes: []string{"E_TPM_VOLUME"}},
		"another claimed":       {list: withVolume(), claim: func(e *tpm.Evidence) { e.Measurements[0] = other }, codes: []string{"E_TPM_VOLUME"}},
		"renamed":               {list: withVolume(), claim: func(e *tpm.Evidence) { e.Measurements[0].Name = "volume" }, codes: []string{"E_TPM_VOLUME"}},
		"claimed and not there": {list: measurements(), claim: func(e *tpm.Evidence) { e.Measurements = append(e.Measurements, other) }, codes: []string{"E_TPM_VOLUME"}},
		"a second one, listed":  {list: append(withVolume(), second), codes: []string{"E_TPM_VOLUME"}},
		"a second one, not listed": {list: append(withVolume(), second), claim: func(e *tpm.Evidence) {
			e.Measurements = slices.Delete(e.Measurements, len(e.Measurements)-1, len(e.Measurements))
		}, codes: []string{"E_TPM_VOLUME"}},
		"one before, not listed":       {list: append([]tpm.Measurement{second}, withVolume()...), claim: func(e *tpm.Evidence) { e.Measurements = e.Measurements[1:] }, codes: []string{"E_TPM_VOLUME"}},
		"after a boot loader":          {events: []swtpm.Event{grub}, list: withVolume(), codes: []string{"E_TPM_VOLUME", "E_TPM_LOG_REPLAY"}},
		"a boot loader, and no volume": {events: []swtpm.Event{grub}, list: measurements(), fact: "none"},
		"not quoted": {list: withVolume(), claim: func(e *tpm.Evidence) {
			delete(e.PCRs["sha256"], tpm.StateVolumePCR)
			delete(e.PCRs["sha384"], tpm.StateVolumePCR)
			newForger().quote(e)
		}, codes: []string{"E_TPM_VOLUME"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := collect(t, append(swtpm.Events(kernel), tt.events...), tt.list)
			e = clone(e)
			if tt.claim != nil {
				tt.claim(e)
			}
			failed := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce}).Failed()
			slices.Sort(failed)
			slices.Sort(tt.codes)
			if !slices.Equal(failed, tt.codes) || told(t, e) != tt.fact {
				t.Errorf("failed %v, want %v; it says %q, want %q", failed, tt.codes, told(t, e), tt.fact)
			}
		})
	}
}

// TestMeasureFirst extends a PCR that nothing has extended.
func TestMeasureFirst(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	if err := dev.MeasureFirst(tpm.StateVolume(identity)); err != nil {
		t.Fatal(err)
	}
	before := must(dev.ReadPCRs("sha384", []int{tpm.StateVolumePCR}))
	if err := dev.MeasureFirst(tpm.StateVolume(identity)); !errors.Is(err, tpm.ErrExtended) {
		t.Errorf("again: %v", err)
	}
	if after := must(dev.ReadPCRs("sha384", []int{tpm.StateVolumePCR})); !bytes.Equal(before[tpm.StateVolumePCR], after[tpm.StateVolumePCR]) {
		t.Error("it was extended all the same")
	}
}
