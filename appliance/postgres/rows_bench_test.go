package postgres_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// BenchmarkNode compares a node of a fleet with a single appliance, in turns: the opening of
// all rows, and the reading of a key that is not in memory, as ratios of the node's time to
// the other's. "join-s" is how long a node takes that begins with the snapshot in PostgreSQL.
// HOLDFAST_BENCH_KEYS says how many keys there are.
func BenchmarkNode(b *testing.B) {
	ctx := b.Context()
	total := 100_000
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_BENCH_KEYS")); err == nil {
		total = n
	}
	url := postgrestest.Start(b).Database(b)
	options := func(log bool) appliance.StateOptions {
		o := appliance.StateOptions{Key: storetest.NewRowKey(), Now: time.Now}
		if log {
			l, err := postgres.New(postgres.Options{URL: url})
			storetest.Must(b, err)
			b.Cleanup(l.Close)
			o.Log = l
		}
		return o
	}
	path := filepath.Join(b.TempDir(), "holdfast.db")
	single, ids := filled(b, path, total)
	defer single.Close()
	seal := options(false)
	seal.Seal = true
	_ = storetest.Got(single.OpenState(ctx, seal))(b)
	dir := b.TempDir()
	storetest.Must(b, sqlite.Split(ctx, path, filepath.Join(dir, "fleet.db"), filepath.Join(dir, "machine.db")))
	node, err := sqlite.Open(ctx, filepath.Join(dir, "fleet.db"), sqlite.Options{})
	storetest.Must(b, err)
	defer node.Close()
	found := options(true)
	found.Seal = true
	_ = storetest.Got(node.OpenState(ctx, found))(b)

	var opens, cold [2][]time.Duration
	both := []*sqlite.DB{single, node}
	for b.Loop() {
		for i, s := range both {
			s.CloseState()
			o := options(i == 1)
			began := time.Now()
			report := storetest.Got(s.OpenState(ctx, o))(b)
			opens[i] = append(opens[i], time.Since(began))
			if report.Rows < 2*total || len(report.Damaged) > 0 {
				b.Fatalf("%+v", report)
			}
		}
		for n := range 2000 {
			for i, s := range both {
				began := time.Now()
				_ = storetest.Got(s.Key(ctx, storetest.KeyStore(1).ID, ids[(n*7919+i)%len(ids)]))(b)
				cold[i] = append(cold[i], time.Since(began))
			}
		}
	}
	other, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "fleet.db"), sqlite.Options{})
	storetest.Must(b, err)
	defer other.Close()
	began := time.Now()
	_ = storetest.Got(other.OpenState(ctx, options(true)))(b)
	b.ReportMetric(time.Since(began).Seconds(), "join-s")
	b.ReportMetric(float64(total), "keys")
	b.ReportMetric(at(opens[1], .5).Seconds(), "open-s")
	b.ReportMetric(at(opens[1], .5).Seconds()/at(opens[0], .5).Seconds(), "open-ratio")
	b.ReportMetric(at(cold[1], .99).Seconds()/at(cold[0], .99).Seconds(), "cold-p99-ratio")
}

// at gives a quantile.
func at(list []time.Duration, quantile float64) time.Duration {
	slices.Sort(list)
	return list[int(float64(len(list)-1)*quantile)]
}

// filled makes a database with so many keys, with blobs of the sizes of real seals.
func filled(b *testing.B, path string, total int) (*sqlite.DB, []string) {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	storetest.Must(b, err)
	ks := storetest.KeyStore(1)
	storetest.Must(b, s.CreateKeyStore(b.Context(), ks))
	ids := make([]string, total)
	for n := 0; n < total; n += 10_000 {
		var keys []appliance.NewKey
		for i := n; i < min(n+10_000, total); i++ {
			var id [16]byte
			_, _ = rand.Read(id[:])
			ids[i] = hex.EncodeToString(id[:])
			k := storetest.NewKey(ks, ids[i])
			k.Key.Seal, k.Version.Material = make([]byte, 29), make([]byte, 61)
			_, _ = rand.Read(k.Key.Seal)
			_, _ = rand.Read(k.Version.Material)
			keys = append(keys, k)
		}
		storetest.Must(b, s.CreateKeys(b.Context(), keys...))
	}
	return s, ids
}
