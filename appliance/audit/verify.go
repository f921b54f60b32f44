package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"holdfast/appliance/fault"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// VerifyOptions are what is known of a log besides its key. All may be empty.
type VerifyOptions struct {
	// LogID is the ID that the log must have.
	LogID string
	// Checkpoint is a signed checkpoint of the log that was kept elsewhere. It
	// finds a log that was swapped for an older copy, or written anew.
	Checkpoint []byte
	// Countersigned are heads of the log that other nodes have countersigned.
	Countersigned []CountersignedHead
	// Progress, if given, is called from time to time with how many records were verified.
	Progress func(records int64)
}

// progressEvery is after how many records [VerifyOptions] hears of progress.
const progressEvery = 1 << 10

// Finding is what is wrong, and where.
type Finding struct {
	Code    fault.Code `json:"code" jsonschema:"The code of what is wrong."`
	Segment string     `json:"segment,omitempty" jsonschema:"The name of the file."`            // the file's name
	Line    int64      `json:"line,omitempty" jsonschema:"The line of the file, from 1."`       // from 1
	Seq     int64      `json:"seq" jsonschema:"The number of the record that should be there."` // the record that should stand there
	Message string     `json:"message" jsonschema:"What is wrong, in words."`
	// Countersigned is the head that the log does not contain, if that is what is wrong.
	Countersigned *CountersignedHead `json:"countersigned,omitempty" jsonschema:"The countersigned head that the log does not contain, if that is what is wrong."`
}

func (f *Finding) err() *fault.Fault {
	if f.Segment == "" {
		return fault.Errorf(f.Code, "%s", f.Message)
	}
	return fault.Errorf(f.Code, "%s line %d, record %d: %s", f.Segment, f.Line, f.Seq, f.Message)
}

// Report is what [Verify] has seen.
type Report struct {
	LogID    string `json:"log_id" jsonschema:"The ID of the audit log."`
	Segments int    `json:"segments" jsonschema:"How many files the log has."`
	// First is the oldest record that is there: those before it were removed by
	// retention. Records is the number of the next record.
	First   int64 `json:"first" jsonschema:"The oldest record that is there; retention has removed those before it."`
	Records int64 `json:"records" jsonschema:"The number of the next record."`
	// Checkpoints is how many were checked; Newest is the last of them.
	Checkpoints int        `json:"checkpoints" jsonschema:"How many checkpoints were checked."`
	Newest      Checkpoint `json:"newest" jsonschema:"The last checkpoint that was checked."`
	// Keys are those that have signed them, as names and hashes of C2SP's signed-note.
	Keys []string `json:"keys,omitempty" jsonschema:"The keys that have signed the checkpoints, as names and hashes (C2SP signed-note)."`
	// Countersigned is how many heads that other nodes have countersigned the log contains.
	Countersigned int `json:"countersigned,omitempty" jsonschema:"How many heads that other nodes have countersigned the log contains."`
	// Unsigned is how many records at the end no checkpoint covers. Nothing
	// protects them yet.
	Unsigned      int64     `json:"unsigned" jsonschema:"How many records at the end no checkpoint covers."`
	UnsignedSince time.Time `json:"unsigned_since,omitzero" jsonschema:"Since when the records at the end are not covered."`
	// TornBytes is what a crash has left behind the last whole line.
	TornBytes int64 `json:"torn_bytes,omitempty" jsonschema:"How many bytes a crash has left behind the last whole record."`
	// Tree is damage of the file of tree hashes where the records are whole. Open
	// makes it anew if needed.
	Tree *Finding `json:"tree,omitempty" jsonschema:"Damage of the file of tree hashes, where the records are whole."`
	// Broken is the first thing that is wrong with the log; nil if nothing is.
	Broken *Finding `json:"broken,omitempty" jsonschema:"The first thing that is wrong with the log; absent if nothing is."`
	// Notes says in plain sentences what else a reader should know.
	Notes []string `json:"notes,omitempty" jsonschema:"What else a reader should know, in sentences."`
}

// Verify checks a log offline: each record, its place, and each checkpoint, with
// the keys that may have signed them. It reads the log once and needs little
// memory. Its error is the first thing that is wrong, which is in the report as
// well; the report tells how far the log is good. A log that is being written
// may be verified too.
func Verify(dir string, keys note.Verifiers, o VerifyOptions) (*Report, error) {
	v := &verification{dir: dir, keys: keys, options: o}
	defer v.close()
	err := v.run()
	v.finish()
	if broken := v.report.Broken; broken != nil {
		return &v.report, broken.err()
	}
	if err != nil {
		return &v.report, err
	}
	return &v.report, nil
}

// verification is one run of Verify.
type verification struct {
	dir     string
	keys    note.Verifiers
	options VerifyOptions
	report  Report

	notes     Notes
	cp        *Checkpoint // the next to compare with; nil when there are no more
	seen      bool        // a checkpoint was read
	removed   []*Checkpoint
	elsewhere *Checkpoint
	heads     []CountersignedHead // not reached yet, by size
	before    []CountersignedHead // of fewer records than retention has left

	treeFile *os.File
	tree     *bufio.Reader // nil when it is damaged
	f        Frontier      // of the lines
	shadow   *Frontier     // of the tree's file, from where it differs
	suspect  *Finding      // the first line that differs from the tree
	want     []byte        // a record's hashes, made of its line
	have     []byte        // the same, in the tree's file

	segment  Segment
	line     int64
	lastTime []byte
	tail     []byte // the time of the first record that no checkpoint covers
	good     Finding
	steps    int64 // of the clock
	retained int64 // the first record that signed retention has left
	claimed  int64 // the same, not yet signed
}

// broken ends a verification with what is wrong at the present line.
func (v *verification) broken(code fault.Code, format string, args ...any) error {
	v.report.Broken = v.here(code, format, args...)
	return v.report.Broken.err()
}

// brokenFile ends it with what is wrong with no line.
func (v *verification) brokenFile(code fault.Code, format string, args ...any) error {
	v.report.Broken = &Finding{Code: code, Seq: v.f.N, Message: fmt.Sprintf(format, args...)}
	return v.report.Broken.err()
}

func (v *verification) here(code fault.Code, format string, args ...any) *Finding {
	return &Finding{Code: code, Segment: v.segment.Name(), Line: v.line, Seq: v.f.N, Message: fmt.Sprintf(format, args...)}
}

func (v *verification) close() {
	for _, f := range []any{v.notes.R, v.treeFile} {
		if c, ok := f.(io.Closer); ok {
			_ = c.Close() // the tree's file may be missing
		}
	}
}

func (v *verification) run() error {
	v.heads = slices.Clone(v.options.Countersigned)
	slices.SortStableFunc(v.heads, func(a, b CountersignedHead) int { return cmp.Compare(a.Size, b.Size) })
	if v.options.Checkpoint != nil {
		var err error
		if v.elsewhere, err = OpenCheckpoint(v.options.Checkpoint, v.keys); err != nil {
			return fault.Wrapf(fault.AuditCheckpointForged, err, "the checkpoint that was kept elsewhere is not good")
		}
	}
	if err := v.openCheckpoints(); err != nil {
		return err
	}
	segments, err := ListSegments(v.dir)
	if err != nil {
		return err
	}
	if err := v.openTree(segments); err != nil {
		return err
	}
	n, _ := slices.BinarySearchFunc(v.heads, v.report.First, func(h CountersignedHead, n int64) int { return cmp.Compare(h.Size, n) })
	v.before, v.heads = v.heads[:n], v.heads[n:]
	if err := v.nextCheckpoint(); err != nil {
		return err
	}
	if v.cp == nil && len(v.removed) == 0 {
		return v.brokenFile(fault.AuditCheckpointRemoved, "the log has no checkpoint, though even an empty log has one; the file %s was removed", CheckpointsName)
	}
	if err := v.checkIDs(); err != nil {
		return err
	}
	if err := v.compare(); err != nil {
		return err
	}
	for i, s := range segments {
		if err := v.readSegment(s, i == len(segments)-1); err != nil {
			return err
		}
	}
	return v.atEnd()
}

// openCheckpoints opens the file, to be read as far as it is long now: what
// comes later may cover records that are not read.
func (v *verification) openCheckpoints() error {
	b, err := os.Open(filepath.Join(v.dir, CheckpointsName))
	if errors.Is(err, os.ErrNotExist) {
		v.notes.R = bytes.NewReader(nil)
		if _, err := os.Stat(v.dir); err == nil {
			return nil
		}
	}
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	info, err := b.Stat()
	if err != nil {
		_ = b.Close()
		return fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	v.notes.R = &limitedFile{File: b, left: info.Size()}
	return nil
}

// openTree opens the file of tree hashes, and begins behind what retention has
// removed.
func (v *verification) openTree(segments []Segment) error {
	var first int64
	if len(segments) > 0 {
		first = segments[0].First
	}
	v.report.First = first
	v.f.N = first
	var err error
	if v.treeFile, err = os.Open(filepath.Join(v.dir, TreeName)); err != nil {
		if first > 0 {
			return v.brokenFile(fault.AuditTree, "the records before %d were removed, and the file %s, which has their hashes, cannot be read", first, TreeName)
		}
		v.report.Tree = &Finding{Code: fault.AuditTree, Message: "the file of tree hashes is missing; the log makes it anew when it is opened"}
		return nil
	}
	f, err := TreeFile{v.treeFile}.FrontierAt(first)
	if err != nil {
		return v.brokenFile(fault.AuditTree, "the records before %d were removed, and the file %s does not have their hashes", first, TreeName)
	}
	v.f = *f
	v.tree = bufio.NewReaderSize(io.NewSectionReader(v.treeFile, TreeSize(first), 1<<62), 1<<16)
	return nil
}

// nextCheckpoint reads the next checkpoint, and checks all but its root.
func (v *verification) nextCheckpoint() error {
	for {
		before := v.report.Newest
		v.cp = nil
		signed, torn, err := v.notes.Next()
		if err != nil {
			return err
		}
		if signed == nil {
			if torn {
				v.report.Notes = append(v.report.Notes, "The file of checkpoints ends in the middle of one, as a crash leaves it.")
			}
			return nil
		}
		c, key, err := openCheckpoint(signed, v.keys)
		if err != nil {
			return v.brokenFile(fault.AuditCheckpointForged, "the checkpoint after number %d is not signed by a known key, or was edited: %v", v.lastNumber(), err)
		}
		switch {
		case !v.seen && c.Number > 0 && v.report.First == 0:
			return v.brokenFile(fault.AuditCheckpointRemoved, "the checkpoints before number %d were removed", c.Number)
		case v.seen && c.Number > before.Number+1:
			return v.brokenFile(fault.AuditCheckpointRemoved, "the checkpoints between the numbers %d and %d were removed", before.Number, c.Number)
		case v.seen && (c.Number <= before.Number || c.Size < before.Size || c.Size == before.Size && c.State == before.State):
			return v.brokenFile(fault.AuditOrder, "the checkpoint %d stands behind the checkpoint %d", c.Number, before.Number)
		case v.seen && c.LogID != before.LogID:
			return v.brokenFile(fault.AuditLogID, "the checkpoint %d is of the log %s, those before it are of %s", c.Number, c.LogID, before.LogID)
		}
		if why := before.State.before(&c.State); why != "" {
			return v.brokenFile(fault.AuditState, "the checkpoint %d %s", c.Number, why)
		}
		v.seen = true
		if !slices.Contains(v.report.Keys, key) {
			v.report.Keys = append(v.report.Keys, key)
		}
		v.report.Newest = *c
		v.report.LogID = c.LogID
		if c.Size < v.report.First {
			v.removed = append(v.removed, c)
			continue
		}
		v.cp = c
		return nil
	}
}

func (v *verification) lastNumber() int64 {
	if !v.seen {
		return -1
	}
	return v.report.Newest.Number
}

func (v *verification) checkIDs() error {
	id := v.report.LogID
	if want := v.options.LogID; want != "" && id != want {
		return v.brokenFile(fault.AuditLogID, "the log is %s, and not %s", id, want)
	}
	if v.elsewhere != nil && v.elsewhere.LogID != id {
		return v.brokenFile(fault.AuditLogID, "the checkpoint that was kept elsewhere is of the log %s, and not of %s", v.elsewhere.LogID, id)
	}
	return nil
}

// readSegment checks the lines of a segment.
func (v *verification) readSegment(s Segment, last bool) error {
	v.segment, v.line = s, 1
	v.report.Segments++
	switch {
	case s.First > v.f.N:
		return v.broken(fault.AuditSegmentMissing, "the records %d to %d are missing, and with them a segment", v.f.N, s.First-1)
	case s.First < v.f.N:
		return v.broken(fault.AuditSegment, "the segment before goes on to record %d", v.f.N-1)
	}
	file, err := os.Open(filepath.Join(v.dir, s.Name()))
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
	}
	defer file.Close()
	in := NewLines(file)
	for ; ; v.line++ {
		line, err := in.Next()
		switch {
		case err == io.EOF, err == ErrReserved && last:
			return nil
		case err == ErrTorn && last:
			v.report.TornBytes = in.Torn
			return nil
		case err == ErrTorn, err == ErrReserved:
			return v.broken(fault.AuditTruncated, "the line is cut off")
		case err == errTooLong:
			return v.broken(fault.AuditMalformed, "the line is too long for a record")
		case err != nil:
			return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
		}
		if err := v.readLine(line, in); err != nil {
			return err
		}
		if n := v.f.N - v.report.First; v.options.Progress != nil && n%progressEvery == 0 {
			v.options.Progress(n)
		}
	}
}

// readLine checks one line, which has a byte before it, and takes it into the
// tree.
func (v *verification) readLine(line []byte, in *Lines) error {
	at, err := ParseStart(line[1:])
	switch {
	case err != nil || !fields(line[1:], func(_, _ []byte) {}):
		return v.broken(fault.AuditMalformed, "the line is no record")
	case at.Seq != v.f.N:
		return v.wrongSeq(at.Seq, in)
	case bytes.HasPrefix(at.Rest, []byte(clockSteppedStart)):
		v.steps++
	case bytes.Compare(at.Time, v.lastTime) < 0:
		return v.broken(fault.AuditEdited, "its time is before that of the record before it, and no record says that the clock was set back")
	}
	v.lastTime = append(v.lastTime[:0], at.Time...)
	if v.tail == nil {
		v.tail = append([]byte{}, at.Time...)
	}
	v.noteRetention(line[1:], at)
	leaf := LeafHash(line)
	if err := v.compareTree(leaf); err != nil {
		return err
	}
	return v.compare()
}

// wrongSeq says what a record is that has another's number.
func (v *verification) wrongSeq(seq int64, in *Lines) error {
	want := v.f.N
	switch {
	case v.line == 1:
		return v.broken(fault.AuditSegment, "the segment begins with record %d: it was swapped for another, or lost its first line", seq)
	case seq < want:
		return v.broken(fault.AuditOrder, "record %d stands here: it was copied, or moved", seq)
	}
	// Missing, or further down?
	for {
		line, err := in.Next()
		if err != nil {
			return v.broken(fault.AuditDropped, "the records %d to %d are missing", want, seq-1)
		}
		if at, err := ParseStart(line[1:]); err == nil && at.Seq == want {
			return v.broken(fault.AuditOrder, "record %d stands here, and record %d after it: records were moved", seq, want)
		}
	}
}

// compareTree takes a record's hash into the tree, and compares it with the
// hashes in the tree's file. Which of the two is wrong, the next checkpoint says.
func (v *verification) compareTree(leaf tlog.Hash) error {
	seq := v.f.N
	v.want = v.f.Push(leaf, v.want[:0])
	if v.tree == nil {
		return nil
	}
	v.have = append(v.have[:0], v.want...) // as long as it
	if _, err := io.ReadFull(v.tree, v.have); err != nil {
		v.tree, v.shadow = nil, nil // a suspect remains one
		if v.report.Tree == nil {
			v.report.Tree = &Finding{Code: fault.AuditTree, Seq: seq, Message: "the file of tree hashes ends before the records do; the log makes it anew when it is opened"}
		}
		return nil
	}
	if v.shadow == nil {
		if bytes.Equal(v.want, v.have) {
			return nil
		}
		v.suspect = v.here(fault.AuditEdited, "the record is not the one that was logged: its hash is not that in the tree")
		v.suspect.Seq = seq
		// Adding a record leaves all that the tree before it was made of.
		f := v.f
		f.N = seq
		v.shadow = &f
	}
	v.shadow.Push(tlog.Hash(v.have), nil)
	return nil
}

// compare compares the tree with the checkpoints of the present size.
func (v *verification) compare() error {
	if e := v.elsewhere; e != nil && e.Size == v.f.N && e.Root != v.f.Root() {
		if v.suspect != nil {
			v.report.Broken = v.suspect
			return v.suspect.err()
		}
		return v.broken(fault.AuditCheckpointMismatch, "the log up to here is not the one of the checkpoint that was kept elsewhere")
	} else if e != nil && e.Size == v.f.N {
		v.matched()
	}
	if err := v.compareHeads(); err != nil {
		return err
	}
	for v.cp != nil && v.cp.Size == v.f.N {
		if v.cp.Root != v.f.Root() {
			return v.mismatch()
		}
		v.matched()
		v.report.Checkpoints++
		if err := v.nextCheckpoint(); err != nil {
			return err
		}
	}
	return nil
}

// compareHeads compares the tree with what other nodes have countersigned of the present
// size.
func (v *verification) compareHeads() error {
	for ; len(v.heads) > 0 && v.heads[0].Size == v.f.N; v.heads = v.heads[1:] {
		h := v.heads[0]
		switch {
		case h.Root == v.f.Root():
		case v.suspect != nil: // it is one line that differs
			return v.notCountersigned(h, v.suspect)
		default:
			return v.notCountersigned(h, v.here(fault.AuditInconsistent, "the log of the node %s up to here, the record %d of %s, is not the one that was countersigned: %s", v.report.LogID, h.Size-1, v.lastTime, &h))
		}
		v.report.Countersigned++
	}
	return nil
}

// notCountersigned ends a verification with a head that the log does not contain.
func (v *verification) notCountersigned(h CountersignedHead, f *Finding) error {
	f.Countersigned, v.report.Broken = &h, f
	return f.err()
}

// checkHeads checks, at the end, the heads of which compareHeads has seen no record.
func (v *verification) checkHeads() error {
	if len(v.heads) > 0 { // more than there are
		h := v.heads[0]
		return v.notCountersigned(h, &Finding{Code: fault.AuditInconsistent, Seq: v.f.N, Message: fmt.Sprintf(
			"the log of the node %s has %d records, the last of %s, but %s: its end was cut off, or this is an older copy", v.report.LogID, v.f.N, v.lastTime, &h)})
	}
	newest := v.report.Newest
	for _, h := range v.before {
		var proof []tlog.Hash
		var err error
		if h.Size > 0 && h.Size < newest.Size {
			proof, err = tlog.ProveTree(newest.Size, h.Size, TreeFile{v.treeFile})
		}
		if err == nil {
			err = CheckConsistency(proof, Head{h.Size, h.Root}, Head{newest.Size, newest.Root})
		}
		if err != nil {
			return v.notCountersigned(h, &Finding{Code: fault.AuditInconsistent, Seq: h.Size, Message: fmt.Sprintf(
				"the log of the node %s did not begin as one that was countersigned, or the tree hashes of removed records were edited: %s", v.report.LogID, &h)})
		}
		v.report.Countersigned++
	}
	return nil
}

// matched notes that the lines up to here are signed. If the tree's file
// differs, it is the file that is wrong.
func (v *verification) matched() {
	if v.suspect != nil {
		v.report.Tree = &Finding{Code: fault.AuditTree, Seq: v.suspect.Seq, Message: "the file of tree hashes is damaged; the records are not"}
		v.suspect, v.shadow, v.tree = nil, nil, nil
	}
	v.tail = nil
	v.retained = max(v.retained, v.claimed)
	v.good = Finding{Segment: v.segment.Name(), Line: v.line + 1, Seq: v.f.N}
}

// mismatch finds the line that makes the root another than the checkpoint's.
func (v *verification) mismatch() error {
	number, size := v.cp.Number, v.cp.Size
	if v.suspect != nil {
		if v.shadow == nil || v.shadow.N != size || v.shadow.Root() != v.cp.Root {
			v.suspect.Message += "; the tree was edited as well"
		}
		v.report.Broken = v.suspect
		return v.suspect.err()
	}
	f := v.good
	if f.Segment == "" {
		f = Finding{Segment: Segment{First: v.report.First}.Name(), Line: 1, Seq: v.report.First}
	}
	f.Code = fault.AuditEdited
	f.Message = fmt.Sprintf("the records %d to %d are not those that checkpoint %d signed, and which of them differs cannot be told", f.Seq, size-1, number)
	if v.report.First > 0 {
		f.Message += "; or the tree hashes of the records that retention removed were edited"
	}
	if size == v.report.First {
		f.Code, f.Message = fault.AuditTree, fmt.Sprintf("the tree hashes of the removed records are not those that checkpoint %d signed", number)
	}
	v.report.Broken = &f
	return f.err()
}

// RemoveSegments is the operation of the record that retention logs, which only the
// log itself may. Such a record begins with retentionStart behind number and time.
const (
	RemoveSegments = "RemoveSegments"
	retentionStart = `,"kind":"audit","operation":"` + RemoveSegments + `","result":"allowed"`
)

// noteRetention reads what a record says that retention has removed.
func (v *verification) noteRetention(line []byte, at Start) {
	if !bytes.HasPrefix(at.Rest, []byte(retentionStart)) {
		return
	}
	var r struct {
		After struct {
			First int64 `json:"first"`
		} `json:"after"`
	}
	if json.Unmarshal(line, &r) == nil {
		v.claimed = max(v.claimed, r.After.First)
	}
}

// atEnd checks what can be known only at the end.
func (v *verification) atEnd() error {
	if v.cp != nil {
		return v.broken(fault.AuditTruncated, "the log ends here, but checkpoint %d covers %d records", v.cp.Number, v.cp.Size)
	}
	if e := v.elsewhere; e != nil && e.Size > v.f.N {
		return v.brokenFile(fault.AuditRolledBack, "the log has %d records, but the checkpoint that was kept elsewhere covers %d: this is an older copy, or its end was cut off", v.f.N, e.Size)
	}
	if first := v.report.First; first > v.retained {
		return v.brokenFile(fault.AuditSegmentMissing, "the records 0 to %d are missing, and no signed record says that retention removed them", first-1)
	}
	if err := v.checkHeads(); err != nil {
		return err
	}
	removed := v.removed
	if e := v.elsewhere; e != nil && e.Size < v.report.First {
		removed = append(removed, e)
	}
	return v.checkRemoved(removed)
}

// checkRemoved checks checkpoints whose records retention has removed: their
// trees must be beginnings of the newest one.
func (v *verification) checkRemoved(list []*Checkpoint) error {
	newest := v.report.Newest
	for _, c := range list {
		if c.Size == 0 {
			if c.Root != (&Frontier{}).Root() {
				return v.brokenFile(fault.AuditCheckpointMismatch, "checkpoint %d is of no records and has a root of some", c.Number)
			}
			continue
		}
		proof, err := tlog.ProveTree(newest.Size, c.Size, TreeFile{v.treeFile})
		if err == nil {
			err = tlog.CheckTree(proof, newest.Size, newest.Root, c.Size, c.Root)
		}
		if err != nil {
			return v.brokenFile(fault.AuditCheckpointMismatch, "checkpoint %d, of %d records, is not of a beginning of this log, or the tree hashes of removed records were edited", c.Number, c.Size)
		}
		v.report.Checkpoints++
	}
	return nil
}

// finish completes the report.
func (v *verification) finish() {
	r := &v.report
	r.Records = v.f.N
	if r.Broken == nil && v.suspect != nil {
		r.Tree = v.suspect
		r.Tree.Code = fault.AuditTree
		r.Tree.Message = "an unsigned record and the file of tree hashes differ; nothing says which of them is right"
	}
	if r.First > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("The records 0 to %d were removed by retention.", r.First-1))
	}
	if v.steps > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("The clock was set %d times while the log was written, so times do not rise with the numbers of the records everywhere; the records %s say from when to when.", v.steps, ClockStepped))
	}
	if v.tail == nil || r.Broken != nil {
		return
	}
	signed := r.Newest.Size
	if v.elsewhere != nil {
		signed = max(signed, v.elsewhere.Size)
	}
	r.Unsigned = r.Records - max(signed, r.First)
	r.UnsignedSince, _ = ParseTime(v.tail)
	r.Notes = append(r.Notes, fmt.Sprintf("The last %d records are not covered by a checkpoint: nothing protects them yet.", r.Unsigned))
}

// limitedFile is a file as long as it was.
type limitedFile struct {
	*os.File
	left int64
}

func (f *limitedFile) Read(b []byte) (int, error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	n, err := f.File.Read(b[:min(int64(len(b)), f.left)])
	f.left -= int64(n)
	return n, err
}
