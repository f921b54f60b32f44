package appliance

import (
	"encoding/binary"

	"holdfast/appliance/fault"
)

// Ciphertext is what Encrypt gives and Decrypt takes; all are plain bytes, not
// Base64 (spec, Encrypt, response payload).
type Ciphertext struct {
	// Ciphertext is as long as the plaintext.
	Ciphertext []byte
	// Metadata is the ciphertextMetadata, 5 bytes: a format byte and the version
	// of the key as a 32-bit big-endian integer.
	Metadata []byte
	// IV has 12 or 16 bytes.
	IV []byte
	// Tag has 16 bytes.
	Tag []byte
}

// metadataFormat is the first byte of the ciphertextMetadata. Another framing
// of the AAD would have another one.
const metadataFormat = 1

// MaxMetadata is the limit of ciphertextMetadata in bytes (spec, Encrypt).
const MaxMetadata = 20

func encodeMetadata(version uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{metadataFormat}, version)
}

// decodeMetadata gives the key version that a ciphertextMetadata names.
func decodeMetadata(metadata []byte) (uint32, error) {
	if len(metadata) != 5 || metadata[0] != metadataFormat {
		return 0, fault.Errorf(fault.Ciphertext, "the ciphertext metadata is not of this key store")
	}
	return binary.BigEndian.Uint32(metadata[1:]), nil
}

// MaxAAD is the longest additional authenticated data whose length the framing
// can express, in bytes.
const MaxAAD = 1<<16 - 1

// FrameAAD gives the associated data of AES-GCM for an XKS operation: the
// length of aad in 2 bytes, aad, the length of metadata in 1 byte, metadata
// (spec, Encrypt, response 2). The aad must have at most [MaxAAD] bytes and
// metadata at most [MaxMetadata].
func FrameAAD(aad, metadata []byte) []byte {
	out := make([]byte, 0, 3+len(aad)+len(metadata))
	out = binary.BigEndian.AppendUint16(out, uint16(len(aad)))
	out = append(out, aad...)
	out = append(out, byte(len(metadata)))
	return append(out, metadata...)
}

// KeyVersion is the version of the key that the metadata name; 0 if they name
// none.
func (c *Ciphertext) KeyVersion() uint32 {
	version, err := decodeMetadata(c.Metadata)
	if err != nil {
		return 0
	}
	return version
}
