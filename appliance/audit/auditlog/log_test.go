package auditlog_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
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

func options() auditlog.Options { return auditlog.Options{LogID: "test", Signer: signer()} }

func open(t testing.TB, dir string, o auditlog.Options) *auditlog.Log {
	t.Helper()
	l, err := auditlog.Open(dir, o)
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

func appendAll(t testing.TB, l *auditlog.Log, from, to int) {
	t.Helper()
	var last auditlog.Pending
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
		if err := l.Append(t.Context(), record(0)); code(err) != fault.AuditClosed {
			t.Fatal(err)
		}
		if s := l.Status(); s.Size != int64(round+1)*10 || s.Lag != 0 {
			t.Fatalf("%+v", s)
		}
	}
}

// TestConcurrent logs, searches, verifies and signs at once.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small())
	const callers, each = 16, 40
	numbers := make(chan int64, callers*each)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			var newest int64 = -1
			for i := range each {
				r := record(i)
				p := l.AppendAsync(r)
				if err := p.Wait(t.Context()); err != nil || r.Seq <= newest {
					t.Errorf("record %d after %d: %v", r.Seq, newest, err)
				}
				newest = r.Seq
				numbers <- r.Seq
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 10 {
				if _, err := verify(dir, audit.VerifyOptions{}); err != nil {
					t.Error(err)
				}
				if _, _, err := l.Search(t.Context(), audit.Query{KeyStore: "demo", Key: "key-7"}); err != nil {
					t.Error(err)
				}
				if _, err := l.Checkpoint(); err != nil {
					t.Error(err)
				}
				_ = l.Status()
			}
		})
	}
	wg.Wait()
	close(numbers)
	seen := map[int64]bool{}
	for n := range numbers {
		seen[n] = true
	}
	if len(seen) != callers*each {
		t.Fatalf("%d numbers", len(seen))
	}
	must(t, l.Close())
	r, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.Records != callers*each || r.Unsigned != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestRefusedRecords take no number.
func TestRefusedRecords(t *testing.T) {
	l := open(t, t.TempDir(), options())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		r    audit.Record
		code fault.Code
	}{
		"kind":      {t.Context(), audit.Record{Kind: "x"}, fault.Invalid},
		"too long":  {t.Context(), audit.Record{Kind: audit.KindXKS, Detail: strings.Repeat("x", audit.MaxLine)}, fault.Invalid},
		"before":    {t.Context(), audit.Record{Kind: audit.KindXKS, Before: []byte("{")}, fault.Invalid},
		"retention": {t.Context(), audit.Record{Kind: audit.KindAudit, Operation: "RemoveSegments"}, fault.Invalid},
		"context":   {ended, audit.Record{Kind: audit.KindXKS}, fault.AuditTimeout},
	} {
		if err := l.Append(test.ctx, &test.r); code(err) != test.code || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (auditlog.Pending{}).Wait(t.Context()); code(err) != fault.Invalid {
		t.Error(err)
	}
	r := record(0)
	p := l.AppendAsync(r)
	if err := p.Wait(ended); err != nil && code(err) != fault.AuditTimeout {
		t.Error(err)
	}
	must(t, p.Wait(t.Context()))
	if r.Seq != 0 {
		t.Fatalf("the first record has the number %d", r.Seq)
	}
	for name, o := range map[string]auditlog.Options{"no signer": {LogID: "x"}, "no ID": {Signer: signer()}, "a bad ID": {LogID: "a\nb", Signer: signer()}} {
		if _, err := auditlog.Open(t.TempDir(), o); code(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkAppend: callers of whom each waits for its record before the next one.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 8, 32, 128} {
		for _, noSync := range []bool{true, false} {
			b.Run(fmt.Sprintf("callers=%d/sync=%t", callers, !noSync), func(b *testing.B) {
				o := options()
				o.NoSync = noSync
				l := open(b, b.TempDir(), o)
				b.ReportAllocs()
				b.ResetTimer()
				cpu := cpuTime()
				var all sync.WaitGroup
				for i := range callers {
					all.Go(func() {
						r := record(1)
						for range (b.N + i) / callers {
							must(b, l.Append(context.Background(), r))
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// TestDamageIsKept: a log that was damaged where a checkpoint covers it is refused as
// it is. Nothing is cut off of what shows how it was damaged, be the tree whole or
// not.
func TestDamageIsKept(t *testing.T) {
	for name, damageTree := range map[string]func([]byte) []byte{
		"tree whole":   func(b []byte) []byte { return b },
		"tree damaged": func(b []byte) []byte { b[0] ^= 1; return b },
		"tree empty":   func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, options(), 0, 20)
			segments := got(filepath.Glob(filepath.Join(dir, "*.jsonl")))(t)
			if len(segments) != 1 {
				t.Fatalf("the segments are %v", segments)
			}
			damaged := got(os.ReadFile(segments[0]))(t)
			damaged[len(damaged)/2] = 0 // as if it were torn there
			must(t, os.WriteFile(segments[0], damaged, 0o600))
			tree := filepath.Join(dir, "tree")
			must(t, os.WriteFile(tree, damageTree(got(os.ReadFile(tree))(t)), 0o600))
			_, err := auditlog.Open(dir, options())
			if code(err) != fault.AuditTruncated {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(got(os.ReadFile(segments[0]))(t), damaged) {
				t.Error("the damaged segment was changed")
			}
		})
	}
}
