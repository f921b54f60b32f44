package sqlite

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"holdfast/appliance"
)

// keyWords are what most keys have in their columns. Keys in memory share them, so that a
// million of them have no copy each.
var keyWords = []string{"", string(appliance.CustodyCached), string(appliance.CustodyHSM),
	string(appliance.KeyEnabled), string(appliance.KeyDisabled), string(appliance.OriginGenerated), string(appliance.OriginImported),
	string(appliance.FramingSpec), string(appliance.FramingSHA256), string(appliance.FramingPlain)}

// word gives a column's text: one of keyWords, if it is.
func word(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("a column has %T in place of text", v)
	}
	if i := slices.Index(keyWords, s); i >= 0 {
		return keyWords[i], nil
	}
	return s, nil
}

// assign puts the columns of a raw row of the table into the places that they are scanned into
// ([scanKey], [scanVersion]), without database/sql, which copies and converts each.
func (s *spec) assign(dest []any, columns string, row []any) error {
	i := 0
	for name := range strings.SplitSeq(columns, ", ") {
		at := slices.Index(s.columns, name)
		if at < 0 {
			return fmt.Errorf("the table %s has no column %s", s.name, name)
		}
		if err := assign(dest[i], row[at]); err != nil {
			return fmt.Errorf("column %s of the table %s: %w", name, s.name, err)
		}
		i++
	}
	return nil
}

func assign(dest, v any) (err error) {
	var text string
	switch d := dest.(type) {
	case *string:
		*d, err = word(v)
	case *appliance.Custody:
		text, err = word(v)
		*d = appliance.Custody(text)
	case *appliance.KeyState:
		text, err = word(v)
		*d = appliance.KeyState(text)
	case *appliance.Framing:
		text, err = word(v)
		*d = appliance.Framing(text)
	case *appliance.Origin:
		text, err = word(v)
		*d = appliance.Origin(text)
	case *bool:
		err = number(v, 1, func(n int64) { *d = n == 1 })
	case *uint32:
		err = number(v, math.MaxUint32, func(n int64) { *d = uint32(n) })
	case *uint64:
		err = number(v, math.MaxInt64, func(n int64) { *d = uint64(n) })
	case millis:
		err = d.Scan(v)
	case *[]byte:
		b, ok := v.([]byte)
		if !ok && v != nil { // of nil an empty blob is read, which opens nothing
			return fmt.Errorf("it has %T in place of bytes", v)
		}
		*d = b
	default:
		err = fmt.Errorf("%T is not read from rows", dest)
	}
	return err
}

// number gives a column's number, if it is one from 0 to most.
func number(v any, most int64, set func(int64)) error {
	n, ok := v.(int64)
	if !ok || n < 0 || n > most {
		return fmt.Errorf("it has the value %v, which is no number from 0 to %d", v, most)
	}
	set(n)
	return nil
}
