package ui

import (
	"cmp"
	"slices"
	"strings"
)

// Form posts an operation.
type Form struct {
	// Action is the URL.
	Action string
	Hidden []Hidden
	Fields []Field
	// Submit is the button's text; Kind "danger", "quiet" or "" for the main one.
	Submit, Kind string
	// Confirm, if not empty, has to be typed before; Typed is what was typed the last time.
	Confirm, Typed string
	// Folded hides the form, until it is opened by a button of the same text.
	Folded bool
	// Note is said above the fields; Error what was wrong the last time.
	Note, Error string
	// Differences are what is there now and what was typed, of a form that met another change;
	// By says whose. Drop is the URL that gives up what was typed.
	Differences []Difference
	By, Drop    string
	// Prove is the URL of the page that asks for a proof of presence, for a form with a secret
	// that needs one: before it is filled in, since secrets are not kept.
	Prove string
	// ConfirmError marks the field that confirms as wrong.
	ConfirmError bool
	// Continue has the page's script send the form by itself: it goes on with long work.
	Continue bool
	// Inline puts all in one row.
	Inline bool
	// Label names a form for those who do not see where it stands.
	Label string
}

// Hidden is a field that is not shown.
type Hidden struct{ Name, Value string }

// Field is an input of a form.
type Field struct {
	Name, Label, Value, Hint string
	// Error is what was wrong with it the last time.
	Error string
	// Type is an HTML input's, or "select", "textarea" or "checkboxes".
	Type string
	// Options are for select and checkboxes, and what is offered for an input; Values those of them that are chosen.
	Options []Option
	// Grows says that the options are things that people make. No more than 100 of them are
	// offered; what has more is typed.
	Grows                        bool
	Values                       []string
	Required, Mono, AutoFocus    bool
	Autocomplete, Placeholder    string
	Pattern, Min, Max, InputMode string
	Rows                         int
	// DescribedBy is the ID of what else on the page describes it; empty for nothing.
	DescribedBy string
	// File offers to read a file of the user's machine into a textarea.
	File bool
}

// Option is a choice.
type Option struct{ Value, Text string }

func (f Field) id(form Form) string {
	return "f" + strings.NewReplacer("/", "-", " ", "-").Replace(form.Action) + "-" + keyOf(form.Hidden) + f.Name
}

// keyOf tells forms of the same action apart.
func keyOf(hidden []Hidden) string {
	s := ""
	for _, h := range hidden {
		if h.Name != "version" && h.Name != "author" && h.Name != "once" && h.Name != "back" {
			s += strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
					return r
				}
				return '_'
			}, h.Value) + "-"
		}
	}
	return s
}

// describedBy names what describes the field: its error first.
func (f Field) describedBy(id string) string {
	var ids []string
	if f.Error != "" {
		ids = append(ids, id+"-error")
	}
	if f.DescribedBy != "" {
		ids = append(ids, f.DescribedBy)
	}
	if f.Hint != "" {
		ids = append(ids, id+"-hint")
	}
	return strings.Join(ids, " ")
}

// wrongField says whether a field is marked as wrong: it has the focus then, otherwise the form's
// error has.
func (f Form) wrongField() bool {
	return f.ConfirmError || slices.ContainsFunc(f.Fields, func(x Field) bool { return x.Error != "" })
}

func (f Field) inputType() string { return cmp.Or(f.Type, "text") }

// maxOffered is how many options a field offers whose options grow.
const maxOffered = 100

// offered is the field with no more options than a page should have. What has more is typed: a
// choice of one into an input that offers the first of them, a choice of several as words.
func (x Field) offered() Field {
	if !x.Grows || len(x.Options) <= maxOffered {
		return x
	}
	switch x.Type {
	case "select":
		x.Type = "text"
	case "checkboxes":
		x.Type, x.Value = "text", strings.Join(x.Values, " ")
		x.Hint = strings.TrimPrefix(x.Hint+"; names with spaces between them, such as "+x.Options[0].Value+" "+x.Options[1].Value, "; ")
		x.Options, x.Values = nil, nil
		return x
	}
	x.Options = x.Options[:maxOffered]
	return x
}
