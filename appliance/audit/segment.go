package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"holdfast/appliance/fault"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The files of a log, besides its segments.
const (
	SegmentSuffix   = ".jsonl"
	IndexSuffix     = ".index"
	TreeName        = "tree"
	CheckpointsName = "checkpoints"
)

// Segment is one file of records.
type Segment struct {
	First int64     // the number of its first record
	Size  int64     // its good bytes
	From  time.Time // the time of its first record; zero if it has none
}

func (s Segment) Name() string { return fmt.Sprintf("%020d%s", s.First, SegmentSuffix) }

// ListSegments gives the segments of a directory in order.
func ListSegments(dir string) ([]Segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "the directory of the log cannot be read")
	}
	var list []Segment
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), SegmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || first < 0 || first > MaxSeq || (Segment{First: first}).Name() != e.Name() {
			return nil, fault.Errorf(fault.AuditSegment, "%s is not the name of a segment; move the file away", e.Name())
		}
		info, err := e.Info()
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // removed by retention meanwhile
			}
			return nil, fault.Wrapf(fault.AuditIO, err, "the directory of the log cannot be read")
		}
		list = append(list, Segment{First: first, Size: info.Size()})
	}
	slices.SortFunc(list, func(a, b Segment) int { return int(min(max(a.First-b.First, -1), 1)) })
	return list, nil
}

// FirstTime reads the time of a segment's first record; zero if it has none.
func FirstTime(dir string, s Segment) (time.Time, error) {
	f, err := os.Open(filepath.Join(dir, s.Name()))
	if err != nil {
		return time.Time{}, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
	}
	defer f.Close()
	head := make([]byte, 128)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return time.Time{}, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
	}
	_, at, ok := bytes.Cut(head[:n], []byte(`,"time":"`))
	if !ok || len(at) < timeWidth {
		return time.Time{}, nil
	}
	t, err := ParseTime(at[:timeWidth])
	if err != nil {
		return time.Time{}, nil // Verify says so
	}
	return t, nil
}

func ParseTime(b []byte) (time.Time, error) { return time.Parse(time.RFC3339Nano, string(b)) }

// Lines reads a segment line by line, in a fixed buffer.
type Lines struct {
	r      *bufio.Reader
	buf    []byte // one byte before the line, for leafHash
	Offset int64  // where the next line begins
	Torn   int64  // with errTorn: how many bytes of the torn end are not zero bytes behind it
}

// The ways in which lines end, besides io.EOF.
var (
	ErrTorn     = errors.New("the last line has no end")
	ErrReserved = errors.New("what follows is reserved and not written yet")
	errTooLong  = errors.New("a line is too long for a record")
)

func NewLines(r io.Reader) *Lines {
	return &Lines{r: bufio.NewReaderSize(r, 2*MaxLine), buf: make([]byte, 1, MaxLine+2)}
}

// Next gives the next line without its newline, with one byte before it. It is
// valid until the next call. At the end: io.EOF, errReserved or errTorn. No record
// has a zero byte, so the first one is where a batch ends that the disk did not
// take whole, or where space is reserved (writer.reserve).
func (l *Lines) Next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(line) > 0, bytes.IndexByte(line, 0) >= 0:
		return nil, l.end(0, line, err)
	case err == bufio.ErrBufferFull || len(line) > MaxLine+1:
		return nil, l.afterTooLong(line, err)
	case err != nil:
		return nil, err
	}
	l.Offset += int64(len(line))
	l.buf = append(l.buf[:1], line[:len(line)-1]...)
	return l.buf, nil
}

// afterTooLong tells a line that is too long from an end that is torn.
func (l *Lines) afterTooLong(rest []byte, err error) error {
	var seen int64
	for err == bufio.ErrBufferFull {
		seen += int64(len(rest))
		rest, err = l.r.ReadSlice('\n')
		if bytes.IndexByte(rest, 0) >= 0 || err == io.EOF {
			return l.end(seen, rest, err)
		}
	}
	return errTooLong
}

// end reads to the end of the file, from where no whole line follows.
func (l *Lines) end(seen int64, rest []byte, err error) error {
	l.Torn = seen
	for {
		if text := bytes.TrimRight(rest, "\x00"); len(text) > 0 {
			l.Torn = seen + int64(len(text))
		}
		seen += int64(len(rest))
		switch {
		case err == io.EOF && l.Torn == 0:
			return ErrReserved
		case err == io.EOF:
			return ErrTorn
		case err != nil && err != bufio.ErrBufferFull:
			return err
		}
		rest, err = l.r.ReadSlice('\n')
	}
}
