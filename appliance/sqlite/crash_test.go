package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

const batch = 5 // keys that the child creates in one call

// writeForever is the child of TestKill: eight callers make, count, change and
// delete keys, and say on stdout what has been acknowledged, until killed.
func writeForever(path string) {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	ks := storetest.KeyStore(1)
	if err := s.CreateKeyStore(ctx, ks); err != nil && !isCode(err, fault.Exists) {
		fmt.Println("failed", err)
		return
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				name := randomID()
				keys := make([]appliance.NewKey, batch)
				for i := range keys {
					keys[i] = storetest.NewKey(ks, fmt.Sprintf("%s-%d", name, i))
				}
				if err := s.CreateKeys(ctx, keys...); err != nil {
					fmt.Println("failed", err)
					return
				}
				fmt.Println("created", name, 0)
				for range 3 {
					n, err := s.ReserveEncryptions(ctx, ks.ID, name+"-0", 1, 10)
					if err != nil {
						fmt.Println("failed", err)
						return
					}
					fmt.Println("reserved", name, n)
				}
				k := *keys[1].Key
				k.CurrentVersion = 2
				if err := s.AddKeyVersion(ctx, &k, storetest.Version(ks, k.ID, 2), k.Seal, ""); err != nil {
					fmt.Println("failed", err)
					return
				}
				fmt.Println("rotated", name, 0)
				if err := s.DeleteKey(ctx, ks.ID, name+"-2", keys[2].Key.Seal, []*appliance.TokenObject{storetest.TokenObject(name)}); err != nil {
					fmt.Println("failed", err)
					return
				}
				fmt.Println("deleted", name, 0)
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process that writes, ten times over one database, and finds
// each acknowledged change in it, and no half of any other.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	ks := storetest.KeyStore(1)
	acknowledged := map[string]map[string]uint64{} // by name and change: the count reserved
	for round := range 10 {
		cmd := child(t, "write", path)
		out, err := cmd.StdoutPipe()
		storetest.Must(t, err)
		storetest.Must(t, cmd.Start())
		left := 1 + rand.IntN(150)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var what, name string
			var n uint64
			if _, err := fmt.Sscan(lines.Text(), &what, &name, &n); err != nil || what == "failed" {
				t.Fatal(lines.Text())
			}
			if acknowledged[name] == nil {
				acknowledged[name] = map[string]uint64{}
			}
			acknowledged[name][what] = max(n, acknowledged[name][what])
			if left--; left == 0 {
				storetest.Must(t, cmd.Process.Kill()) // and read on: the pipe may hold more
			}
		}
		if err := cmd.Wait(); err == nil || left > 0 {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		checkAfterKill(t, path, ks, acknowledged)
	}
}

func checkAfterKill(t *testing.T, path string, ks *appliance.KeyStore, acknowledged map[string]map[string]uint64) {
	ctx := t.Context()
	s := openSQLite(t, path) // which checks that the database is whole
	defer s.Close()
	for name, did := range acknowledged {
		if _, ok := did["created"]; !ok {
			continue // its line was in the pipe of a change that came after
		}
		k := storetest.Got(s.Key(ctx, ks.ID, name+"-0"))(t)
		if n := k.Versions[0].Encryptions; n < did["reserved"] {
			t.Errorf("%s has %d encryptions; %d were acknowledged", name, n, did["reserved"])
		}
		rotated := storetest.Got(s.Key(ctx, ks.ID, name+"-1"))(t)
		if _, ok := did["rotated"]; ok && rotated.CurrentVersion != 2 {
			t.Errorf("%s: an acknowledged rotation is gone", name)
		}
		if int(rotated.CurrentVersion) != len(rotated.Versions) {
			t.Errorf("%s: version %d is current of %d", name, rotated.CurrentVersion, len(rotated.Versions))
		}
		if _, err := s.Key(ctx, ks.ID, name+"-2"); err == nil {
			if _, ok := did["deleted"]; ok {
				t.Errorf("%s: an acknowledged deletion is gone", name)
			}
		}
	}
	// All or none: of each batch there are five keys, or the four that the
	// deletion leaves, whose token object is then noted.
	noted := map[string]bool{}
	for _, o := range storetest.Got(s.TokenObjects(ctx))(t) {
		noted[o.Label] = true
	}
	of := map[string]int{}
	total := 0
	for page := (appliance.Page{Limit: 1000}); ; {
		list := storetest.Got(s.Keys(ctx, ks.ID, page))(t)
		if len(list) == 0 {
			break
		}
		for _, k := range list {
			of[k.ID[:strings.LastIndex(k.ID, "-")]]++
			total++
		}
		page.After = list[len(list)-1].ID
	}
	for name, n := range of {
		want := batch
		if noted[name] {
			want--
		}
		if n != want {
			t.Errorf("%s: there are %d keys; want %d", name, n, want)
		}
	}
	storetest.Equal(t, storetest.Got(s.CountKeys(ctx, ks.ID))(t), total)
}

// writeUntilDiskFails is the child of TestDiskFails: it writes until the limit
// on file sizes stops it, and then goes on as a server would.
func writeUntilDiskFails(path string) {
	ctx := context.Background()
	signal.Ignore(syscall.SIGXFSZ)
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	ks := storetest.KeyStore(1)
	if err := s.CreateKeyStore(ctx, ks); err != nil {
		fmt.Println("failed", err)
		return
	}
	var limit syscall.Rlimit
	setLimit := func(bytes uint64) {
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println("failed", err)
		}
		limit.Cur = min(bytes, limit.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println("failed", err)
		}
	}
	wal, err := os.Stat(path + "-wal") // the migrations are in it
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	setLimit(uint64(wal.Size()) + 200_000)
	for i := 0; ; i++ {
		keyID := fmt.Sprint("k", i)
		if err = s.CreateKeys(ctx, storetest.NewKey(ks, keyID)); err != nil {
			break
		}
		fmt.Println("created", keyID)
	}
	fmt.Println("refused", isCode(err, fault.Internal))
	setLimit(math.MaxUint64) // The disk is well again; what it lost is not known.
	again := s.CreateKeyStore(ctx, storetest.KeyStore(2))
	fmt.Println("again", isCode(again, fault.Internal))
	_, err = s.Key(ctx, ks.ID, "k0")
	fmt.Println("read", err == nil)
	os.Exit(0)
}

// TestDiskFails lets a commit fail: what was acknowledged is there afterwards,
// nothing else is, nothing more is written by that process, and reads go on.
func TestDiskFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	out, err := child(t, "disk full", path).Output()
	storetest.Must(t, err)
	var created int
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if what == "created" {
			created++
		} else {
			said[what] = rest
		}
	}
	storetest.Equal(t, said, map[string]string{"refused": "true", "again": "true", "read": "true"})
	if created == 0 {
		t.Fatal("the disk failed too early")
	}
	s := openSQLite(t, path)
	storetest.Equal(t, storetest.Got(s.CountKeys(t.Context(), storetest.ID(1)))(t), created)
	for i := range created {
		storetest.Got(s.Key(t.Context(), storetest.ID(1), fmt.Sprint("k", i)))(t)
	}
	storetest.Equal(t, len(storetest.Got(s.KeyStores(t.Context()))(t)), 1)
}
