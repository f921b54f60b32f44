package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"holdfast/appliance/fault"
)

// Framing is how another XKS proxy made the associated data of AES-GCM. A key
// that was moved from there may have one: the version that came from there then
// decrypts that proxy's ciphertexts as well. It never encrypts so. A framing may allow
// what the specification forbids, so no version has one that Holdfast encrypts with,
// unless the operator wants that ([NewExternalKey.Reversible]).
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

// importedVersion is the version that a framing is for: the one that the key was imported
// with. Material that is imported later is of no other proxy.
const importedVersion = 1

// decryptForeign decrypts a ciphertext of the proxy that the key was moved from,
// with the version that came from there. fault.Ciphertext if it does not fit.
func (k *liveKey) decryptForeign(ctx context.Context, c *Ciphertext, aad []byte) (plaintext []byte, err error) {
	err = fault.Errorf(fault.Ciphertext, "the ciphertext metadata is not of this key store")
	if len(c.Metadata) > MaxMetadata {
		return nil, err
	}
	v := k.version(importedVersion)
	if v == nil || v.Origin != OriginImported {
		return nil, err
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
	return nil, err
}
