package operation

import (
	"cmp"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/appliance"
)

// Prefix is where the admin API is, before the path of each [Route].
const Prefix = "/api/v1"

// The longest values of parameters that are texts, in characters: of one that says no other limit, and
// of all. Cursors, which have names in them, are the longest.
const (
	usualParameter = 256
	MaxParameter   = 4096
)

// Parameter is one of a path or a query.
type Parameter struct {
	Name, Description string
	// Type is that of JSON Schema: "string", "integer" or "boolean".
	Type string
	// Format is that of JSON Schema: "date-time" of a time; empty for none.
	Format string
	// Enum lists the values, if they are few.
	Enum []string
	// Least and Most bound an integer.
	Least, Most int
	// Longest bounds a text, in characters.
	Longest int
}

// The tags of an input's fields that are no members of a JSON body: path:"NAME",
// query:"NAME" and body:"MEDIA TYPE". With query come about:"..." and, where the
// values are bounded, enum:"a,b" or least:"1" most:"1000". With path and query may come
// longest:"2048", where a text may be longer than most are.
const (
	inPathOf = "path"
	inQuery  = "query"
	inBody   = "body"
)

// field is a field of an input that is a parameter, or a body that is not JSON.
type field struct {
	Parameter
	in    string
	index []int
}

type fields []field

// fieldsOf gives those of an input type.
func fieldsOf(t reflect.Type) fields {
	var all fields
	for _, f := range reflect.VisibleFields(t) {
		for _, in := range []string{inPathOf, inQuery, inBody} {
			name, ok := f.Tag.Lookup(in)
			if !ok {
				continue
			}
			p := Parameter{Name: name, Description: f.Tag.Get("about"), Type: jsonType(f.Type)}
			if f.Type == reflect.TypeFor[time.Time]() {
				p.Format = "date-time"
			}
			if enum := f.Tag.Get("enum"); enum != "" {
				p.Enum = strings.Split(enum, ",")
			}
			p.Least, _ = strconv.Atoi(f.Tag.Get("least")) // 0 without one
			p.Most, _ = strconv.Atoi(f.Tag.Get("most"))
			if p.Longest, _ = strconv.Atoi(f.Tag.Get("longest")); p.Longest == 0 {
				p.Longest = usualParameter
			}
			all = append(all, field{p, in, f.Index})
		}
	}
	return all
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Bool:
		return "boolean"
	}
	return "string"
}

func (all fields) count(in string) (n int) {
	for _, f := range all {
		if f.in == in {
			n++
		}
	}
	return n
}

// query gives the parameters of a query.
func (all fields) query() (list []Parameter) {
	for _, f := range all {
		if f.in == inQuery {
			list = append(list, f.Parameter)
		}
	}
	return list
}

// of gives the parameters of an input's path by their names.
func (all fields) of(in any) func(name string) string {
	v := reflect.ValueOf(in)
	return func(name string) string {
		i := slices.IndexFunc(all, func(f field) bool { return f.in == inPathOf && f.Name == name })
		if i < 0 {
			return ""
		}
		return text(v.FieldByIndex(all[i].index))
	}
}

// text writes the value of a parameter.
func text(v reflect.Value) string {
	switch v := v.Interface().(type) {
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	}
	return v.String()
}

// set reads the value of a parameter.
func (f *field) set(in reflect.Value, text string) error {
	v := in.FieldByIndex(f.index)
	switch v.Interface().(type) {
	case time.Time:
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return invalid("%s %.40q: give a time such as 2026-11-24T12:00:00Z", f.Name, text)
		}
		v.Set(reflect.ValueOf(t))
	case int, int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return invalid("%s %.40q: use a whole number, from 0", f.Name, text)
		}
		v.SetInt(n)
	case bool:
		v.SetBool(text == "true") // it was checked
	default:
		v.SetString(text)
	}
	return nil
}

// valid says what is wrong with an input's parameters, and with its times: with those of a form,
// or of a program, as with those of a request.
func (all fields) valid(in any) error {
	v := reflect.ValueOf(in)
	if err := timesCanBeWritten(v, ""); err != nil {
		return err
	}
	for _, f := range all {
		if f.in == inBody {
			continue
		}
		value := v.FieldByIndex(f.index)
		if f.in == inPathOf && value.Kind() == reflect.String && value.Len() == 0 {
			return invalid("say which %s: it is empty", f.Name)
		}
		if f.in == inPathOf && value.Kind() == reflect.String && utf8.RuneCountInString(value.String()) > f.Longest {
			return invalid("the %s has more than %d characters", f.Name, f.Longest)
		}
		if f.in == inQuery && !value.IsZero() {
			if err := f.check(text(value)); err != nil {
				return err
			}
		}
	}
	return nil
}

// timesCanBeWritten says which time in a value cannot be written in UTC by RFC 3339, as the state,
// the audit log and each answer have it: a time of the year 9999 may be of the year 10000 there.
func timesCanBeWritten(v reflect.Value, name string) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return timesCanBeWritten(v.Elem(), name)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			for i := range v.Len() {
				if err := timesCanBeWritten(v.Index(i), name); err != nil {
					return err
				}
			}
		}
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return appliance.CheckTime(name, t)
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct {
				if err := timesCanBeWritten(v.Field(i), nameOf(f)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// nameOf is what callers name a field of an input by.
func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(cmp.Or(f.Tag.Get(inQuery), f.Tag.Get("json"), f.Name), ",")
	return name
}

var inPath = regexp.MustCompile(`\{(\w+)\}`)

// path gives the path of an input, after [Prefix], with its query.
func (r *Route) path(in any) string {
	named := r.fields.of(in)
	path := inPath.ReplaceAllStringFunc(r.Path, func(name string) string { return url.PathEscape(named(name[1 : len(name)-1])) })
	query := url.Values{}
	for _, f := range r.fields {
		if v := reflect.ValueOf(in).FieldByIndex(f.index); f.in == inQuery && !v.IsZero() {
			query.Set(f.Name, text(v))
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// named gives the parameters that a path has for the route; false if it is not the
// route's.
func (r *Route) named(path string) (map[string]string, bool) {
	want, have := strings.Split(r.Path, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	found := map[string]string{}
	for i, w := range want {
		value, err := url.PathUnescape(have[i])
		switch {
		case err != nil:
			return nil, false
		case strings.HasPrefix(w, "{"):
			found[strings.Trim(w, "{}")] = value
		case w != value:
			return nil, false
		}
	}
	return found, true
}
