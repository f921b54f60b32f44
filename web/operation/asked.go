package operation

import (
	"encoding/json"
	"reflect"
	"strings"

	"holdfast/appliance/identity"
)

// unrecordedTag marks a member of an input, by record:"-", whose value is in no record:
// a proof, or a text in which people paste secrets. A [Secret] needs no tag.
const unrecordedTag = "record"

// unrecorded says whether the value of a member is in no record.
func unrecorded(f reflect.StructField) bool {
	return f.Tag.Get(unrecordedTag) == "-" || holdsSecret(f.Type)
}

// asked is what an input asks for: the parameters of the path and the query, and the
// members of the body, by their names and without secrets; nil for nothing. Of an input
// that was not read only the path is known.
func (r *Route) asked(in any, path func(name string) string) json.RawMessage {
	all := map[string]any{}
	for _, f := range r.fields {
		var value string
		switch {
		case f.in == inPathOf:
			value = path(f.Name)
		case f.in == inQuery && in != nil && !reflect.ValueOf(in).FieldByIndex(f.index).IsZero():
			value = text(reflect.ValueOf(in).FieldByIndex(f.index))
		}
		if strings.HasPrefix(value, identity.TokenPrefix) { // a token in place of its ID
			value = identity.TokenPrefix + "..."
		}
		if value != "" {
			all[f.Name] = value
		}
	}
	if in != nil {
		v := reflect.ValueOf(in)
		for _, m := range members(r.input) {
			value := v.FieldByIndex(m.index)
			if unrecorded(r.input.FieldByIndex(m.index)) || m.optional && value.IsZero() {
				continue
			}
			all[m.name] = value.Interface()
		}
	}
	if len(all) == 0 {
		return nil
	}
	return encoded(all)
}
