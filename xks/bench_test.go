package xks_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// BenchmarkHandler measures the handlers of requests, without TLS and net/http.
func BenchmarkHandler(b *testing.B) {
	bed := xkstest.Start(b, xkstest.Options{})
	k := bed.NewKeyStore(b, "demo", "/demo", xkstest.Principal)
	bed.NewKey(b, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	for _, bb := range []struct {
		name, path string
		body       xkstest.Body
	}{
		{"Encrypt", "/keys/k/encrypt", xkstest.EncryptBody("x")},
		{"EncryptCDIV", "/keys/k/encrypt", xkstest.EncryptBody("x").With("ciphertextDataIntegrityValueAlgorithm", "SHA_256")},
		{"Decrypt", "/keys/k/decrypt", xkstest.DecryptBody(sealed)},
		{"GetKeyMetadata", "/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}},
		{"Denied", "/keys/k/encrypt", xkstest.EncryptBody("x").With("requestMetadata", xkstest.Metadata().With("awsPrincipalArn", "a stranger"))},
	} {
		r := k.Request(bb.path, bb.body)
		text, err := io.ReadAll(r.Body)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bb.name, func(b *testing.B) {
			var body bytes.Reader
			r.Body = io.NopCloser(&body)
			out := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(text)
				bed.API.ServeHTTP(out, r)
			}
		})
		if out := httptest.NewRecorder(); true {
			r.Body = io.NopCloser(bytes.NewReader(text))
			bed.API.ServeHTTP(out, r)
			if want := map[bool]int{true: 403, false: 200}[bb.name == "Denied"]; out.Code != want {
				b.Errorf("%s: %d %s", bb.name, out.Code, out.Body)
			}
		}
	}
}

// discard is an [http.ResponseWriter] without allocations of its own.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
