package xks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// requestMetadata says on whose behalf KMS calls (spec, Encrypt, request 1).
// Fields that are not known here are tolerated (spec, Appendix B).
type requestMetadata struct {
	AWSPrincipalARN *string `json:"awsPrincipalArn"`
	AWSSourceVPC    *string `json:"awsSourceVpc"`
	AWSSourceVPCE   *string `json:"awsSourceVpce"`
	KMSKeyARN       *string `json:"kmsKeyArn"`
	KMSOperation    *string `json:"kmsOperation"`
	KMSRequestID    *string `json:"kmsRequestId"`
	KMSViaService   *string `json:"kmsViaService"`
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

// The bodies of the answers. encoding/json writes byte slices in the standard
// Base64 that the specification asks for (RFC 4648 section 4).
type (
	metadataResponse struct {
		KeySpec   string   `json:"keySpec"`
		KeyUsage  []string `json:"keyUsage"`
		KeyStatus string   `json:"keyStatus"`
	}
	encryptResponse struct {
		AuthenticationTag    []byte `json:"authenticationTag"`
		Ciphertext           []byte `json:"ciphertext"`
		CDIV                 []byte `json:"ciphertextDataIntegrityValue,omitempty"`
		CiphertextMetadata   []byte `json:"ciphertextMetadata"`
		InitializationVector []byte `json:"initializationVector"`
	}
	decryptResponse struct {
		Plaintext []byte `json:"plaintext"`
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

// base64Value is a JSON string in Base64. Absent and null leave present false.
type base64Value struct {
	bytes   []byte
	present bool
}

// UnmarshalJSON decodes without a string in between, which could not be
// zeroized if it held a plaintext. Only the standard alphabet with padding is
// accepted, in its one canonical form and without line breaks.
func (v *base64Value) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	if len(data) < 2 || data[0] != '"' {
		return errors.New("a Base64 value is not a string")
	}
	text := data[1 : len(data)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		// Some encoders write "\/" for "/".
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		text = []byte(s)
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil || base64.StdEncoding.EncodedLen(n) != len(text) {
		clear(out)
		return errors.New("a value is not in standard Base64")
	}
	v.bytes, v.present = out[:n], true
	return nil
}

// decodeBody reads one JSON object and nothing after it.
func decodeBody(body []byte, into any) *apiError {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return fail(validationException, "the request body is not a JSON object")
	}
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	message := "the request body is not valid JSON, or a value in it is not in standard Base64"
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		message = fmt.Sprintf("the field %q of the request body has a wrong JSON type", wrongType.Field)
	}
	// The error of encoding/json may quote a piece of the body: it is not kept.
	return fail(validationException, message)
}
