// Package nitro asks the NitroTPM of an EC2 instance for its attestation
// document, and checks such documents offline.
//
// A document that passes proves that AWS says: at the signed time there was a
// NitroTPM of this instance with these PCR values, and whoever could use it
// gave this user_data. The NitroTPM is AWS's: it is part of the Nitro
// hypervisor's host, has no endorsement certificate, and its word is AWS's
// word, under the root that AWS publishes. What the PCRs mean is not judged
// here; attest/tpm replays the event log against the quote, and this package
// compares the quote's PCRs with the document's.
//
// It does not prove that memory is encrypted (attest/snp), nor that the
// machine still runs, nor that no certificate was revoked: AWS's lists are on
// the network, while its certificates live for hours. A document is no unique
// name of itself either: an ECDSA signature can be changed into another that
// is good as well.
//
// The format is AWS's "Validate a NitroTPM Attestation Document" (Amazon EC2
// User Guide): CBOR (RFC 8949) in a COSE_Sign1 (RFC 9052 section 4.2). What
// AWS does not send is refused: header parameters besides the algorithm,
// unknown fields, an envelope that is not in deterministic encoding.
package nitro

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// Sizes in bytes, and counts. AWS gives those of fields, and sends documents of
// about 5 KiB with four certificates in the bundle.
const (
	MaxDocument = 64 << 10
	MaxField    = 1024 // user_data, nonce and public_key, each
	maxCert     = 1024
	maxBundle   = 8
	maxModuleID = 256
	maxPCR      = 23
	pcrSize     = 48 // SHA-384
)

// digestName is the only digest that AWS names today.
const digestName = "SHA384"

// Document is an attestation document as its signer wrote it. Nothing in it is
// true before [Verify] has passed.
type Document struct {
	// ModuleID names the instance and its TPM: i-…-tpm….
	ModuleID string
	// Digest is the PCRs' hash function: SHA384.
	Digest string
	// Time is when it was signed, to the millisecond.
	Time time.Time
	// PCRs are all that the document has, by index 0 to 23.
	PCRs map[int][]byte
	// Certificate is the signer's; CABundle are its issuers, from the root down.
	Certificate *x509.Certificate
	CABundle    []*x509.Certificate
	// What the machine asked to be put in; nil if nothing, at most [MaxField]
	// bytes each.
	PublicKey, UserData, Nonce []byte

	signed cose.Sign1Message
}

// payload is the document in CBOR.
type payload struct {
	ModuleID    string          `cbor:"module_id"`
	Digest      string          `cbor:"digest"`
	Timestamp   uint64          `cbor:"timestamp"`
	PCRs        map[uint64]bstr `cbor:"nitrotpm_pcrs"`
	Certificate bstr            `cbor:"certificate"`
	CABundle    []bstr          `cbor:"cabundle"`
	PublicKey   bstr            `cbor:"public_key"`
	UserData    bstr            `cbor:"user_data"`
	Nonce       bstr            `cbor:"nonce"`
}

// bstr is a CBOR byte string, or nil for null. The library alone would take an
// array of numbers as well.
type bstr []byte

// UnmarshalCBOR implements [cbor.Unmarshaler].
func (b *bstr) UnmarshalCBOR(data []byte) error {
	const byteString, null = 2, 0xf6
	switch {
	case len(data) == 1 && data[0] == null:
		*b = nil
		return nil
	case len(data) == 0 || data[0]>>5 != byteString:
		return errors.New("a value that must be a byte string is not")
	}
	return strict.Unmarshal(data, (*[]byte)(b))
}

// strict reads what AWS writes and little more. AWS's payload is a map of
// indefinite length, so that is allowed.
var strict = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// tagged is CBOR tag 18, which names a COSE_Sign1. AWS sends it without.
const tagged = 0xd2

// Parse reads a document, tagged or not. It refuses what [MaxDocument] and
// AWS's format do not allow, and checks no signature.
func Parse(document []byte) (*Document, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("NitroTPM document: %d bytes, of which it may have %d", len(document), MaxDocument)
	}
	d, err := parse(bytes.TrimPrefix(document, []byte{tagged}))
	if err != nil {
		return nil, fmt.Errorf("NitroTPM document: %w; ask the machine for another", err)
	}
	return d, nil
}

func parse(document []byte) (*Document, error) {
	signed, err := parseSign1(document)
	if err != nil {
		return nil, err
	}
	var p payload
	if err := strict.Unmarshal(signed.Payload, &p); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	d := &Document{ModuleID: p.ModuleID, Digest: p.Digest, PublicKey: p.PublicKey, UserData: p.UserData, Nonce: p.Nonce, signed: *signed}
	if n := len(p.ModuleID); n == 0 || n > maxModuleID {
		return nil, fmt.Errorf("module_id has %d bytes, not 1 to %d", n, maxModuleID)
	}
	if p.Digest == "" {
		return nil, errors.New("digest is missing")
	}
	if d.Time, err = signedTime(p.Timestamp); err != nil {
		return nil, err
	}
	if d.PCRs, err = pcrs(p.PCRs); err != nil {
		return nil, err
	}
	if d.Certificate, err = certificate(p.Certificate); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if n := len(p.CABundle); n == 0 || n > maxBundle {
		return nil, fmt.Errorf("cabundle has %d certificates, not 1 to %d", n, maxBundle)
	}
	for i, der := range p.CABundle {
		c, err := certificate(der)
		if err != nil {
			return nil, fmt.Errorf("cabundle[%d]: %w", i, err)
		}
		d.CABundle = append(d.CABundle, c)
	}
	for _, f := range d.fields() {
		if len(f.value) > MaxField {
			return nil, fmt.Errorf("%s has %d bytes, of which it may have %d", f.name, len(f.value), MaxField)
		}
	}
	return d, nil
}

// parseSign1 reads a COSE_Sign1 whose only header parameter is the algorithm.
// Everything outside of the payload and the signature has one encoding, so
// nobody can change it.
func parseSign1(document []byte) (*cose.Sign1Message, error) {
	var m cose.UntaggedSign1Message
	if err := m.UnmarshalCBOR(document); err != nil {
		return nil, fmt.Errorf("not a COSE_Sign1: %w", err)
	}
	h := &m.Headers
	if _, err := h.Protected.Algorithm(); err != nil || len(h.Protected) != 1 || len(h.Unprotected) != 0 {
		return nil, errors.New("the COSE headers must be the algorithm, protected, and nothing else")
	}
	h.RawProtected, h.RawUnprotected = nil, nil // encode anew
	again, err := m.MarshalCBOR()
	if err != nil {
		return nil, fmt.Errorf("not a COSE_Sign1: %w", err)
	}
	if !bytes.Equal(again, document) {
		return nil, errors.New("the COSE_Sign1 is not in deterministic encoding (RFC 8949 section 4.2)")
	}
	return (*cose.Sign1Message)(&m), nil
}

// signedTime reads milliseconds since 1970. It ends with the year 9999, the
// last that RFC 3339 and X.509 can write.
func signedTime(ms uint64) (time.Time, error) {
	const end = 253402300800000
	if ms == 0 || ms >= end {
		return time.Time{}, fmt.Errorf("timestamp %d is missing or after the year 9999", ms)
	}
	return time.UnixMilli(int64(ms)).UTC(), nil
}

func pcrs(in map[uint64]bstr) (map[int][]byte, error) {
	if len(in) == 0 {
		return nil, errors.New("nitrotpm_pcrs is missing or empty")
	}
	out := make(map[int][]byte, len(in))
	for i, value := range in {
		if i > maxPCR {
			return nil, fmt.Errorf("nitrotpm_pcrs has PCR %d; a TPM has 0 to %d", i, maxPCR)
		}
		if n := len(value); n != 32 && n != pcrSize && n != 64 {
			return nil, fmt.Errorf("PCR %d has %d bytes, which is no digest", i, n)
		}
		out[int(i)] = value
	}
	return out, nil
}

func certificate(der []byte) (*x509.Certificate, error) {
	if n := len(der); n == 0 || n > maxCert {
		return nil, fmt.Errorf("%d bytes, not 1 to %d", n, maxCert)
	}
	return x509.ParseCertificate(der)
}

// field is a value that the machine asked for, by its name in the document.
type field struct {
	name  string
	value []byte
}

func (d *Document) fields() []field {
	return []field{{"user_data", d.UserData}, {"nonce", d.Nonce}, {"public_key", d.PublicKey}}
}
