package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"holdfast/web/operation"
)

// notTaken are the operations whose example is refused by the appliance of this test, and why.
var notTaken = map[string]string{
	"installCertificate": "the example is no certificate",
	"addPasskey":         "an authenticator is needed",
	"provePasskey":       "an authenticator is needed",
}

// TestExamples: the example of each body is as its schema says, and is not refused as malformed; so
// are the examples of its members.
func TestExamples(t *testing.T) {
	b := newBank(t)
	d := b.document()
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct{ Example json.RawMessage }
			}
		}
	}
	if err := json.Unmarshal(operation.Document(), &doc); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, route := range operation.Table() {
		if !route.TakesBody() {
			continue
		}
		method := strings.ToLower(route.Method)
		example := doc.Paths[route.Path][method].RequestBody.Content[operation.MediaType].Example
		if err := d.validate(d.Paths[route.Path][method].RequestBody.Content[operation.MediaType].Schema, example); err != nil {
			t.Errorf("%s: %s: %v", route.ID, example, err)
		}
		if notTaken[route.ID] != "" {
			continue
		}
		sent++
		// Refused as stale in the end, so that the appliance stays as it is.
		w := b.call(&b.alice, route.Method, b.names.Replace(route.Path), string(example), func(r *http.Request) {
			r.Header.Set("If-Match", `"0000"`)
			r.Header.Set("Content-Type", operation.MediaType)
		})
		if w.Code == http.StatusBadRequest {
			t.Errorf("%s: %s: %s", route.ID, example, w.Body)
		}
	}
	if sent < 25 {
		t.Errorf("only %d examples were sent", sent)
	}
	for name, s := range d.Components.Schemas {
		for member, p := range s.Properties {
			for _, example := range p.Examples {
				text, err := json.Marshal(map[string]any{member: example})
				if err != nil {
					t.Fatal(err)
				}
				if err := d.validate(&jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{member: p}}, text); err != nil {
					t.Errorf("%s.%s: %v", name, member, err)
				}
			}
		}
	}
}

// TestLimits: each text, list and number of a body, and each parameter, has a limit in the document;
// what is beyond it is refused, and a number at the limit is not.
func TestLimits(t *testing.T) {
	b := newBank(t)
	d := b.document()
	tested := 0
	for _, route := range operation.Table() {
		op := d.Paths[route.Path][strings.ToLower(route.Method)]
		media, ok := op.RequestBody.Content[operation.MediaType]
		if !ok {
			continue
		}
		var whole map[string]any
		if err := json.Unmarshal([]byte(samples[route.ID]), &whole); err != nil {
			t.Fatal(err)
		}
		send := func(tags ...string) (int, string) {
			text, err := json.Marshal(whole)
			if err != nil {
				t.Fatal(err)
			}
			w := b.call(&b.alice, route.Method, b.names.Replace(route.Path), string(text), func(r *http.Request) {
				if len(tags) > 0 {
					r.Header["If-Match"] = tags
				}
			})
			return w.Code, w.Body.String()
		}
		var look func(at string, s *jsonschema.Schema, object map[string]any)
		look = func(at string, s *jsonschema.Schema, object map[string]any) {
			for name, p := range d.schema(s).Properties {
				p, was := d.schema(p), object[name]
				if inner, ok := was.(map[string]any); ok {
					look(at+"."+name, p, inner)
				}
				for _, c := range beyond(p) {
					tested++
					object[name] = c.value
					status, answer := 0, ""
					if c.good { // refused as stale in the end, so that the appliance stays as it is
						status, answer = send(`"0000"`)
					} else {
						status, answer = send()
					}
					if refused := status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge; refused == c.good {
						t.Errorf("%s%s.%s, %s: %d %.300s", route.ID, at, name, c.what, status, answer)
					}
				}
				if object[name] = was; was == nil {
					delete(object, name)
				}
			}
		}
		look("", media.Schema, whole)
	}
	if tested < 80 {
		t.Errorf("only %d values were sent", tested)
	}
	for _, s := range d.Components.Schemas {
		if s.AdditionalProperties == nil || s.AdditionalProperties.Not == nil { // no body
			continue
		}
		for name, p := range s.Properties {
			for ; p.Type == "array"; p = p.Items {
				if p.MaxItems == nil {
					t.Errorf("the list %s has no limit", name)
				}
			}
			if p.Type == "string" && p.MaxLength == nil && p.Format == "" && len(p.Enum) == 0 || p.Type == "integer" && (p.Minimum == nil || p.Maximum == nil) {
				t.Errorf("%s has no limit: %+v", name, p)
			}
		}
	}
	long := strings.Repeat("a", operation.MaxParameter+1)
	for _, route := range operation.Table() {
		if path := inPath.ReplaceAllString(strings.ReplaceAll(route.Path, "{seq}", "0"), long); path != route.Path && strings.Contains(path, long) {
			if w := b.call(&b.alice, route.Method, path, samples[route.ID]); w.Code != http.StatusBadRequest {
				t.Errorf("%s with a long name: %d %.200s", route.ID, w.Code, w.Body)
			}
		}
		if slices.ContainsFunc(route.Query, func(q operation.Parameter) bool { return q.Name == "after" }) {
			if w := b.call(&b.alice, route.Method, b.names.Replace(route.Path)+"?after="+long, samples[route.ID]); w.Code != http.StatusBadRequest {
				t.Errorf("%s with a long parameter: %d %.200s", route.ID, w.Code, w.Body)
			}
		}
	}
}

// limited is a value at a limit, which is good, or beyond it.
type limited struct {
	what  string
	value any
	good  bool
}

// beyond gives values at the limits of a schema, and beyond them.
func beyond(s *jsonschema.Schema) (all []limited) {
	if s.MaxLength != nil && s.ContentEncoding == "" {
		all = append(all, limited{fmt.Sprintf("%d characters", *s.MaxLength+1), strings.Repeat("a", *s.MaxLength+1), false})
	}
	if s.Pattern != "" {
		all = append(all, limited{"against the pattern", "\x01 \n", false})
	}
	if len(s.Enum) > 0 && s.Type == "string" {
		all = append(all, limited{"another word", "nobody", false})
	}
	if s.MaxItems != nil {
		item := any("x")
		if s.Items.MaxLength != nil && *s.Items.MaxLength < operation.MaxBody {
			all = append(all, limited{"a long entry", []any{strings.Repeat("a", *s.Items.MaxLength+1)}, false})
		}
		all = append(all, limited{"many entries", slices.Repeat([]any{item}, *s.MaxItems+1), false})
	}
	if s.Maximum != nil {
		all = append(all, limited{"more than the most", *s.Maximum + 1, false}, limited{"the most", *s.Maximum, true})
	}
	if s.Minimum != nil {
		all = append(all, limited{"less than the least", *s.Minimum - 1, false}, limited{"the least", *s.Minimum, true})
	}
	return all
}
