package snapshot

import (
	"bufio"
	"encoding/binary"
	"io"
	"slices"
)

// Writer writes a stream. It is for one goroutine. After an error it writes nothing
// more, and every method gives that error.
type Writer struct {
	w      *bufio.Writer
	table  *Table // of the rows now; nil before the first
	tables []string
	rows   uint64
	err    error
	buf    []byte
}

// NewWriter begins a stream of the tables of a schema.
func NewWriter(w io.Writer, schema uint32) *Writer {
	s := &Writer{w: bufio.NewWriterSize(w, 64<<10)}
	s.flush(binary.AppendUvarint([]byte(Format+"\n"), uint64(schema)))
	return s
}

// flush hands over a record.
func (w *Writer) flush(record []byte) error {
	if w.err == nil {
		_, w.err = w.w.Write(record)
	}
	w.buf = record[:0]
	return w.err
}

// Table begins a table. Errors: fault.Invalid for a name that is none, or stands
// twice.
func (w *Writer) Table(t Table) error {
	if w.err != nil {
		return w.err
	}
	if w.err = t.validate(); w.err == nil && (slices.Contains(w.tables, t.Name) || len(w.tables) == MaxTables) {
		w.err = invalid("the table %s stands twice, or there are more than %d", t.Name, MaxTables)
	}
	if w.err != nil {
		return w.err
	}
	t.Columns = slices.Clone(t.Columns)
	w.table, w.tables = &t, append(w.tables, t.Name)
	b := appendString(append(w.buf[:0], tagTable), t.Name)
	b = binary.AppendUvarint(b, uint64(len(t.Columns)))
	for _, c := range t.Columns {
		b = appendString(b, c)
	}
	return w.flush(b)
}

// Row writes a row of the table that was begun last: for each column nil, an int64,
// a string or a []byte. Errors: fault.Invalid for other values, and those that are
// too long.
func (w *Writer) Row(values []any) error {
	if w.err != nil {
		return w.err
	}
	if w.table == nil || len(values) != len(w.table.Columns) {
		w.err = invalid("a row has %d values, which its table has not", len(values))
		return w.err
	}
	b := append(w.buf[:0], tagRow)
	size := 0
	for i, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, tagNull)
		case int64:
			b = binary.AppendVarint(append(b, tagInteger), v)
		case string:
			b, size = appendString(append(b, tagText), v), w.long(size, i, len(v))
		case []byte:
			b, size = appendString(append(b, tagBlob), v), w.long(size, i, len(v))
		default:
			w.err = invalid("column %s of table %s has a value of type %T", w.table.Columns[i], w.table.Name, v)
		}
		if w.err != nil {
			return w.err
		}
	}
	w.rows++
	return w.flush(b)
}

// long adds the length of a value to those of its row, and refuses what is too long.
func (w *Writer) long(size, column, n int) int {
	if size += n; n > MaxValue || size > MaxRow {
		w.err = invalid("row %d of the stream, in table %s: column %s has %d bytes; at most %d are allowed, and %d in a row", w.rows+1, w.table.Name, w.table.Columns[column], n, MaxValue, MaxRow)
	}
	return size
}

// Close writes the end. It does not close what the stream is written to.
func (w *Writer) Close() error {
	if w.flush(binary.AppendUvarint(append(w.buf[:0], tagEnd), w.rows)) == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
