package operation

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestLinks: what an operation makes is named, by links, to each operation that is about it and
// nothing else: to the one that shows it at the least. A link gives every parameter of the path, of
// the path that was asked or of a member that the answer always has.
func TestLinks(t *testing.T) {
	var d struct {
		Paths map[string]map[string]struct {
			ID        string `json:"operationId"`
			Responses map[string]struct {
				Content map[string]struct{ Schema map[string]any }
				Links   map[string]apiLink
			}
		}
		Components struct {
			Schemas map[string]struct{ Required []string }
		}
	}
	if err := json.Unmarshal(Document(), &d); err != nil {
		t.Fatal(err)
	}
	byID := map[string]*Route{}
	for _, r := range Table() {
		byID[r.ID] = r
	}
	for _, r := range Table() {
		made := d.Paths[r.Path][strings.ToLower(r.Method)].Responses["201"]
		shown := false
		for name, l := range made.Links {
			about := byID[l.Operation]
			if about == nil || name != l.Operation || !strings.HasPrefix(inPath.ReplaceAllString(about.Path, "{}")+"/", inPath.ReplaceAllString(r.Makes, "{}")+"/") {
				t.Errorf("%s: the link %s leads to %q", r.ID, name, l.Operation)
				continue
			}
			shown = shown || about.Method == "GET" && inPath.ReplaceAllString(about.Path, "{}") == inPath.ReplaceAllString(r.Makes, "{}")
			for _, parameter := range inPath.FindAllString(about.Path, -1) {
				from := l.Parameters[strings.Trim(parameter, "{}")]
				member, ofAnswer := strings.CutPrefix(from, "$response.body#/")
				asked, ofPath := strings.CutPrefix(from, "$request.path.")
				ref, _ := made.Content[MediaType].Schema["$ref"].(string)
				always := false
				for _, m := range d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")].Required {
					always = always || m == member
				}
				if !(ofAnswer && always) && !(ofPath && strings.Contains(r.Path, "{"+asked+"}")) {
					t.Errorf("%s, link %s: the parameter %s is %q", r.ID, name, parameter, from)
				}
			}
			if len(l.Parameters) != strings.Count(about.Path, "{") {
				t.Errorf("%s, link %s: %v for %s", r.ID, name, l.Parameters, about.Path)
			}
		}
		if shown != (r.Makes != "") {
			t.Errorf("%s makes %q, and a link shows it: %v", r.ID, r.Makes, shown)
		}
	}
}
