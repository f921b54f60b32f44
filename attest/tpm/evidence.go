// Package tpm has a TPM 2.0 say what a machine has booted, and checks offline
// what it said.
//
// The TPM keeps one digest per PCR, of all that was extended into it in this
// boot; the attestation key (AK) signs them in a quote; the firmware's event log
// says what was extended. Evidence that passes [Verify] proves that whoever
// holds the AK signed these PCR values for this qualifying data, that the log
// and the list of measurements explain them, and, where the policy has reference
// values, that they are the ones of a known release.
//
// It does not prove that the AK is in a TPM, or in which: its attributes are its
// own claim. That must come from elsewhere: from the SEV-SNP report or the
// NitroTPM document that names it, or from enrolment. The certificate of the
// endorsement key is carried, not checked. And the measurements are the word of
// the software that the other PCRs identify: without reference values for those,
// anything could have extended them.
//
// Sources: TPM 2.0 Library, Part 2 (structures) and Part 3 (commands); TCG PC
// Client Platform Firmware Profile (PFP) 1.06 for PCRs and the event log; RFC
// 9334 for the words.
package tpm

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // for the banks
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-tpm/tpm2"
)

// ApplicationPCR is the PCR that Holdfast extends with what it is made of. It
// begins with zero, cannot be reset, and nothing else in the image writes to it:
// firmware has 0 to 7, [StateVolumePCR] is 8 (elsewhere GRUB's), Linux has 9 and 10
// (IMA), systemd 11 to 13, [LaunchPCR] is 15 (elsewhere systemd's), and anybody may
// reset 16 and 23. PCR 14 is shim's, which Holdfast's image, one unified kernel, has
// none of; a shim that someone puts before it shows, as the measurements no longer
// replay (UAPI Linux TPM PCR Registry).
const ApplicationPCR = 14

// Sizes in bytes, and counts, of what evidence may have. What TPMs make is well
// below.
const (
	MaxEventLog     = 512 << 10
	MaxMeasurements = 64

	maxPublic      = 1 << 10
	maxAttest      = 2 << 10
	maxSignature   = 1 << 10
	maxCertificate = 4 << 10
	maxPCR         = 23
)

// Evidence is what a TPM and the machine's firmware say. Nothing in it is true
// before [Verify] has passed.
type Evidence struct {
	// AK is the public area of the key that signed (TPMT_PUBLIC).
	AK []byte `json:"ak"`
	// Quote is what was signed (TPMS_ATTEST), Signature the signature
	// (TPMT_SIGNATURE).
	Quote     []byte `json:"quote"`
	Signature []byte `json:"signature"`
	// PCRs are the values that were quoted.
	PCRs PCRs `json:"pcrs"`
	// EventLog is the firmware's log, as the kernel gives it.
	EventLog []byte `json:"event_log"`
	// Measurements are what was extended into [StateVolumePCR] and [ApplicationPCR], in
	// order.
	Measurements []Measurement `json:"measurements,omitempty"`
	// EKCertificate (DER) is the TPM maker's, if there is one.
	EKCertificate []byte `json:"ek_certificate,omitempty"`
}

// Bank gives the PCR values of a bank (sha256, sha384) by index, or nil.
func (e *Evidence) Bank(name string) map[int][]byte { return plain(e.PCRs[name]) }

// Capped says whether the measurements have the cap, wherever it stands. It is
// true of the machine if [Verify] finds that the measurements explain
// [ApplicationPCR].
func (e *Evidence) Capped() bool { return slices.ContainsFunc(e.Measurements, Measurement.isCap) }

// ReferenceValues gives the PCR values of a bank (sha256, sha384) as a
// [Reference] names them: those of [Evidence.Bank], but that [ApplicationPCR] has
// the value before the cap if the measurements show that it was capped. So a
// release is the same one before it has its secrets and afterwards.
func (e *Evidence) ReferenceValues(bank string) map[int]Hex {
	quoted, list := e.PCRs[bank], of(ApplicationPCR, e.Measurements)
	last := len(list) - 1
	if last < 0 || !list[last].isCap() {
		return quoted
	}
	b, err := findBank(bank)
	if err != nil || !bytes.Equal(replayMeasurements(list, b.hash), quoted[ApplicationPCR]) {
		return quoted // the list explains nothing
	}
	values := maps.Clone(quoted)
	values[ApplicationPCR] = replayMeasurements(list[:last], b.hash)
	return values
}

// Identify begins evidence: it says which TPM it is (AK, EKCertificate), and nothing
// of the machine. [Device.Complete] says that.
func (d *Device) Identify() (*Evidence, error) {
	ak, err := d.CreateAK()
	if err != nil {
		return nil, err
	}
	certificate, _ := d.EKCertificate() // evidence is whole without one
	return &Evidence{AK: ak.Public, EKCertificate: certificate}, nil
}

// Collect makes evidence of PCRs 0 to 15 in all active banks.
func (d *Device) Collect(qualifyingData, eventLog []byte, measurements []Measurement) (*Evidence, error) {
	e, err := d.Identify()
	if err != nil {
		return nil, err
	}
	return d.Complete(*e, qualifyingData, eventLog, measurements)
}

// Complete makes whole evidence of what [Device.Identify] gave, as Collect does.
func (d *Device) Complete(e Evidence, qualifyingData, eventLog []byte, measurements []Measurement) (*Evidence, error) {
	banks, err := d.Banks()
	if err != nil {
		return nil, err
	}
	var selections []Selection
	for _, name := range banks {
		selections = append(selections, Selection{name, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}})
	}
	q, err := d.Quote(&AK{Public: e.AK}, qualifyingData, selections...)
	if err != nil {
		return nil, err
	}
	e.Quote, e.Signature, e.PCRs, e.EventLog, e.Measurements = q.Attest, q.Signature, q.PCRs, eventLog, measurements
	return &e, nil
}

// DefaultEventLog is where Linux gives the firmware's event log.
const DefaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Measurement is something that Holdfast is made of: its program, its
// configuration, its PKCS#11 module; or its state volume, or its launch file.
type Measurement struct {
	// PCR is ApplicationPCR, StateVolumePCR or LaunchPCR.
	PCR int `json:"pcr"`
	// Name says what was measured, in 1 to 64 of a-z, 0-9, dot, dash and
	// underscore.
	Name string `json:"name"`
	// Digest is the SHA-256 of its content; of a state volume its identity.
	Digest Hex `json:"digest"`
}

var measurementName = regexp.MustCompile(`^[a-z0-9._-]{1,64}$`)

func (m Measurement) validate() error {
	switch {
	case !measurementName.MatchString(m.Name):
		return fmt.Errorf("measurement %.80q: the name must be 1 to 64 of a-z, 0-9, dot, dash, underscore", m.Name)
	case len(m.Digest) != crypto.SHA256.Size():
		return fmt.Errorf("measurement %s: the digest has %d bytes, not the %d of SHA-256", m.Name, len(m.Digest), crypto.SHA256.Size())
	case m.PCR < 0 || m.PCR > maxPCR:
		return fmt.Errorf("measurement %s: there is no PCR %d", m.Name, m.PCR)
	}
	return nil
}

// event is what the TPM hashes, in every bank, to extend the PCR: the parts,
// each preceded by its length as a big-endian uint64.
func (m Measurement) event() []byte {
	var event []byte
	for _, part := range [][]byte{[]byte("holdfast-measurement/v1"), []byte(m.Name), m.Digest} {
		event = binary.BigEndian.AppendUint64(event, uint64(len(part)))
		event = append(event, part...)
	}
	return event
}

// capName and capText are the name and the content of the measurement that
// caps.
const (
	capName = "cap"
	capText = "holdfast: capped; nothing later in this boot can unseal"
)

// Cap is the measurement that caps [ApplicationPCR].
func Cap() Measurement {
	return Measurement{PCR: ApplicationPCR, Name: capName, Digest: sum(crypto.SHA256, []byte(capText))}
}

// isCap says whether the measurement caps [ApplicationPCR].
func (m Measurement) isCap() bool {
	c := Cap()
	return m.PCR == c.PCR && m.Name == c.Name && bytes.Equal(m.Digest, c.Digest)
}

// replayMeasurements gives the value of a PCR after the measurements, which are all
// of it, from zero.
func replayMeasurements(list []Measurement, h crypto.Hash) []byte {
	value := make([]byte, h.Size())
	for _, m := range list {
		value = extend(h, value, sum(h, m.event()))
	}
	return value
}

// Replay gives the value that [ApplicationPCR] has in the bank after the
// measurements, such as those that a release will make.
func Replay(bank string, list []Measurement) (Hex, error) {
	b, err := findBank(bank)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		if err := m.validate(); err != nil {
			return nil, err
		}
	}
	return replayMeasurements(of(ApplicationPCR, list), b.hash), nil
}

// extend is what a TPM does (TPM 2.0 Part 1, section 17.2).
func extend(h crypto.Hash, value, digest []byte) []byte { return sum(h, value, digest) }

func sum(h crypto.Hash, parts ...[]byte) []byte {
	w := h.New()
	for _, p := range parts {
		w.Write(p)
	}
	return w.Sum(nil)
}

// bank is a set of PCRs with one hash function.
type bank struct {
	name string
	hash crypto.Hash
	tpm  tpm2.TPMIAlgHash
	log  register.HashAlg
}

// banks are those that can prove something. SHA-1 cannot: it has collisions.
var banks = []bank{
	{"sha256", crypto.SHA256, tpm2.TPMAlgSHA256, register.HashSHA256},
	{"sha384", crypto.SHA384, tpm2.TPMAlgSHA384, register.HashSHA384},
}

func findBank(name string) (*bank, error) {
	if i := slices.IndexFunc(banks, func(b bank) bool { return b.name == name }); i >= 0 {
		return &banks[i], nil
	}
	return nil, fmt.Errorf("the bank %.20q is none of sha256, sha384", name)
}

func bankOf(alg tpm2.TPMIAlgHash) *bank {
	if i := slices.IndexFunc(banks, func(b bank) bool { return b.tpm == alg }); i >= 0 {
		return &banks[i]
	}
	return nil
}

// PCRs are values by bank (sha256, sha384) and index.
type PCRs map[string]map[int]Hex

// plain is for whom [Hex] is of no use.
func plain(values map[int]Hex) map[int][]byte {
	if values == nil {
		return nil
	}
	out := make(map[int][]byte, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}

// digest is what a quote has of the selected values: the hash over all, in the
// order of the selection, by index within a bank (TPM 2.0 Part 1, section 17.5).
func (p PCRs) digest(list tpm2.TPMLPCRSelection, h crypto.Hash) ([]byte, error) {
	var values [][]byte
	for _, s := range list.PCRSelections {
		b := bankOf(s.Hash)
		if b == nil {
			return nil, fmt.Errorf("bank %#x is unknown", uint16(s.Hash))
		}
		for _, i := range indices(s) {
			v, ok := p[b.name][i]
			if !ok || len(v) != b.hash.Size() {
				return nil, fmt.Errorf("PCR %d of the bank %s was quoted, and its value is missing or has another size than %d bytes", i, b.name, b.hash.Size())
			}
			values = append(values, v)
		}
	}
	return sum(h, values...), nil
}

// indices are the PCRs that a selection names, in order.
func indices(s tpm2.TPMSPCRSelection) []int {
	var list []int
	for i, b := range s.PCRSelect {
		for bit := range 8 {
			if b>>bit&1 == 1 {
				list = append(list, i*8+bit)
			}
		}
	}
	return list
}

// Hex is a digest; in JSON it is hexadecimal.
type Hex []byte

// String gives the hexadecimal digits.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) (err error) {
	if *h, err = hex.DecodeString(string(text)); err != nil {
		return errors.New("a digest is not in hexadecimal")
	}
	return nil
}
