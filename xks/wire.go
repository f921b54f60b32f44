package xks

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"holdfast/appliance"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// requestMetadata says on whose behalf KMS calls (spec, Encrypt, request 1).
// Fields that are not known here are tolerated (spec, Appendix B).
type requestMetadata struct {
	AWSPrincipalARN string  `json:"awsPrincipalArn"`
	AWSSourceVPC    string  `json:"awsSourceVpc"`
	AWSSourceVPCE   string  `json:"awsSourceVpce"`
	KMSKeyARN       string  `json:"kmsKeyArn"`
	KMSOperation    string  `json:"kmsOperation"`
	KMSRequestID    *string `json:"kmsRequestId"`
	KMSViaService   string  `json:"kmsViaService"`
}

// maxMetadataField is the longest value in a requestMetadata: that of an ARN (spec, API
// operations).
const maxMetadataField = 2048

// tooLong gives the name of a field that has more than is supported; empty if none has.
func (m *requestMetadata) tooLong() string {
	id := ""
	if m.KMSRequestID != nil {
		id = *m.KMSRequestID
	}
	for _, field := range []struct{ name, value string }{
		{"awsPrincipalArn", m.AWSPrincipalARN}, {"awsSourceVpc", m.AWSSourceVPC}, {"awsSourceVpce", m.AWSSourceVPCE}, {"kmsKeyArn", m.KMSKeyARN},
		{"kmsOperation", m.KMSOperation}, {"kmsRequestId", id}, {"kmsViaService", m.KMSViaService},
	} {
		if len(field.value) > maxMetadataField {
			return field.name
		}
	}
	return ""
}

// The bodies of the requests.
type (
	healthRequest struct {
		RequestMetadata *requestMetadata `json:"requestMetadata"`
	}
	metadataRequest struct {
		RequestMetadata *requestMetadata `json:"requestMetadata"`
	}
	encryptRequest struct {
		RequestMetadata *requestMetadata `json:"requestMetadata"`
		Plaintext       base64Value      `json:"plaintext"`
		Algorithm       string           `json:"encryptionAlgorithm"`
		AAD             base64Value      `json:"additionalAuthenticatedData"`
		CDIVAlgorithm   *string          `json:"ciphertextDataIntegrityValueAlgorithm"`
	}
	decryptRequest struct {
		RequestMetadata *requestMetadata `json:"requestMetadata"`
		Ciphertext      base64Value      `json:"ciphertext"`
		Metadata        base64Value      `json:"ciphertextMetadata"`
		Algorithm       string           `json:"encryptionAlgorithm"`
		AAD             base64Value      `json:"additionalAuthenticatedData"`
		Tag             base64Value      `json:"authenticationTag"`
		IV              base64Value      `json:"initializationVector"`
	}
)

// The bodies of the answers, apart from those of Encrypt and Decrypt.
type (
	metadataResponse struct {
		KeySpec   string   `json:"keySpec"`
		KeyUsage  []string `json:"keyUsage"`
		KeyStatus string   `json:"keyStatus"`
	}
	healthResponse struct {
		XKSProxyFleetSize int                `json:"xksProxyFleetSize"`
		XKSProxyVendor    string             `json:"xksProxyVendor"`
		XKSProxyModel     string             `json:"xksProxyModel"`
		EKMVendor         string             `json:"ekmVendor"`
		EKMFleetDetails   []ekmFleetResponse `json:"ekmFleetDetails"`
	}
	ekmFleetResponse struct {
		ID           string `json:"id"`
		Model        string `json:"model"`
		HealthStatus string `json:"healthStatus"`
	}
)

// answerField is a field of the answer of Encrypt or Decrypt, whose value goes out in the
// standard Base64 that the specification asks for (RFC 4648 section 4). That needs no
// escape in JSON.
type answerField struct {
	name  string
	value []byte
}

// answerOf gives the body of an answer of such fields, in memory of its own, so that who
// clears it leaves nothing of a plaintext behind.
func answerOf(fields ...answerField) []byte {
	n := len("{}")
	for _, f := range fields {
		n += len(`"":"",`) + len(f.name) + base64.StdEncoding.EncodedLen(len(f.value))
	}
	out := append(make([]byte, 0, n), '{')
	for i, f := range fields {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), f.name...), `":"`...)
		out = append(base64.StdEncoding.AppendEncode(out, f.value), '"')
	}
	return append(out, '}')
}

// encryptAnswer is the body of the answer of Encrypt; cdiv is empty unless it was asked for.
func encryptAnswer(c *appliance.Ciphertext, cdiv []byte) []byte {
	fields := [...]answerField{{"authenticationTag", c.Tag}, {"ciphertext", c.Ciphertext}, {"ciphertextMetadata", c.Metadata},
		{"initializationVector", c.IV}, {"ciphertextDataIntegrityValue", cdiv}}
	if len(cdiv) == 0 {
		return answerOf(fields[:4]...)
	}
	return answerOf(fields[:]...)
}

// decryptAnswer is the body of the answer of Decrypt.
func decryptAnswer(plaintext []byte) []byte { return answerOf(answerField{"plaintext", plaintext}) }

// base64Value is a JSON string in Base64. Absent and null leave present false.
type base64Value struct {
	bytes   []byte
	present bool
}

// UnmarshalJSONFrom decodes without a string in between, which could not be
// zeroized if it held a plaintext. Only the standard alphabet with padding is
// accepted, in its one canonical form and without line breaks.
func (v *base64Value) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	data, err := d.ReadValue()
	if err != nil || data.Kind() == 'n' {
		return err
	}
	if data.Kind() != '"' {
		return errNotBase64
	}
	text := []byte(data[1 : len(data)-1])
	if bytes.IndexByte(text, '\\') >= 0 {
		// Some encoders write "\/" for "/".
		if text, err = jsontext.AppendUnquote(nil, data); err != nil {
			return errNotBase64
		}
		defer clear(text)
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil || base64.StdEncoding.EncodedLen(n) != len(text) {
		clear(out)
		return errNotBase64
	}
	v.bytes, v.present = out[:n], true
	return nil
}

var errNotBase64 = errors.New("not a string in standard Base64")

// decodeBody reads one JSON object and nothing after it. A name that stands
// twice is refused: the other side may have read the other value.
func decodeBody(body []byte, into any) error {
	if jsontext.Value(body).Kind() != '{' {
		return fail(validationException, "the request body is not a JSON object")
	}
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	// The error may quote a piece of the body: it is not kept. The pointer of a
	// semantic error is to a field of the request's own types.
	message := "the request body is not valid JSON"
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		message = fmt.Sprintf("the value of %q in the request body has a wrong JSON type", semantic.JSONPointer)
		if errors.Is(err, errNotBase64) {
			message = fmt.Sprintf("the value of %q in the request body is not in standard Base64", semantic.JSONPointer)
		}
	}
	return fail(validationException, message)
}
