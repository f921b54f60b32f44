package sqlite_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

func stateOptions() appliance.StateOptions {
	return appliance.StateOptions{Key: storetest.NewRowKey(), Now: time.Now}
}

// newKeys gives keys with random IDs. Blobs have the sizes of the real seals.
func newKeys(ks *appliance.KeyStore, n int) []appliance.NewKey {
	keys := make([]appliance.NewKey, n)
	for i := range keys {
		keys[i] = storetest.NewKey(ks, randomID())
		keys[i].Key.Seal = make([]byte, 29)
		keys[i].Version.Material = make([]byte, 61)
		_, _ = rand.Read(keys[i].Key.Seal)
		_, _ = rand.Read(keys[i].Version.Material)
	}
	return keys
}

// loaded makes a database with so many keys, and gives its path and key store.
func loaded(b *testing.B, total int) (string, *appliance.KeyStore) {
	path := filepath.Join(b.TempDir(), "holdfast.db")
	s, err := sqlite.Open(b.Context(), path, sqlite.Options{})
	storetest.Must(b, err)
	ks := storetest.KeyStore(1)
	storetest.Must(b, s.CreateKeyStore(b.Context(), ks))
	for n := total; n > 0; n -= 10_000 {
		storetest.Must(b, s.CreateKeys(b.Context(), newKeys(ks, min(n, 10_000))...))
	}
	storetest.Must(b, s.Close())
	return path, ks
}

// BenchmarkOpenState compares the opening of the state, with all rows verified, with a
// plain scan of the same tables by the same driver, in turns. "ratio" is their quotient, "cpu-ratio" that of the
// processor time, which other programs on the machine disturb less.
// "peak-MiB" is how much more memory the process had at most while it opened, and
// "held-MiB" how much more heap it has while the state is open.
func BenchmarkOpenState(b *testing.B) {
	ctx := b.Context()
	total := benchKeys(b)
	path, _ := loaded(b, total)
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	storetest.Must(b, err)
	defer s.Close()
	first := stateOptions()
	first.Seal = true
	if _, err := s.OpenState(ctx, first); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	storetest.Must(b, err)
	defer db.Close()
	plain := func() int { return scanAll(ctx, b, db) }
	plain() // both are measured with the file in memory

	var scans, opens, scansCPU, opensCPU []time.Duration
	var peak, held uint64
	for b.Loop() {
		s.CloseState()
		began, cpu := time.Now(), processorTime()
		rows := plain()
		scans, scansCPU = append(scans, time.Since(began)), append(scansCPU, processorTime()-cpu)

		memory := newMemory()
		began, cpu = time.Now(), processorTime()
		report, err := s.OpenState(ctx, stateOptions())
		opens, opensCPU = append(opens, time.Since(began)), append(opensCPU, processorTime()-cpu)
		storetest.Must(b, err)
		if report.Rows != rows || len(report.Damaged) > 0 {
			b.Fatalf("%d rows were verified of %d, and %v are damaged", report.Rows, rows, report.Damaged)
		}
		peak, held = max(peak, memory.peak()), max(held, memory.held())
	}
	scan, open := median(scans), median(opens)
	b.ReportMetric(float64(total), "keys")
	b.ReportMetric(scan.Seconds(), "scan-s")
	b.ReportMetric(open.Seconds(), "open-s")
	b.ReportMetric(open.Seconds()/scan.Seconds(), "ratio")
	b.ReportMetric(median(opensCPU).Seconds()/median(scansCPU).Seconds(), "cpu-ratio")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(float64(held)/(1<<20), "held-MiB")
	b.ReportMetric(0, "ns/op")
}

// scanAll reads all rows of the tables that manifests cover, as the driver gives them,
// and says how many there are.
func scanAll(ctx context.Context, b *testing.B, db *sql.DB) (n int) {
	b.Helper()
	c, err := db.Conn(ctx)
	storetest.Must(b, err)
	defer c.Close()
	rows, err := c.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT IN
		('boot_steps', 'policy_version', 'manifest_history', 'goose_db_version')`)
	storetest.Must(b, err)
	var tables []string
	for rows.Next() {
		var name string
		storetest.Must(b, rows.Scan(&name))
		tables = append(tables, name)
	}
	storetest.Must(b, errors.Join(rows.Err(), rows.Close()))
	for _, table := range tables {
		storetest.Must(b, c.Raw(func(raw any) error {
			rows, err := raw.(driver.QueryerContext).QueryContext(context.Background(), `SELECT * FROM `+table, nil)
			if err != nil {
				return err
			}
			defer rows.Close()
			for values := make([]driver.Value, len(rows.Columns())); ; n++ {
				if err := rows.Next(values); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
			}
		}))
	}
	return n - 1 // the installation's manifest is in no set
}

// memory measures the process's memory from a moment on.
type memory struct {
	heap, resident uint64
}

func newMemory() memory {
	debug.FreeOSMemory()
	// Has the kernel begin to look for the peak again; see proc(5).
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	return memory{heap: heap(), resident: status("VmRSS")}
}

func (m memory) peak() uint64 { return above(status("VmHWM"), m.resident) }

func (m memory) held() uint64 {
	runtime.GC()
	return above(heap(), m.heap)
}

func above(n, base uint64) uint64 { return max(n, base) - base }

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// status gives a line of /proc/self/status that is in kB, in bytes; 0 where there is none.
func status(name string) uint64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == name+":" {
			n, _ := strconv.ParseUint(string(f[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}

// processorTime is what the process has used, all threads together.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkChangesOfState compares changes while the state is open, when each is counted
// in and writes manifests, with the same changes in a database that has none, in turns.
func BenchmarkChangesOfState(b *testing.B) {
	total := benchKeys(b)
	stores := make([]*sqlite.DB, 2) // without and with an open state
	keys := make([]*appliance.ExternalKey, 2)
	var ks *appliance.KeyStore
	for i := range stores {
		var path string
		var err error
		path, ks = loaded(b, total)
		stores[i], err = sqlite.Open(b.Context(), path, sqlite.Options{})
		storetest.Must(b, err)
		defer stores[i].Close()
		made := newKeys(ks, 1)
		storetest.Must(b, stores[i].CreateKeys(b.Context(), made...))
		keys[i] = made[0].Key
	}
	o := stateOptions()
	o.Seal = true
	if _, err := stores[1].OpenState(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	compare := func(name string, change func(b *testing.B, i int)) {
		b.Run(name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i := range stores {
					began := time.Now()
					change(b, i)
					took[i] = append(took[i], time.Since(began))
				}
			}
			closed, open := median(took[0]), median(took[1])
			b.ReportMetric(float64(closed.Microseconds()), "closed-µs")
			b.ReportMetric(float64(open.Microseconds()), "open-µs")
			b.ReportMetric(open.Seconds()/closed.Seconds(), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
	compare("create-1000-keys", func(b *testing.B, i int) {
		storetest.Must(b, stores[i].CreateKeys(b.Context(), newKeys(ks, 1000)...))
	})
	compare("update-key", func(b *testing.B, i int) {
		was := keys[i].Seal
		keys[i].Seal = make([]byte, 29)
		_, _ = rand.Read(keys[i].Seal)
		storetest.Must(b, stores[i].UpdateKey(b.Context(), keys[i], was))
	})
}
