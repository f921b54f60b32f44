package volume_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/volume"
)

// inMemory is a folder whose content is in memory alone.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestHandOver: the key for the PIN is handed on once, in memory, to its owner alone.
func TestHandOver(t *testing.T) {
	file := filepath.Join(inMemory(t), "state-volume.json")
	key := bytes.Repeat([]byte{3}, 32)
	o := volume.Opened{PINKey: key}
	if err := o.HandOver(file, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{file + ".d": 0o700, filepath.Join(file+".d", "pin-key"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if got, err := volume.TakePINKey(file); err != nil || !bytes.Equal(got, key) {
		t.Errorf("taken: %x, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(file+".d", "pin-key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if got, err := volume.TakePINKey(file); got != nil || fault.CodeOf(err) != fault.StateVolume || !strings.Contains(err.Error(), "restart the machine") {
		t.Errorf("taken again: %x, %v", got, err)
	}
	for name, content := range map[string][]byte{"short": key[1:], "long": append(key, 1), "empty": nil} {
		if err := os.WriteFile(filepath.Join(file+".d", "pin-key"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := volume.TakePINKey(file); got != nil || fault.CodeOf(err) != fault.StateVolume {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if err := o.HandOver(file, os.Getuid()); err != nil { // in the place of an earlier one
		t.Error(err)
	}
}

// TestHandOverInMemory: no key is written to a disk.
func TestHandOverInMemory(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "state-volume.json")
	if err := (volume.Opened{PINKey: bytes.Repeat([]byte{3}, 32)}).HandOver(file, os.Getuid()); err == nil || !strings.Contains(err.Error(), "must name a file in memory") {
		t.Errorf("handed on by a disk: %v", err)
	}
	if _, err := os.Stat(filepath.Join(file+".d", "pin-key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key lies there: %v", err)
	}
}
