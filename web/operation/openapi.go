package operation

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/attest/tpm"
)

// The parts of an OpenAPI document that are used here (OpenAPI Specification 3.1.1).
type (
	openAPI struct {
		OpenAPI    string                             `json:"openapi"`
		Info       map[string]string                  `json:"info"`
		Servers    []map[string]string                `json:"servers"`
		Security   []map[string][]string              `json:"security"`
		Paths      map[string]map[string]apiOperation `json:"paths"`
		Components components                         `json:"components"`

		names map[string]reflect.Type // of the schemas
	}
	components struct {
		Schemas         map[string]*jsonschema.Schema `json:"schemas"`
		SecuritySchemes map[string]map[string]string  `json:"securitySchemes"`
		Responses       map[string]response           `json:"responses"`
	}
	apiOperation struct {
		ID          string              `json:"operationId"`
		Summary     string              `json:"summary"`
		Description string              `json:"description"`
		Parameters  []apiParameter      `json:"parameters,omitempty"`
		RequestBody *body               `json:"requestBody,omitempty"`
		Responses   map[string]response `json:"responses"`
		Capability  string              `json:"x-capability"`
	}
	apiParameter struct {
		Name        string             `json:"name"`
		In          string             `json:"in"`
		Description string             `json:"description,omitempty"`
		Required    bool               `json:"required,omitempty"`
		Schema      *jsonschema.Schema `json:"schema"`
	}
	body struct {
		Required bool             `json:"required"`
		Content  map[string]media `json:"content"`
	}
	media struct {
		Schema *jsonschema.Schema `json:"schema,omitempty"`
	}
	response struct {
		Ref         string           `json:"$ref,omitempty"`
		Description string           `json:"description,omitempty"`
		Content     map[string]media `json:"content,omitempty"`
	}
)

// document describes the API in OpenAPI 3.1, from the table alone.
var document = sync.OnceValue(func() []byte { return describe(Table()) })

func describe(routes []*Route) []byte {
	d := openAPI{
		OpenAPI:  "3.1.0",
		Info:     map[string]string{"title": "Holdfast admin API", "version": "1", "description": "Everything that the console does. Times are RFC 3339, in UTC; binary values are in Base64. Operations that change something take If-Match with the revision of what they change."},
		Servers:  []map[string]string{{"url": Prefix}},
		Security: []map[string][]string{{"token": {}}},
		Paths:    map[string]map[string]apiOperation{},
		names:    map[string]reflect.Type{},
		Components: components{Schemas: map[string]*jsonschema.Schema{},
			SecuritySchemes: map[string]map[string]string{"token": {"type": "http", "scheme": "bearer", "description": "an API token, made in the console"}},
		},
	}
	problem := d.schema(reflect.TypeFor[Problem]())
	d.Components.Responses = map[string]response{"Problem": {Description: "why not: problem details (RFC 9457)", Content: map[string]media{ProblemType: {problem}}}}
	for _, r := range routes {
		if d.Paths[r.Path] == nil {
			d.Paths[r.Path] = map[string]apiOperation{}
		}
		d.Paths[r.Path][strings.ToLower(r.Method)] = d.operation(r)
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("the OpenAPI document: %v", err)) // the table is part of the program
	}
	return text
}

func (d *openAPI) operation(r *Route) apiOperation {
	op := apiOperation{ID: r.ID, Summary: r.Words, Capability: string(r.Capability), Responses: map[string]response{}}
	op.Description = fmt.Sprintf("%s. Needs the role %s.", r.Summary, needs(r.Capability))
	if r.Guards().Presence {
		op.Description += " In the console it asks for a fresh proof of presence."
	}
	op.Parameters = d.parameters(r)
	switch {
	case r.BinaryRequest != "":
		op.RequestBody = &body{true, map[string]media{r.BinaryRequest: {}}}
	case r.TakesBody():
		op.RequestBody = &body{true, map[string]media{"application/json": {d.requestSchema(r.input)}}}
	}
	ok := response{Description: "done"}
	switch {
	case r.BinaryAnswer != "":
		ok.Content = map[string]media{r.BinaryAnswer: {}}
	case r.Changes():
		ok.Content = map[string]media{"application/json": {d.changed(r.answer)}}
	default:
		ok.Content = map[string]media{"application/json": {d.schema(r.answer)}}
	}
	op.Responses["200"] = ok
	if r.Guards().FourEyes {
		op.Responses["202"] = response{Description: "it waits for the approval of a second person", Content: map[string]media{"application/json": {d.schema(reflect.TypeFor[ApprovalDetail]())}}}
	}
	op.Responses["default"] = response{Ref: "#/components/responses/Problem"}
	return op
}

// parameters gives those of an operation.
func (d *openAPI) parameters(r *Route) (all []apiParameter) {
	for _, f := range r.fields {
		s := &jsonschema.Schema{Type: f.Type}
		switch {
		case f.in == inPathOf:
			s.Type = "string"
			all = append(all, apiParameter{Name: f.Name, In: f.in, Required: true, Schema: s})
			continue
		case f.in != inQuery:
			continue
		case f.Type == "integer":
			s.Minimum, s.Maximum = jsonschema.Ptr(float64(f.Least)), jsonschema.Ptr(float64(f.Most))
		}
		for _, v := range f.Enum {
			s.Enum = append(s.Enum, v)
		}
		all = append(all, apiParameter{Name: f.Name, In: f.in, Description: f.Description, Schema: s})
	}
	if r.Mutates() {
		all = append(all, apiParameter{Name: "If-Match", In: "header", Schema: &jsonschema.Schema{Type: "string"},
			Description: "refuse it (412) unless what it changes has this revision"})
	}
	return all
}

// changed gives a reference to the schema of an answer to a change: that of its
// type, with the effect.
func (d *openAPI) changed(t reflect.Type) *jsonschema.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := "Changed"
	s := &jsonschema.Schema{Type: "object"}
	if t != reflect.TypeFor[Nothing]() {
		d.schema(t)
		name = d.nameOf(t) + "Changed"
		*s = *d.Components.Schemas[d.nameOf(t)]
	}
	if d.Components.Schemas[name] == nil {
		s.Properties = maps.Clone(s.Properties)
		if s.Properties == nil {
			s.Properties = map[string]*jsonschema.Schema{}
		}
		s.Properties[effectName(t)] = effectSchema()
		s.Required = append(slices.Clone(s.Required), effectName(t))
		s.PropertyOrder = nil
		d.Components.Schemas[name] = s
	}
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}

// schemas of types that are not in JSON as Go would have them.
var schemas = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[time.Time]():        {Type: "string", Format: "date-time"},
	reflect.TypeFor[[]byte]():           {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[Secret]():           {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[tpm.Hex]():          {Type: "string", Pattern: "^[0-9a-f]*$"},
	reflect.TypeFor[tlog.Hash]():        {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[json.RawMessage]():  {},
	reflect.TypeFor[audit.NodeRecord](): recordSchema(),
	reflect.TypeFor[appliance.Effect](): {Type: "string", Enum: []any{"", "allow", "forbid"}},
}

// recordSchema is that of a record with its node, which writes itself.
func recordSchema() *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{"node": {Type: "string"}}}
	t := reflect.TypeFor[audit.Record]()
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		p := &jsonschema.Schema{Type: "string"}
		switch f.Type.Kind() {
		case reflect.Int64, reflect.Uint64:
			p.Type = "integer"
		case reflect.Slice:
			p = &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "string"}}
		}
		if f.Type == reflect.TypeFor[json.RawMessage]() {
			p = &jsonschema.Schema{}
		}
		s.Properties[name] = p
	}
	return s
}

// requestSchema gives a reference to the schema of a request's body: what must be
// there is what [decode] refuses to miss, and nothing is null.
func (d *openAPI) requestSchema(t reflect.Type) *jsonschema.Schema {
	ref := d.schema(t)
	demand(d.Components.Schemas[strings.TrimPrefix(ref.Ref, "#/components/schemas/")], t)
	return ref
}

// demand puts into a schema what the API demands of a body of the type.
func demand(s *jsonschema.Schema, t reflect.Type) {
	if slices.Contains(s.Types, "null") {
		s.Types = slices.DeleteFunc(s.Types, func(kind string) bool { return kind == "null" })
		s.Type, s.Types = s.Types[0], nil
	}
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		s.Type = "object"
	case schemas[t] != nil:
	case t.Kind() == reflect.Slice:
		demand(s.Items, t.Elem())
	case t.Kind() == reflect.Struct:
		s.Required = nil
		for _, m := range members(t) {
			if !m.optional {
				s.Required = append(s.Required, m.name)
			}
			demand(s.Properties[m.name], m.of)
		}
	}
}

// effectSchema is that of an effect.
func effectSchema() *jsonschema.Schema {
	s, err := jsonschema.For[Effect](&jsonschema.ForOptions{TypeSchemas: schemas})
	if err != nil {
		panic(fmt.Sprintf("the schema of an effect: %v", err)) // the type is part of the program
	}
	return s
}

// nameOf gives the name of a type's schema.
func (d *openAPI) nameOf(t reflect.Type) string {
	name := t.Name()
	if base, of, generic := strings.Cut(name, "["); generic { // List[*holdfast/appliance.KeyStore] is a KeyStoreList
		name = strings.TrimSuffix(of[strings.LastIndexByte(of, '.')+1:], "]") + base
	}
	if other := d.names[name]; other != nil && other != t { // of another package
		name = strings.ToUpper(path.Base(t.PkgPath())[:1]) + path.Base(t.PkgPath())[1:] + name
	}
	d.names[name] = t
	return name
}

// schema gives a reference to the schema of a type, or the schema of one without
// a name.
func (d *openAPI) schema(t reflect.Type) *jsonschema.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && schemas[t] == nil {
		return &jsonschema.Schema{Type: "array", Items: d.schema(t.Elem())}
	}
	if t == reflect.TypeFor[Nothing]() {
		return &jsonschema.Schema{Type: "object"}
	}
	if s := schemas[t]; s != nil && t.Kind() != reflect.Struct {
		return s
	}
	name := d.nameOf(t)
	if d.Components.Schemas[name] == nil {
		s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: schemas})
		if err != nil {
			panic(fmt.Sprintf("the schema of %s: %v", t, err)) // the table is part of the program
		}
		if list, ok := reflect.Zero(t).Interface().(interface{ item() reflect.Type }); ok {
			s.Properties["items"] = &jsonschema.Schema{Type: "array", Items: d.schema(list.item()), Description: s.Properties["items"].Description}
		}
		d.Components.Schemas[name] = s
	}
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}
