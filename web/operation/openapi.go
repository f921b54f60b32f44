package operation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"

	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// The parts of an OpenAPI document that are used here (OpenAPI Specification 3.1.1).
type (
	openAPI struct {
		OpenAPI    string                             `json:"openapi"`
		Info       map[string]string                  `json:"info"`
		Servers    []map[string]string                `json:"servers"`
		Security   []map[string][]string              `json:"security"`
		Tags       []apiTag                           `json:"tags"`
		Paths      map[string]map[string]apiOperation `json:"paths"`
		Components components                         `json:"components"`

		names  map[string]reflect.Type // of the schemas
		routes []*Route
	}
	apiTag struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	components struct {
		Schemas         map[string]*jsonschema.Schema `json:"schemas"`
		SecuritySchemes map[string]map[string]string  `json:"securitySchemes"`
		Responses       map[string]response           `json:"responses"`
		Headers         map[string]apiHeader          `json:"headers"`
	}
	apiOperation struct {
		ID          string              `json:"operationId"`
		Tags        []string            `json:"tags"`
		Summary     string              `json:"summary"`
		Description string              `json:"description"`
		Parameters  []apiParameter      `json:"parameters,omitempty"`
		RequestBody *body               `json:"requestBody,omitempty"`
		Responses   map[string]response `json:"responses"`
		Role        string              `json:"x-role"`
		Capability  string              `json:"x-capability"`
		Guards      []string            `json:"x-guards,omitempty"`
	}
	apiParameter struct {
		Name        string             `json:"name"`
		In          string             `json:"in"`
		Description string             `json:"description"`
		Required    bool               `json:"required,omitempty"`
		Schema      *jsonschema.Schema `json:"schema"`
		Example     any                `json:"example,omitempty"`
	}
	body struct {
		Description string           `json:"description"`
		Required    bool             `json:"required"`
		Content     map[string]media `json:"content"`
	}
	media struct {
		Schema  *jsonschema.Schema `json:"schema,omitempty"`
		Example any                `json:"example,omitempty"`
	}
	response struct {
		Ref         string               `json:"$ref,omitempty"`
		Description string               `json:"description,omitempty"`
		Headers     map[string]apiHeader `json:"headers,omitempty"`
		Content     map[string]media     `json:"content,omitempty"`
		Links       map[string]apiLink   `json:"links,omitempty"`
		Codes       []fault.Code         `json:"x-problem-codes,omitempty"`
	}
	apiLink struct {
		Operation   string            `json:"operationId"`
		Parameters  map[string]string `json:"parameters"`
		Description string            `json:"description"`
	}
	apiHeader struct {
		Ref         string             `json:"$ref,omitempty"`
		Description string             `json:"description,omitempty"`
		Schema      *jsonschema.Schema `json:"schema,omitempty"`
	}
)

// document describes the API in OpenAPI 3.1, from the table alone.
var document = sync.OnceValue(func() []byte { return describe(Table()) })

// Document gives the OpenAPI document, in JSON.
func Document() []byte { return slices.Clone(document()) }

const aboutAPI = "Everything that the console does. Times are in RFC 3339 and UTC; binary values are in Base64. " +
	"Each GET answers with an ETag. Sent as If-Match with a change, it has the change refused (412) if somebody else was faster. " +
	"What is not 2xx is answered with problem details (RFC 9457), whose code is stable. " +
	"Programs must ignore members of answers, problem codes and values of enumerations of answers that they do not know: later releases add some."

func describe(routes []*Route) []byte {
	d := openAPI{
		OpenAPI:  "3.1.0",
		Info:     map[string]string{"title": "Holdfast admin API", "version": "1", "description": aboutAPI},
		Servers:  []map[string]string{{"url": Prefix, "description": "The appliance that serves this document."}},
		Security: []map[string][]string{{"token": {}}},
		Tags:     tags,
		Paths:    map[string]map[string]apiOperation{},
		names:    map[string]reflect.Type{},
		routes:   routes,
		Components: components{Schemas: map[string]*jsonschema.Schema{}, Headers: headers(), Responses: map[string]response{},
			SecuritySchemes: map[string]map[string]string{"token": {"type": "http", "scheme": "bearer", "description": "An API token, made in the console or with holdfast token create."}},
		},
	}
	d.problems()
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

// tags are the kinds of things that operations are about, by the first part of the path.
var tags = []apiTag{
	{"status", "The state of the appliance, of its boot and of its HSMs."},
	{"blocks", "What is taken out of service in an emergency."},
	{"key stores", "The external key stores of AWS KMS."},
	{"keys", "The external keys of a key store."},
	{"grants", "Who may use which keys: grants and Cedar policies."},
	{"credentials", "The SigV4 credentials by which AWS KMS signs its requests."},
	{"damaged rows", "What does not match its seal, and is removed by hand."},
	{"state", "The stored state as a whole: verification, backup and restore."},
	{"attestation", "Evidence of what the machine runs, and what its TPM keeps."},
	{"audit log", "The audit log, its checkpoints and its verification."},
	{"users", "Users of the console, their invitations and sessions."},
	{"tokens", "API tokens."},
	{"account", "The caller's own account."},
	{"fleet", "The nodes of a fleet."},
	{"approvals", "Operations that wait for a second person."},
	{"settings", "Settings, and the server's certificate."},
}

// tagsByPath are the tags by the beginning of a path; the longest that fits counts.
var tagsByPath = map[string]string{
	"/status": "status", "/activity": "status", "/boot": "status", "/hsms": "status", "/openapi.json": "status",
	"/block": "blocks", "/unblock": "blocks", "/dependents": "status",
	"/keystores": "key stores", "/keystores/{keystore}/keys": "keys", "/keystores/{keystore}/grants": "grants", "/keystores/{keystore}/policy": "grants",
	"/keystores/{keystore}/keys/{key}/test-grants": "grants", "/keystores/{keystore}/credentials": "credentials",
	"/damaged": "damaged rows", "/discard": "damaged rows",
	"/state": "state", "/clock": "state", "/time": "state", "/admission": "state", "/backup": "state", "/restore": "state", "/installation": "state",
	"/attestation": "attestation", "/seal": "attestation", "/policy": "attestation", "/launch": "attestation", "/audit": "audit log",
	"/users": "users", "/invitations": "users", "/sessions": "users", "/tokens": "tokens", "/account": "account",
	"/fleet": "fleet", "/approvals": "approvals", "/notices": "approvals", "/settings": "settings", "/certificate": "settings",
}

// tag is that of an operation.
func (r *Route) tag() string {
	longest, tag := -1, strings.Split(r.Path, "/")[1]
	if strings.HasPrefix(r.ID, "discard") {
		return "damaged rows"
	}
	for at, t := range tagsByPath {
		if (r.Path == at || strings.HasPrefix(r.Path, at+"/")) && len(at) > longest {
			longest, tag = len(at), t
		}
	}
	return tag
}

// The headers of answers.
const (
	RequestIDHeader = "Request-Id"
	etagHeader      = "ETag"
	locationHeader  = "Location"
	retryHeader     = "Retry-After"
)

func headers() map[string]apiHeader {
	text := &jsonschema.Schema{Type: "string"}
	return map[string]apiHeader{
		RequestIDHeader: {Description: "The ID of the request: the records of the audit log of what it did have it, and so does the appliance's log.", Schema: text},
		etagHeader:      {Description: "The revision of what the answer shows. Send it as If-Match with a change of it.", Schema: text},
		locationHeader:  {Description: "The path of what was made: a GET shows it.", Schema: text},
		ReplayedHeader:  {Description: "true if this answer was given before to the same request with the same Idempotency-Key, and nothing was done now. Absent otherwise.", Schema: &jsonschema.Schema{Type: "string", Enum: []any{"true"}}},
		KeptHeader:      {Description: "kept if a request with an Idempotency-Key is done once at each node. Absent where no more is known than that: while the appliance is locked or its state is held, while nodes of a release without such keys are in the fleet, and in earlier releases.", Schema: &jsonschema.Schema{Type: "string", Enum: []any{"kept"}}},
		retryHeader:     {Description: "After how many seconds to try again.", Schema: &jsonschema.Schema{Type: "integer", Minimum: jsonschema.Ptr(0.0)}},
	}
}

func headerRefs(names ...string) map[string]apiHeader {
	refs := map[string]apiHeader{}
	for _, name := range append(names, RequestIDHeader, KeptHeader) {
		refs[name] = apiHeader{Ref: "#/components/headers/" + name}
	}
	return refs
}

// problems puts the response for each status that codes of the registry have into the
// document, with these codes.
func (d *openAPI) problems() {
	problem := d.schema(reflect.TypeFor[Problem]())
	for _, e := range fault.All() {
		name := "Problem" + strconv.Itoa(e.Status)
		p, there := d.Components.Responses[name]
		if !there {
			p = response{Description: http.StatusText(e.Status) + ": problem details (RFC 9457).", Content: map[string]media{ProblemType: {Schema: problem}}, Headers: headerRefs()}
			if e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusConflict {
				p.Headers = headerRefs(retryHeader)
			}
		}
		p.Codes = append(p.Codes, e.Code)
		d.Components.Responses[name] = p
	}
}

func (d *openAPI) operation(r *Route) apiOperation {
	op := apiOperation{ID: r.ID, Tags: []string{r.tag()}, Summary: r.Summary, Capability: string(r.Capability), Role: needs(r.Capability), Responses: map[string]response{}}
	op.Description = fmt.Sprintf("%s. Needs the role %s.", strings.TrimSuffix(r.Summary, "."), needs(r.Capability))
	if r.Guards().Presence {
		op.Description += " In the console it asks for a fresh proof of presence."
		op.Guards = append(op.Guards, "presence")
	}
	if r.Guards().FourEyes {
		op.Description += " Administrators can choose that it needs the approval of a second person: it is answered with 202 then."
		if r.Many != nil {
			op.Description += " So it is where they have chosen " + r.Many.ID + "."
		}
		op.Guards = append(op.Guards, "four_eyes")
	}
	op.Parameters = d.parameters(r)
	switch {
	case r.BinaryRequest != "":
		op.RequestBody = &body{"The file.", true, map[string]media{r.BodyType(): {Schema: binary()}}}
	case r.TakesBody():
		op.RequestBody = &body{"What the operation takes.", true, map[string]media{MediaType: {Schema: d.schema(r.input), Example: exampleOf(r.input)}}}
	}
	ok := response{Description: "It is done.", Headers: headerRefs()}
	switch {
	case r.BinaryAnswer != "":
		ok.Content = map[string]media{r.BinaryAnswer: {Schema: binary()}}
		if strings.HasSuffix(r.BinaryAnswer, "+json") {
			ok.Content[r.BinaryAnswer] = media{Schema: &jsonschema.Schema{Type: "object", Description: "A JSON object."}}
		}
		if r.OtherAnswer != "" {
			ok.Content[r.OtherAnswer] = media{Schema: binary()}
		}
	case r.Changes():
		ok.Content = map[string]media{MediaType: {Schema: d.changed(r.answer)}}
	default:
		ok.Content = map[string]media{MediaType: {Schema: d.schema(r.answer)}}
	}
	if r.Tagged() {
		ok.Headers = headerRefs(etagHeader)
		op.Responses["304"] = response{Description: "It is as the caller has it: the ETag is the one of If-None-Match.", Headers: headerRefs(etagHeader)}
	}
	var replayed []string
	if r.Changes() {
		replayed = []string{ReplayedHeader}
		ok.Headers = headerRefs(replayed...)
	}
	if r.Makes != "" {
		ok.Description, ok.Headers, ok.Links = "It was made.", headerRefs(locationHeader, ReplayedHeader), d.links(r)
	}
	op.Responses[strconv.Itoa(r.Success())] = ok
	if r.Guards().FourEyes {
		op.Responses["202"] = response{Description: "It waits for the approval of a second person: Location is that of the request for approval.", Headers: headerRefs(append(slices.Clone(replayed), locationHeader)...), Content: map[string]media{MediaType: {Schema: d.schema(reflect.TypeFor[ApprovalDetail]())}}}
	}
	for _, status := range r.Statuses() {
		if status >= http.StatusBadRequest {
			op.Responses[strconv.Itoa(status)] = response{Ref: "#/components/responses/Problem" + strconv.Itoa(status)}
		}
	}
	return op
}

// links says how what an operation has made is named to the operations about it: the parameters of
// their paths are those of its own path, or members of its answer.
func (d *openAPI) links(r *Route) map[string]apiLink {
	all, made := map[string]apiLink{}, strings.Split(r.Makes, "/")
	for _, about := range d.routes {
		parts := strings.Split(about.Path, "/")
		if len(parts) < len(made) || inPath.ReplaceAllString(strings.Join(parts[:len(made)], "/"), "{}") != inPath.ReplaceAllString(r.Makes, "{}") {
			continue
		}
		link := apiLink{Operation: about.ID, Parameters: map[string]string{}, Description: "What was made."}
		for i, part := range made {
			if !inPath.MatchString(part) {
				continue
			}
			name, from := strings.Trim(parts[i], "{}"), "$response.body#/"+strings.Trim(part, "{}")
			if strings.Contains(r.Path, part) {
				from = "$request.path." + name
			}
			link.Parameters[name] = from
		}
		if strings.Count(about.Path, "{") == len(link.Parameters) { // it is about nothing else besides
			all[about.ID] = link
		}
	}
	return all
}

func binary() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Format: "binary", Description: "The bytes of the file."}
}

// parameters gives those of an operation.
func (d *openAPI) parameters(r *Route) (all []apiParameter) {
	for _, f := range r.fields {
		s := &jsonschema.Schema{Type: f.Type}
		switch {
		case f.in == inPathOf:
			if f.Type == "integer" {
				s.Minimum, s.Format = jsonschema.Ptr(0.0), "int64"
			} else {
				s.MinLength, s.MaxLength = jsonschema.Ptr(1), jsonschema.Ptr(f.Longest)
			}
			all = append(all, apiParameter{Name: f.Name, In: f.in, Description: f.Description, Required: true, Schema: s})
			continue
		case f.in != inQuery:
			continue
		case f.Type == "integer":
			s.Minimum, s.Maximum = jsonschema.Ptr(float64(f.Least)), jsonschema.Ptr(float64(f.Most))
		case f.Type == "string" && f.Format != "":
			s.Format = f.Format
		case f.Type == "string" && len(f.Enum) == 0:
			s.MinLength, s.MaxLength = jsonschema.Ptr(1), jsonschema.Ptr(f.Longest)
		}
		for _, v := range f.Enum {
			s.Enum = append(s.Enum, v)
		}
		all = append(all, apiParameter{Name: f.Name, In: f.in, Description: f.Description, Schema: s})
	}
	tag := &jsonschema.Schema{Type: "string", Pattern: `^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$`}
	if shown := r.Shown(); shown != nil {
		all = append(all, apiParameter{Name: "If-Match", In: "header", Schema: tag,
			Description: "Refuse the change (412) unless what it changes has one of these ETags, which " + shown.ID + " gives; * means that it exists."})
	}
	if r.Changes() {
		all = append(all, apiParameter{Name: IdempotencyKeyHeader, In: "header", Schema: &jsonschema.Schema{Type: "string", MinLength: jsonschema.Ptr(idempotency.MinKey), MaxLength: jsonschema.Ptr(idempotency.MaxKey), Pattern: `^[!#-\[\]-~]+$`},
			Description: "A key that nobody can guess, such as a random UUID; a new one for each request. The same request with the same key within 24 hours is not done again, and has the same answer; another request with it is refused (422). While the first is under way it is refused with 409 and Retry-After."})
	}
	if r.Tagged() {
		all = append(all, apiParameter{Name: "If-None-Match", In: "header", Schema: tag,
			Description: "Answer with 304 and no body if the answer has one of these ETags."})
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
	if t != reflect.TypeFor[Nothing]() {
		d.schema(t)
		name = d.nameOf(t) + "Changed"
	}
	if d.Components.Schemas[name] == nil {
		s := d.object(t)
		effect := d.schema(reflect.TypeFor[Effect]())
		effect.Description = "How far the change is in effect."
		s.Properties[effectName(t)] = effect
		s.PropertyOrder = append(s.PropertyOrder, effectName(t))
		s.Required = append(s.Required, effectName(t))
		d.Components.Schemas[name] = s
	}
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}

// nameOf gives the name of a type's schema.
func (d *openAPI) nameOf(t reflect.Type) string {
	name, of, generic := strings.Cut(t.Name(), "[")
	if generic { // a list of things is called after them
		of = strings.TrimSuffix(of, "]")
		name = of[strings.LastIndexAny(of, "./*")+1:] + name
	}
	if other := d.names[name]; other != nil && other != t { // of another package
		name = strings.ToUpper(path.Base(t.PkgPath())[:1]) + path.Base(t.PkgPath())[1:] + name
	}
	d.names[name] = t
	return name
}
