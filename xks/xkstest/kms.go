package xkstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"holdfast/appliance/appliancetest"
)

// Principal is who the requests of a KMS are for.
const Principal = appliancetest.Principal

// KMS calls an XKS endpoint as AWS KMS does; the AWS SDK's signer signs.
type KMS struct {
	T    testing.TB
	HTTP *http.Client
	// URL is the endpoint's, with the URI path prefix.
	URL                          string
	AccessKeyID, SecretAccessKey string
	Service, Region              string
	// Now is the time of signing; time.Now if nil.
	Now func() time.Time
}

// Body is the JSON body of a request or an answer.
type Body map[string]any

// With gives the body with a field set, or without it if value is nil.
func (b Body) With(field string, value any) Body {
	out := maps.Clone(b)
	if value == nil {
		delete(out, field)
	} else {
		out[field] = value
	}
	return out
}

// Bytes gives a field that is in Base64.
func (b Body) Bytes(t testing.TB, field string) []byte {
	t.Helper()
	s, ok := b[field].(string)
	if !ok {
		t.Fatalf("the field %s is %v", field, b[field])
	}
	var out []byte
	if err := json.Unmarshal([]byte(`"`+s+`"`), &out); err != nil {
		t.Fatalf("the field %s: %v", field, err)
	}
	return out
}

// Metadata is a requestMetadata with all that the operations need.
func Metadata() Body {
	return Body{
		"awsPrincipalArn": Principal,
		"kmsKeyArn":       "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		"kmsOperation":    "Encrypt",
		"kmsRequestId":    "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
	}
}

// EncryptBody is a request of Encrypt.
func EncryptBody(plaintext string) Body {
	return Body{"requestMetadata": Metadata(), "plaintext": []byte(plaintext), "encryptionAlgorithm": "AES_GCM"}
}

// DecryptBody is the request that decrypts the answer of an Encrypt.
func DecryptBody(sealed Body) Body {
	return Body{"requestMetadata": Metadata(), "encryptionAlgorithm": "AES_GCM",
		"ciphertext": sealed["ciphertext"], "ciphertextMetadata": sealed["ciphertextMetadata"],
		"initializationVector": sealed["initializationVector"], "authenticationTag": sealed["authenticationTag"]}
}

// Answer is what the endpoint answered.
type Answer struct {
	Status int
	Header http.Header
	Proto  string
	Text   string
	Body   Body // nil if the text is no JSON object
}

// ErrorName is the field errorName, "" without one.
func (a Answer) ErrorName() string {
	s, _ := a.Body["errorName"].(string)
	return s
}

// Request gives a signed request to a path behind /kms/xks/v1. The body is
// encoded as JSON unless it is a string.
func (k *KMS) Request(path string, body any) *http.Request {
	k.T.Helper()
	text, ok := body.(string)
	if !ok {
		encoded, err := json.Marshal(body)
		if err != nil {
			k.T.Fatal(err)
		}
		text = string(encoded)
	}
	r, err := http.NewRequest(http.MethodPost, k.URL+"/kms/xks/v1"+path, bytes.NewReader([]byte(text)))
	if err != nil {
		k.T.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	k.Sign(r, text)
	return r
}

// Sign signs a request with the body.
func (k *KMS) Sign(r *http.Request, body string) {
	k.T.Helper()
	now := time.Now
	if k.Now != nil {
		now = k.Now
	}
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, r, hex.EncodeToString(sum[:]), k.Service, k.Region, now()); err != nil {
		k.T.Fatal(err)
	}
}

// Call sends a signed request and gives the answer.
func (k *KMS) Call(path string, body any) Answer {
	k.T.Helper()
	return k.Do(k.Request(path, body))
}

// Do sends a request as it is.
func (k *KMS) Do(r *http.Request) Answer {
	k.T.Helper()
	res, err := k.HTTP.Do(r)
	if err != nil {
		k.T.Fatal(err)
	}
	return k.Read(res)
}

// Read gives an answer that is under way. One that is cut off has no body, and
// the status 0.
func (k *KMS) Read(res *http.Response) Answer {
	k.T.Helper()
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return Answer{Text: err.Error()}
	}
	a := Answer{Status: res.StatusCode, Header: res.Header, Proto: res.Proto, Text: string(text)}
	if json.Unmarshal(text, &a.Body) != nil {
		a.Body = nil
	}
	return a
}

// OK sends a signed request that must succeed.
func (k *KMS) OK(path string, body any) Body {
	k.T.Helper()
	a := k.Call(path, body)
	if a.Status != http.StatusOK {
		k.T.Fatalf("%s: %d %s", path, a.Status, a.Text)
	}
	return a.Body
}

// Fails sends a signed request that must fail with the status and error name.
func (k *KMS) Fails(path string, body any, status int, errorName string) {
	k.T.Helper()
	a := k.Call(path, body)
	if a.Status != status || a.ErrorName() != errorName {
		k.T.Errorf("%s: got %d %s, want %d %s", path, a.Status, a.Text, status, errorName)
	}
}
