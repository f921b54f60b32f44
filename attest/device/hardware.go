package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/snp"
)

// Hardware says where the machine's hardware is.
type Hardware struct {
	// TPM is the TPM's device ([TPM] if empty), or the socket of an emulator.
	TPM string
	// EventLog is the file of the firmware's event log; [tpm.DefaultEventLog] if
	// empty.
	EventLog string
	// CRL is a file with AMD's list of revocations (DER), to go with the evidence;
	// none if empty.
	CRL string
}

// Probe gives what the machine has of the hardware. The NitroTPM's own attestation
// is used if the policy requires it. With an error it gives what it has found: a TPM
// that can be used, though its event log cannot, among it.
func (h Hardware) Probe(_ context.Context, p *attest.Policy) (*attest.Collector, error) {
	c := &attest.Collector{}
	if source, err := openProcessor(); err == nil {
		c.Report = source
	}
	if err := h.probeTPM(c); err != nil {
		return c, err
	}
	if c.TPM != nil && slices.Contains(p.Require, attest.NitroTPM) {
		c.Nitro = func(userData, nonce []byte) ([]byte, error) { return nitroDocument(h.TPM, userData, nonce) }
	}
	if h.CRL != "" {
		crl, err := readFile(h.CRL, maxCRL)
		if err != nil {
			return c, fault.Wrapf(fault.RevocationsFile, err, "%s cannot be used", h.CRL)
		}
		if source, ok := c.Report.(snp.Source); ok {
			source.CRL = crl
			c.Report = source
		}
	}
	return c, nil
}

func (h Hardware) probeTPM(c *attest.Collector) error {
	opened, err := OpenTPM(cmp.Or(h.TPM, TPM))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.TPM = opened
	c.EventLog, err = ReadEventLog(h.EventLog)
	return err
}

// maxCRL is the size of the largest list of revocations, in bytes.
const maxCRL = 1 << 20

// readFile reads a file of bounded size.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}
