package auditlog

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// recover finds where the log ends, and makes its files agree.
func (l *Log) recover() error {
	l.removeTemporary()
	segments, err := audit.ListSegments(l.dir)
	if err != nil {
		return err
	}
	if err := l.recoverCheckpoints(len(segments) > 0); err != nil {
		return err
	}
	for i := range segments {
		if segments[i].From, err = audit.FirstTime(l.dir, segments[i]); err != nil {
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
	n := l.w.frontier.N
	if err := l.tree.Truncate(audit.TreeSize(n)); err != nil {
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
	signed, end, err := audit.LastNote(cps.file, info.Size())
	if err != nil {
		return err
	}
	if signed == nil && (haveRecords || info.Size() > audit.MaxNote) {
		return fault.Errorf(fault.AuditCheckpointRemoved, "the log has records and no checkpoint; put the file %s back", audit.CheckpointsName)
	}
	if signed != nil {
		c, err := audit.UnverifiedCheckpoint(signed)
		if err != nil {
			return err
		}
		if c.LogID != l.opts.LogID {
			return fault.Errorf(fault.AuditLogID, "the log is %s and not %s; give its ID, or another directory", c.LogID, l.opts.LogID)
		}
		l.state.covered, l.state.signed, l.state.knownAt = *c, signed, c.Time
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
	tree := audit.TreeFile{R: l.tree}
	if f, err := tree.FrontierAt(covered.Size); err == nil && f.Root() == covered.Root {
		return l.readFrom(f)
	}
	l.opts.Log.Warn("the tree of the audit log is damaged, and is made anew from the segments")
	f, err := tree.FrontierAt(l.state.segments[0].First)
	if err != nil {
		return fault.Wrapf(fault.AuditTree, err, "the tree of the log is damaged, and the records before %d, of which it was made, were removed by retention; put a copy of the file %s back",
			l.state.segments[0].First, audit.TreeName)
	}
	return l.readFrom(f)
}

// readFrom reads the records from f on, which it completes to the end of the
// log, and opens the last segment for writing.
func (l *Log) readFrom(f *audit.Frontier) error {
	segments := l.state.segments
	i := len(segments) - 1
	for i > 0 && segments[i].First >= max(f.N, 1) {
		i--
	}
	w := &treeWriter{file: l.tree, at: audit.TreeSize(f.N)}
	for ; i < len(segments); i++ {
		s := &segments[i]
		if err := l.readSegment(s, f, w, i == len(segments)-1); err != nil {
			return err
		}
		if i+1 < len(segments) && segments[i+1].First != f.N {
			return fault.Errorf(fault.AuditSegmentMissing, "after the segment %s the next record is %d, but the next segment is %s; run verify",
				s.Name(), f.N, segments[i+1].Name())
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	l.w.frontier, l.w.segment = *f, segments[len(segments)-1]
	l.w.reserved = l.w.segment.Size
	return nil
}

// readSegment reads one segment. The records before f.n are in the tree
// already; they are counted and no more.
func (l *Log) readSegment(s *audit.Segment, f *audit.Frontier, w *treeWriter, last bool) error {
	file, err := os.OpenFile(filepath.Join(l.dir, s.Name()), os.O_RDWR, 0)
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be opened", s.Name())
	}
	defer func() {
		if l.w.file != file {
			_ = file.Close()
		}
	}()
	in := audit.NewLines(file)
	seq := s.First
	var newest []byte
	for ; ; seq++ {
		line, err := in.Next()
		if err == io.EOF || (err == audit.ErrTorn || err == audit.ErrReserved) && last {
			break
		}
		if err != nil {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s cannot be read; run verify", seq-s.First+1, s.Name())
		}
		newest = line
		if seq < f.N {
			continue
		}
		if at, err := audit.ParseStart(line[1:]); err != nil || at.Seq != seq {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s is not record %d; run verify", seq-s.First+1, s.Name(), seq)
		}
		if err := w.push(f, audit.LeafHash(line)); err != nil {
			return err
		}
		if f.N == l.state.covered.Size && f.Root() != l.state.covered.Root {
			return fault.Errorf(fault.AuditEdited, "the records up to %d are not those of the last checkpoint; run verify", seq)
		}
	}
	if seq < f.N {
		return fault.Errorf(fault.AuditTruncated, "the segment %s ends before record %d, but the log has %d records; put a copy of it back", s.Name(), seq, f.N)
	}
	if newest != nil {
		at, err := audit.ParseStart(newest[1:])
		if err != nil {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of the segment %s is no record; run verify", seq-s.First, s.Name())
		}
		if t, err := audit.ParseTime(at.Time); err == nil {
			l.last = moment{wall: t}
			l.w.last = l.last
		}
	}
	if !last {
		return nil
	}
	// Before anything is cut off: what a checkpoint covers was not torn by a crash.
	if f.N < l.state.covered.Size {
		return fault.Errorf(fault.AuditTruncated, "the log ends before record %d, but its last checkpoint covers %d records; put a copy of the segment %s back",
			f.N, l.state.covered.Size, s.Name())
	}
	if err := l.cutTorn(file, s, in); err != nil {
		return err
	}
	l.w.file = file
	l.openDirect()
	return nil
}

// cutTorn cuts off what stands behind the last whole line.
func (l *Log) cutTorn(file *os.File, s *audit.Segment, in *audit.Lines) error {
	good := in.Offset
	if s.Size > good {
		if err := file.Truncate(good); err != nil {
			return fault.Wrapf(fault.AuditIO, err, "a torn last line of %s cannot be cut off", s.Name())
		}
	}
	if in.Torn > 0 {
		l.opts.Log.Warn("a torn last line of the audit log was cut off; it was never acknowledged", "segment", s.Name(), "bytes", in.Torn)
		l.recovered = in.Torn
	}
	// What a killed process wrote may be in the kernel alone.
	if err := l.sync(file); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be written", s.Name())
	}
	s.Size = good
	if good == 0 {
		s.From = time.Time{}
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
		gone, _ := filepath.Match(audit.TemporaryIndex, e.Name())
		if of, ok := strings.CutSuffix(e.Name(), audit.SegmentSuffix+audit.IndexSuffix); ok {
			_, err := os.Stat(filepath.Join(l.dir, of+audit.SegmentSuffix))
			gone = errors.Is(err, os.ErrNotExist)
		}
		if gone {
			_ = os.Remove(filepath.Join(l.dir, e.Name()))
		}
	}
}
