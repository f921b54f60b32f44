package attest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest/ec2"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// Format names the evidence file, and its version. It is what is written.
const Format = "holdfast-evidence/v2"

// FormatV1 is the version before, which is read and verified as it always was, and
// not made any more.
const FormatV1 = "holdfast-evidence/v1"

// MaxEvidence is the size of the largest evidence file, in bytes.
const MaxEvidence = 1 << 20

// The sizes of nonces, in bytes.
const (
	MinNonce = 16
	MaxNonce = 64
)

// Evidence is what a machine says about itself (RFC 9334 section 2.1), signed
// by its hardware. As a file it is one JSON object; binary values are in
// Base64. Nothing in it is secret.
type Evidence struct {
	// Format is [Format], or [FormatV1] in evidence that was read from such a file.
	Format string `json:"format"`
	// Created is the machine's time, to the millisecond.
	Created time.Time `json:"created"`
	// Software is the version of the appliance.
	Software string `json:"software"`
	// Nonce is the verifier's, which shows that the evidence is fresh.
	Nonce []byte `json:"nonce"`
	// TLSKey is the public key of the machine's TLS certificate: a DER
	// SubjectPublicKeyInfo.
	TLSKey []byte `json:"tls_key"`
	// ReleaseKey is the public key (HPKE, X25519) to which a broker encrypts the
	// credential; empty in evidence that asks for none.
	ReleaseKey []byte `json:"release_key,omitempty"`
	// PolicyDigest is the SHA-256 of the appraisal policy that the machine has;
	// empty if it has none.
	PolicyDigest []byte `json:"policy_digest,omitempty"`
	// AuditKey is the public key of the TPM that signs the audit log's checkpoints (DER
	// SubjectPublicKeyInfo); empty without one.
	AuditKey []byte `json:"audit_key,omitempty"`

	// State is the newest head of the state of all rows that the appliance serves; absent
	// while it serves none, as in evidence that asks for a credential. Not in v1.
	State *State `json:"state,omitempty"`

	// LaunchDigest is the SHA-256 of the launch file's exact bytes, decompressed and
	// not parsed; empty without one. OwnerDigest is the SHA-256 of the key that the
	// launch file is signed by (DER SubjectPublicKeyInfo), which is its owner's; empty
	// if nobody has signed one. Not in v1.
	LaunchDigest []byte `json:"launch_digest,omitempty"`
	OwnerDigest  []byte `json:"owner_digest,omitempty"`

	// What the hardware signed; absent where there is no such hardware. In v1 the
	// report can only be SEV-SNP's.
	Report *processor.Report `json:"report,omitempty"`
	Nitro  []byte            `json:"nitrotpm,omitempty"`
	TPM    *tpm.Evidence     `json:"tpm,omitempty"`

	// Instance is EC2's signed instance identity document (package ec2), by which a policy
	// knows account, Region and image; absent where no policy asks for it. It is bound by
	// nothing but the instance that it and the NitroTPM document name. Not in v1.
	Instance []byte `json:"instance_identity,omitempty"`
}

// State names the state of all rows of an appliance at one moment. The audit log's
// checkpoints name the same heads, so that an auditor sees which of them is newer.
type State struct {
	// Sequence rises with each change, and is never 0.
	Sequence uint64 `json:"sequence" jsonschema:"The number of the last change of the state."`
	// Digest is SHA-256, of the state and all before it.
	Digest []byte `json:"digest" jsonschema:"The SHA-256 of the state and all before it, in Base64."`
	// At is the appliance's time of the change, to the millisecond.
	At time.Time `json:"at" jsonschema:"When the change was made."`
	// Anchored says that the TPM's counter has counted the change.
	Anchored bool `json:"anchored" jsonschema:"Whether the TPM's counter has counted the change."`
}

// bound is what the binding has of it.
func (s *State) bound() []byte {
	b := binary.BigEndian.AppendUint64([]byte("state"), s.Sequence)
	b = append(b, s.Digest...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.At.UnixMilli()))
	if s.Anchored {
		return append(b, 1)
	}
	return append(b, 0)
}

func (s *State) check() error {
	switch {
	case s == nil:
		return nil
	case s.Sequence == 0:
		return errors.New("state has no number")
	case len(s.Digest) != sha256.Size:
		return fmt.Errorf("the digest of state has %d bytes, not the %d of SHA-256", len(s.Digest), sha256.Size)
	case s.At.IsZero() || !s.At.Equal(s.At.Truncate(time.Millisecond)):
		return errors.New("state has no time to the millisecond")
	}
	return nil
}

// evidenceV1 is a file of the format [FormatV1].
type evidenceV1 struct {
	Format       string        `json:"format"`
	Created      time.Time     `json:"created"`
	Software     string        `json:"software"`
	Nonce        []byte        `json:"nonce"`
	TLSKey       []byte        `json:"tls_key"`
	ReleaseKey   []byte        `json:"release_key,omitempty"`
	PolicyDigest []byte        `json:"policy_digest,omitempty"`
	AuditKey     []byte        `json:"audit_key,omitempty"`
	SNP          *snp.Evidence `json:"sev_snp,omitempty"`
	Nitro        []byte        `json:"nitrotpm,omitempty"`
	TPM          *tpm.Evidence `json:"tpm,omitempty"`
}

func (v1 *evidenceV1) evidence() *Evidence {
	e := &Evidence{Format: v1.Format, Created: v1.Created, Software: v1.Software, Nonce: v1.Nonce, TLSKey: v1.TLSKey, ReleaseKey: v1.ReleaseKey,
		PolicyDigest: v1.PolicyDigest, AuditKey: v1.AuditKey, Nitro: v1.Nitro, TPM: v1.TPM}
	if v1.SNP != nil {
		e.Report = snp.NewReport(*v1.SNP)
	}
	return e
}

func (e *Evidence) v1() (*evidenceV1, error) {
	v1 := &evidenceV1{Format: e.Format, Created: e.Created, Software: e.Software, Nonce: e.Nonce, TLSKey: e.TLSKey, ReleaseKey: e.ReleaseKey,
		PolicyDigest: e.PolicyDigest, AuditKey: e.AuditKey, Nitro: e.Nitro, TPM: e.TPM}
	if e.Report != nil {
		report, err := snp.EvidenceOf(*e.Report)
		if err != nil {
			return nil, err
		}
		v1.SNP = &report
	}
	return v1, nil
}

// Parse reads an evidence file of the format [Format] or [FormatV1]. It refuses
// unknown and duplicate names, a file of more than [MaxEvidence] bytes, another
// format, and values of impossible sizes. It checks no signature: that is [Verify].
func Parse(text []byte) (*Evidence, error) {
	if len(text) > MaxEvidence {
		return nil, fmt.Errorf("evidence: the file has more than %d bytes", MaxEvidence)
	}
	var of struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e, err := new(Evidence), error(nil)
	switch of.Format {
	case Format:
		err = decode(text, e)
	case FormatV1:
		var v1 evidenceV1
		err = decode(text, &v1)
		e = v1.evidence()
	default:
		err = unknownFormat(of.Format)
	}
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

func unknownFormat(format string) error {
	return fmt.Errorf("the format is %.80q, and this program reads %q and %q", format, Format, FormatV1)
}

// check says what no evidence can have.
func (e *Evidence) check() error {
	switch {
	case e.Format != Format && e.Format != FormatV1:
		return unknownFormat(e.Format)
	case len(e.Nonce) < MinNonce || len(e.Nonce) > MaxNonce:
		return fmt.Errorf("the nonce has %d bytes, not %d to %d", len(e.Nonce), MinNonce, MaxNonce)
	case len(e.TLSKey) == 0:
		return errors.New("the TLS key is missing")
	case e.Created.IsZero():
		return errors.New("the time of creation is missing")
	case e.Report == nil && e.TPM == nil && e.Nitro == nil:
		return errors.New("no hardware has signed anything in it")
	case e.Format == FormatV1:
		return e.checkV1()
	case e.Report != nil && !processor.ValidName(e.Report.Kind):
		return fmt.Errorf("the processor report is of a kind %.40q, which cannot be the name of one", e.Report.Kind)
	}
	for _, d := range []struct {
		name   string
		digest []byte
	}{{"policy_digest", e.PolicyDigest}, {"launch_digest", e.LaunchDigest}, {"owner_digest", e.OwnerDigest}} {
		if n := len(d.digest); n != 0 && n != sha256.Size {
			return fmt.Errorf("%s has %d bytes, not the %d of SHA-256", d.name, n, sha256.Size)
		}
	}
	if n := len(e.Instance); n > ec2.MaxDocument {
		return fmt.Errorf("instance_identity has %d bytes, of which it may have %d", n, ec2.MaxDocument)
	}
	return e.State.check()
}

// checkV1 says what evidence has that the binding of v1 does not cover.
func (e *Evidence) checkV1() error {
	if len(e.LaunchDigest) > 0 || len(e.OwnerDigest) > 0 || e.State != nil || len(e.Instance) > 0 {
		return fmt.Errorf("it names a launch file, an owner or a state, or has an instance identity, which %s cannot", FormatV1)
	}
	if e.Report != nil && e.Report.Kind != snp.Name {
		return fmt.Errorf("it has a processor report of the kind %.40q, and %s can have %q alone", e.Report.Kind, FormatV1, snp.Name)
	}
	return nil
}

// Encode gives the evidence file, of the evidence's format.
func (e *Evidence) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	var file any = e
	if e.Format == FormatV1 {
		v1, err := e.v1()
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		file = v1
	}
	text, err := json.Marshal(file, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if len(text) > MaxEvidence {
		return nil, fmt.Errorf("evidence: %d bytes, of which a file may have %d", len(text), MaxEvidence)
	}
	return text, nil
}

// decode reads one JSON value strictly: no unknown, no duplicate names.
func decode(text []byte, into any, options ...json.Options) error {
	return json.Unmarshal(text, into, append(options, json.RejectUnknownMembers(true))...)
}

// Binding is what ties the parts of the evidence together: 64 bytes that are
// the processor report's data and the NitroTPM document's user_data. It is the
// SHA-512 over everything that is not signed by itself, each part preceded by its
// length as a big-endian uint64. The format is the first of them, so that evidence
// of one format is none of another.
func (e *Evidence) Binding() [64]byte {
	h := sha512.New()
	var ak, ek []byte
	if e.TPM != nil {
		ak, ek = digest(e.TPM.AK), digest(e.TPM.EKCertificate)
	}
	parts := [][]byte{
		[]byte(e.Format), e.Nonce, digest(e.TLSKey), ak, e.PolicyDigest, e.ReleaseKey, e.AuditKey,
		[]byte(e.Software), []byte(e.Created.UTC().Format(time.RFC3339Nano)),
	}
	if e.Format != FormatV1 {
		var kind string
		if e.Report != nil {
			kind = e.Report.Kind
		}
		parts = append(parts, ek, []byte(kind), e.LaunchDigest, e.OwnerDigest)
	}
	if e.State != nil { // evidence without one is bound as it was before there was any
		parts = append(parts, e.State.bound())
	}
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return [64]byte(h.Sum(nil))
}

// The formats of what the quote binds separate it from anything else.
const (
	quoteFormat   = "holdfast-quote/v2"
	quoteFormatV1 = "holdfast-quote/v1"
)

// QuoteData is the quote's qualifying data, 32 bytes: the SHA-256 over the
// binding and the other two documents, each part preceded by its length. So the
// quote is made last, and none of the three can be replaced.
func (e *Evidence) QuoteData() []byte {
	format := quoteFormat
	if e.Format == FormatV1 {
		format = quoteFormatV1
	}
	return quoteData(format, e.Binding(), e.Report, e.Nitro)
}

func quoteData(format string, binding [64]byte, r *processor.Report, nitro []byte) []byte {
	var report []byte
	if r != nil {
		report = r.Signed
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(format), binding[:], digest(report), digest(nitro)} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

func digest(b []byte) []byte {
	d := sha256.Sum256(b)
	return d[:]
}
