package volume

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm/seal"
)

// pinLabel is what the key for the sealed PIN is derived for.
const pinLabel = "holdfast-pin/v1"

// pinKey derives the key to which the PIN is sealed besides: HKDF-SHA-256 of the volume's
// key. It gives nothing without the TPM, and says nothing about the volume's key.
func pinKey(key []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, pinLabel, seal.VolumeKeyBytes)
}

// handover is the file by which the opener hands the PIN's key on, beside the file of its
// word. It is in a folder of its own, so that its reader can remove it.
func handover(file string) string { return filepath.Join(file+".d", "pin-key") }

// HandOver hands the PIN's key on to the owner's process, which takes it by [TakePINKey].
// file is that of the opener's word; it must be in a file system that is in memory alone.
func (o Opened) HandOver(file string, owner int) error {
	to := handover(file)
	dir := filepath.Dir(to)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is on a disk, and a key would stay there: state.volume must name a file in memory, such as below /run", dir)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(o.PINKey)
	return errors.Join(err, f.Chown(owner, owner), f.Close(), os.Chown(dir, owner, owner))
}

// TakePINKey takes the key that the opener has handed on, once: it is gone afterwards. file
// is that of the opener's word. Errors: [*fault.Fault].
func TakePINKey(file string) (key []byte, err error) {
	from := handover(file)
	f, err := os.OpenFile(from, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Wrapf(fault.StateVolume, err, "the state volume's opener has handed no key for the PIN on, or an earlier start of holdfastd serve took it; restart the machine")
	}
	if err != nil {
		return nil, fault.Wrapf(fault.StateVolume, err, "the key for the PIN cannot be taken")
	}
	key, err = io.ReadAll(io.LimitReader(f, seal.VolumeKeyBytes+1))
	if err == nil && len(key) != seal.VolumeKeyBytes {
		err = fmt.Errorf("%s has not the %d bytes of a key", from, seal.VolumeKeyBytes)
	}
	_, zeroed := f.WriteAt(make([]byte, seal.VolumeKeyBytes), 0)
	if err := errors.Join(err, zeroed, f.Close(), os.Remove(from)); err != nil {
		clear(key)
		return nil, fault.Wrapf(fault.StateVolume, err, "the key for the PIN cannot be taken")
	}
	return key, nil
}
