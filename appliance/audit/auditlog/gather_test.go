package auditlog_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// TestSoleCaller: one caller after another waits for nothing but the disk. In the bubble
// time passes only while all wait for it.
func TestSoleCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := got(auditlog.Open(t.TempDir(), options()))(t)
		began := time.Now()
		for i := range 2000 {
			must(t, l.Append(t.Context(), record(i)))
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("2000 records of one caller waited for %s", waited)
		}
		if s := l.Status(); s.Writes != 2000 {
			t.Errorf("%d writes; want one for each record", s.Writes)
		}
		must(t, l.Close())
	})
}

// TestCrowd: those who call at the same time share writes; when all but one have left, the
// one is soon served without waiting for them.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := got(auditlog.Open(t.TempDir(), options()))(t)
		const callers, each = 64, 500
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for i := range each {
					must(t, l.Append(t.Context(), record(i)))
				}
			})
		}
		wg.Wait()
		if s := l.Status(); s.Size != callers*each || s.Writes > callers*each/8 {
			t.Errorf("%d records in %d writes", s.Size, s.Writes)
		}
		began := time.Now()
		for i := range 500 {
			must(t, l.Append(t.Context(), record(i)))
		}
		if waited := time.Since(began); waited > 30*time.Millisecond {
			t.Errorf("500 records of the last caller waited for %s", waited)
		}
		must(t, l.Close())
	})
}

// fifreeze and fithaw are of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const fifreeze, fithaw = 0xc0045877, 0xc0045878

// frozenDisk mounts a file system that can be frozen: what writes to it waits until it is
// thawed.
func frozenDisk(t *testing.T) (dir string, freeze, thaw func()) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("no file system can be made here: %v: %s", err, out)
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, strings.TrimSpace(string(out)))
	}
	d := got(os.Open(dir))(t)
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(d.Fd()), fithaw, 0) // it may not be frozen
		_ = d.Close()
		must(t, exec.Command("umount", dir).Run())
	})
	return dir, func() { must(t, unix.IoctlSetInt(int(d.Fd()), fifreeze, 0)) }, func() { must(t, unix.IoctlSetInt(int(d.Fd()), fithaw, 0)) }
}

// TestStall: while the disk stands still nobody waits beyond the own deadline; then all
// records are there, and the status tells of it.
func TestStall(t *testing.T) {
	dir, freeze, thaw := frozenDisk(t)
	c := newClock()
	l := open(t, dir, c.options())
	must(t, l.Append(t.Context(), record(0)))
	if s := l.Status(); s.Stalls != 0 || s.Writes != 1 {
		t.Fatalf("%+v", s)
	}
	freeze()
	first, second := l.AppendAsync(record(1)), l.AppendAsync(record(2))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, p := range map[string]auditlog.Pending{"first": first, "second": second} {
		if err := p.Wait(ended); code(err) != fault.AuditTimeout {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.advance(150 * time.Millisecond)
	thaw()
	must(t, first.Wait(t.Context()))
	must(t, second.Wait(t.Context()))
	if s := l.Status(); s.Size != 3 || s.Stalls == 0 || s.Slowest < 150*time.Millisecond {
		t.Fatalf("%+v", s)
	}
	must(t, l.Close())
	// Beside the log there is what a disk of its own has.
	if rep, err := verify(dir, audit.VerifyOptions{}); err != nil || rep.Records != 3 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestLargeBatch: what gathers while the disk stands still is more than is written past the
// page cache at once. The records before, in and behind it are whole, also when the log is
// opened again.
func TestLargeBatch(t *testing.T) {
	dir, freeze, thaw := frozenDisk(t)
	l := open(t, dir, options())
	must(t, l.Append(t.Context(), record(0)))
	freeze()
	var all []auditlog.Pending
	for i := range 60 {
		r := record(i)
		r.Detail = strings.Repeat("x", 50<<10)
		all = append(all, l.AppendAsync(r))
	}
	thaw()
	for _, p := range all {
		must(t, p.Wait(t.Context()))
	}
	for i := range 20 { // past the page cache again
		must(t, l.Append(t.Context(), record(i)))
	}
	must(t, l.Close())
	l = open(t, dir, options())
	must(t, l.Append(t.Context(), record(0)))
	must(t, l.Close())
	if rep, err := verify(dir, audit.VerifyOptions{}); err != nil || rep.Records != 82 {
		t.Errorf("%+v, %v", rep, err)
	}
}
