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
	segmentSuffix   = ".jsonl"
	indexSuffix     = ".index"
	treeName        = "tree"
	checkpointsName = "checkpoints"
	lockName        = "lock"
)

// segment is one file of records.
type segment struct {
	first int64     // the number of its first record
	size  int64     // its good bytes
	from  time.Time // the time of its first record; zero if it has none
}

func (s segment) name() string { return fmt.Sprintf("%020d%s", s.first, segmentSuffix) }

// listSegments gives the segments of a directory in order.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "the directory of the log cannot be read")
	}
	var list []segment
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || first < 0 || first > maxSeq || (segment{first: first}).name() != e.Name() {
			return nil, fault.Errorf(fault.AuditSegment, "%s is not the name of a segment; move the file away", e.Name())
		}
		info, err := e.Info()
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // removed by retention meanwhile
			}
			return nil, fault.Wrapf(fault.AuditIO, err, "the directory of the log cannot be read")
		}
		list = append(list, segment{first: first, size: info.Size()})
	}
	slices.SortFunc(list, func(a, b segment) int { return int(min(max(a.first-b.first, -1), 1)) })
	return list, nil
}

// firstTime reads the time of a segment's first record; zero if it has none.
func firstTime(dir string, s segment) (time.Time, error) {
	f, err := os.Open(filepath.Join(dir, s.name()))
	if err != nil {
		return time.Time{}, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.name())
	}
	defer f.Close()
	head := make([]byte, 128)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return time.Time{}, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.name())
	}
	_, at, ok := bytes.Cut(head[:n], []byte(`,"time":"`))
	if !ok || len(at) < timeWidth {
		return time.Time{}, nil
	}
	t, err := parseTime(at[:timeWidth])
	if err != nil {
		return time.Time{}, nil // Verify says so
	}
	return t, nil
}

func parseTime(b []byte) (time.Time, error) { return time.Parse(time.RFC3339Nano, string(b)) }

// lines reads a segment line by line, in a fixed buffer.
type lines struct {
	r      *bufio.Reader
	buf    []byte // one byte before the line, for leafHash
	offset int64  // where the next line begins
	torn   int64  // with errTorn: how many bytes of the torn end are not zero bytes behind it
}

// The ways in which lines end, besides io.EOF.
var (
	errTorn     = errors.New("the last line has no end")
	errReserved = errors.New("what follows is reserved and not written yet")
	errTooLong  = errors.New("a line is too long for a record")
)

func newLines(r io.Reader) *lines {
	return &lines{r: bufio.NewReaderSize(r, 2*MaxLine), buf: make([]byte, 1, MaxLine+2)}
}

// next gives the next line without its newline, with one byte before it. It is
// valid until the next call. At the end: io.EOF, errReserved or errTorn. No record
// has a zero byte, so the first one is where a batch ends that the disk did not
// take whole, or where space is reserved (writer.reserve).
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(line) > 0, bytes.IndexByte(line, 0) >= 0:
		return nil, l.end(0, line, err)
	case err == bufio.ErrBufferFull || len(line) > MaxLine+1:
		return nil, l.afterTooLong(line, err)
	case err != nil:
		return nil, err
	}
	l.offset += int64(len(line))
	l.buf = append(l.buf[:1], line[:len(line)-1]...)
	return l.buf, nil
}

// afterTooLong tells a line that is too long from an end that is torn.
func (l *lines) afterTooLong(rest []byte, err error) error {
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
func (l *lines) end(seen int64, rest []byte, err error) error {
	l.torn = seen
	for {
		if text := bytes.TrimRight(rest, "\x00"); len(text) > 0 {
			l.torn = seen + int64(len(text))
		}
		seen += int64(len(rest))
		switch {
		case err == io.EOF && l.torn == 0:
			return errReserved
		case err == io.EOF:
			return errTorn
		case err != nil && err != bufio.ErrBufferFull:
			return err
		}
		rest, err = l.r.ReadSlice('\n')
	}
}
