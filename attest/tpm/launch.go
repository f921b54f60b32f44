package tpm

// LaunchPCR is the PCR that has the launch file: one event, its SHA-256, by the appliance
// before it measures itself. It is zero on a machine without one. It is the owner's: the
// publisher's authorizations do not name it. Elsewhere it is systemd's (UAPI Linux TPM PCR
// Registry), of which Holdfast's image runs no unit that extends it.
const LaunchPCR = 15

// launchName is the name of the measurement.
const launchName = "launch"

// Launch is the measurement of a launch file with that SHA-256.
func Launch(digest []byte) Measurement {
	return Measurement{PCR: LaunchPCR, Name: launchName, Digest: digest}
}

// LaunchValue is the value of [LaunchPCR] in the bank (sha256, sha384) on a machine with
// the launch file.
func LaunchValue(bank string, digest []byte) (Hex, error) {
	b, err := findBank(bank)
	if err != nil {
		return nil, err
	}
	m := Launch(digest)
	if err := m.validate(); err != nil {
		return nil, err
	}
	return replayMeasurements([]Measurement{m}, b.hash), nil
}

// Launch gives the SHA-256 of the machine's launch file, nil if the evidence names none.
// It is true if [Verify] finds that it explains [LaunchPCR].
func (e *Evidence) Launch() Hex {
	for _, m := range e.Measurements {
		if m.PCR == LaunchPCR && m.Name == launchName {
			return m.Digest
		}
	}
	return nil
}
