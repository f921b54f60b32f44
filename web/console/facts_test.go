package console

import (
	"slices"
	"testing"

	"holdfast/attest/tpm"
)

// TestFactsOfAnyType: facts come as the values that they are, and are written as
// they are in JSON: names of named types without quotes, and what is within others
// by itself.
func TestFactsOfAnyType(t *testing.T) {
	type name string
	got := flat("", map[string]any{"a": "text", "b": name("named"), "c": tpm.Hex{0xab, 0xcd}, "d": 7, "e": map[string]string{"x": "1"}, "f": map[string]any{"y": map[name]int{"z": 2}},
		"g": []string{"p", "q"}, "h": true, "i": nil, "j": struct {
			Name string `json:"its_name"`
		}{"k"}})
	var lines []string
	for _, f := range got {
		lines = append(lines, f.Term+"="+f.Value)
	}
	want := []string{"a=text", "b=named", "c=abcd", "d=7", "e · x=1", "f · y · z=2", `g=["p","q"]`, "h=true", "i=null", "j · its name=k"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q\nwant %q", lines, want)
	}
}
