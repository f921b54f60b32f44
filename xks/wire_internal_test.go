package xks

import (
	"testing"

	"holdfast/appliance"
)

// bodies gives what the JSON of requests and answers costs.
func bodies() map[string]func() error {
	const (
		metadata = `{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",` +
			`"kmsOperation":"Encrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"},`
		rest    = `"encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n"}`
		encrypt = metadata + `"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",` + rest
		decrypt = metadata + `"authenticationTag":"AAAAAAAAAAAAAAAAAAAAAA==","ciphertext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","ciphertextMetadata":"AAAAAAA=",` +
			`"initializationVector":"AAAAAAAAAAAAAAAA",` + rest
	)
	return map[string]func() error{
		"read Encrypt": func() error { return decodeBody([]byte(encrypt), &encryptRequest{}) },
		"read Decrypt": func() error { return decodeBody([]byte(decrypt), &decryptRequest{}) },
		"write Encrypt": func() error {
			encryptAnswer(&appliance.Ciphertext{Tag: make([]byte, 16), Ciphertext: make([]byte, 32), Metadata: make([]byte, 5), IV: make([]byte, 12)}, nil)
			return nil
		},
		"write Decrypt": func() error {
			decryptAnswer(make([]byte, 32))
			return nil
		},
	}
}

// BenchmarkBody measures the JSON of requests and answers.
func BenchmarkBody(b *testing.B) {
	for name, do := range bodies() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
