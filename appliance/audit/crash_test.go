package audit_test

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
	l, err := audit.Open(dir, o)
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

// TestDiskFull fills a small file system. What does not fit is refused and
// leaves nothing; with space the log goes on.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("audit", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	for name, reserve := range map[string]int64{"reserve": 512 << 10, "to the last byte": 1} {
		t.Run(name, func(t *testing.T) {
			sub := got(os.MkdirTemp(dir, ""))(t)
			defer os.RemoveAll(sub)
			o := options()
			o.ReserveBytes, o.WarnBytes = reserve, 1536<<10
			o.CheckpointAfter = time.Hour
			l := open(t, sub, o)
			defer l.Close()
			ballast := sub + "/ballast"
			write(t, ballast, make([]byte, 300<<10))
			levels := map[audit.Level]bool{}
			acknowledged := int64(0)
			var err error
			for err = nil; err == nil; acknowledged++ {
				levels[l.Status().Level] = true
				err = l.Append(t.Context(), record(int(acknowledged)))
			}
			acknowledged--
			if code(err) != audit.CodeNoSpace || !levels[audit.LevelOK] || !levels[audit.LevelWarning] {
				t.Fatalf("%v; levels %v", err, levels)
			}
			if s := l.Status(); s.Size != acknowledged || s.Broken != "" || reserve > 1 && s.Free < reserve {
				t.Fatalf("%d acknowledged: %+v", acknowledged, s)
			}
			if err := l.Append(t.Context(), record(0)); code(err) != audit.CodeNoSpace {
				t.Fatal(err)
			}
			must(t, os.Remove(ballast))
			r := record(0)
			must(t, l.Append(t.Context(), r))
			if r.Seq != acknowledged {
				t.Fatalf("record %d after %d", r.Seq, acknowledged)
			}
			must(t, l.Close())
			rep, err := verify(sub, audit.VerifyOptions{})
			must(t, err)
			if rep.Records != acknowledged+1 || rep.TornBytes != 0 || rep.Unsigned != 0 {
				t.Fatalf("%+v", rep)
			}
		})
	}
}
