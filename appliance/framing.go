package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"holdfast/appliance/fault"
)

// Framing is how another XKS proxy made the associated data of AES-GCM. A key
// that was moved from there may have one: it then decrypts that proxy's
// ciphertexts as well. It never encrypts so.
type Framing string

// The framings.
const (
	// FramingNone: only ciphertexts of Holdfast are decrypted.
	FramingNone Framing = ""
	// FramingSpec is the specification's example (spec, Encrypt, response 2), with
	// whatever ciphertextMetadata the other proxy had.
	FramingSpec Framing = "spec"
	// FramingSHA256 is that of AWS's sample proxy (aws-samples/aws-kms-xks-proxy):
	// the specification's, but with the SHA-256 of the AAD, if there is an AAD, in
	// its place.
	FramingSHA256 Framing = "sha256"
	// FramingPlain is the AAD alone; ciphertextMetadata are not authenticated.
	FramingPlain Framing = "plain"
)

// Framings gives all framings of other proxies.
func Framings() []Framing { return []Framing{FramingSpec, FramingSHA256, FramingPlain} }

func (f Framing) validate() error {
	switch f {
	case FramingNone, FramingSpec, FramingSHA256, FramingPlain:
		return nil
	}
	return fault.Errorf(fault.Invalid, "AAD framing %q: use spec, sha256 or plain, or none at all", string(f))
}

// frame gives the associated data. The specification does not tell an empty AAD
// from none; AWS's sample does, and hashes the empty one: so there are two.
func (f Framing) frame(aad, metadata []byte) [][]byte {
	switch f {
	case FramingSpec:
		return [][]byte{FrameAAD(aad, metadata)}
	case FramingPlain:
		return [][]byte{aad}
	case FramingSHA256:
		hash := sha256.Sum256(aad)
		framed := [][]byte{sampleFrame(len(aad), hash[:], metadata)}
		if len(aad) == 0 {
			framed = append(framed, sampleFrame(0, nil, metadata))
		}
		return framed
	}
	return nil
}

func sampleFrame(n int, hash, metadata []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(n))
	out = append(out, hash...)
	out = append(out, byte(len(metadata)))
	return append(out, metadata...)
}

// decryptForeign decrypts a ciphertext of the proxy that the key was moved from,
// with each of the versions that were imported. fault.Ciphertext if none fits.
func (k *liveKey) decryptForeign(ctx context.Context, c *Ciphertext, aad []byte) (plaintext []byte, err error) {
	err = fault.Errorf(fault.Ciphertext, "the ciphertext metadata is not of this key store")
	if len(c.Metadata) > MaxMetadata {
		return nil, err
	}
	for _, v := range k.Versions {
		if v.Origin != OriginImported {
			continue
		}
		for _, framed := range k.Framing.frame(aad, c.Metadata) {
			err = k.with(v, func(u UnlockedKey) (err error) {
				plaintext, err = u.Decrypt(ctx, c.IV, c.Ciphertext, c.Tag, framed)
				return err
			})
			if fault.CodeOf(err) != fault.Ciphertext {
				return plaintext, err
			}
		}
	}
	return nil, err
}
