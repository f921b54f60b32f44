package sqlite_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// benchKeys is how many keys the benchmarks' database has; HOLDFAST_BENCH_KEYS
// sets another number.
func benchKeys(b *testing.B) int {
	s := os.Getenv("HOLDFAST_BENCH_KEYS")
	if s == "" {
		return 10_000
	}
	n, err := strconv.Atoi(s)
	storetest.Must(b, err)
	return n
}

// randomID is an external key ID as a console makes it: a random UUID.
func randomID() string {
	var r [16]byte
	_, _ = rand.Read(r[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", r[:4], r[4:6], r[6:8], r[8:10], r[10:])
}

// BenchmarkSQLite measures one database: loading it, opening it, and what
// happens while it serves. Blobs have the sizes of the real seals.
func BenchmarkSQLite(b *testing.B) {
	ctx := b.Context()
	path := filepath.Join(b.TempDir(), "holdfast.db")
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	storetest.Must(b, err)
	ks := storetest.KeyStore(1)
	storetest.Must(b, s.CreateKeyStore(ctx, ks))
	total := benchKeys(b)
	ids := make([]string, total)
	for i := range ids {
		ids[i] = randomID()
	}
	began := time.Now()
	for chunk := range slices.Chunk(ids, 10_000) {
		keys := make([]appliance.NewKey, len(chunk))
		for i, keyID := range chunk {
			keys[i] = storetest.NewKey(ks, keyID)
			keys[i].Key.Seal = make([]byte, 29)
			keys[i].Version.Material = make([]byte, 61)
			_, _ = rand.Read(keys[i].Key.Seal)
			_, _ = rand.Read(keys[i].Version.Material)
		}
		storetest.Must(b, s.CreateKeys(ctx, keys...))
	}
	load := time.Since(began)
	storetest.Must(b, s.Close())
	info, err := os.Stat(path)
	storetest.Must(b, err)
	b.Run("load", func(b *testing.B) {
		b.ReportMetric(float64(total)/load.Seconds(), "keys/s")
		b.ReportMetric(float64(info.Size())/float64(total), "bytes/key")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			s, err := sqlite.Open(ctx, path, sqlite.Options{})
			storetest.Must(b, err)
			storetest.Must(b, s.Close())
		}
	})
	s, err = sqlite.Open(ctx, path, sqlite.Options{})
	storetest.Must(b, err)
	defer s.Close()
	for i := range min(total, 5_000) {
		storetest.Must(b, s.CreateGrants(ctx, storetest.Grant(ks, i, ids[i])))
	}
	b.Run("key", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i = (i + 7919) % total
			if _, err := s.Key(ctx, ks.ID, ids[i]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("key-4-callers", func(b *testing.B) {
		b.SetParallelism(2)
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); {
				i = (i + 7919) % total
				if _, err := s.Key(ctx, ks.ID, ids[i]); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			if n, err := s.CountKeys(ctx, ks.ID); n != total {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("page-of-100", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Keys(ctx, ks.ID, appliance.Page{After: ids[0], Limit: 100}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("reserve-%d-callers", callers), func(b *testing.B) {
			work := make(chan int)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for i := range work {
						if _, err := s.ReserveEncryptions(context.Background(), ks.ID, ids[i*7919%total], 1, 1<<20); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reservations/s")
		})
	}
	b.Run("create-1-key", func(b *testing.B) {
		for b.Loop() {
			storetest.Must(b, s.CreateKeys(ctx, storetest.NewKey(ks, randomID())))
		}
	})
}
