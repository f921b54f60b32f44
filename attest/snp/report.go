package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// The attestation report (AMD 56860, table 23): where its fields are, in bytes.
const (
	reportBytes = 0x4a0 // 1184, exactly
	// signedBytes is how much of it the signature covers, in every version.
	signedBytes = 0x2a0
	// scalarBytes is the size of each of the two numbers of a signature; what follows
	// them is zero.
	scalarBytes = 72

	atVersion       = 0x00
	atPolicy        = 0x08
	atVMPL          = 0x30
	atAlgorithm     = 0x34
	atCurrentTCB    = 0x38
	atPlatform      = 0x40
	atFlags         = 0x48
	atReserved      = 0x4c
	atData          = 0x50
	atMeasurement   = 0x90
	atHostData      = 0xc0
	atMigration     = 0x160
	atReportedTCB   = 0x180
	atCPU           = 0x188
	atAfterCPU      = 0x18b
	atChipID        = 0x1a0
	atCommittedTCB  = 0x1e0
	atCurrent       = 0x1e8
	atCommitted     = 0x1ec
	atLaunchTCB     = 0x1f0
	atMitigations   = 0x1f8
	atAfterVersion5 = 0x208
)

// The versions of the report that this program knows. A newer one is read as the
// newest, and what that does not define is unknown.
const (
	oldestVersion  = 2
	versionWithCPU = 3 // and since then the host says whether it checked for aliases
	versionWithMit = 5
	newestVersion  = 5
)

// signer is the kind of key that a report says it is signed by (SIGNING_KEY).
type signer uint8

const (
	vcek   signer = 0
	vlek   signer = 1
	nobody signer = 7
)

func (s signer) String() string {
	switch s {
	case vcek:
		return "VCEK"
	case vlek:
		return "VLEK"
	case nobody:
		return "none"
	}
	return fmt.Sprintf("unknown (%d)", uint8(s))
}

// The bits of the fields that have a meaning.
const (
	// GUEST_POLICY: ABI 0–15, SMT 16, 17 is always one, migration 18, debugging 19, one
	// socket 20, CXL 21, AES-256-XTS 22, RAPL off 23, ciphertext hiding 24, no page swap 25.
	policyKnown    = 1<<26 - 1
	policyAlways   = 1 << 17
	policyMigrates = 1 << 18
	policyDebugs   = 1 << 19
	// PLATFORM_INFO: SMT 0, TSME 1, ECC 2, RAPL off 3, ciphertext hiding 4, alias check 5,
	// writes of the IOMMU are safe 6 (AMD-SB-3016; Turin sets it), TIO 7.
	platformKnown   = 1<<8 - 1
	platformAliases = 1 << 5
	// Flags: author key 0, no key of the chip 1, signing key 2–4.
	flagsKnown = 1<<5 - 1
	flagMasked = 1 << 1
)

// Unknown is something in a report, covered by its signature, whose meaning this
// program does not know. A zero there says nothing.
type Unknown struct {
	// Place is the field, and where it begins in the report, in bytes.
	Place string `json:"place"`
	// Value is what is not known of it, in hexadecimal: of a field of bits, these bits.
	Value string `json:"value"`
}

// body is a report that could be read. Nothing in it is true before its signature is
// verified.
type body struct {
	raw       []byte
	version   uint32
	policy    uint64
	platform  uint64
	vmpl      uint32
	algorithm uint32
	kind      signer
	masked    bool
	cpu       cpu // none in version 2
	chipID    []byte
	unknown   []Unknown
}

// readReport reads a report of any version. What it does not know is no error: it is
// signed.
func readReport(raw []byte) (*body, error) {
	if len(raw) != reportBytes {
		return nil, fmt.Errorf("the report has %d bytes, not %d", len(raw), reportBytes)
	}
	if !zero(raw[signedBytes+2*scalarBytes:]) {
		return nil, errors.New("the report has something after its signature, which nobody signed")
	}
	le := binary.LittleEndian
	flags := le.Uint32(raw[atFlags:])
	r := &body{raw: raw, version: le.Uint32(raw[atVersion:]), policy: le.Uint64(raw[atPolicy:]), platform: le.Uint64(raw[atPlatform:]),
		vmpl: le.Uint32(raw[atVMPL:]), algorithm: le.Uint32(raw[atAlgorithm:]),
		kind: signer(flags >> 2 & 7), masked: flags&flagMasked != 0, chipID: raw[atChipID:atCommittedTCB]}
	if r.version > newestVersion {
		r.note("VERSION", atVersion, fmt.Sprintf("%#x", r.version))
	}
	r.bits("GUEST_POLICY", atPolicy, r.policy&^policyKnown)
	if r.policy&policyAlways == 0 {
		r.note("GUEST_POLICY, of which bit 17 is not set", atPolicy, fmt.Sprintf("%#x", r.policy))
	}
	r.bits("PLATFORM_INFO", atPlatform, r.platform&^platformKnown)
	r.bits("flags", atFlags, uint64(flags&^flagsKnown))
	r.reserved(atReserved, atData)
	after := atCPU
	if r.namesCPU() {
		r.cpu, after = cpu{raw[atCPU], raw[atCPU+1], raw[atCPU+2]}, atAfterCPU
	}
	r.reserved(after, atChipID)
	r.reserved(atCurrent+3, atCommitted)
	r.reserved(atCommitted+3, atLaunchTCB)
	after = atMitigations
	if r.version >= versionWithMit {
		after = atAfterVersion5
	}
	r.reserved(after, signedBytes)
	return r, nil
}

// namesCPU says whether the report is of a version that names the processor.
func (r *body) namesCPU() bool { return r.version >= versionWithCPU }

// note says that something is not known.
func (r *body) note(field string, at int, value string) {
	r.unknown = append(r.unknown, Unknown{fmt.Sprintf("%s, byte %#x", field, at), value})
}

func (r *body) bits(field string, at int, unknown uint64) {
	if unknown != 0 {
		r.note(field, at, fmt.Sprintf("%#x", unknown))
	}
}

// reserved notes the bytes of a range that no version defines, from the first that is
// not zero to the last.
func (r *body) reserved(from, to int) {
	part := bytes.TrimRight(r.raw[from:to], "\x00")
	if len(part) == 0 {
		return
	}
	from += len(part) - len(bytes.TrimLeft(part, "\x00"))
	r.note("reserved", from, hex.EncodeToString(bytes.TrimLeft(part, "\x00")))
}

// tcb reads the TCB at the place, as the product line has it.
func (r *body) tcb(p *product, field string, at int) TCB {
	t, reserved := p.tcb([8]byte(r.raw[at : at+8]))
	if reserved != [8]byte{} {
		r.note(field, at, hex.EncodeToString(reserved[:]))
	}
	return t
}

// field gives bytes of the report.
func (r *body) field(from, to int) []byte { return r.raw[from:to] }

// firmware is a version of the platform's firmware: major, minor, build.
type firmware [3]byte

func (r *body) firmware(at int) firmware { return firmware{r.raw[at+2], r.raw[at+1], r.raw[at]} }

func (f firmware) String() string { return fmt.Sprintf("%d.%d.%d", f[0], f[1], f[2]) }

// ecdsaP384 is the one algorithm of signatures (AMD 56860): ECDSA on P-384
// with SHA-384.
const ecdsaP384 = 1

// verify verifies the signature.
func (r *body) verify(key *ecdsa.PublicKey) error {
	if r.algorithm != ecdsaP384 {
		return fmt.Errorf("it is signed by the algorithm %d, and this program knows %d, ECDSA on P-384 with SHA-384", r.algorithm, ecdsaP384)
	}
	digest := sha512.Sum384(r.raw[:signedBytes])
	if !ecdsa.Verify(key, digest[:], r.scalar(0), r.scalar(1)) {
		return errors.New("the signature is not by the key of the certificate, or the report was changed")
	}
	return nil
}

// scalar gives a number of the signature, which is little-endian.
func (r *body) scalar(i int) *big.Int {
	b := bytes.Clone(r.raw[signedBytes+i*scalarBytes : signedBytes+(i+1)*scalarBytes])
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
