package snapshot

import (
	"holdfast/appliance/fault"
)

// Format is the first line of a stream, without its end.
const Format = "holdfast-rows/v1"

// The limits of a stream. What exceeds one is refused by [Writer] and [Reader].
const (
	// MaxTables and MaxColumns bound the tables of a stream, and the columns of each.
	MaxTables, MaxColumns = 64, 64
	// MaxName is the longest name of a table or column, in bytes.
	MaxName = 64
	// MaxValue is the longest text or blob, in bytes; MaxRow bounds those of one row
	// together.
	MaxValue, MaxRow = 4 << 20, 16 << 20
)

// Table says which rows follow.
type Table struct {
	Name    string
	Columns []string
}

// The first bytes of records, and of values.
const (
	tagTable, tagRow, tagEnd              = 'T', 'R', 'E'
	tagNull, tagInteger, tagText, tagBlob = 'n', 'i', 't', 'b'
)

func (t *Table) validate() error {
	names := map[string]bool{}
	if !validName(t.Name) {
		return invalid("a table is called %.80q", t.Name)
	}
	if len(t.Columns) == 0 || len(t.Columns) > MaxColumns {
		return invalid("table %s has %d columns; 1 to %d are allowed", t.Name, len(t.Columns), MaxColumns)
	}
	for _, c := range t.Columns {
		if !validName(c) || names[c] {
			return invalid("table %s has a column %.80q, which is no name or stands twice", t.Name, c)
		}
		names[c] = true
	}
	return nil
}

func validName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) error {
	e := fault.Errorf(fault.Invalid, format, args...)
	e.Message = "the stream of rows cannot be used: " + e.Message
	return e
}
