package idempotency

import (
	"strings"

	"holdfast/appliance/fault"
)

// ParseKey reads the value of the header Idempotency-Key: a string of a structured header in
// quotes (RFC 8941 section 3.3.3), or the same characters without quotes. fault.Invalid.
func ParseKey(value string) (string, error) {
	key := strings.Trim(value, " \t")
	if strings.HasPrefix(key, `"`) {
		plain, ok := unquote(key)
		if !ok {
			return "", badKey("the quotes do not match")
		}
		key = plain
	} else if strings.ContainsAny(key, `" \`) {
		return "", badKey("a key with spaces, quotes or backslashes stands in quotes")
	}
	for _, c := range []byte(key) {
		if c < ' ' || c > '~' {
			return "", badKey("it has other characters than printable ASCII")
		}
	}
	if len(key) < MinKey || len(key) > MaxKey {
		return "", badKey("it has %d characters", len(key))
	}
	return key, nil
}

func badKey(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, "Idempotency-Key: "+format+"; send one of 16 to 255 printable ASCII characters that nobody can guess, such as a random UUID", args...)
}

// unquote reads a string of a structured header.
func unquote(text string) (plain string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			return b.String(), i == len(text)-1
		case '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}
