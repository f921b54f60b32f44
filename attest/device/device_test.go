package device_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/attest/device"
	"holdfast/attest/tpm"
)

func TestOpenExplainsItself(t *testing.T) {
	for name, err := range map[string]error{
		"have a TPM":         second(device.OpenTPM(filepath.Join(t.TempDir(), "none"))),
		"neither a":          second(device.OpenTPM(t.TempDir())),
		"securityfs mounted": second(device.ReadEventLog(filepath.Join(t.TempDir(), "none"))),
	} {
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestReadEventLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for size, good := range map[int]bool{0: false, 1: true, tpm.MaxEventLog: true, tpm.MaxEventLog + 1: false} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := device.ReadEventLog(path)
		if (err == nil) != good || (good && len(log) != size) {
			t.Errorf("%d bytes: got %d, %v", size, len(log), err)
		}
	}
}
