// Initrd is the first program that the image's kernel runs, and the only one in
// its initial file system. It checks the root file system against the hash on
// the kernel's command line (dm-verity), mounts it read-only and hands over to
// systemd there.
//
// Nothing on the machine can tell it to do otherwise: it reads nothing but the
// command line, which is part of the measured kernel image, and the names of
// partitions. A block of the root file system that is not as it was built stops
// the kernel, when it is read.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The partitions' names, as the image's builder gives them.
const (
	rootPartition   = "holdfast-root"
	verityPartition = "holdfast-verity"
)

// patience is how long disks may take to appear.
const patience = 30 * time.Second

func main() {
	fmt.Println("holdfast: initrd started")
	err := start()
	// There is nobody to return to. The console shows why, and what follows on a
	// machine that cannot check its root is nothing at all.
	fmt.Printf("holdfast: the root file system cannot be started: %v\n", err)
	unix.Sync()
	time.Sleep(time.Second) // for the console
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func start() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	v, err := parseVerity(string(commandLine))
	if err != nil {
		return err
	}
	data, hash, err := findPartitions()
	if err != nil {
		return err
	}
	device, err := v.open(data, hash)
	if err != nil {
		return err
	}
	if err := unix.Mount(device, "/root", "squashfs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s: %w; the partition is not the root file system of this kernel image", device, err)
	}
	return switchRoot("/root", "/usr/lib/systemd/systemd")
}

// loadModules loads the kernel modules in a folder, in the order of their names.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	for _, f := range files {
		m, err := os.Open(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(m.Fd()), "", 0)
		_ = m.Close() // it was read
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("kernel module %s: %w", f.Name(), err)
		}
	}
	return nil
}

// findPartitions waits for the two partitions, on the same disk.
func findPartitions() (data, hash string, err error) {
	for end := time.Now().Add(patience); ; {
		disks := map[string]map[string]string{} // by disk, then by partition's name
		uevents, _ := filepath.Glob("/sys/class/block/*/uevent")
		slices.Sort(uevents)
		for _, path := range uevents {
			text, err := os.ReadFile(path)
			if err != nil {
				continue // gone again
			}
			var device, name string
			for line := range strings.Lines(string(text)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				switch key {
				case "DEVNAME":
					device = "/dev/" + value
				case "PARTNAME":
					name = value
				}
			}
			if name != rootPartition && name != verityPartition {
				continue
			}
			real, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				continue
			}
			disk := filepath.Dir(real)
			if disks[disk] == nil {
				disks[disk] = map[string]string{}
			}
			disks[disk][name] = device
		}
		for _, parts := range disks {
			if len(parts) == 2 {
				return parts[rootPartition], parts[verityPartition], nil
			}
		}
		if time.Now().After(end) {
			return "", "", fmt.Errorf("no disk has the partitions %s and %s after %s", rootPartition, verityPartition, patience)
		}
		time.Sleep(10 * time.Millisecond) // the kernel tells nobody without a listener of its own
	}
}

// switchRoot makes dir the root, and runs a program there in place of this one.
func switchRoot(dir, program string) error {
	for _, m := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(m, dir+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec(program, []string{program}, nil)
}

// verity is what the command line says of the root: holdfast.verity=BLOCKS:SALT:HASH,
// with blocks of 4096 bytes, and salt and SHA-256 root hash in hexadecimal.
type verity struct {
	blocks     uint64
	salt, hash string
}

const blockSize = 4096

func parseVerity(commandLine string) (v verity, err error) {
	const key = "holdfast.verity="
	i := slices.IndexFunc(strings.Fields(commandLine), func(f string) bool { return strings.HasPrefix(f, key) })
	if i < 0 {
		return v, fmt.Errorf("the kernel's command line has no %sBLOCKS:SALT:HASH", key)
	}
	parts := strings.Split(strings.TrimPrefix(strings.Fields(commandLine)[i], key), ":")
	if len(parts) != 3 || len(parts[2]) != 64 || strings.Trim(parts[1]+parts[2], "0123456789abcdef") != "" {
		return v, fmt.Errorf("%s on the kernel's command line is not BLOCKS:SALT:HASH", key)
	}
	if v.blocks, err = strconv.ParseUint(parts[0], 10, 40); err != nil || v.blocks == 0 {
		return v, fmt.Errorf("%s on the kernel's command line: %q is no number of blocks", key, parts[0])
	}
	v.salt, v.hash = parts[1], parts[2]
	return v, nil
}

// open makes the checked device of the two, and gives its path.
func (v verity) open(data, hash string) (string, error) {
	const name = "holdfast-root"
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("device mapper: %w", err)
	}
	defer control.Close()
	table := fmt.Sprintf("1 %s %s %d %d %d 0 sha256 %s %s 1 panic_on_corruption", data, hash, blockSize, blockSize, v.blocks, v.hash, v.salt)
	dm := deviceMapper{control, name}
	created, err := dm.call(dmDevCreate, 0, nil)
	if err != nil {
		return "", fmt.Errorf("device mapper: create: %w", err)
	}
	if _, err := dm.call(dmTableLoad, dmReadOnly, target(v.blocks*blockSize/512, "verity", table)); err != nil {
		return "", fmt.Errorf("device mapper: verity %s: %w", table, err)
	}
	if _, err := dm.call(dmDevSuspend, dmReadOnly, nil); err != nil { // without the flag to suspend it resumes
		return "", fmt.Errorf("device mapper: resume: %w", err)
	}
	node := fmt.Sprintf("/dev/dm-%d", unix.Minor(created))
	for range 100 { // devtmpfs makes the node when the device is there
		if _, err := os.Stat(node); err == nil {
			return node, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("device mapper: %s does not appear", node)
}

// The device mapper's calls and flags (linux/dm-ioctl.h).
const (
	dmDevCreate  = 3
	dmDevSuspend = 6
	dmTableLoad  = 9

	dmReadOnly = 1 << 0
)

type deviceMapper struct {
	control *os.File
	name    string
}

// dmHeader is struct dm_ioctl.
const dmHeader = 312

// target is struct dm_target_spec with its parameters, for the whole device.
func target(sectors uint64, kind, parameters string) []byte {
	var b bytes.Buffer
	b.Write(u64(0))
	b.Write(u64(sectors))
	b.Write(make([]byte, 8)) // status, next
	b.Write(append([]byte(kind), make([]byte, 16-len(kind))...))
	b.WriteString(parameters)
	b.Write(make([]byte, 8-b.Len()%8)) // ends with zero, aligned
	return b.Bytes()
}

// call gives the device's number.
func (d deviceMapper) call(command uintptr, flags uint32, payload []byte) (uint64, error) {
	buf := make([]byte, dmHeader+len(payload))
	copy(buf[0:], u32(4)) // version 4.0.0
	copy(buf[12:], u32(uint32(len(buf))))
	copy(buf[16:], u32(dmHeader))
	if payload != nil {
		copy(buf[20:], u32(1)) // one target
	}
	copy(buf[28:], u32(flags))
	copy(buf[48:48+127], d.name)
	copy(buf[dmHeader:], payload)
	const readWrite, magic = 3 << 30, 0xfd
	if err := ioctl(d.control.Fd(), readWrite|dmHeader<<16|magic<<8|command, buf); err != nil {
		return 0, err
	}
	return fromU64(buf[40:]), nil
}
