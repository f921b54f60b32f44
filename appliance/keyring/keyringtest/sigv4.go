package keyringtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"testing"

	"holdfast/appliance/keyring/scrub"
)

// SigningKey gives the patterns of the signing key that AWS Signature Version 4
// derives from a secret access key: the key itself, and what an HMAC makes of it.
// With what SigV4 puts before it, a secret may be longer than a block of the hash;
// then its hash is the key, and is among the patterns.
func SigningKey(t testing.TB, secret []byte, date, region, service string) (patterns map[string]Secret) {
	t.Helper()
	patterns = map[string]Secret{}
	scrub.Do(func() {
		key := append([]byte("AWS4"), secret...)
		if len(key) > sha256.BlockSize { // RFC 2104
			sum := sha256.Sum256(key)
			clear(key)
			key = append(key[:0], sum[:]...)
			patterns["the hash of the secret"] = Hide(key)
		}
		for _, part := range []string{date, region, service, "aws4_request"} {
			h := hmac.New(sha256.New, key)
			h.Write([]byte(part))
			clear(key)
			key = h.Sum(nil)
			scrub.Erase(h)
		}
		defer clear(key)
		patterns["the signing key"] = Hide(key)
		for name, pad := range map[string]byte{"inner": 0x36, "outer": 0x5c} { // RFC 2104
			block := make([]byte, sha256.BlockSize)
			copy(block, key)
			for i := range block {
				block[i] ^= pad
			}
			patterns["the padded key of the "+name+" hash"] = Hide(block[:32])
			h := sha256.New()
			h.Write(block)
			clear(block)
			state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
			if err != nil {
				t.Error(err)
				return
			}
			scrub.Erase(h)
			words := state[4:36] // behind the magic number
			patterns["the marshalled state of the "+name+" hash"] = Hide(words)
			for i := 0; i < len(words); i += 4 {
				binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
			}
			patterns["the state of the "+name+" hash"] = Hide(words)
			clear(state)
		}
	})
	return patterns
}
