package owner

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/attest"
)

// pinType is the payload type (DSSE) of a PIN that an owner gives. It is signed, so that
// no envelope of another purpose is taken for one.
const pinType = "application/vnd.holdfast.pin.v1+json"

// Sizes in bytes. A machine reads an envelope before it knows who sent it.
const (
	// MaxPIN is the size of the largest envelope of a PIN.
	MaxPIN = 256 << 10
	// MaxApprovals is the size of the largest file of approvals that goes along.
	MaxApprovals = 96 << 10
)

// SignPIN gives what carries an encrypted PIN to a machine as a file: a DSSE envelope,
// signed with the key that signs launch files.
func SignPIN(payload []byte, key ed25519.PrivateKey) ([]byte, error) {
	s, err := dsse.NewEnvelopeSigner(newSigner(key))
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	envelope, err := s.SignPayload(context.Background(), pinType, payload)
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	return json.Marshal(envelope)
}

// OpenPIN gives what the owner has signed. Errors: [ErrSignature]; or what is wrong with
// the envelope.
func OpenPIN(file []byte, key ed25519.PublicKey) (payload []byte, err error) {
	if len(file) > MaxPIN {
		return nil, fmt.Errorf("PIN: the envelope has more than %d bytes", MaxPIN)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(file, &e, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("PIN: it is no signed envelope: %w", err)
	}
	if e.PayloadType != pinType {
		return nil, fmt.Errorf("PIN: the envelope holds %.80q, not %q", e.PayloadType, pinType)
	}
	if len(e.Signatures) != 1 {
		return nil, errors.New("PIN: the envelope has not one signature")
	}
	v, err := dsse.NewEnvelopeVerifier(signer{public: key})
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	if _, err := v.Verify(context.Background(), &e); err != nil {
		return nil, fmt.Errorf("%w with key %s", ErrSignature, attest.KeyID(key))
	}
	return e.DecodeB64Payload()
}
