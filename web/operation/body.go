package operation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
)

// MaxBody bounds the bodies of requests in JSON ([Route.MaxBody]). The longest are Cedar policies
// ([authz.MaxCedar]), which JSON makes longer.
const MaxBody = 256 << 10

// upToTag marks a member of an input, by upTo:"N", that may have so many bytes, and makes the
// body longer than [MaxBody].
const upToTag = "upTo"

// MaxBody bounds the body of a request for the operation, in bytes, if it is JSON.
func (r *Route) MaxBody() int64 {
	n := int64(MaxBody)
	for _, m := range members(r.input) {
		if most, err := strconv.ParseInt(r.input.FieldByIndex(m.index).Tag.Get(upToTag), 10, 64); err == nil {
			n += 2 * most // JSON and Base64 make it longer
		}
	}
	return n
}

// Long says whether a request for the operation may take minutes, as it has a file or gives one.
func (r *Route) Long() bool {
	return r.BinaryAnswer != "" || r.BinaryRequest != "" || r.MaxBody() > MaxBody
}

// Parts are those of a request for an operation, before they are read.
type Parts struct {
	// Path gives the parameters of the path by their names.
	Path func(name string) string
	// Query is what follows the question mark.
	Query string
	// Body ends after [Route.MaxBody] bytes with an error, unless it is not JSON.
	Body io.Reader
}

// Decode reads the input of the operation. Errors: fault.Invalid.
func (r *Route) Decode(p Parts) (any, error) {
	query, err := r.checkQuery(p.Query)
	if err != nil {
		return nil, err
	}
	in := reflect.New(r.input).Elem()
	for _, f := range r.fields {
		switch {
		case f.in == inPathOf:
			err = f.set(in, p.Path(f.Name))
		case f.in == inQuery && query.Has(f.Name):
			err = f.set(in, query.Get(f.Name))
		case f.in == inBody:
			in.FieldByIndex(f.index).Set(reflect.ValueOf(&p.Body).Elem())
		}
		if err != nil {
			return nil, err
		}
	}
	if r.BinaryRequest == "" {
		body, err := scrub.ReadAll(p.Body)
		defer clear(body) // it may hold a secret
		if err != nil {
			return nil, r.unread(err)
		}
		if err := decode(in, body); err != nil {
			return nil, err
		}
	}
	return in.Interface(), nil
}

// unread says why a body could not be read whole.
func (r *Route) unread(err error) error {
	if _, long := errors.AsType[*http.MaxBytesError](err); !long {
		return invalid("the request body ended early: send it whole")
	}
	if !r.TakesBody() {
		return invalid("the request body has more than %d bytes; this route takes %s", r.MaxBody(), expected(r.input))
	}
	return fault.Errorf(fault.BodyTooLong, "the request body has more than %d bytes; this operation takes %d at most", r.MaxBody(), r.MaxBody())
}

// decode reads a JSON body into the members of an input. An operation whose input
// has none takes no body, which an empty object says, too. What is absent is never
// taken for a value: members that are not optional must be there, and null is none.
// Names count letter by letter, and once.
func decode(in reflect.Value, body []byte) error { return decodeAs(in, body, theBody) }

// jsonText says in errors what a JSON object is, and whose members are told.
type jsonText struct{ name, takes string }

var (
	theBody = jsonText{"request body", "this route takes"}
	theLine = jsonText{"line", "a line is"}
)

func decodeAs(in reflect.Value, body []byte, is jsonText) error {
	blank, t := len(bytes.Trim(body, " \t\r\n")) == 0, in.Type()
	switch {
	case len(members(t)) == 0 && blank:
		return nil
	case blank:
		return invalid("the %s is missing: %s %s", is.name, is.takes, expected(t))
	}
	if err := jsonv2.Unmarshal(body, in.Addr().Interface(), jsonv2.RejectUnknownMembers(true)); err != nil {
		return unreadable(t, err, is)
	}
	// Of a bytes.Buffer the decoder makes no copy.
	read, err := shapeOf(jsontext.NewDecoder(bytes.NewBuffer(body)))
	if err != nil { // it has been read once: it can be
		return unreadable(t, err, is)
	}
	if read.null {
		return invalid("the %s is null: %s %s", is.name, is.takes, expected(t))
	}
	if err := complete(in, read, ""); err != nil {
		return invalid("%s; %s %s", err, is.takes, expected(t))
	}
	return nil
}

// shape is which members and items a JSON value has, without the values: they may
// be secrets.
type shape struct {
	null, object bool
	members      map[string]shape
	items        []shape
}

func shapeOf(d *jsontext.Decoder) (s shape, err error) {
	switch d.PeekKind() {
	case 'n':
		return shape{null: true}, d.SkipValue()
	case '{', '[':
	default:
		return s, d.SkipValue()
	}
	open, err := d.ReadToken()
	if err != nil {
		return s, err
	}
	s.object, s.members = open.Kind() == '{', map[string]shape{}
	for k := d.PeekKind(); k != '}' && k != ']'; k = d.PeekKind() {
		name := ""
		if s.object {
			token, err := d.ReadToken()
			if err != nil {
				return s, err
			}
			name = token.String()
		}
		inner, err := shapeOf(d)
		if err != nil {
			return s, err
		}
		if s.members[name] = inner; !s.object {
			s.items = append(s.items, inner)
		}
	}
	_, err = d.ReadToken()
	return s, err
}

// member is one of a JSON object.
type member struct {
	name string
	// optional members may be left out: their fields are marked omitempty or omitzero.
	optional bool
	index    []int
	of       reflect.Type
}

var membersOf sync.Map // reflect.Type to []member

// members gives those of a struct in JSON, in the order of its fields. What may
// be absent from a request's body, and what the OpenAPI document says of that, is
// decided here.
func members(t reflect.Type) []member {
	if known, ok := membersOf.Load(t); ok {
		return known.([]member)
	}
	var all []member
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		all = append(all, member{name: name, index: f.Index, of: f.Type,
			optional: strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")})
	}
	membersOf.Store(t, all)
	return all
}

// complete says what is missing from the text that v was read from. An optional
// member that is empty is refused: it may be a variable that was not set, and
// would mean what leaving it out means.
func complete(v reflect.Value, read shape, at string) error {
	switch {
	case read.null:
		return fmt.Errorf("%q is null", at)
	case v.Type() == reflect.TypeFor[json.RawMessage]():
		if !read.object {
			return fmt.Errorf("%q is no JSON object", at)
		}
		return nil // what it must have, others know
	case !read.object:
		for i, item := range read.items {
			if err := complete(v.Index(i), item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, m := range members(v.Type()) {
		path := strings.TrimPrefix(at+"."+m.name, ".")
		value, there := read.members[m.name]
		if !there && !m.optional {
			return fmt.Errorf("%q is missing", path)
		}
		if !there {
			continue
		}
		field := v.FieldByIndex(m.index)
		if err := complete(field, value, path); err != nil {
			return err
		}
		if m.optional && empty(field) {
			return fmt.Errorf("%q is empty: leave it out, or give it a value", path)
		}
		if err := withinLimits(v.Type().FieldByIndex(m.index), field); err != nil {
			return fmt.Errorf("%q %w", path, err)
		}
	}
	return nil
}

// limited says which limit of its tags an input does not keep that was not read from a body, with
// the name that the member has in one: fault.Invalid.
func limited(v reflect.Value, at string) error {
	if v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[time.Time]() {
		return nil
	}
	for _, m := range members(v.Type()) {
		path := strings.TrimPrefix(at+"."+m.name, ".")
		field := v.FieldByIndex(m.index)
		if err := withinLimits(v.Type().FieldByIndex(m.index), field); err != nil {
			return fault.Errorf(fault.Invalid, "%q %s", path, err)
		}
		if err := limited(field, path); err != nil {
			return err
		}
	}
	return nil
}

// withinLimits says which limit of its tags a text or a list does not keep, and of a number that it
// is not exact in JSON. Other limits have checks of their own.
func withinLimits(f reflect.StructField, v reflect.Value) error {
	limit := func(name string, n int) (most int, over bool) {
		most, err := strconv.Atoi(f.Tag.Get(name))
		return most, err == nil && n > most
	}
	switch v.Kind() {
	case reflect.String:
		if most, over := limit("longest", utf8.RuneCountInString(v.String())); over {
			return fmt.Errorf("has more than %d characters", most)
		}
	case reflect.Slice:
		if most, over := limit("items", v.Len()); over {
			return fmt.Errorf("has more than %d entries", most)
		}
		for i := range v.Len() {
			if item := v.Index(i); item.Kind() == reflect.String {
				if most, over := limit("each", utf8.RuneCountInString(item.String())); over {
					return fmt.Errorf("has an entry of more than %d characters", most)
				}
			}
		}
	case reflect.Int, reflect.Int64:
		if least, err := strconv.Atoi(f.Tag.Get("least")); err == nil && v.Int() < min(0, int64(least)) {
			return fmt.Errorf("is negative")
		}
		if v.Int() > maxNumber {
			return fmt.Errorf("is more than %d", maxNumber)
		}
	case reflect.Uint64:
		if v.Uint() > maxNumber {
			return fmt.Errorf("is more than %d", maxNumber)
		}
	}
	return nil
}

// empty says whether a value says nothing. Numbers and booleans always say
// something.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return v.IsZero()
	}
	return false
}

// expected says which body a route takes.
func expected(t reflect.Type) string {
	var required, optional []string
	for _, m := range members(t) {
		name := fmt.Sprintf("%q", m.name)
		if m.of.Kind() == reflect.Struct && m.of != reflect.TypeFor[time.Time]() {
			var inner []string
			for _, i := range members(m.of) {
				inner = append(inner, fmt.Sprintf("%q", i.name))
			}
			name += " (" + strings.Join(inner, ", ") + ")"
		}
		if m.optional {
			optional = append(optional, name)
		} else {
			required = append(required, name)
		}
	}
	text := "a JSON object with " + strings.Join(required, ", ")
	switch {
	case len(required)+len(optional) == 0:
		return "no body, or {}"
	case len(required) == 0:
		return "a JSON object, which may be empty, with the optional members " + strings.Join(optional, ", ")
	case len(optional) > 0:
		text += "; optional: " + strings.Join(optional, ", ")
	}
	return text
}

// unreadable says why a body is none of the type. It repeats names, and no value:
// one may be a secret.
func unreadable(t reflect.Type, err error, is jsonText) error {
	reason := "it is not one JSON value"
	if wrong, ok := errors.AsType[*jsontext.SyntacticError](err); ok && errors.Is(err, jsontext.ErrDuplicateName) {
		reason = fmt.Sprintf("%.80q is there twice", pointed(wrong.JSONPointer))
	} else if wrong, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
		switch at := pointed(wrong.JSONPointer); {
		case errors.Is(err, jsonv2.ErrUnknownName):
			reason = fmt.Sprintf("%.80q is unknown", at)
		case at == "":
			reason = "it is no JSON object"
		default:
			reason = fmt.Sprintf("%.80q has a value that this route cannot read", at)
		}
	}
	return invalid("the %s cannot be read: %s; %s %s", is.name, reason, is.takes, expected(t))
}

// pointed writes a JSON pointer as the names on its way.
func pointed(p jsontext.Pointer) string {
	var names []string
	for name := range p.Tokens() {
		names = append(names, name)
	}
	return strings.Join(names, ".")
}

func invalid(format string, args ...any) error {
	return fault.Errorf(fault.Invalid, format, args...)
}

// encode writes the members of an input as a JSON body; nil if it has none.
func (r *Route) encode(in any) ([]byte, error) {
	if !r.TakesBody() {
		return nil, nil
	}
	return json.Marshal(in)
}
