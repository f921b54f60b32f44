package operation

import (
	"fmt"
	"io"
	"log/slog"
	"reflect"
)

// Secret is a secret that a caller gives: material of a key, or a PIN. It is held
// once: from where it was read it goes to the domain as it is, and [Operation.Do]
// zeroizes it. It writes itself into JSON for a server's API alone; no operation
// that takes one can be filed for approval, and no record has one.
type Secret []byte

// Format and LogValue keep it out of messages and logs, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") } // the caller of fmt sees what fails
func (Secret) LogValue() slog.Value       { return slog.StringValue("[secret]") }

// holdsSecret says whether inputs of the type may have a secret.
func holdsSecret(t reflect.Type) bool {
	if t == reflect.TypeFor[Secret]() {
		return true
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	for f := range t.Fields() {
		if holdsSecret(f.Type) {
			return true
		}
	}
	return false
}

// Wipe zeroizes the secrets of an input that no operation gets.
func Wipe(in any) { wipe(reflect.ValueOf(in)) }

// wipe zeroizes the secrets of an input.
func wipe(v reflect.Value) {
	if !v.IsValid() || !holdsSecret(v.Type()) {
		return
	}
	if v.Kind() == reflect.Slice {
		clear(v.Bytes())
		return
	}
	for i := range v.NumField() {
		wipe(v.Field(i))
	}
}

// usedUp says whether an input that an operation was given cannot be given to it once more: it has
// a secret, which the domain zeroizes, or something that is read once.
func usedUp(v reflect.Value) bool {
	switch {
	case !v.IsValid():
		return false
	case v.Type() == reflect.TypeFor[Secret]():
		return v.Len() > 0
	case v.Type() == reflect.TypeFor[io.Reader]():
		return !v.IsNil()
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if usedUp(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

// secret is an answer that shows something once.
type secret interface {
	// withoutSecret is what may be recorded of it.
	withoutSecret() any
}

// shown is an answer without the secret that it may show this once.
func shown(answer any) any {
	if s, ok := answer.(secret); ok {
		return s.withoutSecret()
	}
	return answer
}
