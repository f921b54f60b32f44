package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"holdfast/appliance"
)

// What requests tell of who uses KMS, unless something else is wanted.
const (
	principal = "arn:aws:iam::123456789012:user/Alice"
	kmsKeyARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	region    = "us-east-1"
)

// The bodies of requests and answers, as the specification has them.
type (
	metadata struct {
		AWSPrincipalARN string `json:"awsPrincipalArn"`
		KMSKeyARN       string `json:"kmsKeyArn"`
		KMSOperation    string `json:"kmsOperation"`
		KMSRequestID    string `json:"kmsRequestId"`
	}
	encryptBody struct {
		RequestMetadata metadata `json:"requestMetadata"`
		Plaintext       []byte   `json:"plaintext"`
		Algorithm       string   `json:"encryptionAlgorithm"`
		AAD             []byte   `json:"additionalAuthenticatedData"`
	}
	decryptBody struct {
		RequestMetadata metadata `json:"requestMetadata"`
		sealed
		Algorithm string `json:"encryptionAlgorithm"`
		AAD       []byte `json:"additionalAuthenticatedData"`
	}
	// sealed is the answer of Encrypt, and what Decrypt wants of it.
	sealed struct {
		Ciphertext         []byte `json:"ciphertext"`
		CiphertextMetadata []byte `json:"ciphertextMetadata"`
		IV                 []byte `json:"initializationVector"`
		Tag                []byte `json:"authenticationTag"`
	}
)

// decode reads the answer of Encrypt.
func decode(answer []byte) (sealed, error) {
	var s sealed
	if err := json.Unmarshal(answer, &s); err != nil {
		return s, fmt.Errorf("the answer of Encrypt: %w", err)
	}
	return s, nil
}

// algorithm is the only one of the specification; aad is from its example.
const algorithm = "AES_GCM"

var aad = []byte("project=nile,department=marketing")

// caller signs requests to one key store as AWS KMS does, with the signer of
// the AWS SDK. A signature is good for five minutes, and XKS allows replays: a
// measurement signs its requests just before it begins.
type caller struct {
	// addr is where it listens, host what it is called in its URL.
	addr, host, prefix string
	// principal and kmsKeyARN are told in requests, region stands in signatures.
	principal, kmsKeyARN, region string
	credential                   aws.Credentials
	signer                       *v4.Signer
}

func newCaller(addr string) caller {
	return caller{addr: addr, host: addr, prefix: keyStorePrefix, principal: principal, kmsKeyARN: kmsKeyARN, region: region, signer: v4.NewSigner()}
}

func (c *caller) metadata(operation appliance.Operation) metadata {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return metadata{
		AWSPrincipalARN: c.principal,
		KMSKeyARN:       c.kmsKeyARN,
		KMSOperation:    string(operation),
		KMSRequestID:    fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
	}
}

// encryptBody encrypts a data key, which is what KMS mostly sends.
func (c *caller) encryptBody() encryptBody {
	dataKey := make([]byte, 32)
	_, _ = rand.Read(dataKey) // never fails (crypto/rand)
	return encryptBody{c.metadata(appliance.OpEncrypt), dataKey, algorithm, aad}
}

func (c *caller) decryptBody(s sealed) decryptBody {
	return decryptBody{c.metadata(appliance.OpDecrypt), s, algorithm, aad}
}

// request gives a signed request.
func (c *caller) request(keyID string, operation appliance.Operation, body any) (*http.Request, []byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	url := "https://" + c.host + c.prefix + appliance.XKSPath + "/keys/" + keyID + "/" + strings.ToLower(string(operation))
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(encoded))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	sum := sha256.Sum256(encoded)
	err = c.signer.SignHTTP(context.Background(), c.credential, r, hex.EncodeToString(sum[:]), "kms-xks-proxy", c.region, time.Now())
	return r, encoded, err
}

// bytes gives a signed request as it goes over the connection.
func (c *caller) bytes(keyID string, operation appliance.Operation, body any) ([]byte, error) {
	r, encoded, err := c.request(keyID, operation, body)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", r.Method, r.URL.Path, r.URL.Host, len(encoded))
	if err := r.Header.Write(&b); err != nil {
		return nil, err
	}
	b.WriteString("\r\n")
	b.Write(encoded)
	return b.Bytes(), nil
}

// encrypts gives n requests of Encrypt, each different, spread over the keys.
func (c *caller) encrypts(keys []string, n int) ([][]byte, error) {
	requests := make([][]byte, n)
	for i := range requests {
		var err error
		if requests[i], err = c.bytes(keys[i%len(keys)], appliance.OpEncrypt, c.encryptBody()); err != nil {
			return nil, err
		}
	}
	return requests, nil
}

// ciphertexts has n data keys encrypted over the generator's connections, spread over the keys.
func (c *caller) ciphertexts(g *generator, keys []string, n int) ([]sealed, error) {
	encrypts, err := c.encrypts(keys, n)
	if err != nil {
		return nil, err
	}
	out := make([]sealed, n)
	return out, g.once(encrypts, func(i int, answer []byte) error {
		var err error
		out[i], err = decode(answer)
		return err
	})
}

// decrypts gives a request of Decrypt for each of what [caller.ciphertexts] gave for the same keys.
func (c *caller) decrypts(keys []string, ciphertexts []sealed) ([][]byte, error) {
	requests := make([][]byte, len(ciphertexts))
	for i, s := range ciphertexts {
		var err error
		if requests[i], err = c.bytes(keys[i%len(keys)], appliance.OpDecrypt, c.decryptBody(s)); err != nil {
			return nil, err
		}
	}
	return requests, nil
}
