package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"holdfast/appliance/fault"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// An index stands beside each segment but the last, and is made when the segment
// has ended. It holds where each line begins and, for each field that Search
// knows, pairs of a value's hash and a line, in order. It only says where to
// look: each line that Search gives was compared with the query. An index that
// is missing or does not fit is made anew.
//
// A database was not chosen, because a row in four B-trees costs several times
// what the log itself costs per record; a list that is sorted once does not.
//
//	header   magic, first record, bytes of the segment, lines, pairs per field,
//	         1 if the times of the lines never go back, the earliest and the latest time
//	lines    uint32 each: where the line begins
//	pairs    uint64 each, per field, sorted: hash << 32 | line
//
// All numbers are little-endian.
const (
	indexMagic     = "HFAUDIX3"
	TemporaryIndex = "index-*.tmp"
)

// The fields with lists. Of kind and result the usual value has no list, which
// would be nearly the whole segment.
const (
	byKeyStore = iota
	byKey      // key store and key
	byPrincipal
	byRequest
	byKind   // but xks
	byResult // but allowed
	byActor
	byApprover
	byToken
	byOperation
	byObject     // the ID
	byObjectName // in words
	byRemote
	byError
	lists
)

const indexHeader = len(indexMagic) + 8 + 8 + 4 + 4*lists + 1 + 2*timeWidth

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// terms are the values of a line, or of a query, that have lists; nil if a line has none, or a
// query asks for any. In a query an empty value, which is not nil, asks for lines without one.
// They are as they stand in a line, with quotes: the encoder writes a value in
// one way only. (What was no UTF-8 stands as \ufffd, and is not found by a query
// for that character.) Those of actor, approver, token and address have no quotes, as earlier releases wrote
// them into other fields.
type terms [lists][]byte

// take notes a field of a line.
func (t *terms) take(name, value []byte) {
	switch string(name) {
	case "key_store":
		t[byKeyStore] = value
	case "key":
		t[byKey] = value
	case "principal":
		t[byPrincipal] = value
	case "kms_request_id", "request_id": // a record has one of them at most
		t[byRequest] = value
	case "kind":
		t[byKind] = value
	case "result":
		t[byResult] = value
	case "actor":
		t[byActor] = withoutProcess(unquoted(value))
	case "approved_by":
		t[byApprover] = unquoted(value)
	case "token":
		t[byToken] = unquoted(value)
	case "operation":
		t[byOperation] = value
	case "object_id":
		t[byObject] = value
	case "object":
		t[byObjectName] = value
	case "before", "after":
		t.takeSubject(value)
	case "remote":
		t[byRemote] = withoutPort(unquoted(value))
	case "error":
		t[byError] = value
	case "detail":
		t.takeDetail(value)
	}
}

func unquoted(value []byte) []byte {
	if len(value) < 2 {
		return nil
	}
	return value[1 : len(value)-1]
}

// withoutProcess leaves the process out of the name of a user of the machine's socket, such as
// "local uid 0 pid 71": each command is another process.
func withoutProcess(actor []byte) []byte {
	if bytes.HasPrefix(actor, []byte("local uid ")) {
		actor, _, _ = bytes.Cut(actor, []byte(" pid "))
	}
	return actor
}

// withoutPort leaves the port out of an address, and the brackets of one of IPv6: each connection has
// another port.
func withoutPort(remote []byte) []byte {
	if rest, ok := bytes.CutPrefix(remote, []byte("[")); ok {
		if address, _, ok := bytes.Cut(rest, []byte("]")); ok {
			return address
		}
	}
	if bytes.Count(remote, []byte(":")) == 1 {
		remote, _, _ = bytes.Cut(remote, []byte(":"))
	}
	return remote
}

// takeDetail finds token and approver where earlier releases wrote them:
// "token ID, approved by NAME".
func (t *terms) takeDetail(value []byte) {
	if string(t[byKind]) != `"admin"` {
		return
	}
	by, approver, _ := bytes.Cut(unquoted(value), []byte("approved by "))
	if id, ok := bytes.CutPrefix(bytes.TrimSuffix(by, []byte(", ")), []byte("token ")); ok && t[byToken] == nil {
		t[byToken] = id
	}
	if len(approver) > 0 && t[byApprover] == nil {
		t[byApprover] = approver
	}
}

// takeSubject finds what a record of an earlier release is about: it stands in before and after,
// its ID first.
func (t *terms) takeSubject(value []byte) {
	if t[byObject] != nil || string(t[byKind]) != `"admin"` {
		return
	}
	for _, name := range []string{`{"id":`, `{"access_key_id":`} {
		if rest, ok := bytes.CutPrefix(value, []byte(name)); ok && len(rest) > 0 && rest[0] == '"' {
			if end := stringEnd(rest, 0); end > 0 {
				t[byObject] = rest[:end]
			}
		}
	}
}

// hash gives the hash for the list of a field, and whether the value is in it.
func (t *terms) hash(list int) (uint32, bool) {
	v := t[list]
	switch {
	case len(v) == 0, list == byKind && string(v) == `"xks"`, list == byResult && string(v) == `"allowed"`:
		return 0, false
	case list == byKey:
		return crc32.Update(crc32.Checksum(t[byKeyStore], castagnoli), castagnoli, v), true
	}
	return crc32.Checksum(v, castagnoli), true
}

// span is the times of lines, as they stand in them.
type span struct {
	rising           bool // they never go back
	earliest, latest []byte
	newest           []byte // of the line before
}

func newSpan() *span { return &span{rising: true} }

// take notes the time of the next line. A line without one could have any.
func (s *span) take(line []byte) {
	at, err := ParseStart(line)
	if err != nil {
		s.rising, s.earliest, s.latest = false, []byte(firstTime), []byte(lastTime)
		return
	}
	s.rising = s.rising && bytes.Compare(at.Time, s.newest) >= 0
	s.newest = append(s.newest[:0], at.Time...)
	if s.earliest == nil || bytes.Compare(at.Time, s.earliest) < 0 {
		s.earliest = bytes.Clone(at.Time)
	}
	if bytes.Compare(at.Time, s.latest) > 0 {
		s.latest = append(s.latest[:0], at.Time...)
	}
}

// firstTime and lastTime are the bounds of what a line can say.
const (
	firstTime = "0000-00-00T00:00:00.000000Z"
	lastTime  = "9999-99-99T99:99:99.999999Z"
)

// outside says whether no line of the span can be of those that are sought.
func (s *span) outside(q *search) bool {
	return q.from != nil && bytes.Compare(s.latest, q.from) < 0 || q.to != nil && bytes.Compare(s.earliest, q.to) >= 0
}

// BuildIndex makes the index of a segment. It takes the place of an old one at
// once.
func BuildIndex(dir string, s Segment) error {
	f, err := os.Open(filepath.Join(dir, s.Name()))
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
	}
	defer f.Close()
	var offsets []uint32
	var pairs [lists][]uint64
	times := newSpan()
	in := NewLines(io.NewSectionReader(f, 0, s.Size))
	for {
		at := in.Offset
		line, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil || at > math.MaxUint32 {
			return fault.Wrapf(fault.AuditMalformed, err, "line %d of %s cannot be read; run verify", len(offsets)+1, s.Name())
		}
		var t terms
		fields(line[1:], t.take)
		times.take(line[1:])
		for list := range pairs {
			if h, ok := t.hash(list); ok {
				pairs[list] = append(pairs[list], uint64(h)<<32|uint64(len(offsets)))
			}
		}
		offsets = append(offsets, uint32(at))
	}
	for _, p := range pairs {
		slices.Sort(p)
	}
	return writeIndex(filepath.Join(dir, s.Name()+IndexSuffix), s, times, offsets, pairs)
}

func writeIndex(path string, s Segment, times *span, offsets []uint32, pairs [lists][]uint64) error {
	le := binary.LittleEndian
	head := append([]byte{}, indexMagic...)
	head = le.AppendUint64(head, uint64(s.First))
	head = le.AppendUint64(head, uint64(s.Size))
	head = le.AppendUint32(head, uint32(len(offsets)))
	for _, p := range pairs {
		head = le.AppendUint32(head, uint32(len(p)))
	}
	head = append(head, map[bool]byte{true: 1}[times.rising])
	head = append(head, cmp.Or(string(times.earliest), firstTime)...)
	head = append(head, cmp.Or(string(times.latest), lastTime)...)
	f, err := os.CreateTemp(filepath.Dir(path), TemporaryIndex)
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the index of %s cannot be written", s.Name())
	}
	defer os.Remove(f.Name()) // when it was not renamed
	w := bufio.NewWriterSize(f, 1<<18)
	_, err = w.Write(head)
	var b [8]byte
	for _, o := range offsets {
		le.PutUint32(b[:], o)
		_, _ = w.Write(b[:4]) // bufio keeps the error for Flush
	}
	for _, list := range pairs {
		for _, p := range list {
			le.PutUint64(b[:], p)
			_, _ = w.Write(b[:])
		}
	}
	// Not synced: after a crash the header or the length does not fit, or a line
	// that is looked up does not match.
	if err = errors.Join(err, w.Flush(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the index of %s cannot be written", s.Name())
	}
	return nil
}

// index is an open index.
type index struct {
	file  *os.File
	lines int
	lists [lists]run
	times span
}

var errNoIndex = errors.New("the index does not fit its segment")

func openIndex(dir string, s Segment) (*index, error) {
	f, err := os.Open(filepath.Join(dir, s.Name()+IndexSuffix))
	if err != nil {
		return nil, err
	}
	x, err := readIndexHeader(f, s)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return x, nil
}

func readIndexHeader(f *os.File, s Segment) (*index, error) {
	head := make([]byte, indexHeader)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, errNoIndex
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b, ok := bytes.CutPrefix(head, []byte(indexMagic))
	if !ok || le.Uint64(b) != uint64(s.First) || le.Uint64(b[8:]) != uint64(s.Size) {
		return nil, errNoIndex
	}
	x := &index{file: f, lines: int(le.Uint32(b[16:]))}
	at := int64(indexHeader) + 4*int64(x.lines)
	for i := range x.lists {
		x.lists[i].at, x.lists[i].n = at, int64(le.Uint32(b[20+4*i:]))
		at += 8 * x.lists[i].n
	}
	if at != info.Size() {
		return nil, errNoIndex
	}
	b = b[20+4*lists:]
	x.times = span{rising: b[0] == 1, earliest: b[1 : 1+timeWidth], latest: b[1+timeWidth : 1+2*timeWidth]}
	return x, nil
}

// HasIndex says whether a segment has an index that fits it.
func HasIndex(dir string, s Segment) bool {
	x, err := openIndex(dir, s)
	if err != nil {
		return false
	}
	x.close()
	return true
}

func (x *index) close() { _ = x.file.Close() }

// offset is where a line begins.
func (x *index) offset(line uint32) (int64, error) {
	var b [4]byte
	if _, err := x.file.ReadAt(b[:], int64(indexHeader)+4*int64(line)); err != nil {
		return 0, fault.Wrapf(fault.AuditIO, err, "an index cannot be read")
	}
	return int64(binary.LittleEndian.Uint32(b[:])), nil
}

// run is a part of a list: n entries at a place of the file.
type run struct{ at, n int64 }

// find gives the entries with a hash in a list.
func (x *index) find(list int, hash uint32) (run, error) {
	l := x.lists[list]
	var failure error
	search := func(want uint64) int64 {
		lo, hi := int64(0), l.n
		for lo < hi {
			mid := (lo + hi) / 2
			var b [8]byte
			if _, err := x.file.ReadAt(b[:], l.at+8*mid); err != nil {
				failure = err
			}
			if binary.LittleEndian.Uint64(b[:]) < want {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		return lo
	}
	from, to := search(uint64(hash)<<32), search((uint64(hash)+1)<<32)
	if hash == 1<<32-1 {
		to = l.n
	}
	if failure != nil {
		return run{}, fault.Wrapf(fault.AuditIO, failure, "an index cannot be read")
	}
	return run{l.at + 8*from, max(0, to-from)}, nil
}

// read gives the lines of a run, in order.
func (x *index) read(r run) ([]uint32, error) {
	b := make([]byte, 8*r.n)
	if _, err := x.file.ReadAt(b, r.at); err != nil && len(b) > 0 {
		return nil, fault.Wrapf(fault.AuditIO, err, "an index cannot be read")
	}
	found := make([]uint32, 0, len(b)/8)
	for ; len(b) > 0; b = b[8:] {
		if line := uint32(binary.LittleEndian.Uint64(b)); int(line) < x.lines {
			found = append(found, line)
		}
	}
	return found, nil
}

// intersect gives what is in both sorted lists.
func intersect(a, b []uint32) []uint32 {
	both := a[:0]
	for len(a) > 0 && len(b) > 0 {
		switch cmp.Compare(a[0], b[0]) {
		case 0:
			both = append(both, a[0])
			a, b = a[1:], b[1:]
		case -1:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return both
}
