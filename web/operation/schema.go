package operation

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// schemas of types that are not in JSON as Go would have them.
var schemas = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[time.Time]():       {Type: "string", Format: "date-time"},
	reflect.TypeFor[[]byte]():          {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[Secret]():          {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[tpm.Hex]():         {Type: "string", Pattern: "^[0-9a-f]*$"},
	reflect.TypeFor[tlog.Hash]():       {Type: "string", ContentEncoding: "base64"},
	reflect.TypeFor[json.RawMessage](): {Type: "object"},
}

// enums are the closed sets of words, by their types.
var enums = map[reflect.Type][]any{
	reflect.TypeFor[identity.Role]():          values(identity.Roles...),
	reflect.TypeFor[identity.Capability]():    values(identity.Self, identity.See, identity.Audit, identity.ManageKeys, identity.Administer),
	reflect.TypeFor[appliance.Custody]():      values(appliance.CustodyCached, appliance.CustodyHSM),
	reflect.TypeFor[appliance.KeyState]():     values(appliance.KeyEnabled, appliance.KeyDisabled, appliance.KeyPendingDeletion, appliance.KeyDeletionSuspended),
	reflect.TypeFor[appliance.Framing]():      values(appliance.Framings()...),
	reflect.TypeFor[appliance.Origin]():       values(appliance.OriginGenerated, appliance.OriginImported),
	reflect.TypeFor[appliance.HealthStatus](): values(appliance.HealthActive, appliance.HealthDegraded, appliance.HealthUnavailable),
	reflect.TypeFor[appliance.NodeState]():    values(appliance.NodeJoining, appliance.NodeServing, appliance.NodeDrained, appliance.NodeLeaving, appliance.NodeRemoved),
	reflect.TypeFor[appliance.Ownership](): values(appliance.OwnershipOwner, appliance.OwnershipCopy, appliance.OwnershipDrill, appliance.OwnershipUnkept,
		appliance.OwnershipSuperseded, appliance.OwnershipMissing),
	reflect.TypeFor[appliance.StandingState](): values(appliance.StandingStates()...),
	reflect.TypeFor[appliance.Decider](): values(appliance.DecidesNode, appliance.DecidesEverything, appliance.DecidesKeyStore,
		appliance.DecidesKey, appliance.DecidesCredential),
	reflect.TypeFor[audit.Level]():      values(audit.LevelOK, audit.LevelWarning, audit.LevelFull),
	reflect.TypeFor[audit.Kind]():       values(audit.KindXKS, audit.KindAdmin, audit.KindBoot, audit.KindLease, audit.KindAudit, audit.KindFleet),
	reflect.TypeFor[audit.Result]():     values(audit.Allowed, audit.Denied, audit.Failed),
	reflect.TypeFor[appraisal.Result](): values(appraisal.Pass, appraisal.Fail, appraisal.Missing, appraisal.NotRun, appraisal.Incomplete),
	reflect.TypeFor[progress.State](): values(progress.Probe, progress.Measure, progress.Collect, progress.Appraise, progress.Release, progress.Unlock,
		progress.Serving, progress.Degraded, progress.Locked),
	reflect.TypeFor[approval.State]():      values(approval.Pending, approval.Approved, approval.Done, approval.Failed, approval.Rejected, approval.Expired, approval.Invalid),
	reflect.TypeFor[appliance.Effect]():    values(appliance.EffectAllow, appliance.EffectForbid),
	reflect.TypeFor[appliance.Operation](): values(appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes),
}

func values[T ~string](words ...T) (all []any) {
	for _, w := range words {
		all = append(all, string(w))
	}
	return all
}

// schema gives the schema of a type: a reference, if it is a struct or a set of words.
func (d *openAPI) schema(t reflect.Type) *jsonschema.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s := schemas[t]; s != nil {
		copied := *s
		return &copied
	}
	if t == reflect.TypeFor[Nothing]() {
		return &jsonschema.Schema{Type: "object", Description: "Nothing."}
	}
	if words := enums[t]; words != nil {
		return d.named(t, func() *jsonschema.Schema {
			return &jsonschema.Schema{Type: "string", Enum: words, Description: "One of the words that the API uses for this."}
		})
	}
	switch t.Kind() {
	case reflect.Struct:
		return d.named(t, func() *jsonschema.Schema { return d.object(t) })
	case reflect.Slice:
		return &jsonschema.Schema{Type: "array", Items: d.schema(t.Elem())}
	case reflect.Map:
		return &jsonschema.Schema{Type: "object", AdditionalProperties: d.schema(t.Elem())}
	case reflect.Interface:
		return &jsonschema.Schema{Description: "A value of any type."}
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.String:
		return &jsonschema.Schema{Type: "string"}
	case reflect.Float64:
		return &jsonschema.Schema{Type: "number", Format: "double"}
	case reflect.Int, reflect.Int64:
		return &jsonschema.Schema{Type: "integer", Format: "int64"}
	case reflect.Uint32:
		return &jsonschema.Schema{Type: "integer", Format: "int64", Minimum: jsonschema.Ptr(0.0), Maximum: jsonschema.Ptr(float64(math.MaxUint32))}
	case reflect.Uint64:
		return &jsonschema.Schema{Type: "integer", Format: "int64", Minimum: jsonschema.Ptr(0.0)}
	}
	panic(fmt.Sprintf("the OpenAPI document: %s has no schema", t)) // the table is part of the program
}

// named gives a reference to the schema of a type, which is made once.
func (d *openAPI) named(t reflect.Type, of func() *jsonschema.Schema) *jsonschema.Schema {
	name := d.nameOf(t)
	if _, there := d.Components.Schemas[name]; !there {
		d.Components.Schemas[name] = nil // it may refer to itself
		d.Components.Schemas[name] = of()
	}
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}

// object gives the schema of a struct. What must be there is what [decode] refuses to
// miss, and what answers always have; nothing is null.
func (d *openAPI) object(t reflect.Type) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}}
	input := isInput(t)
	if input {
		s.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}} // false
	}
	for _, m := range members(t) {
		p := d.schema(m.of)
		describeMember(p, t.FieldByIndex(m.index), m.optional && input)
		if input {
			boundAll(p)
		}
		s.Properties[m.name] = p
		s.PropertyOrder = append(s.PropertyOrder, m.name)
		if !m.optional {
			s.Required = append(s.Required, m.name)
		}
	}
	return s
}

// isInput says whether the type is that of a request's body, or of a part of one.
func isInput(t reflect.Type) bool { return inputs()[t] }

var inputs = sync.OnceValue(func() map[reflect.Type]bool {
	all := map[reflect.Type]bool{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		switch {
		case schemas[t] != nil:
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer:
			add(t.Elem())
		case t.Kind() == reflect.Struct && !all[t]:
			all[t] = true
			for _, m := range members(t) {
				add(m.of)
			}
		}
	}
	for _, r := range table {
		add(r.input)
	}
	return all
})

// The tags of members besides jsonschema:"DESCRIPTION": example:"VALUE", any:"true" for a
// member that has no type of its own, and the limits that the code enforces: least:"1"
// and most:"30" of a number, shortest:"1", longest:"256" and pattern:"^[a-z]*$" of a text,
// fewest:"1" and items:"100" of a list and each:"64" of its entries. What a list or a text has of them is
// checked when a body is read ([withinLimits]).
func describeMember(s *jsonschema.Schema, f reflect.StructField, optional bool) {
	s.Description = f.Tag.Get("jsonschema")
	if example, ok := memberExample(f); ok && s.Ref == "" {
		s.Examples = []any{example}
	}
	if f.Tag.Get("any") != "" {
		s.Type = ""
	}
	if pattern := f.Tag.Get("pattern"); pattern != "" {
		s.Pattern = pattern
	}
	if optional && s.Type == "string" {
		s.MinLength = jsonschema.Ptr(1) // what is empty is left out
	}
	if optional && s.Type == "array" {
		s.MinItems = jsonschema.Ptr(1)
	}
	number := func(name string, set func(n int)) {
		if n, err := strconv.Atoi(f.Tag.Get(name)); err == nil {
			set(n)
		}
	}
	number("least", func(n int) { s.Minimum = jsonschema.Ptr(float64(n)) })
	number("most", func(n int) { s.Maximum = jsonschema.Ptr(float64(n)) })
	number("shortest", func(n int) { s.MinLength = jsonschema.Ptr(n) })
	number("longest", func(n int) { s.MaxLength = jsonschema.Ptr(n) })
	number("fewest", func(n int) { s.MinItems = jsonschema.Ptr(n) })
	number(upToTag, func(n int) { // bytes: a text has as many characters at most, and Base64 makes of three bytes four
		if s.ContentEncoding != "" {
			n = (n + 2) / 3 * 4
		}
		s.MaxLength = jsonschema.Ptr(n)
	})
	number("items", func(n int) { s.MaxItems = jsonschema.Ptr(n) })
	if s.Items != nil {
		number("each", func(n int) { s.Items.MaxLength = jsonschema.Ptr(n) })
	}
}

// boundAll gives each text, list and number of a body's schema that has no limit of its own the one
// that holds for all: a body is not longer than [MaxBody], and numbers are exact in JSON.
func boundAll(s *jsonschema.Schema) {
	switch {
	case s == nil:
	case s.Type == "string" && s.MaxLength == nil && len(s.Enum) == 0 && s.Format == "":
		s.MaxLength = jsonschema.Ptr(MaxBody)
	case s.Type == "array":
		if s.MaxItems == nil {
			s.MaxItems = jsonschema.Ptr(MaxBody / 2)
		}
		boundAll(s.Items)
	case s.Type == "integer" && s.Maximum == nil:
		s.Maximum = jsonschema.Ptr(float64(maxNumber))
	}
}

// maxNumber is the greatest number of a body. Greater ones are not exact in JSON (RFC 8259 section 6).
const maxNumber = 1<<53 - 1

// memberExample gives the value of a member's tag example.
func memberExample(f reflect.StructField) (any, bool) {
	text, ok := f.Tag.Lookup("example")
	if !ok {
		return nil, false
	}
	if f.Type.Kind() == reflect.String || f.Type == reflect.TypeFor[time.Time]() || f.Type == reflect.TypeFor[Secret]() {
		return text, true
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(fmt.Sprintf("the example of %s: %v", f.Name, err)) // the type is part of the program
	}
	return v, true
}

// exampleOf gives an example of a body: its members that have one.
func exampleOf(t reflect.Type) any {
	example := map[string]any{}
	for _, m := range members(t) {
		f := t.FieldByIndex(m.index)
		if v, ok := memberExample(f); ok {
			example[m.name] = v
		} else if m.of.Kind() == reflect.Struct && schemas[m.of] == nil && !m.optional {
			example[m.name] = exampleOf(m.of)
		}
	}
	return example
}
