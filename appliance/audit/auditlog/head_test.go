package auditlog_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

func unproven() auditlog.Options {
	o := small()
	o.Unproven = true
	return o
}

// copied copies a log's folder.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "audit")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// firstNote cuts the checkpoints to the first one.
func firstNote(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, audit.CheckpointsName)
	n := &audit.Notes{R: strings.NewReader(string(read(t, file)))}
	first, _, err := n.Next()
	must(t, err)
	must(t, os.WriteFile(file, append(first, '\n'), 0o600))
}

func drop(t *testing.T, files ...string) {
	t.Helper()
	for _, f := range files {
		must(t, os.Remove(f))
	}
}

// TestRewritten: a log that was rewritten while it was closed, in a form that opens,
// is not proven against the head that was kept, and nothing of it is signed.
func TestRewritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small())
	appendAll(t, l, 0, 20)
	must(t, l.Close())
	early := copied(t, dir)
	l = open(t, dir, small())
	appendAll(t, l, 20, 60)
	head := got(l.Head())(t)
	must(t, l.Close())
	tree := func(dir string) string { return filepath.Join(dir, audit.TreeName) }
	edit := func(t *testing.T, dir, old, now string) {
		for _, s := range segments(t, dir) {
			must(t, os.WriteFile(s, []byte(strings.ReplaceAll(string(read(t, s)), old, now)), 0o600))
		}
	}
	for name, tamper := range map[string]func(t *testing.T, dir string){
		"records edited": func(t *testing.T, dir string) {
			firstNote(t, dir)
			drop(t, tree(dir))
			edit(t, dir, `"key":"key-7"`, `"key":"key-8"`)
		},
		"records edited, the tree stays": func(t *testing.T, dir string) {
			firstNote(t, dir)
			edit(t, dir, `"key":"key-7"`, `"key":"key-8"`)
		},
		"records edited, the tree is empty": func(t *testing.T, dir string) {
			firstNote(t, dir)
			must(t, os.Truncate(tree(dir), 0))
			edit(t, dir, `"result":"allowed"`, `"result":"denied"`)
		},
		"the last segment dropped": func(t *testing.T, dir string) {
			firstNote(t, dir)
			drop(t, tree(dir))
			s := segments(t, dir)
			drop(t, s[len(s)-1])
		},
		"the last line dropped": func(t *testing.T, dir string) {
			firstNote(t, dir)
			drop(t, tree(dir))
			s := segments(t, dir)
			last := s[len(s)-1]
			text := strings.TrimSuffix(string(read(t, last)), "\n")
			must(t, os.WriteFile(last, []byte(text[:strings.LastIndexByte(text, '\n')+1]), 0o600))
		},
		"a zero byte in the last line": func(t *testing.T, dir string) {
			firstNote(t, dir)
			s := segments(t, dir)
			last := s[len(s)-1]
			b := read(t, last)
			b[len(b)-10] = 0
			must(t, os.WriteFile(last, b, 0o600))
		},
		"an older copy of the folder": func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			must(t, os.CopyFS(dir, os.DirFS(early)))
		},
		"the folder emptied": func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
		"all but one record cut": func(t *testing.T, dir string) {
			firstNote(t, dir)
			drop(t, tree(dir))
			s := segments(t, dir)
			drop(t, s[1:]...)
			line, _, _ := strings.Cut(string(read(t, s[0])), "\n")
			must(t, os.WriteFile(s[0], []byte(line+"\n"), 0o600))
		},
		"another log of the same length": func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			l := open(t, dir, small())
			appendAll(t, l, 100, 170)
			must(t, l.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, dir)
			tamper(t, dir)
			o := unproven()
			var signed atomic.Int64
			o.OnCheckpoint = func(b []byte) {
				if c, err := audit.UnverifiedCheckpoint(b); err != nil || c.Size > 0 {
					signed.Add(1)
				}
			}
			l := open(t, dir, o)
			must(t, l.Append(t.Context(), record(0)))
			if err := l.Prove(head); code(err) != fault.AuditRewritten {
				t.Fatalf("%v", err)
			}
			if _, err := l.Checkpoint(); code(err) != fault.Locked {
				t.Errorf("a checkpoint: %v", err)
			}
			must(t, l.Close())
			if signed.Load() != 0 {
				t.Error("the forgery was signed")
			}
		})
	}
}

// TestProven: the log as it was is proven, also when it went on or lost what may be
// made again; from then on it is signed.
func TestProven(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small())
	none := got(l.Head())(t)
	appendAll(t, l, 0, 33)
	head := got(l.Head())(t)
	appendAll(t, l, 33, 60)
	must(t, l.Close())
	drop(t, filepath.Join(dir, audit.TreeName))
	for _, kept := range []string{"", none, head} {
		l := open(t, dir, unproven())
		must(t, l.Append(t.Context(), record(0)))
		must(t, l.Prove(kept))
		got(l.Checkpoint())(t)
		if s := l.Status(); s.Lag != 0 {
			t.Errorf("after %q: %+v", kept, s)
		}
		must(t, l.Close())
	}
	l = open(t, dir, unproven())
	for _, bad := range []string{"x", "33", "33 x", "-1 " + strings.Fields(head)[1], "32 " + strings.Fields(head)[1], "0x21 " + strings.Fields(head)[1]} {
		if err := l.Prove(bad); code(err) != fault.AuditRewritten {
			t.Errorf("%q: %v", bad, err)
		}
	}
	must(t, l.Close())
	if _, err := verify(dir, audit.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// TestUnprovenKeeps: retention removes nothing of a log that is not proven.
func TestUnprovenKeeps(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small())
	for i := range 40 {
		must(t, l.Append(t.Context(), record(i)))
	}
	head := got(l.Head())(t)
	must(t, l.Close())
	n := len(segments(t, dir))
	if n < 3 {
		t.Fatalf("%d segments", n)
	}
	o := unproven()
	o.RetainBytes = 1
	l = open(t, dir, o)
	must(t, l.Append(t.Context(), record(0)))
	must(t, l.Close())
	if left := len(segments(t, dir)); left < n {
		t.Fatalf("%d segments are left of %d", left, n)
	}
	l = open(t, dir, o)
	must(t, l.Prove(head))
	until(t, "retention after the proof", func() bool { return len(segments(t, dir)) < n })
}

// dying signs until it is told not to.
type dying struct {
	*audit.ECDSASigner
	dead *atomic.Bool
}

func (d dying) Sign(msg []byte) ([]byte, error) {
	if d.dead.Load() {
		return nil, errors.New("the TPM is dead")
	}
	return d.ECDSASigner.Sign(msg)
}

// TestUnsigned: while the TPM does not sign, ordinary records are refused from a bound
// on, in number and in time; what is urgent goes on. When it signs again, all goes on.
func TestUnsigned(t *testing.T) {
	for name, bound := range map[string]func(o *auditlog.Options){
		"number": func(o *auditlog.Options) { o.MaxUnsigned = 5 },
		"time":   func(o *auditlog.Options) { o.MaxUnsignedTime = time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			o := c.options()
			o.CheckpointRecords, o.CheckpointAfter, o.SegmentBytes = 2, time.Second, 1<<20
			bound(&o)
			var dead atomic.Bool
			o.Signer = dying{signer(), &dead}
			l := open(t, t.TempDir(), o)
			must(t, l.Append(t.Context(), record(0)))
			got(l.Checkpoint())(t)
			dead.Store(true)
			var err error
			n := 0
			for ; err == nil && n < 20; n++ {
				err = l.Append(t.Context(), record(n))
				c.advance(10 * time.Second)
			}
			if code(err) != fault.AuditUnsigned || code(l.Unsigned()) != fault.AuditUnsigned || n < 5 || n > 9 {
				t.Fatalf("after %d: %v; %v", n, err, l.Unsigned())
			}
			must(t, l.AppendUrgent(t.Context(), record(0)))
			dead.Store(false)
			got(l.Checkpoint())(t)
			must(t, errors.Join(l.Unsigned(), l.Append(t.Context(), record(0))))
		})
	}
}
