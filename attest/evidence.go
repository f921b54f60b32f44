package attest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// Format names the evidence file, and its version.
const Format = "holdfast-evidence/v1"

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

	// What the hardware signed; absent where there is no such hardware.
	SNP   *snp.Evidence `json:"sev_snp,omitempty"`
	Nitro []byte        `json:"nitrotpm,omitempty"`
	TPM   *tpm.Evidence `json:"tpm,omitempty"`
}

// Parse reads an evidence file. It refuses unknown and duplicate names, a file
// of more than [MaxEvidence] bytes, another format, and values of impossible
// sizes. It checks no signature: that is [Verify].
func Parse(text []byte) (*Evidence, error) {
	if len(text) > MaxEvidence {
		return nil, fmt.Errorf("evidence: the file has more than %d bytes", MaxEvidence)
	}
	var e Evidence
	if err := decode(text, &e); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	switch {
	case e.Format != Format:
		return nil, fmt.Errorf("evidence: the format is %q, and this program reads %q", e.Format, Format)
	case len(e.Nonce) < MinNonce || len(e.Nonce) > MaxNonce:
		return nil, fmt.Errorf("evidence: the nonce has %d bytes, not %d to %d", len(e.Nonce), MinNonce, MaxNonce)
	case len(e.TLSKey) == 0:
		return nil, errors.New("evidence: the TLS key is missing")
	case e.Created.IsZero():
		return nil, errors.New("evidence: the time of creation is missing")
	case e.SNP == nil && e.TPM == nil && e.Nitro == nil:
		return nil, errors.New("evidence: no hardware has signed anything in it")
	}
	return &e, nil
}

// Encode gives the evidence file.
func (e *Evidence) Encode() ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if len(text) > MaxEvidence {
		return nil, fmt.Errorf("evidence: %d bytes, of which a file may have %d", len(text), MaxEvidence)
	}
	return text, nil
}

// decode reads one JSON value strictly: no unknown, no duplicate names.
func decode(text []byte, into any) error {
	return json.Unmarshal(text, into, json.RejectUnknownMembers(true))
}

// Binding is what ties the parts of the evidence together: 64 bytes that are
// the SNP report's REPORT_DATA and the NitroTPM document's user_data. It is the
// SHA-512 over everything that is not signed by itself, each part preceded by
// its length as a big-endian uint64.
func (e *Evidence) Binding() [64]byte {
	h := sha512.New()
	var ak []byte
	if e.TPM != nil {
		ak = digest(e.TPM.AK)
	}
	for _, part := range [][]byte{
		[]byte(Format), e.Nonce, digest(e.TLSKey), ak, e.PolicyDigest, e.ReleaseKey, e.AuditKey,
		[]byte(e.Software), []byte(e.Created.UTC().Format(time.RFC3339Nano)),
	} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return [64]byte(h.Sum(nil))
}

// quoteFormat separates what the quote binds from anything else.
const quoteFormat = "holdfast-quote/v1"

// QuoteData is the quote's qualifying data, 32 bytes: the SHA-256 over the
// binding and the other two documents, each part preceded by its length. So the
// quote is made last, and none of the three can be replaced.
func (e *Evidence) QuoteData() []byte {
	b := e.Binding()
	var report []byte
	if e.SNP != nil {
		report = e.SNP.Report
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(quoteFormat), b[:], digest(report), digest(e.Nitro)} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

func digest(b []byte) []byte {
	d := sha256.Sum256(b)
	return d[:]
}
