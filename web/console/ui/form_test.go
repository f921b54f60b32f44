package ui

import (
	"fmt"
	"strings"
	"testing"
)

// TestOfferedOptions: options that people make are bounded: with more than 100, a choice of one is
// typed into a field that offers the first, and a choice of several is typed as words. What the
// program itself has is offered whole.
func TestOfferedOptions(t *testing.T) {
	options := func(n int) (list []Option) {
		for i := range n {
			list = append(list, Option{Value: fmt.Sprintf("name-%04d", i), Text: "text"})
		}
		return list
	}
	for _, tt := range []struct {
		name         string
		field        Field
		options      int
		has, missing string
	}{
		{"few", Field{Type: "select", Options: options(100), Grows: true}, 100, "<select", "<datalist"},
		{"one of many", Field{Type: "select", Options: options(5000), Value: "name-4999", Grows: true}, 100, `value="name-4999"`, "<select"},
		{"suggestions", Field{Options: options(5000), Grows: true}, 100, "<datalist", "<select"},
		{"several of few", Field{Type: "checkboxes", Options: options(100), Grows: true}, 0, "checkbox", "<datalist"},
		{"several of many", Field{Type: "checkboxes", Options: options(5000), Values: []string{"name-0007", "name-4999"}, Grows: true}, 0, `value="name-0007 name-4999"`, "checkbox"},
		{"the program's", Field{Type: "select", Options: options(150)}, 150, "<select", "<datalist"},
	} {
		tt.field.Name, tt.field.Label = "x", "X"
		var out strings.Builder
		if err := fieldBody(tt.field, "x").Render(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "<option"); n != tt.options || !strings.Contains(out.String(), tt.has) || strings.Contains(out.String(), tt.missing) {
			t.Errorf("%s: %d options: %.300s", tt.name, n, out.String())
		}
	}
}
