package auditlog

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"

	"golang.org/x/mod/sumdb/tlog"
)

// Options are the settings of a [Log]. LogID and Signer are needed.
type Options struct {
	// LogID names the log in each checkpoint: letters, digits, points, hyphens
	// and underscores.
	LogID  string
	Signer audit.Signer
	Log    *slog.Logger // discards if nil
	// Now and After are the clock; that of the time package if nil.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	// Elapsed, if given, tells the time that passes, of a clock that nobody sets. Without it
	// a clock that is set forward is not told by a record.
	Elapsed func() time.Duration

	// Witnessed, if given, tells the latest time that may be relied on (package
	// appliance/witness): RetainAge is reckoned by it, so that a wrong clock removes nothing.
	// It is asked after each checkpoint. Now if nil.
	Witnessed func() time.Time

	// CheckpointRecords and CheckpointAfter say how many records, and for how
	// long, may wait for a checkpoint. 65,536 and 1 s if 0.
	CheckpointRecords int64
	CheckpointAfter   time.Duration
	// OnCheckpoint gets each signed checkpoint, to keep it elsewhere. It must
	// not wait long, and must not call the log.
	OnCheckpoint func(signed []byte)

	// SegmentBytes and SegmentAge end a segment. 32 MiB and 24 h if 0.
	SegmentBytes int64
	SegmentAge   time.Duration
	// RetainBytes and RetainAge say what segments to keep; all if 0.
	RetainBytes int64
	RetainAge   time.Duration

	// ReserveBytes stay free on the disk: what comes then is refused.
	// [DefaultReserveBytes] if 0. Below WarnBytes, [Status] warns. [DefaultWarnBytes] if 0.
	ReserveBytes int64
	WarnBytes    int64

	// Unproven has the log sign no records, and remove none, before [Log.Prove] has
	// found that it contains the head that was kept of it: so that nobody has the TPM
	// sign a log that was rewritten while it was closed.
	Unproven bool
	// MaxUnsigned and MaxUnsignedTime bound the records that no checkpoint covers, in
	// number and in age: what comes then is refused with fault.AuditUnsigned, until a
	// checkpoint is signed. If 0: 1,048,576 and 10 min, or twice what may wait for a
	// checkpoint if that is more.
	MaxUnsigned     int64
	MaxUnsignedTime time.Duration

	// NoSync leaves out the fsync of records. A crash of the machine then loses
	// acknowledged records: for benchmarks alone.
	NoSync bool
}

const (
	maxSegmentBytes = 1 << 30 // places in a segment are 32 bits in an index
	lockName        = "lock"
)

func (o *Options) complete() error {
	if !audit.ValidLogID(o.LogID) {
		return fault.Errorf(fault.Invalid, "%q cannot be the ID of a log; use 1 to 64 letters, digits, points, hyphens and underscores", o.LogID)
	}
	if o.Signer == nil {
		return fault.Errorf(fault.Invalid, "the log has no signer")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Witnessed == nil {
		o.Witnessed = o.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	setDefault(&o.CheckpointRecords, 1<<16)
	setDefault(&o.CheckpointAfter, time.Second)
	// At least as much as a log that is well has unsigned at times.
	setDefault(&o.MaxUnsigned, max(1<<20, 2*o.CheckpointRecords))
	setDefault(&o.MaxUnsignedTime, max(10*time.Minute, 2*o.CheckpointAfter))
	setDefault(&o.SegmentBytes, 32<<20)
	setDefault(&o.SegmentAge, 24*time.Hour)
	setDefault(&o.ReserveBytes, DefaultReserveBytes)
	setDefault(&o.WarnBytes, DefaultWarnBytes)
	o.SegmentBytes = min(o.SegmentBytes, maxSegmentBytes)
	return nil
}

// The defaults of [Options], in bytes.
const (
	DefaultReserveBytes = 16 << 20
	DefaultWarnBytes    = 1 << 30
)

func setDefault[T int64 | time.Duration](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}

// Log is an open log. Its methods may be called by many goroutines.
type Log struct {
	dir  string
	opts Options
	lock *os.File

	// What callers share.
	mu      sync.Mutex
	next    int64  // the number of the next record
	last    moment // of the newest record
	pending *batch
	free    *batch // its buffers are used again
	closed  bool
	gather  gather

	w writer // of who writes a batch

	// What the log tells of itself, and what is to be done behind the writer.
	state struct {
		sync.Mutex
		segments  []audit.Segment
		size      int64 // records on the disk
		covered   audit.Checkpoint
		signed    []byte    // the newest checkpoint
		since     time.Time // when the first record came that no checkpoint covers
		retry     time.Time // not before then, after a failure
		wanted    []int64   // sizes to sign: where segments end
		broken    error
		signerErr error
		proven    bool            // the log contains the head that was kept of it
		told      audit.StateHead // of the appliance's state; zero before it was told one
		toldAt    time.Time       // when it was, the first time after a checkpoint
		knownAt   time.Time       // when a checkpoint named the newest head first, or the log was opened
		indexed   int64           // records before it are in an index
		writes    int64           // batches that were written since the log was opened
		stalls    int64           // those of them that took longer than audit.StallAfter
		slowest   time.Duration   // how long the oldest record of one of them waited, at most
	}

	checkpoints struct {
		sync.Mutex
		file *os.File
		size int64
	}
	tree *os.File

	refusing atomic.Pointer[error] // why ordinary records are refused; nil if they are not

	keeperWake  chan struct{}
	indexerWake chan struct{}
	stopping    chan struct{} // closed when the keeper and the indexer shall end
	written     chan struct{} // closed when the writer has ended
	background  sync.WaitGroup

	claimed   int64 // the keeper's own: a signed record says that all before it is removed
	recovered int64 // bytes of a torn last line that Open cut off
}

// Open opens the log in a directory, and makes it if there is none. After a
// crash it cuts off a torn last line, which was never acknowledged. It refuses a
// log with anything else wrong.
func Open(dir string, o Options) (*Log, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	l := &Log{dir: dir, opts: o, pending: newBatch(nil), gather: gather{enough: 1, census: firstCensus, handed: make(chan *batch, 1), idle: make(chan struct{})},
		keeperWake: make(chan struct{}, 1), indexerWake: make(chan struct{}, 1),
		stopping: make(chan struct{}), written: make(chan struct{})}
	l.state.proven = !o.Unproven
	if err := l.open(); err != nil {
		l.closeFiles()
		return nil, err
	}
	l.gather.timer = time.AfterFunc(time.Hour, l.overdue)
	l.gather.timer.Stop()
	go l.runWriter()
	l.background.Go(l.runKeeper)
	l.background.Go(l.runIndexer)
	if l.recovered > 0 {
		err := l.Append(context.Background(), &audit.Record{Kind: audit.KindAudit, Operation: "Recover", Result: audit.Allowed,
			Detail: "cut off a torn last line, which was never acknowledged", After: intField("bytes", l.recovered)})
		if err != nil {
			l.opts.Log.Warn("the recovery of the audit log could not be logged", "error", err)
		}
	}
	return l, nil
}

func (l *Log) open() error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the directory of the log cannot be made")
	}
	var err error
	if l.lock, err = l.openFile(lockName); err != nil {
		return err
	}
	if err := syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fault.Wrapf(fault.AuditBusy, err, "another process has the log %s open", l.dir)
	}
	if l.tree, err = l.openFile(audit.TreeName); err != nil {
		return err
	}
	if l.checkpoints.file, err = l.openFile(audit.CheckpointsName); err != nil {
		return err
	}
	return l.recover()
}

func (l *Log) openFile(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "the log's file %s cannot be opened", name)
	}
	return f, nil
}

func (l *Log) closeFiles() {
	l.w.direct.close()
	if l.lock != nil {
		// To close the file is not enough: a child that is being made meanwhile has it open,
		// too, until it executes its program.
		_ = syscall.Flock(int(l.lock.Fd()), syscall.LOCK_UN)
	}
	for _, f := range []*os.File{l.w.file, l.tree, l.checkpoints.file, l.lock} {
		if f != nil {
			_ = f.Close() // what had to be on the disk was synced
		}
	}
}

// Close waits for the records handed in, signs a last checkpoint, and closes
// the log. Its error says that the checkpoint is missing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	b := l.start()
	if b == nil && !l.gather.writing {
		close(l.gather.idle)
	}
	l.mu.Unlock()
	l.hand(b)
	<-l.gather.idle
	close(l.gather.handed)
	<-l.written
	if err := l.trim(); err != nil {
		l.opts.Log.Warn("space that was reserved for the audit log could not be given back; the next start does it", "error", err)
	}
	close(l.stopping)
	l.background.Wait()
	var err error
	if l.isProven() {
		_, err = l.Checkpoint()
	}
	l.closeFiles()
	return err
}

// Status tells the state of the log.
func (l *Log) Status() audit.Status {
	free := freeBytes(l.dir)
	now := l.opts.Now()
	l.state.Lock()
	defer l.state.Unlock()
	st := &l.state
	s := audit.Status{Size: st.size, Segments: len(st.segments), Checkpoint: st.covered, Lag: st.size - st.covered.Size,
		Unindexed: st.size - st.indexed, Free: free, Level: audit.LevelOK, Recovered: l.recovered,
		Writes: st.writes, Stalls: st.stalls, Slowest: st.slowest}
	for _, seg := range st.segments {
		s.Bytes += seg.Size
	}
	if len(st.segments) > 0 {
		s.First = st.segments[0].First
	}
	if s.Lag > 0 {
		s.LagTime = max(0, now.Sub(st.since))
	}
	switch {
	case free < 0:
	case free < l.opts.ReserveBytes:
		s.Level = audit.LevelFull
	case free < l.opts.WarnBytes:
		s.Level = audit.LevelWarning
	}
	if st.broken != nil {
		s.Broken = st.broken.Error()
	}
	if st.signerErr != nil {
		s.Signer = st.signerErr.Error()
	}
	return s
}

// freeBytes is what the file system of a directory has left; -1 if unknown.
func freeBytes(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return -1
	}
	return int64(st.Bavail) * st.Bsize
}

// Checkpoint gives the newest signed checkpoint, and signs one first if there
// are records that none covers. It covers all that was on the disk when it was
// called.
func (l *Log) Checkpoint() ([]byte, error) {
	l.state.Lock()
	want := l.state.size // not later: under load there would be no end
	l.state.Unlock()
	for {
		l.state.Lock()
		size, signed := l.state.size, l.state.signed
		if len(l.state.wanted) > 0 {
			size = l.state.wanted[0]
		}
		done, proven := l.state.covered.Size >= want && !l.untold(), l.state.proven
		l.state.Unlock()
		if done {
			return signed, nil
		}
		if !proven {
			return nil, fault.Errorf(fault.Locked, "the audit log signs nothing before the appliance is unlocked, since only then it is known whether the log is whole; unlock it and try again")
		}
		if err := l.sign(size); err != nil {
			return nil, err
		}
	}
}

// sign appends a checkpoint of the first size records, unless there is one. It
// runs beside the writer: the tree's file has all that it needs.
func (l *Log) sign(size int64) error {
	l.checkpoints.Lock()
	defer l.checkpoints.Unlock()
	l.state.Lock()
	c, now := l.state.covered, l.opts.Now()
	fresh, untold := l.state.signed == nil, l.untold()
	if untold {
		c.State = l.state.told
	}
	l.state.Unlock()
	var signed []byte
	var err error
	if size > c.Size || fresh || untold {
		if !fresh {
			c.Number++
		}
		c.LogID, c.Size, c.Time = l.opts.LogID, max(size, c.Size), now.UTC().Truncate(time.Microsecond)
		signed, err = l.writeCheckpoint(&c)
	}
	l.state.Lock()
	st := &l.state
	st.signerErr = err
	if err != nil {
		st.retry = now.Add(l.opts.CheckpointAfter)
		l.bound(now)
		l.state.Unlock()
		l.opts.Log.Error("the audit log has no checkpoint of its newest records", "error", err)
		return err
	}
	for len(st.wanted) > 0 && st.wanted[0] <= size {
		st.wanted = st.wanted[1:]
	}
	if signed != nil {
		if c.State != st.covered.State {
			st.knownAt = c.Time
		}
		st.covered, st.signed, st.since = c, signed, now
		if l.untold() { // told while this one was signed
			st.toldAt = now
		}
	}
	l.bound(now)
	l.state.Unlock()
	if signed != nil && l.opts.OnCheckpoint != nil {
		l.opts.OnCheckpoint(signed)
	}
	return nil
}

// writeCheckpoint signs c, for which it finds the root, and appends it.
func (l *Log) writeCheckpoint(c *audit.Checkpoint) ([]byte, error) {
	// First the tree: Open trusts it as far as a checkpoint goes.
	if err := syscall.Fdatasync(int(l.tree.Fd())); err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "the tree hashes could not be written")
	}
	var err error
	if c.Root, err = tlog.TreeHash(c.Size, audit.TreeFile{R: l.tree}); err != nil {
		return nil, err
	}
	signed, err := audit.SignCheckpoint(c, l.opts.Signer)
	if err != nil {
		return nil, err
	}
	cps := &l.checkpoints
	// What a failed write may have left would stand behind this one.
	if err = cps.file.Truncate(cps.size); err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "a checkpoint could not be written; the records are on the disk, without a signature")
	}
	if _, err = cps.file.WriteAt(append(signed[:len(signed):len(signed)], '\n'), cps.size); err == nil {
		err = syscall.Fdatasync(int(cps.file.Fd()))
	}
	if err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "a checkpoint could not be written; the records are on the disk, without a signature")
	}
	cps.size += int64(len(signed)) + 1
	return signed, nil
}

// runKeeper signs checkpoints when they are due, and removes old segments.
func (l *Log) runKeeper() {
	retained := false
	for {
		if !retained && l.isProven() {
			l.retain()
			retained = true
		}
		size, wait := l.due()
		if size >= 0 {
			if l.sign(size) == nil { // otherwise: logged, in the status, and tried again
				l.retain()
			}
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = l.opts.After(wait)
		}
		select {
		case <-l.keeperWake:
		case <-timer:
		case <-l.stopping:
			return
		}
	}
}

// due gives the size to sign now, or -1 and how long to wait; 0 is until woken.
func (l *Log) due() (size int64, wait time.Duration) {
	now := l.opts.Now()
	l.state.Lock()
	defer l.state.Unlock()
	st := &l.state
	lag := st.size - st.covered.Size
	switch {
	case !st.proven:
		return -1, 0
	case now.Before(st.retry):
		return -1, st.retry.Sub(now)
	case len(st.wanted) > 0:
		return st.wanted[0], 0
	case lag == 0 && !l.untold():
		return -1, 0
	case lag >= l.opts.CheckpointRecords:
		return st.size, 0
	}
	from := st.since
	if lag == 0 {
		from = st.toldAt
	}
	if wait = from.Add(l.opts.CheckpointAfter).Sub(now); wait > 0 {
		return -1, wait
	}
	return st.size, 0
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
