package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest"
	"holdfast/attest/nitro"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// Hardware says where the machine's hardware is.
type Hardware struct {
	// TPM is its device ([tpm.DefaultPath] if empty), or the socket of an emulator.
	TPM string
	// EventLog is the file of the firmware's event log; [tpm.DefaultEventLog] if
	// empty.
	EventLog string
	// CRL is a file with AMD's list of revocations (DER), to go with the evidence;
	// none if empty.
	CRL string
}

// nitroDevice is the NitroTPM, which takes AWS's command there and not through
// the kernel's resource manager.
const nitroDevice = "/dev/tpm0"

// Probe gives what the machine has of the hardware, [Options.Probe] on a real
// machine. The NitroTPM's own attestation is used if the policy requires it. With
// an error it gives what it has found: a TPM that can be used, though its event log
// cannot, among it.
func (h Hardware) Probe(_ context.Context, p *attest.Policy) (*attest.Collector, error) {
	c := &attest.Collector{}
	if provider, err := snp.Device(); err == nil {
		c.SNP = provider
	}
	if err := h.probeTPM(c); err != nil {
		return c, err
	}
	if c.TPM != nil && slices.Contains(p.Require, attest.NitroTPM) {
		c.Nitro = h.document
	}
	if h.CRL != "" {
		var err error
		if c.CRL, err = readFile(h.CRL); err != nil {
			return c, fmt.Errorf("AMD's list of revocations: %w", err)
		}
	}
	return c, nil
}

func (h Hardware) probeTPM(c *attest.Collector) error {
	device, err := tpm.Open(h.tpm())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.TPM = device
	c.EventLog, err = tpm.ReadEventLog(h.EventLog)
	return err
}

func (h Hardware) tpm() string {
	if h.TPM == "" {
		return tpm.DefaultPath
	}
	return h.TPM
}

// document asks the NitroTPM for its document.
func (h Hardware) document(userData, nonce []byte) (document []byte, err error) {
	path := nitroDevice
	if h.TPM != "" && h.TPM != tpm.DefaultPath {
		path = h.TPM
	}
	device, err := tpm.Open(path)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	err = device.Do(func(t transport.TPM) (err error) {
		document, err = nitro.Request(t, userData, nonce, nil)
		return err
	})
	return document, err
}
