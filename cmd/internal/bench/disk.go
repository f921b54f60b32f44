package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is what one record costs on the disk alone, without any server.
type Disk struct {
	// FileSystem is what the folder of the state is on.
	FileSystem string `json:"file_system"`
	// Bytes is how long each write is: about as long as a record of the audit log.
	Bytes int `json:"bytes"`
	// Fdatasync is of a write and fdatasync, Dsync of one pwritev2 with RWF_DSYNC.
	Fdatasync Writes `json:"fdatasync"`
	Dsync     Writes `json:"dsync"`
}

// Writes are how long single writes took until they were on the disk.
type Writes struct {
	Writes int     `json:"writes"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p999_ms"`
}

const (
	recordBytes = 600
	// diskWrites is how often a round writes each way.
	diskWrites = 200
)

// disk measures writes into space that is reserved with zero bytes, as the
// audit log's is (package auditlog, reserve).
type disk struct {
	file             *os.File
	at               int64
	fdatasync, dsync []time.Duration
}

// newDisk makes a file in the folder.
func newDisk(folder string, rounds int) (*disk, error) {
	f, err := os.Create(filepath.Join(folder, "writes"))
	if err != nil {
		return nil, err
	}
	d := &disk{file: f}
	zeros := make([]byte, recordBytes)
	for range 2 * rounds * diskWrites {
		if _, err := f.Write(zeros); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := f.Sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func (d *disk) close() { _ = d.file.Close() } // it is removed with its folder

// round writes each way, in turns.
func (d *disk) round() error {
	record := slices.Repeat([]byte{'x'}, recordBytes)
	fd := int(d.file.Fd())
	for range diskWrites {
		began := time.Now()
		if _, err := d.file.WriteAt(record, d.at); err != nil {
			return err
		}
		if err := uninterrupted(func() error { return unix.Fdatasync(fd) }); err != nil {
			return fmt.Errorf("fdatasync of %s: %w", d.file.Name(), err)
		}
		d.fdatasync = append(d.fdatasync, time.Since(began))
		d.at += recordBytes

		began = time.Now()
		err := uninterrupted(func() error {
			n, err := unix.Pwritev2(fd, [][]byte{record}, d.at, unix.RWF_DSYNC)
			if err == nil && n != recordBytes {
				err = fmt.Errorf("%d bytes were written instead of %d", n, recordBytes)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("pwritev2 of %s: %w", d.file.Name(), err)
		}
		d.dsync = append(d.dsync, time.Since(began))
		d.at += recordBytes
	}
	return nil
}

func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (d *disk) result() *Disk {
	of := func(times []time.Duration) Writes {
		slices.Sort(times)
		return Writes{len(times), milliseconds(percentile(times, 0.50)), milliseconds(percentile(times, 0.99)), milliseconds(percentile(times, 0.999))}
	}
	return &Disk{fileSystem(filepath.Dir(d.file.Name())), recordBytes, of(d.fdatasync), of(d.dsync)}
}

// tmpfs is a file system in memory.
const tmpfs = "tmpfs"

// fileSystem names what a folder is on.
func fileSystem(folder string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return "unknown"
	}
	switch int64(s.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.TMPFS_MAGIC:
		return tmpfs
	}
	return fmt.Sprintf("type 0x%x", s.Type)
}
