package operation

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// oneWord are words that English makes of two.
var oneWord = []string{"checkpoint", "countersigned", "endpoint", "everything", "networks", "outcome", "passkey", "passkeys", "password"}

// TestPlainNames: the name of each member and each parameter of the API is shown in words that the
// documentation has, too: no two of them run together, and abbreviations as it writes them.
func TestPlainNames(t *testing.T) {
	names, prose := map[string]bool{}, []string{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, one := range v {
				walk(one)
			}
		case map[string]any:
			if properties, ok := v["properties"].(map[string]any); ok {
				for name := range properties {
					names[name] = true
				}
			}
			if name, ok := v["name"].(string); ok && (v["in"] == "path" || v["in"] == "query") {
				names[name] = true
			}
			for key, one := range v {
				if text, ok := one.(string); ok && (key == "description" || key == "summary") {
					prose = append(prose, text)
				}
				walk(one)
			}
		}
	}
	var document any
	if err := json.Unmarshal(Document(), &document); err != nil {
		t.Fatal(err)
	}
	walk(document)
	for _, e := range Table() {
		for _, m := range members(e.input) {
			names[m.name] = true
		}
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```.*?```|`[^`]*`")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		prose = append(prose, code.ReplaceAllString(string(text), ""))
	}
	words := map[string]bool{}
	for _, word := range regexp.MustCompile(`[\pL\d]+`).FindAllString(strings.Join(prose, " "), -1) {
		words[word] = true
	}
	if len(names) < 300 || len(words) < 2000 {
		t.Fatalf("%d names, %d words", len(names), len(words))
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for word := range strings.FieldsSeq(Plain(name)) {
			if abbreviation := strings.ToUpper(word); word != abbreviation && !words[word] && words[abbreviation] {
				t.Errorf("%s is shown as %q, and everywhere else it is %s", name, Plain(name), abbreviation)
			}
			for i := 3; i+3 <= len(word) && !slices.Contains(oneWord, word); i++ {
				if words[word[:i]] && words[word[i:]] {
					t.Errorf("%s is shown as %q: %s and %s are run together", name, Plain(name), word[:i], word[i:])
				}
			}
		}
	}
}
