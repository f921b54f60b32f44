package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// maxTemplate is more than any of OVMF's stores has; its code has more.
const maxTemplate = 1 << 20

// gEfiSystemNvDataFvGuid and gEfiAuthenticatedVariableGuid of EDK2.
var (
	systemNvData          = guid{0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50}
	authenticatedVariable = guid{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}
)

// volumeHeader is EFI_FIRMWARE_VOLUME_HEADER (PI 1.8, volume 3, section 3.2.1),
// without its map of blocks.
type volumeHeader struct {
	ZeroVector      [16]byte
	FileSystemGuid  guid
	FvLength        uint64
	Signature       [4]byte
	Attributes      uint32
	HeaderLength    uint16
	Checksum        uint16
	ExtHeaderOffset uint16
	Reserved        uint8
	Revision        uint8
}

// storeHeader is VARIABLE_STORE_HEADER (EDK2, MdeModulePkg/Include/Guid/VariableFormat.h).
type storeHeader struct {
	Signature guid
	Size      uint32 // with this header
	Format    uint8
	State     uint8
	Reserved  [6]byte
}

// efiTime is EFI_TIME (UEFI 2.10, section 8.3.1).
type efiTime struct {
	Year                                   uint16
	Month, Day, Hour, Minute, Second, Pad1 uint8
	Nanosecond                             uint32
	TimeZone                               int16
	Daylight, Pad2                         uint8
}

// variableHeader is AUTHENTICATED_VARIABLE_HEADER of the same file. The name, in
// UTF-16 with its zero, and the data follow.
type variableHeader struct {
	StartId        uint16
	State          uint8
	Reserved       uint8
	Attributes     uint32
	MonotonicCount uint64
	TimeStamp      efiTime
	PubKeyIndex    uint32 // of variables with a counter only
	NameSize       uint32
	DataSize       uint32
	VendorGuid     guid
}

const (
	volumeRevision  = 2    // EFI_FVH_REVISION
	storeFormatted  = 0x5a // VARIABLE_STORE_FORMATTED
	storeHealthy    = 0xfe // VARIABLE_STORE_HEALTHY
	variableData    = 0x55aa
	variableAdded   = 0x3f // VAR_ADDED
	headerAlignment = 4    // HEADER_ALIGNMENT: a variable begins there
)

// maxAuthenticated is PcdMaxAuthVariableSize of OVMF's 4 MB builds: what its
// buffers for one variable hold, header and name included.
const maxAuthenticated = 0x8400

// enrolled is the time of every variable: that of the image's files, not of the
// build. Firmware takes a signed update only if its time is later (UEFI 2.10,
// section 8.2.2).
var enrolled = efiTime{Year: 2026, Month: 1, Day: 1}

// ovmf gives a copy of a template with the variables. Firmware that finds a PK
// there is in user mode, and switches Secure Boot on by itself (EDK2,
// AuthVariableLibInitialize).
func ovmf(vars []variable, template []byte) ([]byte, error) {
	at, end, err := parseTemplate(template)
	if err != nil {
		return nil, err
	}
	store := slices.Clone(template)
	for _, v := range vars {
		raw := v.authenticated()
		if len(raw) > maxAuthenticated {
			return nil, fmt.Errorf("no room for %s: OVMF takes variables of %d bytes, this one has %d; take entries out of %[1]s.esl", v.name, maxAuthenticated, len(raw))
		}
		if len(raw) > end-at {
			return nil, fmt.Errorf("no room for %s: %d bytes are left, it needs %d; take a larger template, or entries out of %[1]s.esl", v.name, max(0, end-at), len(raw))
		}
		copy(store[at:], raw)
		at = align(at + len(raw))
	}
	return store, nil
}

// authenticated is a variable as it is in the store.
func (v variable) authenticated() []byte {
	var name []byte
	for _, c := range v.name + "\x00" {
		name = binary.LittleEndian.AppendUint16(name, uint16(c))
	}
	raw := encode(variableHeader{
		StartId:    variableData,
		State:      variableAdded,
		Attributes: secureBootAttributes,
		TimeStamp:  enrolled,
		NameSize:   uint32(len(name)),
		DataSize:   uint32(len(v.data)),
		VendorGuid: v.vendor,
	})
	return append(append(raw, name...), v.data...)
}

// parseTemplate gives where the first variable goes, and where there is no more
// room. The store must be without variables: then it has no keys, and nothing of
// an earlier machine.
func parseTemplate(raw []byte) (first, end int, err error) {
	var volume volumeHeader
	var store storeHeader
	wrong := errors.New("this is no variable store of OVMF, or is damaged: give OVMF_VARS_4M.fd of Debian's package ovmf")
	if n, err := binary.Decode(raw, binary.LittleEndian, &volume); err != nil || volume.ZeroVector != [16]byte{} || volume.FileSystemGuid != systemNvData ||
		volume.FvLength != uint64(len(raw)) || string(volume.Signature[:]) != "_FVH" || volume.Revision != volumeRevision || volume.ExtHeaderOffset != 0 ||
		int(volume.HeaderLength) < n || int(volume.HeaderLength) > len(raw) || volume.HeaderLength%headerAlignment != 0 || sum16(raw[:volume.HeaderLength]) != 0 {
		return 0, 0, wrong
	}
	header := int(volume.HeaderLength)
	n, err := binary.Decode(raw[header:], binary.LittleEndian, &store)
	if err != nil || store.Signature != authenticatedVariable || store.Format != storeFormatted || store.State != storeHealthy ||
		int64(store.Size) < int64(n) || int64(store.Size) > int64(len(raw)-header) {
		return 0, 0, wrong
	}
	first, end = align(header+n), header+int(store.Size)
	// Flash that was erased is all ones.
	if first < end && bytes.Count(raw[first:end], []byte{0xff}) != end-first {
		return 0, 0, errors.New("there are variables already, perhaps keys: give a template without, OVMF_VARS_4M.fd of Debian's package ovmf")
	}
	return first, end, nil
}

// sum16 is the sum of the words, which is 0 for a header with its checksum.
func sum16(raw []byte) (sum uint16) {
	for ; len(raw) >= 2; raw = raw[2:] {
		sum += binary.LittleEndian.Uint16(raw)
	}
	return sum
}

func align(n int) int { return (n + headerAlignment - 1) &^ (headerAlignment - 1) }

// encode gives the bytes of a structure of fixed size.
func encode(v any) []byte {
	raw, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err) // not of fixed size: a mistake in this program
	}
	return raw
}
