package sitetest

import (
	"bytes"
	"context"
	"crypto/sha256"

	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

// Machine is one with a TPM and nothing else to attest by, from its power-on
// to Off.
type Machine struct {
	*tpm.Device
	Process      *swtpm.Process
	log          []byte
	measurements []tpm.Measurement
}

// BootTPM powers on the machine whose TPM has its state in the directory. It
// measures the program.
func BootTPM(dir, program string) (m *Machine, err error) {
	m = &Machine{}
	if m.Process, err = swtpm.Start(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Off()
		}
	}()
	if m.Device, err = device.OpenTPM(m.Process.Socket); err != nil {
		return nil, err
	}
	if m.log, err = swtpm.Boot(m.Device, swtpm.Component{Name: ".linux", Content: []byte("a kernel")}); err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(program))
	m.measurements = []tpm.Measurement{{PCR: tpm.ApplicationPCR, Name: "program", Digest: digest[:]}}
	return m, m.Measure(m.measurements[0])
}

// Off powers it off.
func (m *Machine) Off() {
	if m.Device != nil {
		_ = m.Close()
	}
	m.Process.Stop()
}

// RecordCap caps the TPM, as a boot does, and has it among the measurements.
func (m *Machine) RecordCap() error {
	c, err := m.Cap()
	m.measurements = append(m.measurements, c)
	return err
}

// EvidenceNonce is what the evidence of tests is made for.
var EvidenceNonce = bytes.Repeat([]byte{0xab}, 32)

// Evidence makes an evidence file for [EvidenceNonce].
func (m *Machine) Evidence() ([]byte, error) {
	c := attest.Collector{Software: "test", TPM: m.Device, EventLog: m.log, Measurements: m.measurements}
	e, err := c.Collect(context.Background(), EvidenceNonce, []byte("a public key of TLS"), nil)
	if err != nil {
		return nil, err
	}
	return e.Encode()
}
