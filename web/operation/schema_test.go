package operation

import (
	"encoding"
	"encoding/json"
	"reflect"
	"testing"

	"holdfast/appliance/audit"
)

// TestTypesThatWriteThemselves have a schema of their own in the document: that of their
// fields would be another.
func TestTypesThatWriteThemselves(t *testing.T) {
	seen := map[reflect.Type]bool{}
	found := 0
	var look func(at string, of reflect.Type)
	look = func(at string, of reflect.Type) {
		if seen[of] {
			return
		}
		seen[of] = true
		if schemas[of] != nil {
			found++
			return
		}
		asItsFields := of == reflect.TypeFor[ApprovalDetail]() || of == reflect.TypeFor[audit.NodeRecord]() || of == reflect.TypeFor[audit.Record]() // as they fill one in before
		pointer := reflect.PointerTo(of)
		if !asItsFields && (pointer.Implements(reflect.TypeFor[json.Marshaler]()) || pointer.Implements(reflect.TypeFor[encoding.TextMarshaler]())) {
			t.Errorf("%s: %s writes itself, and has no schema", at, of)
			return
		}
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			look(at, of.Elem())
		case reflect.Struct:
			for f := range of.Fields() {
				if f.IsExported() && f.Tag.Get("json") != "-" {
					look(at+"."+f.Name, f.Type)
				}
			}
		}
	}
	for _, r := range Table() {
		for _, of := range []reflect.Type{r.Input(), r.Answer()} {
			if of != nil {
				look(of.String(), of)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d types with a schema of their own were found", found)
	}
}
