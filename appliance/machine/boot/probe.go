package boot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/snp"
)

// Hardware says where the machine's hardware is.
type Hardware struct {
	// TPM is its device ([device.TPM] if empty), or the socket of an emulator.
	TPM string
	// EventLog is the file of the firmware's event log; [tpm.DefaultEventLog] if
	// empty.
	EventLog string
	// CRL is a file with AMD's list of revocations (DER), to go with the evidence;
	// none if empty.
	CRL string
}

// Probe gives what the machine has of the hardware, [Options.Probe] on a real
// machine. The NitroTPM's own attestation is used if the policy requires it. With
// an error it gives what it has found: a TPM that can be used, though its event log
// cannot, among it.
func (h Hardware) Probe(_ context.Context, p *attest.Policy) (*attest.Collector, error) {
	c := &attest.Collector{}
	if source, err := device.Processor(); err == nil {
		c.Report = source
	}
	if err := h.probeTPM(c); err != nil {
		return c, err
	}
	if c.TPM != nil && slices.Contains(p.Require, attest.NitroTPM) {
		c.Nitro = func(userData, nonce []byte) ([]byte, error) { return device.NitroDocument(h.TPM, userData, nonce) }
	}
	if h.CRL != "" {
		crl, err := readFile(h.CRL)
		if err != nil {
			return c, fmt.Errorf("AMD's list of revocations: %w", err)
		}
		if source, ok := c.Report.(snp.Source); ok {
			source.CRL = crl
			c.Report = source
		}
	}
	return c, nil
}

func (h Hardware) probeTPM(c *attest.Collector) error {
	opened, err := device.OpenTPM(cmp.Or(h.TPM, device.TPM))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.TPM = opened
	c.EventLog, err = device.ReadEventLog(h.EventLog)
	return err
}

// Opener opens a file by its path: [OpenFile] on this machine; or that of another,
// such as an image.
type Opener func(path string) (io.ReadCloser, error)

// OpenFile opens a file of this machine.
func OpenFile(path string) (io.ReadCloser, error) { return os.Open(path) }

// File is a part that is a file.
func File(name, path string, open Opener) Part {
	return Part{name, func() ([]byte, error) {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return h.Sum(nil), nil
	}}
}

// Content is a part that is in memory.
func Content(name string, content []byte) Part {
	return Part{name, func() ([]byte, error) {
		d := sha256.Sum256(content)
		return d[:], nil
	}}
}
