package xks_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"testing"

	"holdfast/appliance"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

// cdiv computes the value as spec, Appendix C, says, apart from the code under
// test.
func cdiv(t *testing.T, aad []byte, sealed xkstest.Body) []byte {
	t.Helper()
	all := append([]byte{}, aad...)
	for _, field := range []string{"ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag"} {
		all = append(all, sealed.Bytes(t, field)...)
	}
	sum := sha256.Sum256(all)
	return sum[:]
}

// The example of the specification: "Encrypt", response payload example, and
// Appendix C.
var specExample = struct {
	aad        string
	ciphertext appliance.Ciphertext
	cdiv       string
}{
	aad: "project=nile,department=marketing",
	ciphertext: appliance.Ciphertext{
		Tag:        unBase64("vBxN2ncH1oEkR8WVXpmyYQ=="),
		Ciphertext: unBase64("ghxkK1txeDNn3q8Y"),
		Metadata:   unBase64("a2V5X3ZlcnNpb249MQ=="),
		IV:         unBase64("HMrlRw85cAJUd5Ax"),
	},
	cdiv: "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
}

func unBase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestSpecificationExample(t *testing.T) {
	e := specExample
	if got := base64.StdEncoding.EncodeToString(xks.IntegrityValue([]byte(e.aad), &e.ciphertext)); got != e.cdiv {
		t.Errorf("CDIV %s, the specification has %s", got, e.cdiv)
	}
	// 2 bytes of length, 33 of AAD, 1 byte of length, 13 of metadata.
	want := "0021" + hex.EncodeToString([]byte(e.aad)) + "0d" + hex.EncodeToString(e.ciphertext.Metadata)
	if got := hex.EncodeToString(appliance.FrameAAD([]byte(e.aad), e.ciphertext.Metadata)); got != want {
		t.Errorf("framed AAD %s, want %s", got, want)
	}
	if got := hex.EncodeToString(appliance.FrameAAD(nil, nil)); got != "000000" {
		t.Errorf("framed AAD of nothing: %s", got)
	}
}
