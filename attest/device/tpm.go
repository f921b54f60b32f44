// Package device opens the devices of the machine that it runs on, which evidence
// comes from: the TPM, the firmware's event log, the NitroTPM, the processor. It is
// for programs that run on such a machine, on Linux. Those that check evidence do
// without it, on any system.
package device

import (
	"fmt"
	"io"
	"os"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"holdfast/attest/nitro"
	"holdfast/attest/tpm"
)

// TPM is the TPM with the kernel's resource manager.
const TPM = "/dev/tpmrm0"

// OpenTPM opens a TPM: a character device, such as [TPM], or the Unix socket of an
// emulator. Errors: [fs.ErrNotExist] if there is none.
func OpenTPM(path string) (*tpm.Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w; does this machine have a TPM 2.0, and is its driver loaded?", err)
	}
	var t transport.TPMCloser
	switch mode := info.Mode(); {
	case mode&os.ModeCharDevice != 0:
		t, err = linuxtpm.Open(path)
	case mode&os.ModeSocket != 0:
		t, err = linuxudstpm.Open(path)
	default:
		return nil, fmt.Errorf("tpm: %s is neither a character device nor a socket; the TPM is usually %s", path, TPM)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return tpm.NewDevice(t), nil
}

// ReadEventLog reads the firmware's event log, of at most [tpm.MaxEventLog] bytes;
// [tpm.DefaultEventLog] if the path is empty.
func ReadEventLog(path string) ([]byte, error) {
	if path == "" {
		path = tpm.DefaultEventLog
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("event log: %w; is securityfs mounted, and did the firmware measure into a TPM 2.0?", err)
	}
	defer f.Close()
	log, err := io.ReadAll(io.LimitReader(f, tpm.MaxEventLog+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("event log: %w", err)
	case len(log) > tpm.MaxEventLog:
		return nil, fmt.Errorf("event log: %s has more than %d bytes, which no evidence can carry", path, tpm.MaxEventLog)
	case len(log) == 0:
		return nil, fmt.Errorf("event log: %s is empty: the firmware handed none over", path)
	}
	return log, nil
}

// nitroTPM is the NitroTPM, which takes AWS's command there and not through the
// kernel's resource manager.
const nitroTPM = "/dev/tpm0"

// nitroDocument asks the NitroTPM for a document with the user data and the nonce.
// The path is that of the machine's TPM; empty or [TPM] stands for the NitroTPM's
// own device.
func nitroDocument(path string, userData, nonce []byte) (document []byte, err error) {
	if path == "" || path == TPM {
		path = nitroTPM
	}
	t, err := OpenTPM(path)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	err = t.Do(func(t transport.TPM) (err error) {
		document, err = nitro.Request(t, userData, nonce, nil)
		return err
	})
	return document, err
}
