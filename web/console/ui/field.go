package ui

import (
	"strings"

	"github.com/a-h/templ"
)

// invalid gives the attributes of an input that say what describes it, and that it was wrong:
// then it has the focus.
func invalid(x Field, id string) templ.Attributes {
	a := templ.Attributes{}
	if by := x.describedBy(id); by != "" {
		a["aria-describedby"] = by
	}
	if x.Error != "" {
		a["aria-invalid"], a["autofocus"] = "true", true
	}
	return a
}

// content is the text between the tags of a textarea: a browser drops a line break that it begins
// with (HTML section 13.1.2).
func content(text string) string {
	if strings.HasPrefix(text, "\n") {
		return "\n" + text
	}
	return text
}
