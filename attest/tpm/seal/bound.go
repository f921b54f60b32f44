package seal

import (
	"crypto/aes"
	"crypto/cipher"
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
	Object Object
	// Sealed is the secret, encrypted by AES-256-GCM: nonce, ciphertext, tag. The key is
	// HKDF-SHA-256 of the TPM's part, with the volume's key as salt; Object is in the
	// additional data.
	Sealed []byte
}

// SealBound seals the secret, at most [MaxSecret] bytes, as [Signers.Seal] does, and to the
// key that is derived from the state volume's, of [VolumeKeyBytes].
func SealBound(dev TPM, to Signers, use Use, secret, volumeKey []byte) (*Bound, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("seal: a secret of %d bytes; 1 to %d are taken", len(secret), MaxSecret)
	}
	part := make([]byte, 32)
	_, _ = rand.Read(part) // never fails (crypto/rand)
	defer clear(part)
	object, err := to.Seal(dev, use, part)
	if err != nil {
		return nil, err
	}
	b := &Bound{Object: object}
	aead, err := b.aead(part, volumeKey)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	b.Sealed = aead.Seal(nil, nil, secret, b.additional())
	return b, nil
}

// UnsealBound is [Object.Open] of a secret that is sealed to the state volume as well.
// Errors: [*fault.Fault] with fault.SealVolume, if the volume is another.
func UnsealBound(dev TPM, b *Bound, volumeKey []byte, by Signed) (secret []byte, to string, err error) {
	part, to, err := b.Object.Open(dev, by)
	if err != nil {
		return nil, "", err
	}
	defer clear(part)
	aead, err := b.aead(part, volumeKey)
	if err != nil {
		return nil, "", fmt.Errorf("unseal: %w", err)
	}
	if secret, err = aead.Open(nil, nil, b.Sealed, b.additional()); err != nil {
		return nil, "", fault.Wrapf(fault.SealVolume, err, "the %s was sealed on another state volume, or was changed", b.use())
	}
	return secret, to, nil
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

// use is what the secret is for.
func (b *Bound) use() Use {
	blobs := b.Object.blobs()
	return blobs[len(blobs)-1].Use
}

// additional is what the ciphertext is bound to: its purpose and the TPM's objects.
func (b *Bound) additional() []byte {
	var data []byte
	parts := [][]byte{[]byte(BoundFormat), []byte(b.use())}
	for _, o := range b.Object.blobs() {
		parts = append(parts, o.Public, o.Private, o.Parent, o.SigningKey)
	}
	for _, part := range parts {
		data = append(binary.BigEndian.AppendUint64(data, uint64(len(part))), part...)
	}
	return data
}

type boundFile struct {
	Format string `json:"format"`
	Object *Blob  `json:"object,omitempty"` // or it is gated
	Gated  *Gated `json:"gated,omitempty"`
	Sealed []byte `json:"sealed"`
}

// maxSealed is the size of nonce, ciphertext and tag.
const maxSealed = 12 + MaxSecret + 16

func (b *Bound) validate() error {
	if n := len(b.Sealed); n <= maxSealed-MaxSecret || n > maxSealed {
		return fmt.Errorf("sealed has %d bytes, not %d to %d", n, maxSealed-MaxSecret+1, maxSealed)
	}
	if b.Object == nil {
		return errors.New("the TPM's object is missing")
	}
	return b.Object.validate()
}

func (f *boundFile) bound() (*Bound, error) {
	switch {
	case f.Object != nil && f.Gated == nil:
		return &Bound{f.Object, f.Sealed}, nil
	case f.Gated != nil && f.Object == nil:
		return &Bound{f.Gated, f.Sealed}, nil
	}
	return nil, errors.New("it has not one of object and gated")
}

// ParseBound reads the file of a secret that is sealed to a state volume as well, as
// [ParseBlob] reads the other. Errors: [ErrUnbound].
func ParseBound(text []byte) (*Bound, error) {
	if format := formatOf(text); format == BlobFormat || format == blobFormatV1 || format == GatedFormat {
		return nil, ErrUnbound
	}
	var f boundFile
	if err := decode(text, MaxBlobFile, &f); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	if f.Format != BoundFormat {
		return nil, fmt.Errorf("sealed blob: the format is %.80q, and this program reads %q", f.Format, BoundFormat)
	}
	b, err := f.bound()
	if err == nil {
		err = b.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return b, nil
}

// Encode gives the file.
func (b *Bound) Encode() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	f := boundFile{Format: BoundFormat, Sealed: b.Sealed}
	switch o := b.Object.(type) {
	case *Blob:
		f.Object = o
	case *Gated:
		f.Gated = o
	}
	text, err := encode(f, MaxBlobFile)
	if err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return text, nil
}
