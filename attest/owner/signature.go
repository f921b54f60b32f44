package owner

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/attest"
)

// SignatureFormat names what is signed of a launch file, and its version.
const SignatureFormat = "holdfast-launch-signature/v1"

// signatureType is the payload type (DSSE). It is signed, so that no envelope of
// another purpose is taken for one of a launch file.
const signatureType = "application/vnd.holdfast.launch.v1+json"

// Sizes in bytes, and counts.
const (
	// MaxFile is the size of the largest launch file.
	MaxFile = 12 << 10
	// MaxSignature is the size of the largest envelope.
	MaxSignature = 3 << 10

	maxSigners = 2
	// maxVersion is what all readers of JSON take (RFC 8259 section 6).
	maxVersion = 1<<53 - 1
)

var (
	// ErrSignature says that a launch file is not signed by the owner's key that its
	// envelope names.
	ErrSignature = errors.New("the owner's signature does not verify")
	// ErrDigest says that an envelope is one of another launch file.
	ErrDigest = errors.New("the owner's signature is for another launch file")
)

// statement is what is signed.
type statement struct {
	Format  string `json:"format"`
	Digest  []byte `json:"launch_sha256"` // in Base64, as all binary values
	Version uint64 `json:"version"`
	Key     []byte `json:"owner"` // DER SubjectPublicKeyInfo
}

// Launch is a launch file that its owner has signed.
type Launch struct {
	// File is the file's exact bytes, Digest their SHA-256.
	File, Digest []byte
	// Version counts up: see [attest.SignedID.CheckNext].
	Version uint64
	// Owner is the key that has signed, OwnerDigest the SHA-256 of its DER
	// SubjectPublicKeyInfo, which is how evidence names it.
	Owner       ed25519.PublicKey
	OwnerDigest []byte
	// Envelope is the owner's signature, as a file.
	Envelope []byte
}

// Sign gives the owner's signature of a launch file as a file: a DSSE envelope. before
// is the private key of the owner before, if the owner's key is exchanged; nil else.
func Sign(file []byte, version uint64, key, before ed25519.PrivateKey) ([]byte, error) {
	if err := checkSize(file); err != nil {
		return nil, err
	}
	if version == 0 || version > maxVersion {
		return nil, fmt.Errorf("launch signature: the version is %d, not 1 to %d", version, uint64(maxVersion))
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	text, err := json.Marshal(statement{SignatureFormat, digest(file), version, der}, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	signers := []dsse.Signer{newSigner(key)}
	if before != nil {
		signers = append(signers, newSigner(before))
	}
	s, err := dsse.NewEnvelopeSigner(signers...)
	if err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	envelope, err := s.SignPayload(context.Background(), signatureType, text)
	if err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	return json.Marshal(envelope)
}

func checkSize(file []byte) error {
	if len(file) == 0 || len(file) > MaxFile {
		return fmt.Errorf("the launch file has %d bytes, not 1 to %d", len(file), MaxFile)
	}
	return nil
}

// Open takes a launch file with its owner's signature. The file is not parsed. Errors:
// [ErrSignature], [ErrDigest]; or what is wrong with the envelope.
func Open(file, envelope []byte) (*Launch, error) {
	if err := checkSize(file); err != nil {
		return nil, err
	}
	e, err := readEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	text, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	var s statement
	if err := json.Unmarshal(text, &s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("launch signature: %w", err)
	}
	if s.Format != SignatureFormat {
		return nil, fmt.Errorf("launch signature: the format is %.80q, and this program reads %q", s.Format, SignatureFormat)
	}
	if s.Version == 0 || s.Version > maxVersion {
		return nil, fmt.Errorf("launch signature: the version is %d, not 1 to %d", s.Version, uint64(maxVersion))
	}
	public, err := x509.ParsePKIXPublicKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("launch signature: the owner's key: %w", err)
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("launch signature: the owner's key is not one of Ed25519; make one with holdfast policy key")
	}
	l := &Launch{File: file, Digest: digest(file), Version: s.Version, Owner: key, OwnerDigest: digest(s.Key), Envelope: envelope}
	if !l.SignedBy(key) {
		return nil, fmt.Errorf("%w with key %s, which it names", ErrSignature, attest.KeyID(key))
	}
	if !bytes.Equal(s.Digest, l.Digest) {
		return nil, fmt.Errorf("%w: this one's SHA-256 is %x, and %x was signed; sign the file again, or take the file that was signed", ErrDigest, l.Digest, s.Digest)
	}
	return l, nil
}

func readEnvelope(text []byte) (*dsse.Envelope, error) {
	if len(text) > MaxSignature {
		return nil, fmt.Errorf("launch signature: it has %d bytes, of which it may have %d", len(text), MaxSignature)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(text, &e, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("launch signature: it is no signed envelope: %w", err)
	}
	if e.PayloadType != signatureType {
		return nil, fmt.Errorf("launch signature: the envelope holds %.80q, not %q; sign the launch file with holdfast launch sign", e.PayloadType, signatureType)
	}
	if n := len(e.Signatures); n == 0 || n > maxSigners {
		return nil, fmt.Errorf("launch signature: it has %d signatures, not 1 to %d", n, maxSigners)
	}
	return &e, nil
}

// SignedBy says whether a key has signed the launch file, as that of an owner before
// does when the owner's key is exchanged.
func (l *Launch) SignedBy(key ed25519.PublicKey) bool {
	e, err := readEnvelope(l.Envelope)
	if err != nil {
		return false
	}
	v, err := dsse.NewEnvelopeVerifier(signer{public: key})
	if err != nil {
		return false
	}
	_, err = v.Verify(context.Background(), e)
	return err == nil
}

// KeyID names the owner's key, for people.
func (l *Launch) KeyID() string { return attest.KeyID(l.Owner) }

// signer implements DSSE's interfaces with an Ed25519 key.
type signer struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

func newSigner(key ed25519.PrivateKey) signer {
	return signer{key, key.Public().(ed25519.PublicKey)}
}

func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.private, data), nil
}

func (s signer) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(s.public, data, sig) {
		return errors.New("the signature is not by this key")
	}
	return nil
}

func (s signer) KeyID() (string, error)   { return attest.KeyID(s.public), nil }
func (s signer) Public() crypto.PublicKey { return s.public }

func digest(b []byte) []byte {
	d := sha256.Sum256(b)
	return d[:]
}

// ID says which launch file it is.
func (l *Launch) ID() attest.SignedID { return attest.SignedID{Version: l.Version, Digest: l.Digest} }
