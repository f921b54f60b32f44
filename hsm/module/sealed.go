package module

import (
	"bytes"
	"encoding/binary"

	"holdfast/hsm/wire"
)

// sealed is a ciphertext with all that its decryption needs.
type sealed struct {
	// wrapped is the key of this ciphertext, wrapped; nil if it was encrypted in the token.
	wrapped             []byte
	iv, ciphertext, tag []byte
}

// The first byte of a blob: an IV of 12 or of 16 bytes, as some tokens make it, ciphertext
// and tag of 16 follow; or the length of a wrapped key in two bytes, that, and the same with an
// IV of 12.
const (
	blobFormat        = 1
	blobFormat16      = 2
	blobFormatWrapped = wire.BlobFormats
)

// blob gives it as bytes.
func (s sealed) blob() []byte {
	head := []byte{blobFormat}
	switch {
	case s.wrapped != nil:
		head = append(binary.BigEndian.AppendUint16([]byte{blobFormatWrapped}, uint16(len(s.wrapped))), s.wrapped...)
	case len(s.iv) == longIVBytes:
		head[0] = blobFormat16
	}
	return bytes.Join([][]byte{head, s.iv, s.ciphertext, s.tag}, nil)
}

// maxWrapped bounds a wrapped key: RFC 5649 makes 40 bytes of 32, other paddings some more.
const maxWrapped = 256

// parse is the reverse. What is no blob is [wire.NotAuthentic].
func parse(blob []byte) (sealed, error) {
	if len(blob) == 0 {
		return sealed{}, wire.NotAuthentic
	}
	var s sealed
	format, rest := blob[0], blob[1:]
	iv := ivBytes
	switch format {
	case blobFormat:
	case blobFormat16:
		iv = longIVBytes
	case blobFormatWrapped:
		if len(rest) < 2 {
			return sealed{}, wire.NotAuthentic
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; n == 0 || n > maxWrapped || n > len(rest) {
			return sealed{}, wire.NotAuthentic
		}
		s.wrapped, rest = rest[:n:n], rest[n:]
	default:
		return sealed{}, wire.NotAuthentic
	}
	if len(rest) < iv+tagBytes {
		return sealed{}, wire.NotAuthentic
	}
	end := len(rest) - tagBytes
	s.iv, s.ciphertext, s.tag = rest[:iv:iv], rest[iv:end:end], rest[end:]
	return s, nil
}
