package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/appraisal"
)

// StateVolumePCR is the PCR that has the identity of the state volume: one event, by
// the program that opens the volume, before anything on it is read. It is zero on a
// machine without one. Holdfast's image has no GRUB, whose PCR it is elsewhere, and
// its systemd-stub measures a command line from outside into 12 alone (UAPI Linux TPM
// PCR Registry). No policy of a TPM names it, so that another volume can take a lost
// one's place; who must know which volume it is compares [Evidence.StateVolume].
const StateVolumePCR = 8

// stateVolumeName is the name of the measurement.
const stateVolumeName = "state-volume"

// StateVolume is the measurement of a state volume with that identity, 32 bytes.
func StateVolume(identity []byte) Measurement {
	return Measurement{PCR: StateVolumePCR, Name: stateVolumeName, Digest: identity}
}

// StateVolume gives the identity of the machine's state volume, nil if the evidence
// names none. It is true if [Verify] finds that it explains [StateVolumePCR].
func (e *Evidence) StateVolume() Hex {
	for _, m := range e.Measurements {
		if m.PCR == StateVolumePCR && m.Name == stateVolumeName {
			return m.Digest
		}
	}
	return nil
}

// ErrExtended says that a PCR was extended already since the machine was started.
var ErrExtended = errors.New("the PCR was extended already since the machine was started")

// MeasureFirst is [Device.Measure] of the first measurement into its PCR. Errors:
// [ErrExtended], if it was extended in one of the banks before; nothing is extended then.
func (d *Device) MeasureFirst(m Measurement) error {
	names, err := d.Banks()
	if err != nil {
		return err
	}
	selections := make([]Selection, 0, len(names))
	for _, name := range names {
		selections = append(selections, Selection{name, []int{m.PCR}})
	}
	list, err := selection(selections)
	if err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	var values PCRs
	if err := d.Do(func(t transport.TPM) (err error) {
		values, err = readPCRs(t, list)
		return err
	}); err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	for _, bank := range values {
		if !zero(bank[m.PCR]) {
			return fmt.Errorf("tpm: PCR %d: %w", m.PCR, ErrExtended)
		}
	}
	return d.Measure(m)
}

// of gives the measurements of the PCR, in order.
func of(pcr int, list []Measurement) []Measurement {
	return slices.DeleteFunc(slices.Clone(list), func(m Measurement) bool { return m.PCR != pcr })
}

// verifyStateVolume checks what the evidence says of the state volume, and gives its
// identity, or "none" if PCR 8 shows that there is none; empty if it shows neither.
func verifyStateVolume(s *appraisal.Sheet, e Evidence, events []event, b *bank, partial bool) string {
	value, ok := e.PCRs[b.name][StateVolumePCR]
	events = slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.PCR != StateVolumePCR })
	list := of(StateVolumePCR, e.Measurements)
	if len(list) > 0 {
		if s.Answer(checkStateVolume, compareStateVolume(list, events, b, value)) {
			s.Pass(checkStateVolume, "%s", list[0].Digest)
			return list[0].Digest.String()
		}
		return ""
	}
	switch {
	case !ok:
		s.Skip(fmt.Sprintf("PCR %d was not quoted, so it is not shown whether the machine has a state volume", StateVolumePCR), checkStateVolume)
	case zero(value):
		s.Pass(checkStateVolume, "PCR %d is zero: no state volume", StateVolumePCR)
		return "none"
	case len(events) > 0 && bytes.Equal(replay(events, b.hash)[StateVolumePCR], value):
		s.Pass(checkStateVolume, "PCR %d has what a boot loader measured, and no state volume", StateVolumePCR)
		return "none"
	case partial:
		s.Skip("a quote and a log alone do not say which state volume was measured", checkStateVolume)
	default:
		s.Answer(checkStateVolume, fmt.Errorf("PCR %d was extended, and neither the evidence nor the event log says with what: the state volume's measurement was taken out, or something else has extended it", StateVolumePCR))
	}
	return ""
}

func compareStateVolume(list []Measurement, events []event, b *bank, value Hex) error {
	switch {
	case len(list) > 1:
		return fmt.Errorf("there are %d measurements of PCR %d; the one program that opens the state volume makes one", len(list), StateVolumePCR)
	case list[0].Name != stateVolumeName:
		return fmt.Errorf("measurement %s is of PCR %d, which has the state volume alone", list[0].Name, StateVolumePCR)
	case value == nil:
		return fmt.Errorf("a state volume was measured, and PCR %d was not quoted", StateVolumePCR)
	case len(events) > 0:
		return fmt.Errorf("firmware or a boot loader has extended PCR %d, which is the state volume's; boot Holdfast's image directly", StateVolumePCR)
	}
	if got := replayMeasurements(list, b.hash); !bytes.Equal(got, value) {
		return fmt.Errorf("PCR %d replays to %s, and %s was quoted: the volume is another, or something has extended the PCR before or after it", StateVolumePCR, short(got), short(value))
	}
	return nil
}
