package audit

import (
	"errors"
	"holdfast/appliance/fault"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// recover finds where the log ends, and makes its files agree.
func (l *Log) recover() error {
	l.removeTemporary()
	segments, err := listSegments(l.dir)
	if err != nil {
		return err
	}
	if err := l.recoverCheckpoints(len(segments) > 0); err != nil {
		return err
	}
	for i := range segments {
		if segments[i].from, err = firstTime(l.dir, segments[i]); err != nil {
			return err
		}
	}
	l.state.segments = segments
	if len(segments) > 0 {
		if err := l.recoverRecords(); err != nil {
			return err
		}
	} else if l.state.covered.Size > 0 {
		return fault.Errorf(fault.AuditTruncated, "the log has no segments, but a checkpoint of %d records; put the segments back", l.state.covered.Size)
	}
	n := l.w.frontier.n
	if err := l.tree.Truncate(treeSize(n)); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the tree hashes could not be written")
	}
	l.next, l.state.size, l.state.since = n, n, l.opts.Now()
	// The first checkpoint is of no records: so there is always one, and that
	// all were removed can be told.
	if l.state.signed == nil {
		return l.sign(0)
	}
	return nil
}

// recoverCheckpoints finds the last checkpoint, and cuts off a torn one.
func (l *Log) recoverCheckpoints(haveRecords bool) error {
	cps := &l.checkpoints
	info, err := cps.file.Stat()
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	signed, end, err := lastNote(cps.file, info.Size())
	if err != nil {
		return err
	}
	if signed == nil && (haveRecords || info.Size() > maxNote) {
		return fault.Errorf(fault.AuditCheckpointRemoved, "the log has records and no checkpoint; put the file %s back", checkpointsName)
	}
	if signed != nil {
		c, err := unverifiedCheckpoint(signed)
		if err != nil {
			return err
		}
		if c.LogID != l.opts.LogID {
			return fault.Errorf(fault.AuditLogID, "the log is %s and not %s; give its ID, or another directory", c.LogID, l.opts.LogID)
		}
		l.state.covered, l.state.signed = *c, signed
	}
	if cps.size = end; info.Size() > end {
		l.opts.Log.Warn("a torn checkpoint of the audit log was cut off", "bytes", info.Size()-end)
		if err := cps.file.Truncate(end); err != nil {
			return fault.Wrapf(fault.AuditIO, err, "a torn checkpoint cannot be cut off")
		}
	}
	return nil
}

// recoverRecords reads the records that the last checkpoint does not cover. It
// trusts the tree's file as far as its root is the checkpoint's, and otherwise
// makes it anew from all segments.
func (l *Log) recoverRecords() error {
	covered := l.state.covered
	tree := treeFile{l.tree}
	if f, err := tree.frontierAt(covered.Size); err == nil && f.root() == covered.Root {
		return l.readFrom(f)
	}
	l.opts.Log.Warn("the tree of the audit log is damaged, and is made anew from the segments")
	f, err := tree.frontierAt(l.state.segments[0].first)
	if err != nil {
		return fault.Wrapf(fault.AuditTree, err, "the tree of the log is damaged, and the records before %d, of which it was made, were removed by retention; put a copy of the file %s back",
			l.state.segments[0].first, treeName)
	}
	return l.readFrom(f)
}

// readFrom reads the records from f on, which it completes to the end of the
// log, and opens the last segment for writing.
func (l *Log) readFrom(f *frontier) error {
	segments := l.state.segments
	i := len(segments) - 1
	for i > 0 && segments[i].first >= max(f.n, 1) {
		i--
	}
	w := &treeWriter{file: l.tree, at: treeSize(f.n)}
	for ; i < len(segments); i++ {
		s := &segments[i]
		if err := l.readSegment(s, f, w, i == len(segments)-1); err != nil {
			return err
		}
		if i+1 < len(segments) && segments[i+1].first != f.n {
			return fault.Errorf(fault.AuditSegmentMissing, "after the segment %s the next record is %d, but the next segment is %s; run verify",
				s.name(), f.n, segments[i+1].name())
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	l.w.frontier, l.w.segment = *f, segments[len(segments)-1]
	l.w.reserved = l.w.segment.size
	return nil
}

// readSegment reads one segment. The records before f.n are in the tree
// already; they are counted and no more.
func (l *Log) readSegment(s *segment, f *frontier, w *treeWriter, last bool) error {
	file, err := os.OpenFile(filepath.Join(l.dir, s.name()), os.O_RDWR, 0)
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be opened", s.name())
	}
	defer func() {
		if l.w.file != file {
			_ = file.Close()
		}
	}()
	in := newLines(file)
	seq := s.first
	var newest []byte
	for ; ; seq++ {
		line, err := in.next()
		if err == io.EOF || (err == errTorn || err == errReserved) && last {
			break
		}
		if err != nil {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s cannot be read; run verify", seq-s.first+1, s.name())
		}
		newest = line
		if seq < f.n {
			continue
		}
		if at, err := parseStart(line[1:]); err != nil || at.seq != seq {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s is not record %d; run verify", seq-s.first+1, s.name(), seq)
		}
		if err := w.push(f, leafHash(line)); err != nil {
			return err
		}
		if f.n == l.state.covered.Size && f.root() != l.state.covered.Root {
			return fault.Errorf(fault.AuditEdited, "the records up to %d are not those of the last checkpoint; run verify", seq)
		}
	}
	if seq < f.n {
		return fault.Errorf(fault.AuditTruncated, "the segment %s ends before record %d, but the log has %d records; put a copy of it back", s.name(), seq, f.n)
	}
	if newest != nil {
		at, err := parseStart(newest[1:])
		if err != nil {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s is no record; run verify", seq-s.first, s.name())
		}
		if t, err := parseTime(at.time); err == nil {
			l.last = t
		}
	}
	if !last {
		return nil
	}
	// Before anything is cut off: what a checkpoint covers was not torn by a crash.
	if f.n < l.state.covered.Size {
		return fault.Errorf(fault.AuditTruncated, "the log ends before record %d, but its last checkpoint covers %d records; put a copy of the segment %s back",
			f.n, l.state.covered.Size, s.name())
	}
	if err := l.cutTorn(file, s, in); err != nil {
		return err
	}
	l.w.file = file
	return nil
}

// cutTorn cuts off what stands behind the last whole line.
func (l *Log) cutTorn(file *os.File, s *segment, in *lines) error {
	good := in.offset
	if s.size > good {
		if err := file.Truncate(good); err != nil {
			return fault.Wrapf(fault.AuditIO, err, "a torn last line of %s cannot be cut off", s.name())
		}
	}
	if in.torn > 0 {
		l.opts.Log.Warn("a torn last line of the audit log was cut off; it was never acknowledged", "segment", s.name(), "bytes", in.torn)
		l.recovered = in.torn
	}
	// What a killed process wrote may be in the kernel alone.
	if err := l.sync(file); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be written", s.name())
	}
	s.size = good
	if good == 0 {
		s.from = time.Time{}
	}
	return nil
}

// removeTemporary removes what a crash may have left of making an index, and
// indexes of segments that are gone.
func (l *Log) removeTemporary() {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return // the next step says so
	}
	for _, e := range entries {
		gone, _ := filepath.Match(temporaryIndex, e.Name())
		if of, ok := strings.CutSuffix(e.Name(), segmentSuffix+indexSuffix); ok {
			_, err := os.Stat(filepath.Join(l.dir, of+segmentSuffix))
			gone = errors.Is(err, os.ErrNotExist)
		}
		if gone {
			_ = os.Remove(filepath.Join(l.dir, e.Name()))
		}
	}
}
