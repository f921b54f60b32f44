package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"holdfast/appliance/fault"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Query says what records to find. Empty fields allow all.
type Query struct {
	From, To     time.Time // From <= Time < To
	KeyStore     string
	Key          string // with KeyStore
	Principal    string
	KMSRequestID string
	// RequestID is that of a request to the admin API or the console, as in [Record].
	RequestID string `json:",omitempty"`
	Kind      Kind
	Result    Result
	// Actor is the name of who did it or approved it. Of a user of the machine's socket it is
	// "local uid 0", whatever the process.
	Actor string `json:",omitempty"`
	// Token is the ID of an API token by which it was done.
	Token string `json:",omitempty"`
	// Operations are as in records; one of them.
	Operations []string `json:",omitempty"`
	// Objects are IDs of what it was done to, or what it is called in words; one of them.
	Objects []string `json:",omitempty"`
	Remote  string   `json:",omitempty"` // the address, with or without its port
	Error   string   `json:",omitempty"` // an error's name or code
	// Life leaves the requests of KMS out, and adds what was done to all keys of the key store
	// and to everything: with Key the life of a key, with KeyStore that of a key store.
	Life bool `json:",omitempty"`
	// Limit is how many records a page has; 100 if 0, and 1000 at most. [Export]
	// passes over it.
	Limit int
	// Cursor goes on behind an earlier page.
	Cursor string
}

const (
	maxPage     = 1000
	defaultPage = 100
)

func pageLimit(n int) error {
	return fault.Errorf(fault.Invalid, "a page has 1 to %d records, not %d", maxPage, n)
}

// Reader searches a log that may be open elsewhere, or be a copy.
type Reader struct {
	dir string
	// segments gives them in order.
	segments func() ([]Segment, error)
}

// NewReader makes a reader of the log in a directory. It writes nothing there
// but indexes that are missing, if it can.
func NewReader(dir string) *Reader {
	return &Reader{dir: dir, segments: func() ([]Segment, error) { return ListSegments(dir) }}
}

// NewReaderOf makes a reader of the log in a directory whose segments the function
// knows, in order.
func NewReaderOf(dir string, segments func() ([]Segment, error)) *Reader {
	return &Reader{dir: dir, segments: segments}
}

// Search gives a page of the records that a query allows, the newest first, and
// the cursor of the next page; "" if there is none. It finds what is on the
// disk.
func (r *Reader) Search(ctx context.Context, q Query) (records []*Record, next string, err error) {
	if q.Limit < 0 || q.Limit > maxPage {
		return nil, "", pageLimit(q.Limit)
	}
	limit := cmp.Or(q.Limit, defaultPage)
	err = r.walk(ctx, q, func(line []byte) error {
		if len(records) == limit {
			next = strconv.FormatInt(records[limit-1].Seq, 10)
			return errEnough
		}
		rec, err := ParseRecord(line)
		if err != nil {
			return err
		}
		records = append(records, rec)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return records, next, nil
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// search is a query made ready.
type search struct {
	// any are what a line may be: it has all values of one of them.
	any      []terms
	from, to []byte // as times stand in lines; nil if open
	before   int64  // only records before it
	needle   []byte // stands in each line that is sought; nil if not known
}

func newSearch(q Query) (*search, error) {
	s := &search{before: MaxSeq + 1}
	if q.Key != "" && q.KeyStore == "" {
		return nil, fault.Errorf(fault.Invalid, "a key is sought in a key store; give both")
	}
	if err := s.alternatives(q); err != nil {
		return nil, err
	}
	for _, t := range []struct {
		time time.Time
		to   *[]byte
	}{{q.From, &s.from}, {q.To, &s.to}} {
		if y := t.time.UTC().Year(); y < 0 || y > 9999 {
			return nil, fault.Errorf(fault.Invalid, "there are no records of the year %d", y)
		}
		if !t.time.IsZero() {
			// Up to the next microsecond, as records have no parts of it.
			*t.to = appendTime(nil, t.time.Add(time.Microsecond-1).Truncate(time.Microsecond))
		}
	}
	if q.Cursor != "" {
		n, err := strconv.ParseInt(q.Cursor, 10, 64)
		if err != nil || n < 0 || n > MaxSeq {
			return nil, fault.Errorf(fault.Invalid, "%.40q is no cursor of a search", q.Cursor)
		}
		s.before = n
	}
	return s, nil
}

// matches says whether a line is sought.
func (s *search) matches(line []byte) bool {
	if s.needle != nil && !bytes.Contains(line, s.needle) {
		return false
	}
	at, err := ParseStart(line)
	if err != nil || at.Seq >= s.before || bytes.Compare(at.Time, s.from) < 0 || s.to != nil && bytes.Compare(at.Time, s.to) >= 0 {
		return false
	}
	if len(s.any) == 1 && s.any[0].empty() {
		return true
	}
	var t terms
	if !fields(line, t.take) {
		return false
	}
	return slices.ContainsFunc(s.any, func(want terms) bool { return want.in(&t) })
}

// alternatives makes what a line may be.
func (s *search) alternatives(q Query) error {
	var want terms
	for list, v := range map[int]string{byKeyStore: q.KeyStore, byKey: q.Key, byPrincipal: q.Principal,
		byRequest: cmp.Or(q.KMSRequestID, q.RequestID), byKind: string(q.Kind), byResult: string(q.Result), byError: q.Error} {
		if v != "" {
			want[list] = appendString(nil, v)
		}
	}
	if q.Remote != "" {
		want[byRemote] = withoutPort(unquoted(appendString(nil, q.Remote)))
	}
	if q.Token != "" {
		want[byToken] = unquoted(appendString(nil, q.Token))
	}
	if q.KMSRequestID != "" && q.RequestID != "" && q.KMSRequestID != q.RequestID {
		return nil // no record has both
	}
	for _, list := range []int{byRequest, byKey, byPrincipal, byKeyStore, byError, byResult, byKind} {
		if s.needle == nil && !q.Life {
			s.needle = want[list]
		}
	}
	if q.RequestID != "" { // both kinds of requests are in one list
		s.needle = append([]byte(`,"request_id":`), appendString(nil, q.RequestID)...)
	}
	s.any = []terms{want}
	if q.Life {
		s.any = lifeOf(want)
	}
	if q.Actor != "" {
		name := unquoted(appendString(nil, q.Actor))
		s.each(choice{byActor, withoutProcess(name)}, choice{byApprover, name})
	}
	if len(q.Operations) > maxNamed || len(q.Objects) > maxNamed {
		return fault.Errorf(fault.Invalid, "%d operations and %d objects are sought at once; give at most %d", len(q.Operations), len(q.Objects), maxNamed)
	}
	if len(q.Objects) > 0 {
		var all []choice
		for _, o := range q.Objects {
			all = append(all, choice{byObject, appendString(nil, o)}, choice{byObjectName, appendString(nil, o)})
		}
		s.each(all...)
	}
	if len(q.Operations) > 0 {
		var all []choice
		for _, o := range q.Operations {
			all = append(all, choice{byOperation, appendString(nil, o)})
		}
		s.each(all...)
	}
	return nil
}

// maxNamed bounds how many operations and objects a query names.
const maxNamed = 16

// choice is a value that a line may have.
type choice struct {
	list  int
	value []byte
}

// each multiplies the alternatives by the choices. What already asks for another value of the
// list is left out, as no line has both.
func (s *search) each(choices ...choice) {
	var all []terms
	for _, t := range s.any {
		for _, c := range choices {
			if t[c.list] != nil && !bytes.Equal(t[c.list], c.value) {
				continue
			}
			t := t
			t[c.list] = c.value
			all = append(all, t)
		}
	}
	s.any = all
}

// ofEverything are the operations that concern each key, though they name none.
var ofEverything = []string{"POST block", "POST unblock", "POST restore"}

// lifeOf gives what the life of a key or of a key store is made of.
func lifeOf(want terms) []terms {
	admin := []byte(`"admin"`)
	if want[byKind] != nil && !bytes.Equal(want[byKind], admin) {
		return nil
	}
	want[byKind] = admin
	all := []terms{want}
	if want[byKey] != nil {
		store := want
		store[byKey] = []byte{}
		all = append(all, store)
	}
	for _, o := range ofEverything {
		every := want
		every[byKeyStore], every[byKey], every[byOperation] = []byte{}, []byte{}, appendString(nil, o)
		all = append(all, every)
	}
	return all
}

func (t *terms) empty() bool {
	return !slices.ContainsFunc(t[:], func(v []byte) bool { return v != nil })
}

// in says whether a line has all that is asked for.
func (t *terms) in(line *terms) bool {
	for list, want := range t {
		if want != nil && !bytes.Equal(line[list], want) {
			return false
		}
	}
	return true
}

// Lines gives the lines that a query allows, the newest first; each is valid until the next.
// It passes over the query's limit.
func (r *Reader) Lines(ctx context.Context, q Query) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		stopped := false
		err := r.walk(ctx, q, func(line []byte) error {
			if stopped = !yield(line, nil); stopped {
				return errEnough
			}
			return nil
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// walk calls yield with each line that the query allows, the newest first.
func (r *Reader) walk(ctx context.Context, q Query, yield func(line []byte) error) error {
	s, err := newSearch(q)
	if err != nil {
		return err
	}
	segments, err := r.segments()
	if err != nil {
		return err
	}
	for i := len(segments) - 1; i >= 0; i-- {
		seg := segments[i]
		if seg.First >= s.before {
			continue
		}
		err := r.walkSegment(ctx, seg, i+1 < len(segments), s, yield)
		switch {
		case err == errEnough:
			return nil
		case errors.Is(err, os.ErrNotExist): // retention removed it meanwhile, and all before it
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

func (r *Reader) walkSegment(ctx context.Context, seg Segment, closed bool, s *search, yield func([]byte) error) error {
	f, err := os.Open(filepath.Join(r.dir, seg.Name()))
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", seg.Name())
	}
	defer f.Close()
	in := &found{file: f, size: seg.Size, buf: make([]byte, MaxLine+1)}
	if closed {
		x, err := openIndex(r.dir, seg)
		if err != nil {
			if err := BuildIndex(r.dir, seg); err == nil {
				x, _ = openIndex(r.dir, seg)
			}
		}
		if x != nil {
			defer x.close()
			if x.times.outside(s) {
				return nil
			}
			return in.indexed(ctx, x, seg, s, yield)
		}
	}
	return in.scanned(ctx, s, yield)
}

// found reads the lines of a segment that a search has found.
type found struct {
	file *os.File
	size int64
	buf  []byte
}

// worthReading is how many entries of a list are read in the time that one line is.
const worthReading = 64

// linesOf gives the lines that may be of those that are sought, in order; or says that all may.
func (x *index) linesOf(s *search) (lines []uint32, all bool, err error) {
	for i := range s.any {
		some, every, err := x.linesWith(&s.any[i])
		if err != nil || every {
			return nil, every, err
		}
		lines = append(lines, some...)
	}
	if len(s.any) > 1 {
		slices.Sort(lines)
		lines = slices.Compact(lines)
	}
	return lines, false, nil
}

// linesWith is linesOf for one alternative.
func (x *index) linesWith(want *terms) (lines []uint32, all bool, err error) {
	var runs []run
	for list := range lists {
		if h, ok := want.hash(list); ok {
			r, err := x.find(list, h)
			if err != nil {
				return nil, false, err
			}
			runs = append(runs, r)
		}
	}
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.n, b.n) })
	for i, r := range runs {
		if i > 0 && r.n > worthReading*int64(len(lines)) {
			break // to compare the lines that are left costs less
		}
		some, err := x.read(r)
		if err != nil {
			return nil, false, err
		}
		if i == 0 {
			lines = some
		} else {
			lines = intersect(lines, some)
		}
		if len(lines) == 0 {
			return nil, false, nil
		}
	}
	return lines, len(runs) == 0, nil
}

// indexed gives the lines that the lists of an index have in common.
func (f *found) indexed(ctx context.Context, x *index, seg Segment, s *search, yield func([]byte) error) error {
	lines, all, err := x.linesOf(s)
	if err != nil || !all && len(lines) == 0 {
		return err
	}
	n := x.lines
	if !all {
		n = len(lines)
	}
	line := func(i int) uint32 {
		if all {
			return uint32(i)
		}
		return lines[i]
	}
	// Behind what is too new; then down to what is too old. Where times go back, each line
	// is looked at.
	n, err = f.firstNot(n, func(i int) (bool, error) {
		if seg.First+int64(line(i)) >= s.before {
			return false, nil
		}
		if s.to == nil || !x.times.rising {
			return true, nil
		}
		b, err := f.at(x, line(i))
		if err != nil {
			return false, err
		}
		at, err := ParseStart(b)
		return bytes.Compare(at.Time, s.to) < 0, err
	})
	if err != nil {
		return err
	}
	for i := n - 1; i >= 0; i-- {
		if i%256 == 0 && ctx.Err() != nil {
			return timeout(ctx)
		}
		b, err := f.at(x, line(i))
		if err != nil {
			return err
		}
		if at, err := ParseStart(b); x.times.rising && err == nil && bytes.Compare(at.Time, s.from) < 0 {
			return nil
		}
		if !s.matches(b) {
			continue
		}
		if err := yield(b); err != nil {
			return err
		}
	}
	return nil
}

// firstNot gives the first of n for which ok is false; those for which it is
// true come before.
func (f *found) firstNot(n int, ok func(int) (bool, error)) (int, error) {
	lo, hi := 0, n
	for lo < hi {
		mid := (lo + hi) / 2
		yes, err := ok(mid)
		if err != nil {
			return 0, err
		}
		if yes {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// at reads a line. Its length is not known, so a usual one is tried first.
func (f *found) at(x *index, line uint32) ([]byte, error) {
	offset, err := x.offset(line)
	if err != nil {
		return nil, err
	}
	return f.line(offset)
}

func (f *found) line(offset int64) ([]byte, error) {
	for _, size := range []int{1 << 10, len(f.buf)} {
		n, err := f.file.ReadAt(f.buf[:min(int64(size), max(0, f.size-offset))], offset)
		if err != nil && err != io.EOF {
			return nil, fault.Wrapf(fault.AuditIO, err, "a segment cannot be read")
		}
		if end := bytes.IndexByte(f.buf[:n], '\n'); end >= 0 {
			return f.buf[:end], nil
		}
	}
	return nil, fault.Errorf(fault.AuditMalformed, "a segment has no line where its index says; delete the file %s%s, which is made anew", filepath.Base(f.file.Name()), IndexSuffix)
}

// scanned reads a segment without an index from its beginning.
func (f *found) scanned(ctx context.Context, s *search, yield func([]byte) error) error {
	var offsets []int64
	in := NewLines(io.NewSectionReader(f.file, 0, f.size))
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return timeout(ctx)
		}
		at := in.Offset
		line, err := in.Next()
		if err == io.EOF || err == ErrTorn || err == ErrReserved {
			break
		}
		if err != nil {
			return fault.Wrapf(fault.AuditMalformed, err, "a segment cannot be read; run verify")
		}
		if s.matches(line[1:]) {
			offsets = append(offsets, at)
		}
	}
	for _, at := range slices.Backward(offsets) {
		if ctx.Err() != nil {
			return timeout(ctx)
		}
		line, err := f.line(at)
		if err != nil {
			return err
		}
		if err := yield(line); err != nil {
			return err
		}
	}
	return nil
}

func timeout(ctx context.Context) error {
	return fault.Wrapf(fault.AuditTimeout, ctx.Err(), "the search was not finished in its time")
}
