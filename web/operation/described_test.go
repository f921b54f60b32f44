package operation

import (
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance/audit"
)

// TestEveryMemberIsDescribed: what the API takes and gives says in the document what it means.
func TestEveryMemberIsDescribed(t *testing.T) {
	for of := range shownTypes() {
		for _, m := range members(of) {
			f := of.FieldByIndex(m.index)
			text := f.Tag.Get("jsonschema")
			switch words := strings.Fields(text); {
			case text == "":
				t.Errorf("%s.%s (member %q): it has no description; give it a tag jsonschema:\"One plain sentence.\"", of, f.Name, m.name)
			case len(words) < 3 || !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, ";"):
				t.Errorf("%s.%s: %q is no sentence", of, f.Name, text)
			}
		}
	}
	for _, r := range Table() {
		for _, f := range r.fields {
			if f.in != inBody && f.Description == "" {
				t.Errorf("operation %s: its parameter %s has no description; give it a tag about:\"One plain sentence.\"", r.ID, f.Name)
			}
		}
	}
}

// shownTypes are the structs that the API takes and gives.
func shownTypes() map[reflect.Type]bool {
	seen := map[reflect.Type]bool{}
	var look func(of reflect.Type)
	look = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			look(of.Elem())
		case reflect.Struct:
			if seen[of] || schemas[of] != nil && of != reflect.TypeFor[audit.NodeRecord]() || of == reflect.TypeFor[Stream]() {
				return
			}
			seen[of] = true
			for _, m := range members(of) {
				look(m.of)
			}
		}
	}
	for _, r := range Table() {
		look(r.Input())
		look(r.Answer())
	}
	look(reflect.TypeFor[Effect]())
	look(reflect.TypeFor[Problem]())
	return seen
}
