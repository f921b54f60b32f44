package xks

import (
	"bytes"
	"encoding/json"
	"testing"

	"holdfast/appliance"
)

// TestAnswersAreJSON: the answers of Encrypt and Decrypt are what the JSON encoder makes
// of them, of each length, in memory that was made for them.
func TestAnswersAreJSON(t *testing.T) {
	for n := range 300 {
		b := bytes.Repeat([]byte{0xfb, 0xff, 'x'}, n)[:n] // "+" and "/" are in it
		for _, cdiv := range [][]byte{nil, b} {
			want, err := json.Marshal(struct {
				Tag        []byte `json:"authenticationTag"`
				Ciphertext []byte `json:"ciphertext"`
				Metadata   []byte `json:"ciphertextMetadata"`
				IV         []byte `json:"initializationVector"`
				CDIV       []byte `json:"ciphertextDataIntegrityValue,omitempty"`
			}{b, append([]byte{1}, b...), []byte{2}, append([]byte{3}, b...), cdiv})
			if err != nil {
				t.Fatal(err)
			}
			got := encryptAnswer(&appliance.Ciphertext{Tag: b, Ciphertext: append([]byte{1}, b...), Metadata: []byte{2}, IV: append([]byte{3}, b...)}, cdiv)
			if !bytes.Equal(got, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		want, err := json.Marshal(map[string][]byte{"plaintext": b})
		if err != nil {
			t.Fatal(err)
		}
		if got := decryptAnswer(b); !bytes.Equal(got, want) || cap(got) > len(got)+8 {
			t.Errorf("got  %s, of %d bytes\nwant %s", got, cap(got), want)
		}
	}
}
