package operation

import (
	"fmt"
	"io"
	"log/slog"
	"reflect"
)

// Secret is a secret that a caller gives: material of a key, or a PIN. It is held
// once: from where it was read it goes to the domain as it is, and [Operation.Do]
// zeroizes it. It writes itself into JSON for a server's API alone. No request for approval
// stores one, and no record has one.
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

// secretTag marks a member of an input, by secret:"true", that is a secret and, as it is a text
// of the API, no [Secret].
const secretTag = "secret"

// againTag marks a text of an input, by again:"true", that is too long for a request for approval,
// such as a file. It is given again as a secret is, and is none.
const againTag = "again"

// secretMember gives the member of an input that is a secret, or is given again as one; nil if there is none. None has
// two: the one who gives it again for an approved operation gives one.
func secretMember(t reflect.Type) *member {
	var found *member
	for _, m := range members(t) {
		tag := t.FieldByIndex(m.index).Tag
		if m.of == reflect.TypeFor[Secret]() || tag.Get(secretTag) != "" || tag.Get(againTag) != "" {
			if found != nil {
				panic(fmt.Sprintf("%s has two secrets: %s and %s", t, found.name, m.name))
			}
			found = &m
		}
	}
	return found
}

// apartFrom takes the secret out of an input: it gives the input without, and the secret; nil if
// the input has none. The secret is the input's own, and not a copy, where its type is [Secret].
func (r *Route) apartFrom(in any) (any, []byte) {
	if r.secretMember == nil {
		return in, nil
	}
	v := reflect.New(r.input).Elem()
	v.Set(reflect.ValueOf(in))
	f := v.FieldByIndex(r.secretMember.index)
	if f.Len() == 0 { // an empty one, as a form has it, is none
		return in, nil
	}
	secret := []byte(nil)
	if f.Kind() == reflect.String {
		secret = []byte(f.String())
	} else {
		secret = f.Bytes()
	}
	f.SetZero()
	return v.Interface(), secret
}

// with gives the input with the secret.
func (r *Route) with(in any, secret Secret) any {
	v := reflect.New(r.input).Elem()
	v.Set(reflect.ValueOf(in))
	f := v.FieldByIndex(r.secretMember.index)
	if f.Kind() == reflect.String {
		f.SetString(string(secret))
	} else {
		f.SetBytes(secret)
	}
	return v.Interface()
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
