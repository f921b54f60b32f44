package web

import (
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

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

// document describes the API in OpenAPI 3.1, out of the table of routes alone.
func document(routes []*Route) []byte {
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
	d.Components.Responses = map[string]response{"Problem": {Description: "why not: problem details (RFC 9457)", Content: map[string]media{problemType: {problem}}}}
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

var inPath = regexp.MustCompile(`\{(\w+)\}`)

func (d *openAPI) operation(r *Route) apiOperation {
	op := apiOperation{ID: r.ID, Summary: r.Summary, Capability: string(r.Capability), Responses: map[string]response{}}
	op.Description = fmt.Sprintf("Needs the role %s.", needs(r.Capability))
	if r.Dangerous {
		op.Description += " In the console it asks for a fresh proof of presence."
	}
	for _, m := range inPath.FindAllStringSubmatch(r.Path, -1) {
		op.Parameters = append(op.Parameters, apiParameter{Name: m[1], In: "path", Required: true, Schema: &jsonschema.Schema{Type: "string"}})
	}
	for _, q := range r.Query {
		s := &jsonschema.Schema{Type: q.Type}
		if q.Type == "integer" {
			s.Minimum, s.Maximum = jsonschema.Ptr(float64(q.Least)), jsonschema.Ptr(float64(q.Most))
		}
		for _, v := range q.Enum {
			s.Enum = append(s.Enum, v)
		}
		op.Parameters = append(op.Parameters, apiParameter{Name: q.Name, In: "query", Description: q.Description, Schema: s})
	}
	if r.Mutates() {
		op.Parameters = append(op.Parameters, apiParameter{Name: "If-Match", In: "header", Schema: &jsonschema.Schema{Type: "string"},
			Description: "refuse it (412) unless what it changes has this revision"})
	}
	switch {
	case r.BinaryRequest != "":
		op.RequestBody = &body{true, map[string]media{r.BinaryRequest: {}}}
	case r.request != nil:
		op.RequestBody = &body{true, map[string]media{"application/json": {d.requestSchema(r.request)}}}
	}
	ok := response{Description: "done"}
	if r.BinaryAnswer != "" {
		ok.Content = map[string]media{r.BinaryAnswer: {}}
	} else {
		ok.Content = map[string]media{"application/json": {d.schema(r.answer)}}
	}
	op.Responses["200"] = ok
	if r.Approvable {
		op.Responses["202"] = response{Description: "it waits for the approval of a second person", Content: map[string]media{"application/json": {d.schema(reflect.TypeFor[Approval]())}}}
	}
	op.Responses["default"] = response{Ref: "#/components/responses/Problem"}
	return op
}

// schemas of types that are not in JSON as Go would have them.
var schemas = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[time.Time]():        {Type: "string", Format: "date-time"},
	reflect.TypeFor[[]byte]():           {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[tpm.Hex]():          {Type: "string", Pattern: "^[0-9a-f]*$"},
	reflect.TypeFor[json.RawMessage]():  {},
	reflect.TypeFor[audit.Record]():     recordSchema(),
	reflect.TypeFor[appliance.Effect](): {Type: "string", Enum: []any{"", "allow", "forbid"}},
}

// recordSchema is that of a record, which writes itself.
func recordSchema() *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}}
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

// schema gives a reference to the schema of a type, or the schema of one without
// a name.
func (d *openAPI) schema(t reflect.Type) *jsonschema.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && schemas[t] == nil {
		return &jsonschema.Schema{Type: "array", Items: d.schema(t.Elem())}
	}
	if t == reflect.TypeFor[nothing]() {
		return &jsonschema.Schema{Type: "object"}
	}
	if s := schemas[t]; s != nil && t.Kind() != reflect.Struct {
		return s
	}
	name := t.Name()
	if other := d.names[name]; other != nil && other != t { // of another package
		name = strings.ToUpper(path.Base(t.PkgPath())[:1]) + path.Base(t.PkgPath())[1:] + name
	}
	d.names[name] = t
	if d.Components.Schemas[name] == nil {
		s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: schemas})
		if err != nil {
			panic(fmt.Sprintf("the schema of %s: %v", t, err)) // the table is part of the program
		}
		d.Components.Schemas[name] = s
	}
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}
