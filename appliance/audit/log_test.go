package audit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/audit"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func got[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// key is the key of all tests, made once.
var key = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func signer() *audit.ECDSASigner {
	s, err := audit.NewECDSASigner("test.example/audit", key)
	if err != nil {
		panic(err)
	}
	return s
}

func verifiers() note.Verifiers {
	v, err := audit.NewECDSAVerifier("test.example/audit", &key.PublicKey)
	if err != nil {
		panic(err)
	}
	return note.VerifierList(v)
}

func options() audit.Options { return audit.Options{LogID: "test", Signer: signer()} }

func open(t testing.TB, dir string, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(dir, o)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// record is one as a request of KMS makes it.
func record(i int) *audit.Record {
	return &audit.Record{
		Kind: audit.KindXKS, Operation: "Encrypt", Result: audit.Allowed,
		KeyStore: "demo", Key: fmt.Sprintf("key-%d", i%1000), Version: 3,
		Principal:    fmt.Sprintf("arn:aws:iam::123456789012:role/app-%d", i%100),
		KMSRequestID: fmt.Sprintf("4112f4d6-db54-4af4-ae30-%012d", i),
		KMSKeyARN:    "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		KMSOperation: "GenerateDataKey", ViaService: "s3", Policies: []string{"grant-1"},
		DurationUS: 412, Remote: "192.0.2.1:4711",
	}
}

func appendAll(t testing.TB, l *audit.Log, from, to int) {
	t.Helper()
	var last audit.Pending
	for i := from; i < to; i++ {
		last = l.AppendAsync(record(i))
	}
	must(t, last.Wait(t.Context()))
}

func TestAppendAndReopen(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		l := open(t, dir, options())
		for i := range 10 {
			r := record(i)
			must(t, l.Append(t.Context(), r))
			if r.Seq != int64(round*10+i) || time.Since(r.Time) > time.Minute {
				t.Fatalf("record %d has the number %d and the time %v", i, r.Seq, r.Time)
			}
		}
		must(t, l.Close())
		if err := l.Append(t.Context(), record(0)); code(err) != audit.CodeClosed {
			t.Fatal(err)
		}
		if s := l.Status(); s.Size != int64(round+1)*10 || s.Lag != 0 {
			t.Fatalf("%+v", s)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, goroutines := range []int{1, 32} {
		for _, noSync := range []bool{true, false} {
			b.Run(fmt.Sprintf("goroutines=%d/sync=%t", goroutines, !noSync), func(b *testing.B) {
				o := options()
				o.NoSync = noSync
				l := open(b, b.TempDir(), o)
				b.ReportAllocs()
				b.SetParallelism(max(1, goroutines/2))
				cpu := cpuTime()
				b.RunParallel(func(pb *testing.PB) {
					r := record(1)
					for pb.Next() {
						must(b, l.Append(context.Background(), r))
					}
				})
				b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}
