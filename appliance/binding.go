package appliance

import (
	"encoding/binary"
	"strconv"
	"time"

	"holdfast/appliance/fault"
)

// Binding names the one place that a sealed blob belongs to, with every
// property of that place which must not change unnoticed. It is the associated
// data of the AEAD that seals the blob: a row that was moved to another place,
// or edited where it is, does not open (SP 800-38D section 5.2.1).
type Binding struct {
	// Purpose separates kinds of rows, e.g. "key-version".
	Purpose string
	// KeyStore is the ID of the key store whose keyring key seals the blob.
	// Empty means that the state key seals it.
	KeyStore string
	// Fields are the bound properties, in an order fixed for the purpose.
	Fields []string
}

// bindingDomain separates these associated data from all others.
const bindingDomain = "holdfast/binding/v1"

// AAD encodes the binding without ambiguity: each part is preceded by its
// length in bytes, as a 32-bit big-endian integer.
func (b Binding) AAD() []byte {
	parts := append([]string{bindingDomain, b.Purpose, b.KeyStore}, b.Fields...)
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

func bindUint(n uint64) string { return strconv.FormatUint(n, 10) }

func bindBool(b bool) string { return strconv.FormatBool(b) }

// BindTime gives a time as it is bound, at the precision at which rows are stored.
func BindTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// LastTime is the last moment that RFC 3339 can write, at the precision at which rows are stored.
var LastTime = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)

// CheckTime says why a time that was asked for cannot be: it is before 1970, or RFC 3339 cannot
// write it in UTC, and so neither an answer nor an audit record could have it. The zero time is
// none. Name is what the caller knows it by. fault.Invalid.
func CheckTime(name string, t time.Time) error {
	if t.IsZero() || t.Unix() >= 0 && !t.After(LastTime) {
		return nil
	}
	return fault.Errorf(fault.Invalid, "%s: the year in UTC is %d, and must be from 1970 to 9999: give a time such as 2030-11-24T12:00:00Z", name, t.UTC().Year())
}
