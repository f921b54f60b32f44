package snapshot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"holdfast/appliance/fault"
)

// Reader reads a stream that nobody has vouched for. It is for one goroutine. Errors
// are [*fault.Fault]: fault.Invalid for a stream that is malformed, cut off or too
// long; what the reader below it gives otherwise.
type Reader struct {
	r      *bufio.Reader
	schema uint32
	table  *Table
	tables []string
	rows   uint64
	ended  bool
	values []any
	next   byte // the tag of a record that is begun; 0 for none
}

// NewReader reads the beginning of a stream.
func NewReader(r io.Reader) (*Reader, error) {
	s := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	head := make([]byte, len(Format)+1)
	if _, err := io.ReadFull(s.r, head); err != nil {
		return nil, cut(err)
	}
	if string(head) != Format+"\n" {
		return nil, invalid("it does not begin with the line %s", Format)
	}
	schema, err := s.count(math.MaxUint32)
	s.schema = uint32(schema)
	return s, err
}

// Schema is the number of the schema whose tables the stream has.
func (s *Reader) Schema() uint32 { return s.schema }

// Table gives the next table; nil at the end of the stream, after which nothing may
// follow. All rows of the table before must have been read.
func (s *Reader) Table() (*Table, error) {
	tag, err := s.tag()
	switch {
	case err != nil:
		return nil, err
	case tag == tagEnd:
		return nil, s.end()
	case tag != tagTable:
		return nil, invalid("a record begins with %q where a table or the end should be", tag)
	case len(s.tables) == MaxTables:
		return nil, invalid("it has more than %d tables", MaxTables)
	}
	s.next = 0
	t := &Table{}
	if t.Name, err = s.name(); err != nil {
		return nil, err
	}
	columns, err := s.count(MaxColumns)
	if err != nil {
		return nil, err
	}
	for range columns {
		c, err := s.name()
		if err != nil {
			return nil, err
		}
		t.Columns = append(t.Columns, c)
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	if slices.Contains(s.tables, t.Name) {
		return nil, invalid("the table %s stands twice", t.Name)
	}
	s.table, s.tables, s.values = t, append(s.tables, t.Name), make([]any, len(t.Columns))
	return t, nil
}

// Row gives the next row of the table, as [Writer.Row] takes it; nil after the last.
// It is valid until the next call, but for its texts and blobs, which stay.
func (s *Reader) Row() ([]any, error) {
	tag, err := s.tag()
	if err != nil || tag != tagRow {
		return nil, err
	}
	if s.table == nil {
		return nil, invalid("it has a row before the first table")
	}
	s.next = 0
	left := uint64(MaxRow)
	for i := range s.values {
		if s.values[i], err = s.value(&left); err != nil {
			return nil, err
		}
	}
	s.rows++
	return s.values, nil
}

// tag gives the first byte of the record that is next.
func (s *Reader) tag() (byte, error) {
	if s.ended {
		return tagEnd, nil
	}
	if s.next == 0 {
		b, err := s.r.ReadByte()
		if err != nil {
			return 0, cut(err)
		}
		if b != tagTable && b != tagRow && b != tagEnd {
			return 0, invalid("a record begins with %q", b)
		}
		s.next = b
	}
	return s.next, nil
}

func (s *Reader) end() error {
	if s.ended {
		return nil
	}
	rows, err := s.count(math.MaxUint64)
	if err != nil {
		return err
	}
	if rows != s.rows {
		return invalid("it has %d rows, and says at its end that it has %d", s.rows, rows)
	}
	if _, err := s.r.ReadByte(); err == nil {
		return invalid("something follows its end")
	} else if err != io.EOF {
		return cut(err)
	}
	s.ended = true
	return nil
}

func (s *Reader) value(left *uint64) (any, error) {
	tag, err := s.r.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	switch tag {
	case tagNull:
		return nil, nil
	case tagInteger:
		n, err := s.count(math.MaxUint64)
		return int64(n>>1) ^ -int64(n&1), err // zigzag, as binary.Varint
	case tagText, tagBlob:
		b, err := s.bytes(min(*left, MaxValue))
		if err != nil {
			return nil, err
		}
		*left -= uint64(len(b))
		if tag == tagText {
			return string(b), nil
		}
		return b, nil
	}
	return nil, invalid("a value begins with %q", tag)
}

func (s *Reader) name() (string, error) {
	b, err := s.bytes(MaxName)
	return string(b), err
}

// bytes reads a length and as many bytes. Memory grows with what is there, and not
// with what the length says.
func (s *Reader) bytes(most uint64) ([]byte, error) {
	n, err := s.count(most)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, min(n, 4096))
	for uint64(len(b)) < n {
		have := len(b)
		b = slices.Grow(b, int(min(n-uint64(have), uint64(max(have, 4096)))))
		b = b[:min(uint64(cap(b)), n)]
		if _, err := io.ReadFull(s.r, b[have:]); err != nil {
			return nil, cut(err)
		}
	}
	return b, nil
}

// count reads an unsigned varint in its shortest form.
func (s *Reader) count(most uint64) (uint64, error) {
	var n uint64
	for i := range binary.MaxVarintLen64 {
		b, err := s.r.ReadByte()
		if err != nil {
			return 0, cut(err)
		}
		if i == binary.MaxVarintLen64-1 && b > 1 || i > 0 && b == 0 {
			break
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if n > most {
				return 0, invalid("a number in it is %d; at most %d is allowed there", n, most)
			}
			return n, nil
		}
	}
	return 0, invalid("a number in it is malformed")
}

// cut makes the error of a stream that ends too soon, or cannot be read.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("it is cut off")
	}
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return f
	}
	return fault.Wrapf(fault.Invalid, err, "the stream of rows cannot be read: it is cut off, or was changed")
}
