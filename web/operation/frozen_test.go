package operation

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// frozenFile has the document of API v1 as it was released.
const frozenFile = "openapi-v1.json"

// TestFrozen: what programs rely on of API v1 stays. Additions are allowed. While v1 is not
// released, or when something was added, "make freeze-api" writes the file.
func TestFrozen(t *testing.T) {
	if os.Getenv("FREEZE_API") != "" {
		if err := os.WriteFile(frozenFile, append(Document(), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(frozenFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range breaking(text, Document()) {
		t.Errorf("%s: this breaks programs that use API v1. Take it back, or add instead of changing. Only while no release has API v1 as in %s, run make freeze-api", b, frozenFile)
	}
}

// contract compares two documents.
type contract struct {
	was, is map[string]any
	seen    map[string]bool // pairs of references that are compared
	broken  []string
}

// breaking gives what of the document is breaks a client that was written for was.
func breaking(was, is []byte) []string {
	c := contract{seen: map[string]bool{}}
	if err := json.Unmarshal(was, &c.was); err != nil {
		return []string{err.Error()}
	}
	if err := json.Unmarshal(is, &c.is); err != nil {
		return []string{err.Error()}
	}
	for path, operations := range object(c.was["paths"]) {
		for method, was := range object(operations) {
			at := method + " " + path
			is, there := object(object(c.is["paths"])[path])[method]
			if !there {
				c.breaks(at, "the operation is gone")
				continue
			}
			c.operation(at, object(was), object(is))
		}
	}
	if !reflect.DeepEqual(c.was["security"], c.is["security"]) {
		c.breaks("security", "it is another")
	}
	slices.Sort(c.broken)
	return slices.Compact(c.broken)
}

func object(v any) map[string]any { m, _ := v.(map[string]any); return m }

func list(v any) []any { l, _ := v.([]any); return l }

func (c *contract) breaks(at, format string, args ...any) {
	c.broken = append(c.broken, at+": "+fmt.Sprintf(format, args...))
}

func (c *contract) operation(at string, was, is map[string]any) {
	if was["operationId"] != is["operationId"] {
		c.breaks(at, "its operationId is %v and was %v", is["operationId"], was["operationId"])
	}
	parameters := func(op map[string]any) map[string]map[string]any {
		all := map[string]map[string]any{}
		for _, p := range list(op["parameters"]) {
			all[fmt.Sprint(object(p)["in"], " ", object(p)["name"])] = object(p)
		}
		return all
	}
	before, now := parameters(was), parameters(is)
	for name, p := range before {
		if now[name] == nil {
			c.breaks(at, "the parameter %s is gone", name)
			continue
		}
		c.schema(at+", parameter "+name, object(p["schema"]), object(now[name]["schema"]), true)
	}
	for name, p := range now {
		if p["required"] == true && (before[name] == nil || before[name]["required"] != true) {
			c.breaks(at, "the parameter %s is required", name)
		}
	}
	body, bodyNow := object(was["requestBody"]), object(is["requestBody"])
	if body == nil && bodyNow["required"] == true {
		c.breaks(at, "it needs a body")
	}
	c.content(at+", body", object(body["content"]), object(bodyNow["content"]), true)
	for status, r := range object(was["responses"]) {
		if !strings.HasPrefix(status, "2") && status != "304" {
			continue // failures are problem details, all alike
		}
		now, there := object(is["responses"])[status]
		if !there {
			c.breaks(at, "the status %s is gone", status)
			continue
		}
		c.content(at+", "+status, object(object(r)["content"]), object(object(now)["content"]), false)
	}
	for status := range object(is["responses"]) {
		if _, there := object(was["responses"])[status]; !there && strings.HasPrefix(status, "2") && status != "202" { // administrators choose which operations wait
			c.breaks(at, "the status %s is new", status)
		}
	}
}

func (c *contract) content(at string, was, is map[string]any, input bool) {
	for media, m := range was {
		now, there := is[media]
		if !there {
			c.breaks(at, "the media type %s is gone", media)
			continue
		}
		c.schema(at, object(object(m)["schema"]), object(object(now)["schema"]), input)
	}
}

// schema compares the schemas of what a client sends (input) or gets.
func (c *contract) schema(at string, was, is map[string]any, input bool) {
	pair := fmt.Sprint(was["$ref"], " ", is["$ref"], " ", input)
	if was["$ref"] != nil && is["$ref"] != nil {
		if c.seen[pair] {
			return
		}
		c.seen[pair] = true
		at = strings.TrimPrefix(fmt.Sprint(was["$ref"]), "#/components/schemas/")
	}
	was, is = resolved(c.was, was), resolved(c.is, is)
	if !reflect.DeepEqual(was["type"], is["type"]) && (input || is["type"] == nil || was["type"] != nil) {
		c.breaks(at, "its type is %v and was %v", is["type"], was["type"])
	}
	for _, name := range []string{"format", "contentEncoding"} {
		if was[name] != is[name] {
			c.breaks(at, "its %s is %v and was %v", name, is[name], was[name])
		}
	}
	if input {
		c.limits(at, was, is)
	}
	c.words(at, was, is, input)
	required, requiredNow := list(was["required"]), list(is["required"])
	for name, p := range object(was["properties"]) {
		now, there := object(is["properties"])[name]
		switch {
		case !there:
			c.breaks(at, "the member %q is gone", name)
			continue
		case !input && slices.Contains(required, any(name)) && !slices.Contains(requiredNow, any(name)):
			c.breaks(at, "the member %q may be absent", name)
		}
		c.schema(at+"."+name, object(p), object(now), input)
	}
	for _, name := range requiredNow {
		if input && !slices.Contains(required, name) {
			c.breaks(at, "the member %q is required", name)
		}
	}
	if was["items"] != nil {
		c.schema(at+"[]", object(was["items"]), object(is["items"]), input)
	}
	if values, now := object(was["additionalProperties"]), object(is["additionalProperties"]); values != nil {
		c.schema(at+"{}", values, now, input)
	}
}

func resolved(document, s map[string]any) map[string]any {
	if ref, ok := s["$ref"].(string); ok {
		return object(object(object(document["components"])["schemas"])[strings.TrimPrefix(ref, "#/components/schemas/")])
	}
	return s
}

// limits are those of an input: they may be wider, and not narrower.
func (c *contract) limits(at string, was, is map[string]any) {
	for name, narrower := range map[string]func(was, is float64) bool{
		"minimum": lower, "minLength": lower, "minItems": lower, "maximum": higher, "maxLength": higher, "maxItems": higher,
	} {
		before, limited := was[name].(float64)
		if now, isLimited := is[name].(float64); isLimited && (!limited || narrower(before, now)) {
			c.breaks(at, "its %s is %v and was %v", name, now, was[name])
		}
	}
	if is["pattern"] != nil && is["pattern"] != was["pattern"] {
		c.breaks(at, "its pattern is %v and was %v", is["pattern"], was["pattern"])
	}
}

func lower(was, is float64) bool  { return is > was }
func higher(was, is float64) bool { return is < was }

// words are the values of a set. None may go; of an input there may be more, and answers
// may have more since programs must ignore those that they do not know.
func (c *contract) words(at string, was, is map[string]any, input bool) {
	before, now := list(was["enum"]), list(is["enum"])
	if before == nil && now != nil && input {
		c.breaks(at, "it is one of %v only", now)
	}
	for _, w := range before {
		if now != nil && !slices.Contains(now, w) || now == nil && !input {
			c.breaks(at, "the word %v is gone", w)
		}
	}
}

// TestBreaking: each rule, by a change of a small document that it refuses; and additions,
// which none refuses.
func TestBreaking(t *testing.T) {
	const whole = `{"security":[{"token":[]}],"paths":{"/a":{"post":{"operationId":"make","parameters":[{"name":"q","in":"query","schema":{"type":"string","maxLength":5}}],
"requestBody":{"required":true,"content":{"application/json":{"schema":{"$ref":"#/components/schemas/New"}}}},
"responses":{"201":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/A"}}}},"400":{}}}}},
"components":{"schemas":{"New":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"days":{"type":"integer","minimum":7,"maximum":30}}},
"A":{"type":"object","required":["id"],"properties":{"id":{"type":"string","format":"date-time"},"state":{"type":"string","enum":["on","off"]},"all":{"type":"array","items":{"type":"integer"}}}}}}}`
	for _, tt := range []struct{ from, to, want string }{
		{`"/a":`, `"/b":`, "the operation is gone"},
		{`"post"`, `"put"`, "the operation is gone"},
		{`"make"`, `"build"`, "operationId"},
		{`"name":"q"`, `"name":"p"`, "parameter query q is gone"},
		{`"in":"query"`, `"in":"query","required":true`, "the parameter query q is required"},
		{`"maxLength":5`, `"maxLength":4`, "maxLength"},
		{`"maxLength":5`, `"maxLength":5,"pattern":"^a"`, "pattern"},
		{`"201"`, `"200"`, "the status 201 is gone"},
		{`application/json":{"schema":{"$ref":"#/components/schemas/A`, `text/plain":{"schema":{"$ref":"#/components/schemas/A`, "media type application/json is gone"},
		{`"required":["name"]`, `"required":["name","days"]`, `"days" is required`},
		{`"name":{"type":"string"},`, ``, `"name" is gone`},
		{`"minimum":7`, `"minimum":8`, "minimum"},
		{`"maximum":30`, `"maximum":29`, "maximum"},
		{`"days":{"type":"integer"`, `"days":{"type":"string"`, "type"},
		{`"name":{"type":"string"}`, `"name":{"type":"string","enum":["x"]}`, "it is one of"},
		{`"name":{"type":"string"}`, `"name":{"type":"string","minLength":1}`, "minLength"},
		{`"required":["id"],`, ``, `"id" may be absent`},
		{`"format":"date-time"`, `"format":"date"`, "format"},
		{`,"state":{"type":"string","enum":["on","off"]}`, ``, `"state" is gone`},
		{`["on","off"]`, `["on"]`, "the word off is gone"},
		{`"items":{"type":"integer"}`, `"items":{"type":"string"}`, "A.all[]: its type"},
		{`[{"token":[]}]`, `[{"key":[]}]`, "security"},
		{`{"/a"`, `{"/new":{"get":{}},"/a"`, ""},
		{`"parameters":[`, `"parameters":[{"name":"new","in":"query","schema":{"type":"string"}},`, ""},
		{`"maxLength":5`, `"maxLength":6`, ""},
		{`"minimum":7,`, ``, ""},
		{`"name":{"type":"string"},`, `"name":{"type":"string"},"new":{"type":"string"},`, ""},
		{`["on","off"]`, `["on","off","new"]`, ""},
		{`"required":["id"]`, `"required":["id","state"]`, ""},
		{`"400":{}`, `"400":{},"202":{}`, ""},
	} {
		changed := strings.Replace(whole, tt.from, tt.to, 1)
		got := strings.Join(breaking([]byte(whole), []byte(changed)), "; ")
		if changed == whole || tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s to %s: %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}
