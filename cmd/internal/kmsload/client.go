// Package kmsload acts as AWS KMS towards an XKS proxy, and signs with the AWS SDK's own
// signer: [Client] makes single calls, and [Start] a load that checks each answer and says
// how many failed and for how long. It is for development and tests.
package kmsload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Region and Service are what the requests are signed for.
const (
	Region  = "us-east-1"
	Service = "kms-xks-proxy"
)

// Client is AWS KMS.
type Client struct {
	// URL is what stands before /health or /keys: https://HOST[PREFIX]/kms/xks/v1.
	URL                          string
	AccessKeyID, SecretAccessKey string
	HTTP                         *http.Client
}

// New makes a client with connections of its own, which trusts the roots and waits so long
// for an answer.
func New(url, accessKeyID, secretAccessKey string, roots *x509.CertPool, timeout time.Duration) *Client {
	return &Client{URL: url, AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey, HTTP: &http.Client{Timeout: timeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}}
}

// Answer has the fields of all answers that are used here.
type Answer struct {
	Ciphertext, CiphertextMetadata, InitializationVector, AuthenticationTag, Plaintext []byte
	KeySpec, KeyStatus                                                                 string
	EKMFleetDetails                                                                    []struct{ HealthStatus string }

	// Took is from the sending of the request to the end of the answer.
	Took time.Duration `json:"-"`
	// Server is the certificate of who has answered.
	Server *x509.Certificate `json:"-"`
}

// Refusal is an answer other than 200.
type Refusal struct {
	Status int
	// Name is the error's of the XKS specification, such as InvalidStateException; empty if
	// the answer has none.
	Name, Message string
}

func (r *Refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Name, r.Message) }

// Metadata is what KMS says of a request of a user.
func Metadata(operation, requestID string) map[string]string {
	return map[string]string{"awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
		"kmsKeyArn":    "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		"kmsOperation": operation, "kmsRequestId": requestID}
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 1 << 20

// Call makes one request. The error is a [*Refusal] if the proxy has refused.
func (c *Client) Call(ctx context.Context, path string, body any) (*Answer, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+path, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	// A request that was sent is not sent again by itself: who asks shall hear of it.
	req.GetBody = nil
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256(payload)
	credentials := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(hash[:]), Service, Region, time.Now()); err != nil {
		return nil, err
	}
	begin := time.Now()
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	a := &Answer{Took: time.Since(begin)}
	if res.TLS != nil && len(res.TLS.PeerCertificates) > 0 {
		a.Server = res.TLS.PeerCertificates[0]
	}
	if res.StatusCode != http.StatusOK {
		var said struct{ ErrorName, ErrorMessage string }
		_ = json.Unmarshal(text, &said) // an answer without a name is refused as well
		return nil, &Refusal{res.StatusCode, said.ErrorName, said.ErrorMessage}
	}
	if err := json.Unmarshal(text, a); err != nil {
		return nil, err
	}
	return a, nil
}

// Encrypt has the key encrypt.
func (c *Client) Encrypt(ctx context.Context, key, requestID string, plaintext, aad []byte) (*Answer, error) {
	return c.Call(ctx, "/keys/"+key+"/encrypt", map[string]any{
		"requestMetadata": Metadata("Encrypt", requestID), "plaintext": plaintext, "additionalAuthenticatedData": aad,
		"encryptionAlgorithm": "AES_GCM", "ciphertextDataIntegrityValueAlgorithm": "SHA_256"})
}

// Decrypt has the key decrypt what Encrypt has answered.
func (c *Client) Decrypt(ctx context.Context, key, requestID string, sealed *Answer, aad []byte) (*Answer, error) {
	return c.Call(ctx, "/keys/"+key+"/decrypt", map[string]any{
		"requestMetadata": Metadata("Decrypt", requestID), "ciphertext": sealed.Ciphertext, "ciphertextMetadata": sealed.CiphertextMetadata,
		"initializationVector": sealed.InitializationVector, "authenticationTag": sealed.AuthenticationTag,
		"additionalAuthenticatedData": aad, "encryptionAlgorithm": "AES_GCM"})
}
