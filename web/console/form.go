package console

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// form reads the fields of a form. The first one that is missing, or cannot be
// read, is its error: browsers send all fields of a form, and what is absent is
// never taken for a value.
type form struct {
	values url.Values

	read    []string // the fields that were read
	secrets []string // those of them that are secret
	err     error
	wrong   string // the field that err is about; empty if it is about none
	// effect says how far what was done is in effect in a fleet; empty without one.
	effect string
}

// fail says what is wrong with a field; the first one that is wrong counts.
func (f *form) fail(name, format string, args ...any) {
	if f.err == nil {
		f.err, f.wrong = fault.Errorf(fault.Invalid, format, args...), name
	}
}

// hidden gives a field that names a thing. The operation says if it is empty.
func (f *form) hidden(name string) string { return f.values.Get(name) }

// text gives a field, which may be empty.
func (f *form) text(name string) string {
	f.read = append(f.read, name)
	if len(f.values[name]) != 1 {
		f.fail(name, "the form has the field %q %d times: open its page again", name, len(f.values[name]))
	}
	return f.values.Get(name)
}

func (f *form) trimmed(name string) string { return strings.TrimSpace(f.text(name)) }

// secret gives a field that no page shows again: the form has it no more.
func (f *form) secret(name string) string {
	f.secrets = append(f.secrets, name)
	return f.text(name)
}

// words gives those of a field, which spaces separate.
func (f *form) words(name string) []string {
	return append([]string{}, strings.Fields(f.text(name))...)
}

// whole gives a field that is a whole number.
func (f *form) whole(name string) int {
	text := f.trimmed(name)
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		f.fail(name, "%s %.40q: use a whole number", operation.Plain(name), text)
	}
	return n
}

// choices gives the boxes that are checked. The form has an empty value beside
// them, so that none differs from a form without the field.
func (f *form) choices(name string) []string {
	f.read = append(f.read, name)
	if !f.values.Has(name) {
		f.fail(name, "the form lacks the field %q: open its page again", name)
	}
	return append([]string{}, strings.Fields(strings.Join(f.values[name], " "))...) // typed where they are many
}

// checked says whether the one box of a field is checked, which has the value "true".
func (f *form) checked(name string) bool {
	choices := f.choices(name)
	if len(f.values[name]) > 2 || len(choices) > 1 || len(choices) == 1 && choices[0] != "true" {
		f.fail(name, "the form has the field %q otherwise than its page: open the page again", name)
	}
	return len(choices) == 1
}

// fieldTime is how a browser writes a field of time, which has no zone.
const fieldTime = "2006-01-02T15:04"

// utc gives a field of time, in UTC.
func (f *form) utc(name string) time.Time {
	text := f.trimmed(name)
	t, err := time.Parse(fieldTime, text)
	if err != nil {
		f.fail(name, "%.40q is no time: write it as 2026-11-27T10:00", text)
	}
	return t
}

// moment gives a hidden field of time, as the page has it.
func (f *form) moment(name string) time.Time {
	text := f.hidden(name)
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		f.fail(name, "the form's field %q has %.40q, which is no time: open its page again", name, text)
	}
	return t
}

// endOfDay gives the last moment of a date; zero if the field is empty.
func (f *form) endOfDay(name string) time.Time {
	text := f.trimmed(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse("2006-01-02", text)
	if err != nil {
		f.fail(name, "until %.40q: give a date such as 2027-01-31", text)
	}
	return t.Add(24*time.Hour - time.Millisecond)
}

// target is what a form is to block or unblock; the operation says if that is
// nothing.
func (f *form) target() appliance.BlockTarget {
	return appliance.BlockTarget{Everything: f.values.Get("everything") == "true", KeyStore: f.values.Get("keystore"), KeyID: f.values.Get("key")}
}

// secretAgain gives the secret of an approved operation, which the one who asked enters again;
// nil if the operation takes none.
func (f *form) secretAgain() operation.Secret {
	f.secrets = append(f.secrets, "secret", "material", "file")
	switch {
	case f.values.Has("file"):
		return operation.Secret(f.file())
	case f.values.Has("material"):
		return f.material()
	case f.values.Has("secret"):
		return operation.Secret(strings.TrimSpace(f.secret("secret")))
	}
	return nil
}

// material reads a key of 32 bytes in hexadecimal or Base64; nil if the field is
// empty.
func (f *form) material() operation.Secret {
	text := []byte(strings.TrimSpace(f.secret("material")))
	defer clear(text)
	if len(text) == 0 {
		return nil
	}
	for _, decode := range []func(dst, src []byte) (int, error){hex.Decode, base64.StdEncoding.Decode} {
		b := make([]byte, max(len(text), appliance.KeyBytes)) // as much as either may write
		if n, err := decode(b, text); err == nil && n == appliance.KeyBytes {
			return b[:n]
		}
		clear(b)
	}
	f.fail("material", "key material: give %d bytes, as 64 hexadecimal digits or 44 characters of Base64", appliance.KeyBytes)
	return nil
}
