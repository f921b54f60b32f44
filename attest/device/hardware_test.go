package device_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm/swtpm"
)

// TestProbeGivesWhatItFound: hardware that can only be used in part is given all the
// same, so that its TPM is capped.
func TestProbeGivesWhatItFound(t *testing.T) {
	dir := t.TempDir()
	p, err := swtpm.PowerOn(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, swtpm.EventLog)
	for name, h := range map[string]device.Hardware{
		"no event log":       {TPM: p.Socket, EventLog: filepath.Join(dir, "nothing")},
		"an empty event log": {TPM: p.Socket, EventLog: empty},
		"no CRL":             {TPM: p.Socket, EventLog: log, CRL: filepath.Join(dir, "nothing")},
	} {
		c, err := h.Probe(t.Context(), &attest.Policy{})
		if err == nil || c == nil || c.TPM == nil {
			t.Fatalf("%s: %+v, %v", name, c, err)
		}
		if err := errors.Join(c.Cap(), c.TPM.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := device.Hardware{TPM: filepath.Join(dir, "nothing")}.Probe(t.Context(), &attest.Policy{})
	if err != nil || c.TPM != nil {
		t.Errorf("no TPM: %+v, %v", c, err)
	}
}
