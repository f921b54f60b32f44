package auditlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// retain removes the segments that are too old, or too many. First a record
// says so and a checkpoint signs it: Verify takes no other word for it.
func (l *Log) retain() {
	gone, first := l.expired()
	if len(gone) == 0 {
		return
	}
	err := l.removeSegments(gone, first)
	if e := (*fault.Fault)(nil); errors.As(err, &e) && e.Code != fault.AuditClosed {
		l.opts.Log.Error("old segments of the audit log could not be removed", "error", err)
	}
}

// expired gives the segments to remove, and the first record behind them. The
// last segment stays always.
func (l *Log) expired() (gone []audit.Segment, first int64) {
	o := &l.opts
	now := o.Now()
	if w := o.Witnessed(); w.Before(now) {
		now = w
	}
	l.state.Lock()
	defer l.state.Unlock()
	if !l.state.proven {
		return nil, 0
	}
	segments := l.state.segments
	var bytes int64
	for _, s := range segments {
		bytes += s.Size
	}
	var newest time.Time
	for i := 0; i+1 < len(segments); i++ {
		// All records are older than the first of the next segment. Where that one's time is
		// before another's, the clock was set back, and these are as old as they say by the
		// latest time that there was.
		after := segments[i+1].From
		if newest = later(later(newest, segments[i].From), after); after.Before(newest) && !after.IsZero() {
			after = newest.Add(o.SegmentAge)
		}
		tooOld := o.RetainAge > 0 && !after.IsZero() && now.Sub(after) > o.RetainAge
		tooMany := o.RetainBytes > 0 && bytes > o.RetainBytes
		if !tooOld && !tooMany {
			break
		}
		bytes -= segments[i].Size
		gone, first = append(gone, segments[i]), segments[i+1].First
	}
	return gone, first
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (l *Log) removeSegments(gone []audit.Segment, first int64) error {
	// Once is enough, also when a file cannot be removed and this is tried again.
	if first > l.claimed {
		if err := l.claim(gone[0].First, first); err != nil {
			return err
		}
		l.claimed = first
	}
	// The oldest first: after a crash the rest is without a gap.
	for _, s := range gone {
		path := filepath.Join(l.dir, s.Name())
		if err := errors.Join(remove(path), remove(path+audit.IndexSuffix)); err != nil {
			return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be removed", s.Name())
		}
		l.state.Lock()
		l.state.segments = l.state.segments[1:]
		l.state.Unlock()
	}
	l.opts.Log.Info("old segments of the audit log were removed", "segments", len(gone), "first", first)
	return l.trimCheckpoints(first)
}

// claim has a signed record say that the records from old to first are removed.
func (l *Log) claim(old, first int64) error {
	r := &audit.Record{Kind: audit.KindAudit, Operation: audit.RemoveSegments, Result: audit.Allowed,
		Before: intField("first", old), After: intField("first", first),
		Detail: fmt.Sprintf("the records %d to %d are removed by retention", old, first-1)}
	if err := l.enter(context.Background(), r, true); err != nil {
		return err
	}
	return l.sign(r.Seq + 1)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// trimCheckpoints removes the checkpoints of removed records, but for the last
// one.
func (l *Log) trimCheckpoints(first int64) error {
	cps := &l.checkpoints
	cps.Lock()
	defer cps.Unlock()
	in := &audit.Notes{R: io.NewSectionReader(cps.file, 0, cps.size)}
	var at, from int64
	for {
		signed, _, err := in.Next()
		if err != nil {
			return err
		}
		if signed == nil {
			break
		}
		c, err := audit.UnverifiedCheckpoint(signed)
		if err != nil {
			return err
		}
		if c.Size > first {
			break
		}
		from = at
		at += int64(len(signed)) + 1
	}
	if from == 0 {
		return nil
	}
	return l.replaceCheckpoints(from)
}

// replaceCheckpoints drops what stands before from. The file is replaced as a
// whole, so that a crash leaves the old one or the new one.
func (l *Log) replaceCheckpoints(from int64) error {
	cps := &l.checkpoints
	const temporary = audit.CheckpointsName + ".new"
	f, err := l.openFile(temporary)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.NewSectionReader(cps.file, from, cps.size-from))
	if err == nil {
		err = f.Truncate(cps.size - from)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(filepath.Join(l.dir, temporary), filepath.Join(l.dir, audit.CheckpointsName))
	}
	if err != nil {
		_ = f.Close()
		return fault.Wrapf(fault.AuditIO, err, "old checkpoints could not be removed")
	}
	_ = cps.file.Close()
	cps.file, cps.size = f, cps.size-from
	if err := syncDir(l.dir); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "old checkpoints could not be removed")
	}
	return nil
}
