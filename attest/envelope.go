package attest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// seal gives a text as a file: a DSSE envelope of the type, signed by Ed25519.
func seal(payloadType string, text []byte, key ed25519.PrivateKey) ([]byte, error) {
	s, err := dsse.NewEnvelopeSigner(signer{key, key.Public().(ed25519.PublicKey)})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	envelope, err := s.SignPayload(context.Background(), payloadType, text)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return json.Marshal(envelope)
}

// ErrSignature says that a policy, or a TCB recovery file, is not signed by the key that it
// must be signed by.
var ErrSignature = errors.New("the signature does not verify")

// unseal gives the text of such a file, of which the key has signed the type as well.
// Errors: [ErrSignature]; or what is wrong with the file.
func unseal(payloadType string, file []byte, key ed25519.PublicKey) ([]byte, error) {
	if len(file) > MaxPolicy {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxPolicy)
	}
	var envelope dsse.Envelope
	if err := decode(file, &envelope); err != nil {
		return nil, fmt.Errorf("it is not a signed file: %w", err)
	}
	v, err := dsse.NewEnvelopeVerifier(signer{public: key})
	if err != nil {
		return nil, err
	}
	if _, err := v.Verify(context.Background(), &envelope); err != nil {
		return nil, fmt.Errorf("%w with key %s: %w", ErrSignature, KeyID(key), err)
	}
	if envelope.PayloadType != payloadType {
		return nil, fmt.Errorf("the envelope holds %q, not %q", envelope.PayloadType, payloadType)
	}
	return envelope.DecodeB64Payload()
}

// signer implements DSSE's interface with an Ed25519 key.
type signer struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
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

func (s signer) KeyID() (string, error)   { return KeyID(s.public), nil }
func (s signer) Public() crypto.PublicKey { return s.public }
