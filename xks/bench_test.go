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

// exercise is a request that is handled again and again, without TLS and net/http and
// without allocations of its own.
type exercise struct {
	name string
	// most is how many allocations it may take.
	most    float64
	handler http.Handler
	request *http.Request
	text    []byte
	body    bytes.Reader
	out     discard
}

func (e *exercise) run() {
	e.body.Reset(e.text)
	e.handler.ServeHTTP(&e.out, e.request)
}

func exercises(t testing.TB) (all []*exercise) {
	t.Helper()
	bed := xkstest.Start(t, xkstest.Options{})
	k := bed.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	bed.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	for _, c := range []struct {
		name, path string
		body       xkstest.Body
		most       float64
	}{
		{"Encrypt", "/keys/k/encrypt", xkstest.EncryptBody("x"), 18},
		{"EncryptCDIV", "/keys/k/encrypt", xkstest.EncryptBody("x").With("ciphertextDataIntegrityValueAlgorithm", "SHA_256"), 24},
		{"Decrypt", "/keys/k/decrypt", xkstest.DecryptBody(sealed), 17},
		{"GetKeyMetadata", "/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 12},
		{"Denied", "/keys/k/encrypt", xkstest.EncryptBody("x").With("requestMetadata", xkstest.Metadata().With("awsPrincipalArn", "a stranger")), 19},
	} {
		r := k.Request(c.path, c.body)
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		e := &exercise{name: c.name, most: c.most, handler: bed.API, request: r, text: text, out: discard{header: http.Header{}}}
		r.Body = io.NopCloser(&e.body)
		e.body.Reset(text)
		out := httptest.NewRecorder()
		bed.API.ServeHTTP(out, r)
		if want := map[bool]int{true: 403, false: 200}[c.name == "Denied"]; out.Code != want {
			t.Fatalf("%s: %d %s", c.name, out.Code, out.Body)
		}
		all = append(all, e)
	}
	return all
}

// BenchmarkHandler measures the handlers of requests.
func BenchmarkHandler(b *testing.B) {
	for _, e := range exercises(b) {
		b.Run(e.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.run()
			}
		})
	}
}

// discard is an [http.ResponseWriter] without allocations of its own.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
