// Package predict says what PCRs a machine will have that boots an image of
// Holdfast, from the image's files alone. Use it to write a release's reference
// values, and to sign them, before any machine has booted it: whoever builds the
// image can check the values by building it again.
//
// An image is a raw disk with a GPT of three partitions:
//
//	holdfast-esp     the EFI system partition, FAT32: \EFI\BOOT\BOOTX64.EFI, a
//	                 unified kernel image with systemd-stub 257; besides, \holdfast,
//	                 which nobody measures
//	holdfast-root    the root file system, squashfs
//	holdfast-verity  its hash tree: SHA-256, blocks of 4096 bytes, no superblock
//
// The kernel's command line names the tree's root hash. [Open] gives no image
// whose root file system or hash tree is another, so what [Image.Root] has is what
// the predicted PCRs stand for.
//
// The values hold for firmware that measures as EDK2 does (OVMF, EC2), boots the
// image as a boot option, and finds nothing on its way: no option ROM that it must
// verify, no shim, no other boot attempt before. If a machine does otherwise its
// values differ, and it is refused. Nothing after the stub may extend PCRs 11 to
// 13; of systemd those are the units systemd-pcr*, which the image must not start.
//
// Sources: TCG PC Client Platform Firmware Profile (PFP) 1.06; UEFI 2.10;
// Microsoft's PE Format and Authenticode; systemd 257, src/boot.
package predict

import (
	"crypto"
	_ "crypto/sha256" // for the banks
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"holdfast/attest/tpm"
)

// MaxImage is how large an image may be, in bytes.
const MaxImage = 16 << 30

// The partitions, in their order.
const (
	espName    = "holdfast-esp"
	rootName   = "holdfast-root"
	verityName = "holdfast-verity"
)

// banks are those that evidence can have.
var banks = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384}

// Image is an image whose root file system is the one that its command line
// names.
type Image struct {
	file *os.File
	raw  []byte
	uki  *uki
	root *root
}

// Open opens and checks an image. Errors name what is wrong in one line.
func Open(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	i := &Image{file: f}
	if err := i.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return i, nil
}

// Close ends the use of the image, and of its root.
func (i *Image) Close() error { return i.file.Close() }

func (i *Image) read() error {
	esp, data, tree, err := partitions(i.file)
	if err != nil {
		return err
	}
	if i.raw, err = readUKI(esp); err != nil {
		return fmt.Errorf("the partition %s: %w", espName, err)
	}
	if i.uki, err = parseUKI(i.raw); err != nil {
		return fmt.Errorf("the unified kernel image: %w", err)
	}
	v, err := parseVerity(i.CommandLine())
	if err != nil {
		return err
	}
	if err := v.check(data, tree); err != nil {
		return err
	}
	// What lies behind the blocks that the tree covers is not the root's.
	if i.root, err = openRoot(io.NewSectionReader(data, 0, v.blocks*verityBlock)); err != nil {
		return fmt.Errorf("the root file system: %w; make it with mksquashfs", err)
	}
	return nil
}

// UKI gives the unified kernel image that the image boots: a PE file.
func (i *Image) UKI() []byte { return i.raw }

// CommandLine gives the kernel's command line.
func (i *Image) CommandLine() string { return string(i.uki.sections[".cmdline"]) }

// Root gives the root file system. It opens regular files, follows symbolic links
// within itself, and lists no folders.
func (i *Image) Root() fs.FS { return i.root }

// PCRs gives PCRs 4, 7, 11, 12 and 13 in SHA-256 and SHA-384, for a machine with
// these variables of Secure Boot, or with none and Secure Boot off if s is nil. It
// is an error if Secure Boot would not boot the image.
func (i *Image) PCRs(s *SecureBoot) (tpm.PCRs, error) {
	values := tpm.PCRs{}
	for name, h := range banks {
		pcr7, err := i.uki.pcr7(h, s)
		if err != nil {
			return nil, err
		}
		values[name] = map[int]tpm.Hex{
			4:  i.uki.pcr4(h, s != nil),
			7:  pcr7,
			11: i.uki.pcr11(h),
			12: newChain(h).value, // nothing comes from outside of the image
			13: newChain(h).value,
		}
	}
	return values, nil
}

// partitions gives the image's partitions.
func partitions(f *os.File) (esp, root, verity *io.SectionReader, err error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, nil, err
	case !info.Mode().IsRegular() || info.Size() > MaxImage:
		return nil, nil, nil, fmt.Errorf("it is no file, or has more than %d bytes; give the raw image", int64(MaxImage))
	}
	disk := io.NewSectionReader(f, 0, info.Size())
	table, err := readTable(disk)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("it is no raw image with a GPT, or is damaged: %w", err)
	}
	want := []string{espName, rootName, verityName}
	if len(table) != len(want) {
		return nil, nil, nil, fmt.Errorf("it has %d partitions, and an image of Holdfast has the %d of %q", len(table), len(want), want)
	}
	var parts []*io.SectionReader
	for n, p := range table {
		sectors := uint64(disk.Size()) / sectorSize
		switch {
		case p.Name != want[n]:
			return nil, nil, nil, fmt.Errorf("partition %d is %.40q, and of an image of Holdfast it is %q", n+1, p.Name, want[n])
		case p.Start > p.End || p.End >= sectors:
			return nil, nil, nil, fmt.Errorf("partition %d ends outside of the image, which was cut off", n+1)
		}
		parts = append(parts, io.NewSectionReader(disk, int64(p.Start)*sectorSize, int64(p.End-p.Start+1)*sectorSize))
	}
	if table[0].Type != gpt.EFISystemPartition {
		return nil, nil, nil, fmt.Errorf("partition 1 is not of the type %s of EFI system partitions, so that firmware does not boot it", gpt.EFISystemPartition)
	}
	return parts[0], parts[1], parts[2], nil
}

// readTable reads the partition table, if the library can do so within bounds.
func readTable(disk *io.SectionReader) ([]*gpt.Partition, error) {
	const most = 128 // entries, each of as many bytes
	header := make([]byte, sectorSize)
	if _, err := disk.ReadAt(header, sectorSize); err != nil {
		return nil, err
	}
	if count, size := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:]); count > most || size != gpt.PartitionEntrySize {
		return nil, fmt.Errorf("the table has %d entries of %d bytes, and may have %d of %d", count, size, most, gpt.PartitionEntrySize)
	}
	return guard(func() ([]*gpt.Partition, error) {
		table, err := gpt.Read(primary{storage{disk}}, sectorSize, sectorSize)
		if err != nil {
			return nil, err
		}
		return table.Partitions, nil
	})
}

// primary is a disk whose size the library cannot find, so that it cannot take
// the backup for a table that is damaged.
type primary struct{ storage }

func (primary) Seek(int64, int) (int64, error) {
	return 0, errors.New("the backup is not read")
}
