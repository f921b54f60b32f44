package tpm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"
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
