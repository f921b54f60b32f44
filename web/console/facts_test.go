package console

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/attest/tpm"
)

// TestFactsOfRecord: the page of a record shows each of its fields. A new one is among
// them by itself; before and after have a table, and the number the title.
func TestFactsOfRecord(t *testing.T) {
	r := &audit.Record{}
	v := reflect.ValueOf(r).Elem()
	want := map[string]string{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i).Addr().Interface().(type) {
		case *json.RawMessage:
			*f = json.RawMessage(`{"x":"` + name + `"}`)
			want[name] = "x " + name
		case *[]string:
			*f = []string{name}
			want[name] = name
		case *uint64:
			*f = 4711
			want[name] = "4711"
		case *int64:
			*f = 4711000
		case *time.Time:
			*f = time.Unix(1_800_000_000, 0)
		default:
			v.Field(i).SetString(name)
			want[name] = name
		}
	}
	delete(want, "Before")
	delete(want, "After")
	shown := fmt.Sprint(recordFacts(&audit.NodeRecord{Record: r}), askedFacts(r))
	for name, value := range want {
		if !strings.Contains(shown, value) {
			t.Errorf("%s is not shown", name)
		}
	}
}

// TestLongChangeIsWhole: what an operation changed is shown member by member, however long.
func TestLongChangeIsWhole(t *testing.T) {
	long := strings.Repeat("permit (principal, action, resource);\n", 100)
	before, _ := json.Marshal(map[string]any{"policy": "", "usage": map[string]bool{"encrypt": true}})
	after, _ := json.Marshal(map[string]any{"policy": long, "usage": map[string]bool{"encrypt": false}, "operations": []string{"Encrypt", "Decrypt"}})
	want := []change{{"operations", "", "Encrypt, Decrypt"}, {"policy", "", long}, {"usage · encrypt", "true", "false"}}
	if got := changesOf(before, after); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestFactsOfAnyType: facts come as the values that they are, and are written as
// they are in JSON: names of named types without quotes, and what is within others
// by itself.
func TestFactsOfAnyType(t *testing.T) {
	type name string
	got := flat("", map[string]any{"a": "text", "b": name("named"), "c": tpm.Hex{0xab, 0xcd}, "d": 7, "e": map[string]string{"x": "1"}, "f": map[string]any{"y": map[name]int{"z": 2}},
		"g": []string{"p", "q"}, "h": true, "i": nil, "j": struct {
			Name string `json:"its_name"`
		}{"k"}}, maxFact)
	var lines []string
	for _, f := range got {
		lines = append(lines, f.Term+"="+f.Value)
	}
	want := []string{"a=text", "b=named", "c=abcd", "d=7", "e · x=1", "f · y · z=2", "g=p, q", "h=true", "i=null", "j · its name=k"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q\nwant %q", lines, want)
	}
}
