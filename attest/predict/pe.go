package predict

import (
	"bytes"
	"cmp"
	"crypto"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxSections is how many sections a file may have. Windows' loader takes 96; a
// unified kernel image has about a dozen.
const maxSections = 96

// peFile is a PE32+ file for x86-64, checked as far as it is hashed (Microsoft PE
// Format; Windows Authenticode Portable Executable Signature Format, "Calculating
// the PE Image Hash"). Package debug/pe has the structures; its reader is not made
// for files of strangers.
type peFile struct {
	raw      []byte
	sections []section // by their place in the file
	// checksum and certificateEntry are where the two fields are that are not
	// hashed; headers and body are where the headers and the last section end.
	checksum, certificateEntry, headers, body int
	// certificates is the attribute certificate table; empty if nobody has signed.
	certificates []byte
}

type section struct {
	name string
	// content is what the loader has in memory of it: as many bytes as the section
	// is said to have, without the padding in the file.
	content []byte
	begin   int // in the file
	size    int // in the file
	address int // in memory
	memory  int // size in memory; what the file does not have is zero there
}

func parsePE(raw []byte) (*peFile, error) {
	const (
		dosHeader, signatureAt = 64, 0x3c
		fileHeader             = 20
		machine, magic         = pe.IMAGE_FILE_MACHINE_AMD64, 0x20b
		certificateDirectory   = pe.IMAGE_DIRECTORY_ENTRY_SECURITY
	)
	if len(raw) < dosHeader || raw[0] != 'M' || raw[1] != 'Z' {
		return nil, errors.New("it is no PE file: it does not begin with MZ")
	}
	at := int64(binary.LittleEndian.Uint32(raw[signatureAt:]))
	if at > int64(len(raw))-4 || !bytes.Equal(raw[at:at+4], []byte("PE\x00\x00")) {
		return nil, errors.New("it is no PE file: it has no PE signature")
	}
	r := bytes.NewReader(raw)
	var file pe.FileHeader
	var optional pe.OptionalHeader64
	_, err := r.Seek(at+4, io.SeekStart)
	if err := errors.Join(err, binary.Read(r, binary.LittleEndian, &file), binary.Read(r, binary.LittleEndian, &optional)); err != nil {
		return nil, errors.New("its headers are cut off")
	}
	start := int(at) + 4 + fileHeader // of the optional header
	table := start + int(file.SizeOfOptionalHeader)
	p := &peFile{
		raw: raw, headers: int(optional.SizeOfHeaders),
		checksum:         start + 64,
		certificateEntry: start + 112 + 8*certificateDirectory,
	}
	switch {
	case file.Machine != machine || optional.Magic != magic:
		return nil, fmt.Errorf("it is for the machine %#x with the header %#x, not for x86-64", file.Machine, optional.Magic)
	case optional.NumberOfRvaAndSizes <= certificateDirectory || table < p.certificateEntry+8:
		return nil, errors.New("it has no place for signatures in its headers")
	case file.NumberOfSections == 0 || file.NumberOfSections > maxSections:
		return nil, fmt.Errorf("it has %d sections, not 1 to %d", file.NumberOfSections, maxSections)
	case p.headers > len(raw) || p.headers < table+int(file.NumberOfSections)*binary.Size(pe.SectionHeader32{}):
		return nil, fmt.Errorf("its headers have %d bytes, which is more than the file, or less than they need", p.headers)
	}
	_, _ = r.Seek(int64(table), io.SeekStart) // within the file, as was just checked
	for range file.NumberOfSections {
		var h pe.SectionHeader32
		if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
			return nil, err
		}
		if err := p.addSection(&h); err != nil {
			return nil, err
		}
	}
	if err := p.checkPlaces(); err != nil {
		return nil, err
	}
	return p, p.findCertificates(optional.DataDirectory[certificateDirectory])
}

func (p *peFile) addSection(h *pe.SectionHeader32) error {
	s := section{name: string(bytes.TrimRight(h.Name[:], "\x00")), begin: int(h.PointerToRawData), size: int(h.SizeOfRawData), address: int(h.VirtualAddress), memory: int(h.VirtualSize)}
	if s.size > 0 && (s.begin > len(p.raw) || s.size > len(p.raw)-s.begin) {
		return fmt.Errorf("its section %.8q is cut off", s.name)
	}
	if s.size > 0 {
		s.content = p.raw[s.begin:][:min(s.size, s.memory)]
	}
	p.sections = append(p.sections, s)
	return nil
}

// checkPlaces checks that headers and sections follow each other without a gap.
// The hash is defined by sums of sizes, so that with gaps firmware and signing
// tools differ.
func (p *peFile) checkPlaces() error {
	slices.SortStableFunc(p.sections, func(a, b section) int { return cmp.Compare(a.begin, b.begin) })
	p.body = p.headers
	for _, s := range p.sections {
		if s.size == 0 {
			continue // has no bytes in the file
		}
		if s.begin != p.body {
			return fmt.Errorf("its section %.8q begins at byte %d and not at %d, where the one before ends: firmware and signing tools would hash it differently; link it again", s.name, s.begin, p.body)
		}
		p.body += s.size
	}
	return nil
}

// findCertificates finds the attribute certificate table, whose address is one
// in the file. It must be the file's end, as signing tools make it.
func (p *peFile) findCertificates(d pe.DataDirectory) error {
	if d.Size == 0 {
		return nil
	}
	begin, size := int64(d.VirtualAddress), int64(d.Size)
	if begin < int64(p.body) || begin+size != int64(len(p.raw)) {
		return errors.New("its signatures are not at the file's end: it was cut off, or something was appended; sign it again")
	}
	p.certificates = p.raw[begin:]
	return nil
}

// authenticode gives the Authenticode hash: of all but the checksum, the entry
// of the certificate table and that table. Bytes after the last section count;
// what a signing tool adds, so that the signatures begin at a multiple of 8, is
// among them.
func (p *peFile) authenticode(h crypto.Hash) []byte {
	return sum(h,
		p.raw[:p.checksum],
		p.raw[p.checksum+4:p.certificateEntry],
		p.raw[p.certificateEntry+8:len(p.raw)-len(p.certificates)])
}

// signatures gives the PKCS#7 structures of the certificate table (Authenticode,
// "Attribute Certificate Table").
func (p *peFile) signatures() ([][]byte, error) {
	const (
		header   = 8
		revision = 0x0200 // WIN_CERT_REVISION_2_0
		pkcs7    = 0x0002 // WIN_CERT_TYPE_PKCS_SIGNED_DATA
	)
	var found [][]byte
	for rest := p.certificates; len(rest) > 0; {
		if len(rest) < header {
			return nil, errors.New("its table of signatures is cut off")
		}
		size := int64(binary.LittleEndian.Uint32(rest))
		if size < header || size > int64(len(rest)) {
			return nil, errors.New("its table of signatures is damaged; sign it again")
		}
		if binary.LittleEndian.Uint16(rest[4:]) == revision && binary.LittleEndian.Uint16(rest[6:]) == pkcs7 {
			found = append(found, rest[header:size])
		}
		rest = rest[min(int64(len(rest)), (size+7)&^7):]
	}
	return found, nil
}
