package xks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/audit/recorder"
	"holdfast/xks/xkstest"
)

// TestLongMetadata: a field of requestMetadata of any length gives an answer that the
// specification has for it, and never 500.
func TestLongMetadata(t *testing.T) {
	r := recorder.New(recorder.Options{Dir: t.TempDir(), LogID: func() (string, error) { return "test", nil }, Log: slog.New(slog.DiscardHandler)})
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Open(signer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Recorder: r}})
	k := b.NewKeyStore(t, "demo", "/demo", "*")
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	for _, field := range []string{"kmsRequestId", "kmsOperation", "awsPrincipalArn", "awsSourceVpc", "awsSourceVpce", "kmsKeyArn", "kmsViaService"} {
		for _, char := range []string{"a", "\x01", "é", "<"} {
			for n, status := range map[int]int{2048: 200, 2049: 501, 9000: 501} {
				value := strings.Repeat(char, n/len(char))
				if len(value) < n {
					value += "a"
				}
				for path, body := range map[string]xkstest.Body{"/keys/k/encrypt": xkstest.EncryptBody("x"), "/keys/k/metadata": {}, "/health": {}} {
					if a := k.Call(path, body.With("requestMetadata", xkstest.Metadata().With(field, value))); a.Status != status {
						t.Errorf("%s with %d bytes of %q, %s: %d %.200s", field, n, char, path, a.Status, a.Text)
					}
				}
			}
		}
		for _, n := range []int{60 << 10, 64 << 10} {
			if a := k.Call("/health", xkstest.Body{"requestMetadata": xkstest.Metadata().With(field, strings.Repeat("a", n))}); a.Status != 501 {
				t.Errorf("%s with %d bytes: %d %.200s", field, n, a.Status, a.Text)
			}
		}
	}
}
