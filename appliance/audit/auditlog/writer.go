package auditlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// maxPending bounds the records that wait for the disk, in bytes.
const maxPending = 32 << 20

// batch is records that share one write and one fsync: group commit.
type batch struct {
	buf  []byte // a byte for leafHash, then lines
	ends []int  // where each line ends in buf, before its newline
	done chan struct{}
	err  error // valid when done is closed

	urgent bool   // a record in it may use the reserve of the disk
	waits  bool   // for more records, until the timer ends its patience
	late   bool   // its patience has ended
	first  moment // of its oldest record
	last   moment // of its newest
}

func newBatch(old *batch) *batch {
	b := &batch{done: make(chan struct{})}
	if old != nil {
		b.buf, b.ends = old.buf[:1], old.ends[:0]
	} else {
		b.buf = make([]byte, 1, 4<<10)
	}
	return b
}

// Pending is a record that is on its way to the disk.
type Pending struct {
	batch *batch
	err   error
}

// Wait returns when the record is on the disk (nil), or will never be
// acknowledged. When ctx ends before that is known the error is fault.AuditTimeout: the
// record may stand in the log, and its caller must not go on.
func (p Pending) Wait(ctx context.Context) error {
	switch {
	case p.err != nil:
		return p.err
	case p.batch == nil:
		return fault.Errorf(fault.Invalid, "no record was handed in") // and nothing is acknowledged
	}
	select {
	case <-p.batch.done:
		return p.batch.err
	default:
	}
	select {
	case <-p.batch.done:
		return p.batch.err
	case <-ctx.Done():
		return fault.Wrapf(fault.AuditTimeout, ctx.Err(), "it is not known whether the record is in the audit log; do not answer")
	}
}

// Append logs a record, and returns when it is on the disk. On an error the
// record is not acknowledged, and what it tells of must not happen or be
// answered. It sets Seq and Time.
func (l *Log) Append(ctx context.Context, r *audit.Record) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrapf(fault.AuditTimeout, err, "the record was not logged, because its time was over")
	}
	if err := l.refuses(r); err != nil {
		return err
	}
	return l.enter(ctx, r, false)
}

// AppendUrgent is [Log.Append] for what takes something out of service, and for what
// saves the state: it may use the reserve of the disk, and goes on while the TPM does
// not sign.
func (l *Log) AppendUrgent(ctx context.Context, r *audit.Record) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrapf(fault.AuditTimeout, err, "the record was not logged, because its time was over")
	}
	if err := ownOperation(r); err != nil {
		return err
	}
	return l.enter(ctx, r, true)
}

// enter logs a record, and returns when it is on the disk.
func (l *Log) enter(ctx context.Context, r *audit.Record, urgent bool) error {
	p, b := l.begin(r, urgent)
	l.lead(b)
	return p.Wait(ctx)
}

// ownOperation refuses what the log alone may say of itself.
func ownOperation(r *audit.Record) error {
	if r.Kind == audit.KindAudit && (r.Operation == audit.RemoveSegments || r.Operation == audit.ClockStepped) || r.Kind == audit.KindFleet && r.Operation == audit.CountersignHead {
		return fault.Errorf(fault.Invalid, "the operation %s of the kind %s is logged by the log alone", r.Operation, r.Kind)
	}
	return nil
}

// AppendAsync begins to log a record, so that the disk works while its caller
// does. It sets Seq and Time; the record may then be used again. Nothing is
// certain before [Pending.Wait] has returned nil.
func (l *Log) AppendAsync(r *audit.Record) Pending {
	if err := l.refuses(r); err != nil {
		return Pending{err: err}
	}
	p, b := l.begin(r, false)
	l.hand(b)
	return p
}

// refuses says why an ordinary record is not logged.
func (l *Log) refuses(r *audit.Record) error {
	if err := ownOperation(r); err != nil {
		return err
	}
	if why := l.refusing.Load(); why != nil {
		return *why
	}
	return nil
}

// begin puts a record into a batch, and gives the batch that its caller has to have written
// now, if there is one.
func (l *Log) begin(r *audit.Record, urgent bool) (Pending, *batch) {
	if err := checkNew(r); err != nil {
		return Pending{err: err}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.enqueue(r)
	if err != nil {
		return Pending{err: err}, nil
	}
	b.urgent = b.urgent || urgent
	return Pending{batch: b}, l.start()
}

func checkNew(r *audit.Record) error {
	r.Seq, r.Time = 0, time.Time{}
	return r.Check()
}

func (l *Log) enqueue(r *audit.Record) (*batch, error) {
	b := l.pending
	switch {
	case l.closed:
		return nil, fault.Errorf(fault.AuditClosed, "the audit log is closed")
	case len(b.buf) > maxPending:
		return nil, fault.Errorf(fault.AuditBusy, "the disk of the audit log does not keep up; the record was not logged")
	case l.next > audit.MaxSeq:
		return nil, fault.Errorf(fault.Invalid, "the audit log is at its last number; restore a backup into a fresh appliance, whose log begins anew")
	}
	now, step := l.moment()
	seq := l.next
	if step != nil {
		seq++
	}
	from := len(b.buf)
	if step != nil {
		b.put(step, l.next, now.wall)
	}
	begin := len(b.buf)
	b.put(r, seq, now.wall)
	if length := len(b.buf) - begin - 1; length > audit.MaxLine {
		b.buf, b.ends = b.buf[:from], b.ends[:len(b.ends)-int(seq-l.next)-1]
		return nil, fault.Errorf(fault.Invalid, "a record of %d bytes is too long for the audit log; %d are allowed", length, audit.MaxLine)
	}
	r.Seq, r.Time = seq, now.wall
	l.next = seq + 1
	if from == 1 {
		b.first = now
	}
	l.last, b.last = now, now
	return b, nil
}

// put appends the line of a record.
func (b *batch) put(r *audit.Record, seq int64, t time.Time) {
	b.buf = r.AppendLine(b.buf, seq, t)
	b.ends = append(b.ends, len(b.buf))
	b.buf = append(b.buf, '\n')
}

// writer is what who writes a batch has for itself.
type writer struct {
	file     *os.File // the last segment; nil before the first record
	direct   direct   // into the same
	segment  audit.Segment
	reserved int64 // the size of the file; what is behind segment.size is zero bytes
	frontier audit.Frontier
	hashes   []byte
	broken   error
	last     moment // of the newest record on the disk
	budget   int64  // bytes that may be written before the disk is asked again
	asked    time.Time
}

// recycle hands on the buffers of a batch. Its waiters have the rest of it. The caller has
// the mutex.
func (l *Log) recycle(b *batch) {
	if cap(b.buf) > 1<<20 {
		return
	}
	old := &batch{buf: b.buf, ends: b.ends}
	b.buf, b.ends = nil, nil
	l.free = old
}

func (l *Log) commit(b *batch) {
	if err := l.write(b); err != nil {
		l.fail(b, err)
		return
	}
	l.publish(b)
	close(b.done)
}

// fail answers the batch and what has gathered behind it: the numbers there
// follow on the batch's.
func (l *Log) fail(b *batch, err error) {
	l.mu.Lock()
	behind := l.pending
	l.pending = newBatch(nil)
	l.next, l.last = l.w.frontier.N, l.w.last
	l.mu.Unlock()
	l.state.Lock()
	l.state.broken = l.w.broken
	l.state.Unlock()
	l.opts.Log.Error("records could not be written to the audit log", "records", len(b.ends)+len(behind.ends), "error", err)
	b.err, behind.err = err, err
	close(b.done)
	close(behind.done)
}

// publish tells the state after a batch, and wakes the keeper if it has to sign
// now, or has to know when.
func (l *Log) publish(b *batch) {
	now := l.opts.Now()
	waited := l.since(b.first, now)
	l.state.Lock()
	st := &l.state
	st.writes++
	st.slowest = max(st.slowest, waited)
	if waited > audit.StallAfter {
		st.stalls++
	}
	wake := st.size == st.covered.Size
	if wake {
		st.since = now
	}
	st.size = l.w.frontier.N
	st.segments[len(st.segments)-1] = l.w.segment
	l.bound(now)
	wake = wake || len(st.wanted) > 0 || st.size-st.covered.Size >= l.opts.CheckpointRecords
	l.state.Unlock()
	if wake {
		signal(l.keeperWake)
	}
}

// write has a batch on the disk, or nothing of it.
func (l *Log) write(b *batch) error {
	w := &l.w
	if w.broken != nil {
		return w.broken
	}
	// What is urgent has the reserve; a disk without any space says so at the write.
	if !b.urgent {
		if err := l.checkSpace(int64(len(b.buf)) + int64(len(b.ends))*64); err != nil {
			return err
		}
	}
	if err := l.rotate(); err != nil {
		return err
	}
	// The tree first. If the lines do not follow, the next batch overwrites it.
	f := w.frontier
	w.hashes = w.hashes[:0]
	from := 0
	for _, end := range b.ends {
		w.hashes = f.Push(audit.LeafHash(b.buf[from:end]), w.hashes)
		from = end
	}
	if _, err := l.tree.WriteAt(w.hashes, audit.TreeSize(w.frontier.N)); err != nil {
		return notWritten(err)
	}
	lines := b.buf[1:]
	l.reserve(int64(len(lines)))
	done, err := w.direct.write(w.file, lines, w.segment.Size, w.reserved)
	if err == nil && !done {
		_, err = w.file.WriteAt(lines, w.segment.Size)
	}
	if err != nil {
		return l.cutBack(err)
	}
	if err := l.sync(w.file); err != nil {
		return l.syncFailed(err)
	}
	if w.segment.Size == 0 {
		first, _ := audit.ParseStart(b.buf[1:b.ends[0]])
		w.segment.From, _ = audit.ParseTime(first.Time)
	}
	w.segment.Size += int64(len(lines))
	w.reserved = max(w.reserved, w.segment.Size)
	w.budget -= int64(len(lines) + len(w.hashes))
	w.frontier, w.last = f, b.last
	return nil
}

func (l *Log) sync(f *os.File) error {
	if l.opts.NoSync {
		return nil
	}
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}

// reserveBytes is how much of a segment is written with zero bytes at a time.
const reserveBytes = 1 << 20

var zeros [reserveBytes]byte

// reserve has zero bytes stand in the segment where n bytes will be written, if
// the disk has space to spare. To overwrite what is there costs a third of what
// it costs to make a file longer, for nothing of the file system has to change.
func (l *Log) reserve(n int64) {
	w := &l.w
	for end := w.segment.Size + n; w.reserved < end && w.budget > 2*reserveBytes; {
		// To a multiple of its size, so that whole blocks are reserved.
		wrote, err := w.file.WriteAt(zeros[:reserveBytes-w.reserved%reserveBytes], w.reserved)
		w.reserved += int64(wrote)
		w.budget -= int64(wrote)
		if err != nil {
			return // the records themselves may have room
		}
	}
}

// trim gives back what is reserved of the last segment.
func (l *Log) trim() error {
	w := &l.w
	if w.file == nil || w.reserved == w.segment.Size {
		return nil
	}
	if err := w.file.Truncate(w.segment.Size); err != nil {
		return err
	}
	w.reserved = w.segment.Size
	if l.opts.NoSync {
		return nil
	}
	return w.file.Sync()
}

// cutBack removes what a failed write may have left.
func (l *Log) cutBack(cause error) error {
	l.w.reserved = l.w.segment.Size
	if err := l.w.file.Truncate(l.w.segment.Size); err != nil {
		l.w.broken = fault.Wrapf(fault.AuditIO, err, "the audit log cannot be written any more, because half a record could not be removed; restart the machine")
		return l.w.broken
	}
	l.w.budget = 0
	return notWritten(cause)
}

// syncFailed removes what may not be on the disk. Unless the disk was only
// full, nothing is built on it any more: the kernel may forget what it failed to
// write, and only reading the file anew tells.
func (l *Log) syncFailed(cause error) error {
	err := l.cutBack(cause)
	if l.w.broken == nil && (!isFull(cause) || l.sync(l.w.file) != nil) {
		l.w.broken = fault.Wrapf(fault.AuditIO, cause, "the audit log cannot be written any more, because its disk failed; restart the machine")
		return l.w.broken
	}
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func notWritten(err error) error {
	if isFull(err) {
		return fault.Wrapf(fault.AuditNoSpace, err, "the disk of the audit log is full; the record was not logged")
	}
	return fault.Wrapf(fault.AuditIO, err, "the audit log could not be written; the record was not logged")
}

// checkSpace refuses what would use up the reserve. It asks the disk after each
// 1/8 of what may still be written, or each second; asking costs as much as
// encoding a record.
func (l *Log) checkSpace(need int64) error {
	now := l.opts.Now()
	if need <= l.w.budget && now.Sub(l.w.asked) < time.Second {
		return nil
	}
	free := freeBytes(l.dir)
	if free < 0 {
		return nil // the write will tell
	}
	if free-need < l.opts.ReserveBytes {
		l.w.budget = 0
		return fault.Errorf(fault.AuditNoSpace, "the disk of the audit log has %d MiB left, of which %d are a reserve; the record was not logged; enlarge the state volume, or keep less of the log with audit.retain_age",
			free>>20, l.opts.ReserveBytes>>20)
	}
	l.w.budget, l.w.asked = max((free-l.opts.ReserveBytes)/8, need), now
	return nil
}

// rotate begins a segment when the last one is large or old enough.
func (l *Log) rotate() error {
	w := &l.w
	// Also a segment that was begun while the clock was ahead ends.
	if w.file != nil && (w.segment.Size == 0 ||
		w.segment.Size < l.opts.SegmentBytes && l.opts.Now().Sub(w.segment.From).Abs() < l.opts.SegmentAge) {
		return nil
	}
	// Only the last segment may have space reserved.
	if err := l.trim(); err != nil {
		return notWritten(err)
	}
	s := audit.Segment{First: w.frontier.N}
	f, err := os.OpenFile(filepath.Join(l.dir, s.Name()), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return notWritten(err)
	}
	if err := syncDir(l.dir); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return notWritten(err)
	}
	if w.file != nil {
		_ = w.file.Close() // its records are synced
	}
	w.file, w.segment, w.reserved = f, s, 0
	l.openDirect()
	l.state.Lock()
	l.state.segments = append(l.state.segments, s)
	if s.First > 0 {
		l.state.wanted = append(l.state.wanted, s.First)
	}
	l.state.Unlock()
	signal(l.indexerWake)
	return nil
}

// openDirect has the last segment written past the page cache, if what is written is to be
// on the disk.
func (l *Log) openDirect() {
	if !l.opts.NoSync {
		l.w.direct.open(l.w.file)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func intField(name string, n int64) []byte {
	return append(strconv.AppendInt([]byte(`{"`+name+`":`), n, 10), '}')
}
