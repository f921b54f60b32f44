package auditlog_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// TestMain makes the test binary the child of TestKill, if it is asked to be.
func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_TEST_APPEND"); dir != "" {
		appendForever(dir)
		return
	}
	os.Exit(m.Run())
}

// appendForever logs from eight goroutines, and says on stdout what has been
// acknowledged, until killed.
func appendForever(dir string) {
	o := options()
	o.Signer = childSigner()
	o.SegmentBytes, o.CheckpointAfter = 50_000, 5*time.Millisecond
	l, err := auditlog.Open(dir, o)
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	var mu sync.Mutex // a line is one write, also on a pipe that is full
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				r := record(i)
				r.Detail = fmt.Sprint(os.Getpid(), g, i)
				if err := l.Append(context.Background(), r); err != nil {
					fmt.Println("failed", err)
					return
				}
				mu.Lock()
				fmt.Println(r.Seq, r.KMSRequestID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process that logs under load, twenty times over one log. Each
// acknowledged record is there, and the log verifies.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[int64]string{}
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_TEST_APPEND="+dir, "AUDIT_TEST_KEY="+childKey(t))
		cmd.Stderr = os.Stderr
		out := got(cmd.StdoutPipe())(t)
		must(t, cmd.Start())
		left := 1 + rand.IntN(800)
		newest := int64(-1)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var seq int64
			var id string
			if strings.HasPrefix(lines.Text(), "failed") {
				t.Fatal(lines.Text())
			}
			if _, err := fmt.Sscan(lines.Text(), &seq, &id); err != nil {
				break // the pipe's end may be half a line
			}
			acknowledged[seq] = id
			newest = max(newest, seq)
			if left--; left == 0 {
				must(t, cmd.Process.Kill()) // and read on: the pipe may hold more
			}
		}
		if err := cmd.Wait(); err == nil || left > 0 {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		r, err := verify(dir, audit.VerifyOptions{})
		must(t, err)
		if r.Records <= newest {
			t.Fatalf("round %d: record %d was acknowledged, and the log has %d", round, newest, r.Records)
		}
	}
	l := open(t, dir, options())
	must(t, l.Close())
	r, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.Unsigned != 0 || r.Tree != nil {
		t.Fatalf("%+v", r)
	}
	checkAcknowledged(t, dir, acknowledged)
}

// checkAcknowledged compares what the children said with what the log has.
func checkAcknowledged(t *testing.T, dir string, want map[int64]string) {
	missing := len(want)
	q := audit.Query{Limit: 1000}
	for {
		records, next, err := audit.NewReader(dir).Search(t.Context(), q)
		must(t, err)
		for _, r := range records {
			if id, ok := want[r.Seq]; ok {
				missing--
				if id != r.KMSRequestID {
					t.Fatalf("record %d is of %s; want %s", r.Seq, r.KMSRequestID, id)
				}
			}
		}
		if q.Cursor = next; next == "" {
			break
		}
	}
	if missing > 0 {
		t.Fatalf("%d acknowledged records are missing", missing)
	}
}

// smallDisk mounts a file system of 2 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("audit", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestReserve fills a small file system to its reserve. Then records are
// refused, and with space the log goes on.
func TestReserve(t *testing.T) {
	dir := smallDisk(t)
	o := options()
	o.ReserveBytes, o.WarnBytes = 512<<10, 1536<<10
	o.CheckpointAfter = time.Hour
	l := open(t, dir, o)
	ballast := dir + "/ballast"
	write(t, ballast, make([]byte, 300<<10))
	levels := map[audit.Level]bool{}
	var logged int64
	var err error
	for ; err == nil; logged++ {
		levels[l.Status().Level] = true
		err = l.Append(t.Context(), record(0))
	}
	logged--
	if code(err) != fault.AuditNoSpace || !levels[audit.LevelOK] || !levels[audit.LevelWarning] {
		t.Fatalf("%v; levels %v", err, levels)
	}
	if s := l.Status(); s.Size != logged || s.Broken != "" || s.Free < o.ReserveBytes {
		t.Fatalf("%d logged: %+v", logged, s)
	}
	got(l.Checkpoint())(t) // for which there is the reserve
	must(t, os.Remove(ballast))
	r := record(0)
	must(t, l.Append(t.Context(), r))
	if r.Seq != logged {
		t.Fatalf("record %d after %d", r.Seq, logged)
	}
	must(t, l.Close())
	rep, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if rep.Records != logged+1 || rep.Unsigned != 0 {
		t.Fatalf("%+v", rep)
	}
}

// TestDiskFull takes the last byte from under the log, again and again: its
// clock stands still, so that it does not look at the disk in between. What does
// not fit is refused and leaves nothing.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	c := newClock()
	o := c.options()
	o.ReserveBytes, o.SegmentBytes = 1, 1<<20
	l := open(t, dir, o)
	var logged int64
	for round := range 20 {
		for range round + 1 { // the failure comes at another place each time
			must(t, l.Append(t.Context(), record(0)))
			logged++
		}
		fillDisk(t, dir+"/ballast")
		refused := 0
		for refused < 3 {
			r := record(0)
			err := l.Append(t.Context(), r)
			switch {
			case err == nil && r.Seq == logged:
				logged++
			case code(err) == fault.AuditNoSpace:
				refused++
			default:
				t.Fatalf("round %d: record %d after %d: %v", round, r.Seq, logged, err)
			}
		}
		if s := l.Status(); s.Size != logged || s.Broken != "" {
			t.Fatalf("%d logged: %+v", logged, s)
		}
		// What is on the disk is whole lines, also of the last segment.
		list := segments(t, dir)
		if b := read(t, list[len(list)-1]); len(b) > 0 && b[len(b)-1] != '\n' {
			t.Fatalf("round %d: half a record is left", round)
		}
		must(t, os.Remove(dir+"/ballast"))
	}
	must(t, l.Append(t.Context(), record(0)))
	c.advance(time.Minute)
	must(t, l.Close())
	rep, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if rep.Records != logged+1 || rep.TornBytes != 0 || rep.Unsigned != 0 {
		t.Fatalf("%d logged: %+v", logged, rep)
	}
}

// fillDisk writes until nothing fits.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f := got(os.Create(path))(t)
	defer f.Close()
	for _, piece := range []int{64 << 10, 4 << 10, 1} {
		for {
			if _, err := f.Write(make([]byte, piece)); err != nil {
				break
			}
		}
	}
}
