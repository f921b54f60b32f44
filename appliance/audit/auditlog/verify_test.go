package auditlog_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// small makes many segments and checkpoints of few records.
func small() auditlog.Options {
	o := options()
	o.SegmentBytes = 4000
	o.CheckpointRecords = 5
	return o
}

// sample is a log of 40 records with a checkpoint after each 4, in several
// segments.
func sample(t testing.TB) string {
	dir := t.TempDir()
	fill(t, dir, small(), 0, 40)
	return dir
}

func fill(t testing.TB, dir string, o auditlog.Options, from, to int) {
	t.Helper()
	l := open(t, dir, o)
	for i := from; i < to; i++ {
		must(t, l.Append(t.Context(), record(i)))
		if i%4 == 3 {
			got(l.Checkpoint())(t)
		}
	}
	must(t, l.Close())
}

// rebuildTree makes the tree of what the segments hold, as a forger would.
func rebuildTree(t testing.TB, dir string) {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (found []tlog.Hash, err error) {
		for _, i := range at {
			found = append(found, hashes[i])
		}
		return found, nil
	})
	n := int64(0)
	for _, s := range segments(t, dir) {
		for line := range bytes.Lines(read(t, s)) {
			more := got(tlog.StoredHashes(n, bytes.TrimSuffix(line, []byte("\n")), reader))(t)
			hashes = append(hashes, more...)
			n++
		}
	}
	var b []byte
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	write(t, filepath.Join(dir, "tree"), b)
}

func verify(dir string, o audit.VerifyOptions) (*audit.Report, error) {
	return audit.Verify(dir, verifiers(), o)
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	list := got(filepath.Glob(filepath.Join(dir, "*.jsonl")))(t)
	slices.Sort(list)
	return list
}

func read(t testing.TB, path string) []byte { return got(os.ReadFile(path))(t) }

func write(t testing.TB, path string, b []byte) { must(t, os.WriteFile(path, b, 0o600)) }

// edit changes a file.
func edit(t testing.TB, path string, f func([]byte) []byte) { write(t, path, f(read(t, path))) }

// editLines changes the lines of a file; each has its newline.
func editLines(t testing.TB, path string, f func([][]byte) [][]byte) {
	edit(t, path, func(b []byte) []byte {
		return slices.Concat(f(slices.Collect(bytesLines(b)))...)
	})
}

func bytesLines(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for line := range bytes.Lines(b) {
			if !yield(slices.Clone(line)) {
				return
			}
		}
	}
}

func TestVerifyGood(t *testing.T) {
	dir := sample(t)
	r, err := verify(dir, audit.VerifyOptions{LogID: "test"})
	must(t, err)
	if r.Records != 40 || r.Unsigned != 0 || r.Segments != len(segments(t, dir)) || r.Segments < 4 || r.Tree != nil || r.Newest.Size != 40 || r.Checkpoints < 11 {
		t.Fatalf("%+v", r)
	}
	// The tree is that of golang.org/x/mod/sumdb/tlog.
	tree := read(t, filepath.Join(dir, "tree"))
	rebuildTree(t, dir)
	if !bytes.Equal(read(t, filepath.Join(dir, "tree")), tree) {
		t.Fatal("the tree is not tlog's")
	}
}

// TestTamper does to a log what somebody with the disk could, and expects that
// it is found, and where.
func TestTamper(t *testing.T) {
	middle := func(t testing.TB, dir string) string { return segments(t, dir)[1] }
	notesOf := func(b []byte) []string {
		return regexp.MustCompile(`(?s)holdfast-audit/.*?\n\n— .*?\n\n`).FindAllString(string(b), -1)
	}
	otherKey := got(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	tests := map[string]struct {
		do   func(t testing.TB, dir string)
		code fault.Code
		line int64 // in the second segment; 0 is not checked
		says string
	}{
		"a letter of a record": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("Encrypt"), []byte("Decrypt"), 1)
				return l
			})
		}, fault.AuditEdited, 3, "not the one that was logged"},
		"a time": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				at := bytes.Index(l[2], []byte(`"time":"`)) + 8
				l[2][at] = '1'
				return l
			})
		}, fault.AuditEdited, 3, "time is before"},
		"a dropped record": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) })
		}, fault.AuditDropped, 3, "missing"},
		"a dropped record, the others renumbered": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				last := slices.Clone(l[3])
				seq := regexp.MustCompile(`"seq":\d+`)
				l[3] = seq.ReplaceAll(last, seq.Find(l[2]))
				return slices.Delete(l, 2, 3)
			})
		}, fault.AuditEdited, 3, ""},
		"swapped records": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l })
		}, fault.AuditOrder, 3, "moved"},
		"a record twice": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[2]) })
		}, fault.AuditOrder, 4, "copied"},
		"an inserted line": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte { return slices.Insert(l, 3, []byte("hello\n")) })
		}, fault.AuditMalformed, 4, "no record"},
		"an endless line": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				l[2] = append(bytes.Repeat([]byte("x"), 5*audit.MaxLine), '\n')
				return l
			})
		}, fault.AuditMalformed, 3, "too long"},
		"a segment cut in a line": {func(t testing.TB, dir string) {
			edit(t, middle(t, dir), func(b []byte) []byte { return b[:len(b)-10] })
		}, fault.AuditTruncated, 0, "cut off"},
		"zero bytes in a segment": {func(t testing.TB, dir string) {
			edit(t, middle(t, dir), func(b []byte) []byte { clear(b[len(b)-10:]); return b })
		}, fault.AuditTruncated, 0, "cut off"},
		"zero bytes behind a segment": {func(t testing.TB, dir string) {
			edit(t, middle(t, dir), func(b []byte) []byte { return append(b, make([]byte, 3*audit.MaxLine)...) })
		}, fault.AuditTruncated, 0, "cut off"},
		"zero bytes in the last segment": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			edit(t, s[len(s)-1], func(b []byte) []byte { b[20] = 0; return b })
		}, fault.AuditTruncated, 0, "ends here"},
		"a segment cut between lines": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte { return l[:len(l)-1] })
		}, fault.AuditSegmentMissing, 0, "missing"},
		"the last segment cut": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			editLines(t, s[len(s)-1], func(l [][]byte) [][]byte { return l[:len(l)-1] })
		}, fault.AuditTruncated, 0, "ends here"},
		"the last segment gone": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			must(t, os.Remove(s[len(s)-1]))
		}, fault.AuditTruncated, 0, "ends here"},
		"a middle segment gone": {func(t testing.TB, dir string) {
			must(t, os.Remove(middle(t, dir)))
		}, fault.AuditSegmentMissing, 0, "with them a segment"},
		"the first segment gone": {func(t testing.TB, dir string) {
			must(t, os.Remove(segments(t, dir)[0]))
		}, fault.AuditSegmentMissing, 0, "no signed record says"},
		"swapped segments": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			one, two := read(t, s[1]), read(t, s[2])
			write(t, s[1], two)
			write(t, s[2], one)
		}, fault.AuditSegment, 1, "swapped"},
		"a segment twice": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			write(t, filepath.Join(dir, fmt.Sprintf("%020d.jsonl", 1)), read(t, s[0]))
		}, fault.AuditSegment, 0, ""},
		"a record and its hash": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("Encrypt"), []byte("Decrypt"), 1)
				return l
			})
			must(t, os.Remove(filepath.Join(dir, "tree"))) // nothing to compare with
		}, fault.AuditEdited, 0, "cannot be told"},
		"a record, and the tree cut off behind it": {func(t testing.TB, dir string) {
			var seq int
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				l[0] = bytes.Replace(l[0], []byte("Encrypt"), []byte("Decrypt"), 1)
				must(t, json.Unmarshal(l[0][7:bytes.IndexByte(l[0], ',')], &seq))
				return l
			})
			edit(t, filepath.Join(dir, "tree"), func(b []byte) []byte { return b[:32*tlog.StoredHashCount(int64(seq)+1)] })
		}, fault.AuditEdited, 1, "the tree was edited as well"},
		"a record, and its hash in the tree": {func(t testing.TB, dir string) {
			editLines(t, middle(t, dir), func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("Encrypt"), []byte("Decrypt"), 1)
				return l
			})
			rebuildTree(t, dir)
		}, fault.AuditEdited, 0, "cannot be told"},
		"a forged signature": {func(t testing.TB, dir string) {
			edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte {
				return bytes.Replace(b, []byte("\n8\n"), []byte("\n9\n"), 1)
			})
		}, fault.AuditCheckpointForged, 0, "signed"},
		"another's signature": {func(t testing.TB, dir string) {
			edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte {
				all := notesOf(b)
				text, _, _ := strings.Cut(all[3], "\n\n")
				s := got(audit.NewECDSASigner("test.example/audit", otherKey))(t)
				all[3] = string(got(note.Sign(&note.Note{Text: text + "\n"}, s))(t)) + "\n"
				return []byte(strings.Join(all, ""))
			})
		}, fault.AuditCheckpointForged, 0, "signed"},
		"a removed checkpoint": {func(t testing.TB, dir string) {
			edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte {
				return []byte(strings.Join(slices.Delete(notesOf(b), 3, 4), ""))
			})
		}, fault.AuditCheckpointRemoved, 0, "between the numbers 2 and 4"},
		"the first checkpoint removed": {func(t testing.TB, dir string) {
			edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte {
				return []byte(strings.Join(notesOf(b)[1:], ""))
			})
		}, fault.AuditCheckpointRemoved, 0, "before number 1"},
		"swapped checkpoints": {func(t testing.TB, dir string) {
			edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte {
				all := notesOf(b)
				return []byte(strings.Join(append(all, all[3]), ""))
			})
		}, fault.AuditOrder, 0, "stands behind"},
		"all checkpoints removed": {func(t testing.TB, dir string) {
			must(t, os.Remove(filepath.Join(dir, "checkpoints")))
		}, fault.AuditCheckpointRemoved, 0, "even an empty log"},
		"all checkpoints emptied": {func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "checkpoints"), nil)
		}, fault.AuditCheckpointRemoved, 0, "even an empty log"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := sample(t)
			second := filepath.Base(segments(t, dir)[1])
			test.do(t, dir)
			r, err := verify(dir, audit.VerifyOptions{})
			if code(err) != test.code || r.Broken == nil || r.Broken.Code != test.code {
				t.Fatalf("got %v; want %s", err, test.code)
			}
			if !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the message is %q; want %q in it", err, test.says)
			}
			if test.line > 0 && (r.Broken.Line != test.line || r.Broken.Segment != second) {
				t.Errorf("found at %s line %d; want %s line %d", r.Broken.Segment, r.Broken.Line, second, test.line)
			}
		})
	}
}

// TestTamperAnyByte changes each byte of the records, one by one, and then of
// the checkpoints.
func TestTamperAnyByte(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, options(), 0, 5)
	for _, name := range []string{filepath.Base(segments(t, dir)[0]), "checkpoints"} {
		path := filepath.Join(dir, name)
		whole := read(t, path)
		for i := range whole {
			b := slices.Clone(whole)
			b[i] ^= 1
			write(t, path, b)
			r, err := verify(dir, audit.VerifyOptions{})
			// Without the last blank line a checkpoint may be torn by a crash, and
			// its records have no signature then.
			if err == nil && r.Unsigned == 0 {
				t.Fatalf("%s: byte %d was changed, and nobody noticed", name, i)
			}
		}
		for i := range len(whole) - 1 {
			write(t, path, whole[:i])
			if r, err := verify(dir, audit.VerifyOptions{}); err == nil && r.Unsigned == 0 {
				t.Fatalf("%s: cut to %d bytes, and nobody noticed", name, i)
			}
		}
		write(t, path, whole)
	}
}

func TestCheckpointKeptElsewhere(t *testing.T) {
	dir, older := t.TempDir(), t.TempDir()
	fill(t, dir, small(), 0, 20)
	must(t, os.CopyFS(older, os.DirFS(dir)))
	l := open(t, dir, small())
	early := got(l.Checkpoint())(t)
	for i := range 20 {
		must(t, l.Append(t.Context(), record(i)))
	}
	late := got(l.Checkpoint())(t)
	must(t, l.Close())
	forked := t.TempDir()
	must(t, os.CopyFS(forked, os.DirFS(older)))
	fill(t, forked, small(), 100, 130)
	other := t.TempDir()
	o := small()
	o.LogID = "other"
	fill(t, other, o, 0, 4)

	for _, test := range []struct {
		name       string
		dir        string
		checkpoint []byte
		id         string
		code       fault.Code
	}{
		{"good, early", dir, early, "test", ""},
		{"good, late", dir, late, "test", ""},
		{"older copy", older, late, "test", fault.AuditRolledBack},
		{"older copy, alone", older, nil, "test", ""},
		{"written anew", forked, late, "test", fault.AuditCheckpointMismatch},
		{"another log", other, late, "", fault.AuditLogID},
		{"another log's ID", other, nil, "test", fault.AuditLogID},
		{"forged", dir, bytes.Replace(late, []byte("\n40\n"), []byte("\n39\n"), 1), "", fault.AuditCheckpointForged},
		{"garbage", dir, []byte("x"), "", fault.AuditCheckpointForged},
	} {
		r, err := verify(test.dir, audit.VerifyOptions{Checkpoint: test.checkpoint, LogID: test.id})
		if code(err) != test.code {
			t.Errorf("%s: got %v; want %q (%+v)", test.name, err, test.code, r)
		}
	}
}

// TestUnsignedTail is reported and is no error.
func TestUnsignedTail(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	o := options()
	o.CheckpointAfter = time.Hour
	l := open(t, dir, o)
	for i := range 7 {
		must(t, l.Append(t.Context(), record(i)))
	}
	must(t, os.CopyFS(copied, os.DirFS(dir)))
	r, err := verify(copied, audit.VerifyOptions{})
	must(t, err)
	if r.Unsigned != 7 || r.Records != 7 || r.UnsignedSince.IsZero() {
		t.Fatalf("%+v", r)
	}
	if s := l.Status(); s.Lag != 7 {
		t.Fatalf("%+v", s)
	}
}

// TestTreeIsRebuilt damages the file of tree hashes: the records are whole.
func TestTreeIsRebuilt(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"gone":   func([]byte) []byte { return nil },
		"short":  func(b []byte) []byte { return b[:100] },
		"edited": func(b []byte) []byte { b[70] ^= 1; return b },
	} {
		dir := sample(t)
		tree := filepath.Join(dir, "tree")
		whole := read(t, tree)
		edit(t, tree, damage)
		if r, err := verify(dir, audit.VerifyOptions{}); err != nil || r.Tree == nil || r.Tree.Code != fault.AuditTree {
			t.Errorf("%s: %v %+v", name, err, r)
		}
		if name == "edited" {
			continue // the root's own hashes are whole, which is what Open looks at
		}
		must(t, open(t, dir, small()).Close())
		if !bytes.Equal(read(t, tree), whole) {
			t.Errorf("%s: the tree is not as it was", name)
		}
	}
}

// TestOpenRefuses a log that is damaged, with one line.
func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(t testing.TB, dir string)
		code fault.Code
	}{
		"records cut off": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			editLines(t, s[len(s)-1], func(l [][]byte) [][]byte { return l[:len(l)-1] })
		}, fault.AuditTruncated},
		"no checkpoints": {func(t testing.TB, dir string) { must(t, os.Remove(filepath.Join(dir, "checkpoints"))) }, fault.AuditCheckpointRemoved},
		"no segments": {func(t testing.TB, dir string) {
			for _, s := range segments(t, dir) {
				must(t, os.Remove(s))
			}
		}, fault.AuditTruncated},
		"edited, and no tree": {func(t testing.TB, dir string) {
			must(t, os.Remove(filepath.Join(dir, "tree")))
			edit(t, segments(t, dir)[0], func(b []byte) []byte { return bytes.Replace(b, []byte("Encrypt"), []byte("Decrypt"), 1) })
		}, fault.AuditEdited},
		"garbage behind the records": {func(t testing.TB, dir string) {
			s := segments(t, dir)
			edit(t, s[len(s)-1], func(b []byte) []byte { return append(b, "garbage\n"...) })
		}, fault.AuditMalformed},
		"a strange segment": {func(t testing.TB, dir string) { write(t, filepath.Join(dir, "x.jsonl"), nil) }, fault.AuditSegment},
	} {
		dir := sample(t)
		test.do(t, dir)
		l, err := auditlog.Open(dir, small())
		if code(err) != test.code || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v; want %s", name, err, test.code)
		}
		if err == nil {
			must(t, l.Close())
		}
	}
	dir := sample(t)
	open(t, dir, small())
	if _, err := auditlog.Open(dir, small()); code(err) != fault.AuditBusy {
		t.Errorf("opened twice: %v", err)
	}
	o := small()
	o.LogID = "other"
	if _, err := auditlog.Open(sample(t), o); code(err) != fault.AuditLogID {
		t.Errorf("opened as another: %v", err)
	}
}

// TestTornLine is cut off, and that is logged.
func TestTornLine(t *testing.T) {
	dir := sample(t)
	s := segments(t, dir)
	edit(t, s[len(s)-1], func(b []byte) []byte { return append(b, `{"seq":40,"ti`...) })
	edit(t, filepath.Join(dir, "checkpoints"), func(b []byte) []byte { return append(b, "holdfast-audit/test\n41\n"...) })
	r, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.TornBytes != 13 || len(r.Notes) == 0 {
		t.Fatalf("%+v", r)
	}
	l := open(t, dir, small())
	if l.Status().Recovered != 13 {
		t.Fatalf("%+v", l.Status())
	}
	must(t, l.Append(t.Context(), record(1)))
	must(t, l.Close())
	r, err = verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.Records != 42 || r.TornBytes != 0 || r.Unsigned != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestReserved: space that is reserved for records is no damage, neither while
// they are written nor after the process was killed.
func TestReserved(t *testing.T) {
	dir, killed := t.TempDir(), t.TempDir()
	l := open(t, dir, options())
	appendAll(t, l, 0, 40)
	got(l.Checkpoint())(t)
	last := segments(t, dir)[0]
	if b := read(t, last); b[len(b)-1] != 0 {
		t.Fatal("nothing is reserved")
	}
	r, err := verify(dir, audit.VerifyOptions{})
	must(t, err)
	if r.Records != 40 || r.TornBytes != 0 {
		t.Fatalf("while it is written: %+v", r)
	}
	if found := everything(t, audit.NewReader(dir), audit.Query{Limit: 100}); len(found) != 40 {
		t.Fatalf("%d records found", len(found))
	}
	must(t, os.CopyFS(killed, os.DirFS(dir)))
	must(t, l.Close())
	if b := read(t, last); b[len(b)-1] != '\n' {
		t.Fatal("what was reserved is not given back")
	}
	l = open(t, killed, options())
	if s := l.Status(); s.Recovered != 0 || s.Size != 40 {
		t.Fatalf("after a kill: %+v", s)
	}
	appendAll(t, l, 40, 41)
	must(t, l.Close())
	r, err = verify(killed, audit.VerifyOptions{})
	must(t, err)
	if r.Records != 41 || r.TornBytes != 0 || r.Unsigned != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestTornBatch: when the power fails, the disk may have the end of a batch and
// not its beginning. None of it was acknowledged.
func TestTornBatch(t *testing.T) {
	for name, batch := range map[string]string{
		"hole before whole lines": "\x00\x00\x00\n" + `{"seq":42}` + "\n",
		"hole in a line":          `{"seq":41,"ti` + "\x00\x00" + `"}` + "\n" + `{"seq":42}` + "\n",
		"long hole":               strings.Repeat("\x00", 5*audit.MaxLine) + "x\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := sample(t)
			s := segments(t, dir)
			edit(t, s[len(s)-1], func(b []byte) []byte { return append(append(b, batch...), make([]byte, 1<<20)...) })
			r, err := verify(dir, audit.VerifyOptions{})
			must(t, err)
			if r.TornBytes != int64(len(batch)) {
				t.Fatalf("%d bytes torn, not %d", r.TornBytes, len(batch))
			}
			l := open(t, dir, small())
			if got := l.Status().Recovered; got != int64(len(batch)) {
				t.Fatalf("%d bytes cut off, not %d", got, len(batch))
			}
			must(t, l.Append(t.Context(), record(1)))
			must(t, l.Close())
			r, err = verify(dir, audit.VerifyOptions{})
			must(t, err)
			if r.Records != 42 || r.TornBytes != 0 || r.Unsigned != 0 {
				t.Fatalf("%+v", r)
			}
		})
	}
}

func TestInclusion(t *testing.T) {
	dir := sample(t)
	for seq := range int64(40) {
		proof := got(audit.InclusionProof(dir, seq))(t)
		in := got(audit.CheckInclusion(proof, verifiers()))(t)
		if in.Record.Seq != seq || in.Checkpoint.Size != 40 || in.Checkpoint.LogID != "test" {
			t.Fatalf("%+v", in)
		}
		for _, change := range [][2]string{{"Encrypt", "Decrypt"}, {`\"seq\":`, `\"seq\":1`}, {`"hashes": [`, `"hashes": ["` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `",`},
			{`"tree_size": 40`, `"tree_size": 39`}, {"holdfast-audit/test", "holdfast-audit/tes"}} {
			changed := bytes.Replace(proof, []byte(change[0]), []byte(change[1]), 1)
			if _, err := audit.CheckInclusion(changed, verifiers()); err == nil {
				t.Fatalf("%s for %s was not noticed", change[1], change[0])
			}
		}
	}
	if _, err := audit.InclusionProof(dir, 40); code(err) != fault.NotFound {
		t.Fatal(err)
	}
}

// TestKeyChange: the log of a machine whose key was replaced is signed by two.
func TestKeyChange(t *testing.T) {
	dir := sample(t)
	second := got(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	o := small()
	o.Signer = got(audit.NewECDSASigner("test.example/audit", second))(t)
	fill(t, dir, o, 0, 10)
	if _, err := verify(dir, audit.VerifyOptions{}); code(err) != fault.AuditCheckpointForged {
		t.Error(err)
	}
	r, err := audit.Verify(dir, note.VerifierList(
		got(audit.NewECDSAVerifier("test.example/audit", &key.PublicKey))(t),
		got(audit.NewECDSAVerifier("test.example/audit", &second.PublicKey))(t)), audit.VerifyOptions{})
	if err != nil || r.Records != 50 {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestVerifierKey(t *testing.T) {
	s := signer()
	v := got(audit.ParseVerifierKey(s.VerifierKey() + "\n"))(t)
	if v.KeyHash() != s.KeyHash() || v.Name() != s.Name() {
		t.Fatal("not the same key")
	}
	sig := got(s.Sign([]byte("x")))(t)
	if !v.Verify([]byte("x"), sig) || v.Verify([]byte("y"), sig) {
		t.Fatal("the signature")
	}
	for _, bad := range []string{"", "a+b", "a+00000000+AA==", strings.Replace(s.VerifierKey(), "test", "tesu", 1)} {
		if _, err := audit.ParseVerifierKey(bad); code(err) != fault.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := audit.NewECDSAVerifier("a b", &key.PublicKey); err == nil {
		t.Error("a name with a space")
	}
	p384 := got(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	if _, err := audit.NewECDSASigner("x", p384); err == nil {
		t.Error("P-384")
	}
}

// TestVerifyTellsProgress: who verifies a log hears how many records were verified, of a fleet those
// of all logs together.
func TestVerifyTellsProgress(t *testing.T) {
	dir := t.TempDir()
	const records = 3000
	o := options()
	o.NoSync = true
	l := open(t, dir, o)
	appendAll(t, l, 0, records)
	must(t, l.Close())
	var told []int64
	report, err := verify(dir, audit.VerifyOptions{Progress: func(n int64) { told = append(told, n) }})
	if err != nil || report.Records < records {
		t.Fatalf("%+v: %v", report, err)
	}
	if len(told) < 2 || !slices.IsSorted(told) || told[0] == 0 || told[len(told)-1] > report.Records || report.Records-told[len(told)-1] > 1024 {
		t.Errorf("of %d records it told %d", report.Records, told)
	}
	var sum int64
	if _, err := audit.VerifyFleet([]string{dir}, verifiers(), audit.FleetOptions{Progress: func(n int64) { sum = n }}); err != nil || sum != told[len(told)-1] {
		t.Errorf("of a fleet it told %d: %v", sum, err)
	}
}
