package appliance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
)

// BenchmarkBackup backs up a database of many cached keys, verifies and restores the
// backup, and tells the time and the most memory that each has used.
// HOLDFAST_BENCH_KEYS says how many keys; 10,000 if it is not set.
func BenchmarkBackup(b *testing.B) {
	total := 10_000
	if s := os.Getenv("HOLDFAST_BENCH_KEYS"); s != "" {
		total = must(strconv.Atoi(s))(b)
	}
	var ring appliance.Keyring
	options := appliancetest.Options{Keyring: func(k appliance.Keyring) appliance.Keyring { ring = k; return k }}
	bed := appliancetest.Start(b, options)
	ks := must(bed.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "many", URIPathPrefix: "/many"}))(b)
	fill(b, bed, ring, ks, total)
	path := filepath.Join(b.TempDir(), "backup")
	stage := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			forgetPeak(b)
			for b.Loop() {
				began := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds(), "s")
			}
			b.ReportMetric(float64(peak(b))/(1<<20), "MiB-peak")
			b.ReportMetric(0, "ns/op")
		})
	}
	stage("backup", func() error {
		f := must(os.Create(path))(b)
		defer f.Close()
		return backupTo(bed.Appliance, f, "")
	})
	b.Logf("%d keys, %d bytes of backup", total, must(os.Stat(path))(b).Size())
	stage("verify", func() error {
		f := must(os.Open(path))(b)
		defer f.Close()
		_, err := bed.Appliance.VerifyBackup(ctx, f)
		return err
	})
	options.Token = bed.Device
	fresh := appliancetest.Start(b, options)
	stage("restore", func() error {
		f := must(os.Open(path))(b)
		defer f.Close()
		_, err := fresh.Appliance.Restore(ctx, f, appliance.Restoration{})
		return err
	})
}

func fill(b *testing.B, bed *appliancetest.Bed, ring appliance.Keyring, ks *appliance.KeyStore, total int) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for done := 0; done < total; {
		var keys []appliance.NewKey
		for ; len(keys) < 5000 && done < total; done++ {
			k := &appliance.ExternalKey{KeyStore: ks.ID, ID: fmt.Sprintf("key-%09d", (done*7919)%1_000_003), Usage: appliance.Usage{Encrypt: true, Decrypt: true},
				Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: now}
			v := &appliance.KeyVersion{KeyStore: ks.ID, KeyID: k.ID, Version: 1, Custody: k.Custody, Origin: appliance.OriginImported, CreatedAt: now}
			if err := ring.Import(ctx, v, "", make([]byte, appliance.KeyBytes)); err != nil {
				b.Fatal(err)
			}
			k.Seal = must(ring.Seal(k.Binding(), nil))(b)
			keys = append(keys, appliance.NewKey{Key: k, Version: v})
		}
		if err := bed.Store.CreateKeys(ctx, keys...); err != nil {
			b.Fatal(err)
		}
	}
}

// forgetPeak has the kernel count the process's most memory from now on.
func forgetPeak(b *testing.B) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("the peak is that of the whole run: %v", err)
	}
}

// peak is the most memory that the process has used, in bytes.
func peak(b *testing.B) int64 {
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/status"))(b))) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return must(strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64))(b) << 10
		}
	}
	b.Fatal("no VmHWM")
	return 0
}
