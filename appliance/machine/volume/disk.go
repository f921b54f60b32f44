package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"

	"golang.org/x/sys/unix"
)

// blankBytes of zeros at the beginning say that nothing is on a disk.
const blankBytes = 1 << 20

// isBlank says whether the disk begins with zeros.
func isBlank(disk string) (bool, error) {
	f, err := os.Open(disk)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, blankBytes)
	if _, err := io.ReadFull(f, b); err != nil {
		return false, fmt.Errorf("%s: %w; a state volume needs at least %d MiB", disk, err, minimumMiB)
	}
	return bytes.Equal(b, make([]byte, blankBytes)), nil
}

// minimumMiB is the size of the smallest disk for the state: LUKS2's header takes
// 16 MiB of it.
const minimumMiB = 64

// FindDisk gives the disk for the state: the only one that is neither partitioned
// nor read-only and has at least 64 MiB. It waits for one as long as patience says.
// The folder is where the kernel shows block devices, /sys/block. Errors:
// [*fault.Fault].
func FindDisk(ctx context.Context, sys string, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		disk, err := findDisk(sys)
		if err == nil || errors.Is(err, errSeveral) {
			return disk, err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errSeveral = errors.New("several disks")

func findDisk(sys string) (string, error) {
	disks, err := os.ReadDir(sys)
	if err != nil {
		return "", fault.Wrapf(fault.VolumeDisk, err, "the machine's disks cannot be listed")
	}
	var found []string
	for _, d := range disks {
		name := d.Name()
		dir := filepath.Join(sys, name)
		if slices.ContainsFunc([]string{"loop", "ram", "zram", "dm-", "sr", "fd", "md"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		partitions, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
		if err != nil || len(partitions) > 0 || text(dir, "ro") != "0" {
			continue
		}
		var sectors int64
		if _, err := fmt.Sscan(text(dir, "size"), &sectors); err != nil || sectors*512 < minimumMiB<<20 {
			continue
		}
		found = append(found, "/dev/"+name)
	}
	switch len(found) {
	case 0:
		return "", fault.Errorf(fault.VolumeDisk, "there is no disk for the state: attach one without partitions, of at least %d MiB", minimumMiB)
	case 1:
		return found[0], nil
	}
	return "", fault.Wrapf(fault.VolumeDisk, errSeveral, "the disks %s could each be the one for the state: leave only that one attached", strings.Join(found, ", "))
}

func text(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name)) // not there: no answer fits
	return strings.TrimSpace(string(b))
}

// run runs a program with the input, and says what it complained of.
func run(ctx context.Context, input []byte, program ...string) error {
	_, err := execute(ctx, input, program)
	return err
}

func output(ctx context.Context, program ...string) ([]byte, error) {
	return execute(ctx, nil, program)
}

// maxOutput bounds what is taken of a program's output, in bytes.
const maxOutput = 1 << 20

func execute(ctx context.Context, input []byte, program []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program[0], program[1:]...) //nolint:gosec // the programs are constants
	cmd.Stdin = bytes.NewReader(input)
	var out, complaint limited
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program[0], err, strings.Join(strings.Fields(complaint.String()+" "+out.String()), " "))
	}
	return out.Bytes(), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	_, _ = l.Buffer.Write(p[:min(len(p), maxOutput-l.Len())])
	return len(p), nil
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}

// mount mounts the file system, whose root belongs to owner alone.
func mount(device, dir string, owner int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return errors.Join(os.Chown(dir, owner, owner), os.Chmod(dir, 0o700))
}
