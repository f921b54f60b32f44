package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"holdfast/appliance/fault"
)

// BoundFormat is the format of the file of a secret that is sealed to a state volume as
// well.
const BoundFormat = "holdfast-sealed-bound/v1"

// VolumeKeyBytes is the length of the key that is derived from a state volume's.
const VolumeKeyBytes = 32

// ErrBound says that a secret belongs to a state volume, and ErrUnbound that it belongs
// to none.
var (
	ErrBound   = errors.New("sealed blob: it was sealed on a machine with a state volume")
	ErrUnbound = errors.New("sealed blob: it was sealed without a state volume")
)

// Bound is a secret that opens by two keys together: one that the TPM gives to an
// authorized state, and one that is derived from the state volume's. So a sealed secret
// of another volume is of no use, and the TPM alone, or who listens to it, has none.
type Bound struct {
	// Object has the TPM's part, random.
	Object Blob
	// Sealed is the secret, encrypted by AES-256-GCM: nonce, ciphertext, tag. The key is
	// HKDF-SHA-256 of the TPM's part, with the volume's key as salt; Object is in the
	// additional data.
	Sealed []byte
}

// SealBound seals the secret, at most [MaxSecret] bytes, as [Seal] does, and to the key
// that is derived from the state volume's, of [VolumeKeyBytes].
func SealBound(dev TPM, key *ecdsa.PublicKey, use Use, secret, volumeKey []byte) (*Bound, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("seal: a secret of %d bytes; 1 to %d are taken", len(secret), MaxSecret)
	}
	part := make([]byte, 32)
	_, _ = rand.Read(part) // never fails (crypto/rand)
	defer clear(part)
	object, err := Seal(dev, key, use, part)
	if err != nil {
		return nil, err
	}
	b := &Bound{Object: *object}
	aead, err := b.aead(part, volumeKey)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	b.Sealed = aead.Seal(nil, nil, secret, b.additional())
	return b, nil
}

// UnsealBound is [Unseal] of a secret that is sealed to the state volume as well. Errors:
// [*fault.Fault] with fault.SealVolume, if the volume is another.
func UnsealBound(dev TPM, b *Bound, volumeKey []byte, authorizations []Authorization) (secret []byte, name string, err error) {
	part, name, err := Unseal(dev, &b.Object, authorizations)
	if err != nil {
		return nil, "", err
	}
	defer clear(part)
	aead, err := b.aead(part, volumeKey)
	if err != nil {
		return nil, "", fmt.Errorf("unseal: %w", err)
	}
	if secret, err = aead.Open(nil, nil, b.Sealed, b.additional()); err != nil {
		return nil, "", fault.Wrapf(fault.SealVolume, err, "the %s was sealed on another state volume, or was changed", b.Object.Use)
	}
	return secret, name, nil
}

// aead encrypts with a random nonce: each key is used for one secret.
func (b *Bound) aead(part, volumeKey []byte) (cipher.AEAD, error) {
	if len(volumeKey) != VolumeKeyBytes {
		return nil, fmt.Errorf("the state volume's derived key has %d bytes, not %d", len(volumeKey), VolumeKeyBytes)
	}
	key, err := hkdf.Key(sha256.New, part, volumeKey, BoundFormat, 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// additional is what the ciphertext is bound to: its purpose and the TPM's object.
func (b *Bound) additional() []byte {
	var data []byte
	for _, part := range [][]byte{[]byte(BoundFormat), []byte(b.Object.Use), b.Object.Public, b.Object.Private, b.Object.Parent, b.Object.SigningKey} {
		data = append(binary.BigEndian.AppendUint64(data, uint64(len(part))), part...)
	}
	return data
}

type boundFile struct {
	Format string `json:"format"`
	Object Blob   `json:"object"`
	Sealed []byte `json:"sealed"`
}

// maxSealed is the size of nonce, ciphertext and tag.
const maxSealed = 12 + MaxSecret + 16

func (b *Bound) validate() error {
	if n := len(b.Sealed); n <= maxSealed-MaxSecret || n > maxSealed {
		return fmt.Errorf("sealed has %d bytes, not %d to %d", n, maxSealed-MaxSecret+1, maxSealed)
	}
	return b.Object.validate()
}

// ParseBound reads the file of a secret that is sealed to a state volume as well, as
// [ParseBlob] reads the other. Errors: [ErrUnbound].
func ParseBound(text []byte) (*Bound, error) {
	if format := formatOf(text); format == BlobFormat || format == blobFormatV1 {
		return nil, ErrUnbound
	}
	var f boundFile
	if err := decode(text, MaxBlobFile, &f); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	if f.Format != BoundFormat {
		return nil, fmt.Errorf("sealed blob: the format is %.80q, and this program reads %q", f.Format, BoundFormat)
	}
	b := &Bound{f.Object, f.Sealed}
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return b, nil
}

// Encode gives the file.
func (b *Bound) Encode() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	text, err := encode(boundFile{BoundFormat, b.Object, b.Sealed}, MaxBlobFile)
	if err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return text, nil
}
