package predict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxUKI is how large a unified kernel image may be, in bytes.
const maxUKI = 256 << 20

// readUKI gives what firmware boots from the EFI system partition,
// \EFI\BOOT\BOOTX64.EFI (UEFI 2.10, section 3.5.1.1). Beside it, systemd-stub would
// take credentials, extensions and add-ons, and measure them into PCRs 12 and 13:
// \EFI\BOOT\BOOTX64.EFI.extra.d, \loader\credentials, \loader\addons. So what is not known to be
// harmless is refused.
func readUKI(partition *io.SectionReader) ([]byte, error) {
	f, err := openFAT(partition)
	if err != nil {
		return nil, err
	}
	root, err := f.list(f.root, `\`, "EFI", "HOLDFAST")
	if err != nil {
		return nil, err
	}
	efi, err := f.enter(root, `\EFI`, "BOOT")
	if err != nil {
		return nil, err
	}
	boot, err := f.enter(efi, `\EFI\BOOT`, "BOOTX64.EFI")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(boot, func(e fatEntry) bool { return e.name == "BOOTX64.EFI" && !e.directory })
	if i < 0 {
		return nil, errors.New(`it has no file \EFI\BOOT\BOOTX64.EFI, which firmware boots`)
	}
	if boot[i].size > maxUKI {
		return nil, fmt.Errorf(`\EFI\BOOT\BOOTX64.EFI has %d bytes, of which it may have %d`, boot[i].size, maxUKI)
	}
	return f.read(boot[i].cluster, boot[i].size)
}

// fat reads a FAT32 file system, of which it knows short names alone (Microsoft,
// FAT32 File System Specification 1.03). It does no more than is needed here, and
// ends on any bytes: the library that reads the rest of the disk allocates what
// damaged sizes say, and follows chains that have no end.
type fat struct {
	r           io.ReaderAt
	table, data int64  // where the table and the clusters begin
	cluster     int64  // size
	clusters    uint32 // how many there are
	root        uint32 // the root folder's first
}

// fatEntry is one of a folder.
type fatEntry struct {
	name      string // NAME.EXT
	directory bool
	cluster   uint32
	size      int64
}

const sectorSize = 512

func openFAT(r *io.SectionReader) (*fat, error) {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	perCluster, reserved, tables, sectors, perTable := int64(b[13]), u16(14), int64(b[16]), u32(32), u32(36)
	wrong := errors.New("it is no FAT32 file system, or is damaged; make it with mkfs.vfat -F 32")
	if b[510] != 0x55 || b[511] != 0xaa || u16(11) != sectorSize || u16(22) != 0 || perCluster == 0 || tables == 0 {
		return nil, wrong
	}
	data := reserved + tables*perTable
	if sectors > r.Size()/sectorSize || data > sectors {
		return nil, wrong
	}
	f := &fat{r: r, table: reserved * sectorSize, data: data * sectorSize, cluster: perCluster * sectorSize, clusters: uint32((sectors - data) / perCluster), root: uint32(u32(44))}
	if (int64(f.clusters)+2)*4 > perTable*sectorSize {
		return nil, wrong
	}
	return f, nil
}

// errFAT says that what the table says cannot be.
var errFAT = errors.New("its FAT is damaged; make the file system again")

// read reads as many bytes of a chain of clusters, or all of it if size is
// negative.
func (f *fat) read(cluster uint32, size int64) ([]byte, error) {
	const most = 1 << 20 // of a folder
	all := size < 0
	if all {
		size = most
	}
	var content []byte
	for int64(len(content)) < size {
		if cluster < 2 || cluster-2 >= f.clusters {
			return nil, errFAT
		}
		part := make([]byte, min(f.cluster, size-int64(len(content))))
		if _, err := f.r.ReadAt(part, f.data+int64(cluster-2)*f.cluster); err != nil {
			return nil, err
		}
		content = append(content, part...)
		var next [4]byte
		if _, err := f.r.ReadAt(next[:], f.table+int64(cluster)*4); err != nil {
			return nil, err
		}
		const mask, end = 0x0fffffff, 0x0ffffff8
		if cluster = binary.LittleEndian.Uint32(next[:]) & mask; all && cluster >= end {
			return content, nil
		}
	}
	if all {
		return nil, errFAT // a folder as large as that is a loop
	}
	return content, nil
}

// list gives the entries of a folder, which must be among those that are known.
func (f *fat) list(cluster uint32, path string, known ...string) ([]fatEntry, error) {
	const (
		size                      = 32
		free                      = 0xe5
		long, label, folder uint8 = 0x0f, 0x08, 0x10
	)
	content, err := f.read(cluster, -1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var entries []fatEntry
	for ; len(content) >= size && content[0] != 0; content = content[size:] {
		attributes := content[11]
		if content[0] == free || attributes&long == long || attributes&label != 0 {
			continue
		}
		e := fatEntry{
			name:      strings.TrimRight(string(content[:8]), " "),
			directory: attributes&folder != 0,
			cluster:   uint32(binary.LittleEndian.Uint16(content[20:]))<<16 | uint32(binary.LittleEndian.Uint16(content[26:])),
			size:      int64(binary.LittleEndian.Uint32(content[28:])),
		}
		if extension := strings.TrimRight(string(content[8:11]), " "); extension != "" {
			e.name += "." + extension
		}
		if e.name == "." || e.name == ".." {
			continue
		}
		if !slices.Contains(known, e.name) {
			return nil, fmt.Errorf("%s has %.12q, of which it is not known that it leaves PCRs 12 and 13 as they are; only %q may be there", path, e.name, known)
		}
		if slices.ContainsFunc(entries, func(o fatEntry) bool { return o.name == e.name }) {
			return nil, fmt.Errorf("%s has %s twice", path, e.name)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// enter lists the folder of that path, whose name is among the entries.
func (f *fat) enter(entries []fatEntry, path string, known ...string) ([]fatEntry, error) {
	name := path[strings.LastIndex(path, `\`)+1:]
	i := slices.IndexFunc(entries, func(e fatEntry) bool { return e.name == name && e.directory })
	if i < 0 {
		return nil, fmt.Errorf("it has no folder %s", path)
	}
	return f.list(entries[i].cluster, path, known...)
}
