package attest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// written says which members of a policy's text are not written, all at once. What is
// missing would be read as zero, which is a floor that everything passes; so each member
// of the type is to be there, but those that may be left out (omitempty), and none is
// null. The text was read into the type already: of what does not fit it says nothing.
func written(text jsontext.Value, t reflect.Type, path string) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch text.Kind() {
	case jsontext.KindNull:
		return fmt.Errorf("policy: %s is null: write what it is to be, or leave out what may be left out; holdfast policy new shows each member", strings.TrimPrefix(path, "."))
	case jsontext.KindBeginObject:
		return writtenObject(text, t, path)
	case jsontext.KindBeginArray:
		var items []jsontext.Value
		if t.Kind() != reflect.Slice || json.Unmarshal(text, &items) != nil {
			return nil
		}
		var errs []error
		for i, item := range items {
			errs = append(errs, written(item, t.Elem(), path+"["+strconv.Itoa(i)+"]"))
		}
		return errors.Join(errs...)
	}
	return nil
}

func writtenObject(text jsontext.Value, t reflect.Type, path string) error {
	var has map[string]jsontext.Value
	if err := json.Unmarshal(text, &has); err != nil {
		return nil
	}
	var errs []error
	switch t.Kind() {
	case reflect.Map:
		for _, name := range slices.Sorted(maps.Keys(has)) {
			errs = append(errs, written(has[name], t.Elem(), path+"."+name))
		}
	case reflect.Struct:
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue // sections, each of which is read by its kind
			}
			value, ok := has[name]
			switch {
			case ok:
				errs = append(errs, written(value, f.Type, path+"."+name))
			case options == "":
				errs = append(errs, fmt.Errorf("policy: %s is missing: what is not written would ask for nothing; write it, as holdfast policy new shows", strings.TrimPrefix(path+"."+name, ".")))
			}
		}
	}
	return errors.Join(errs...)
}
