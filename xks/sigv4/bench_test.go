package sigv4_test

import (
	"net/http"
	"testing"
	"time"

	"holdfast/xks/sigv4"
)

// verifying gives what a request's signature costs, apart from the keyed hash itself
// (package keyring): its headers are read, and what was signed is put together.
func verifying(t testing.TB) func() error {
	const body = `{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"Encrypt"},"plaintext":"AAAA"}`
	r := signed(t, body, sigv4.Service, time.Now(), func(r *http.Request) { r.Header.Del("X-Amz-Odd") }) // KMS has no such header
	v := sigv4.Verifier{}
	return func() error {
		claim, err := v.Parse(r)
		if err == nil {
			_, err = claim.StringToSign(r, []byte(body))
		}
		return err
	}
}

func BenchmarkVerify(b *testing.B) {
	do := verifying(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := do(); err != nil {
			b.Fatal(err)
		}
	}
}
