package operation

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
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

// TestEveryWordIsListed: a type that is a set of words lists them in the document.
func TestEveryWordIsListed(t *testing.T) {
	open := map[reflect.Type]bool{reflect.TypeFor[fault.Code](): true} // docs/codes.md lists them; releases add some
	for of := range shownTypes() {
		for _, m := range members(of) {
			word := m.of
			for word.Kind() == reflect.Slice || word.Kind() == reflect.Pointer {
				word = word.Elem()
			}
			if word.Kind() == reflect.String && word.PkgPath() != "" && !open[word] && enums[word] == nil {
				t.Errorf("%s, member %q: %s is in none of the lists of enums", of, m.name, word)
			}
		}
	}
}

// TestDocument: no schema of the document is empty, all has a description, each operation a
// tag that is described, and each body an example with all that it must have.
func TestDocument(t *testing.T) {
	var d map[string]any
	if err := json.Unmarshal(Document(), &d); err != nil {
		t.Fatal(err)
	}
	var look func(at string, v any)
	look = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				schema := name == "schema" || name == "items" || strings.HasSuffix(at, "/properties") || strings.HasSuffix(at, "/schemas")
				if m, ok := inner.(map[string]any); schema && (!ok || len(m) == 0) {
					t.Errorf("%s/%s: an empty schema", at, name)
				}
				if name != "example" && name != "examples" {
					look(at+"/"+name, inner)
				}
			}
			if _, described := v["description"]; !described && (strings.HasSuffix(path.Dir(at), "/properties") || strings.HasSuffix(path.Dir(at), "/parameters") || strings.HasSuffix(path.Dir(at), "/schemas") && v["type"] == "string") {
				t.Errorf("%s: no description", at)
			}
		case []any:
			for i, inner := range v {
				look(fmt.Sprintf("%s/%d", at, i), inner)
			}
		}
	}
	look("", d["paths"])
	look("", d["components"])
	for _, r := range Table() {
		if !slices.ContainsFunc(tags, func(tag apiTag) bool { return tag.Name == r.tag() }) {
			t.Errorf("%s: its tag %q is not described; see tagsByPath", r.ID, r.tag())
		}
		example, _ := exampleOf(r.input).(map[string]any)
		for _, m := range members(r.input) {
			if m.of.Kind() == reflect.Struct {
				if inner, ok := example[m.name].(map[string]any); ok && len(inner) == 0 {
					t.Errorf("%s: the example of its member %q is empty", r.ID, m.name)
				}
			}
			if _, there := example[m.name]; !there && !m.optional {
				t.Errorf("%s: its member %q has no example", r.ID, m.name)
			}
		}
	}
}
