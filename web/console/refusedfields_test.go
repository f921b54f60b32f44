package console_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/web/console"
	"holdfast/web/operation"
)

// typedTags are the fields that people type text into.
var (
	typedTags   = regexp.MustCompile(`<(input|textarea)[^>]* name="([^"]*)"[^>]*>`)
	typeOf      = regexp.MustCompile(` type="([^"]*)"`)
	describedBy = regexp.MustCompile(` aria-describedby="(\S+)-error`)
)

// formOf gives the text of the first form of an operation on a page; empty if there is none.
func formOf(page, op string) string {
	for _, m := range formTags.FindAllStringSubmatch(page, -1) {
		if m[1] == op {
			return m[0]
		}
	}
	return ""
}

// typedInto gives the names of the fields that people type text into.
func typedInto(form string) (names []string) {
	for _, m := range typedTags.FindAllStringSubmatch(form, -1) {
		if kind := typeOf.FindStringSubmatch(m[0]); kind == nil || !slices.Contains([]string{"hidden", "checkbox", "file"}, kind[1]) {
			names = append(names, m[2])
		}
	}
	return names
}

// marked says whether the page is an error's, and the field of its form has the focus and is
// described by its error.
func marked(page, op, field string) bool {
	if !strings.Contains(page, "<title>Error: ") {
		return false
	}
	for _, m := range typedTags.FindAllStringSubmatch(formOf(page, op), -1) {
		if m[2] == field && strings.Contains(m[0], `aria-invalid="true"`) && strings.Contains(m[0], "autofocus") {
			by := describedBy.FindStringSubmatch(m[0])
			return by != nil && strings.Contains(page, `id="`+by[1]+`-error"`)
		}
	}
	return false
}

// unchecked are fields that nothing is wrong with in this test, and why.
var unchecked = map[string]string{
	"confirm":     "TestRefusedField enters another name",
	"file":        "what is wrong with a file is said line by line",
	"private_key": "the site of the tests has no certificate; its package says what is wrong with it as with the chain",
}

// TestEachFieldIsMarked: whatever of what was typed into a form is refused, its field says so, has
// the focus and is described by what was wrong: for each field that people type into, of each form
// of each page.
func TestEachFieldIsMarked(t *testing.T) {
	c := startConflicts(t)
	things := c.things(c.second)
	tried := 0
	for _, route := range operation.Table() {
		op := route.ID
		if !slices.Contains(console.Operations(), op) {
			continue
		}
		seen := map[string]bool{}
		for _, f := range c.forms(op, route.Path, things) {
			for _, name := range typedInto(formOf(c.second.do(http.MethodGet, f.page, nil, nil).Body.String(), op)) {
				if seen[name] || unchecked[name] != "" {
					continue
				}
				seen[name] = true
				for _, wrong := range []string{strings.Repeat("x", 3000), "§ §"} {
					form := confirmed(things, op, f.values.Get("version"))
					for k, v := range f.values {
						if v[0] != "" {
							form[k] = v
						}
					}
					form.Set(name, wrong)
					form.Set("back", f.page)
					w := c.second.submit("/do/"+op, form)
					if w.Code != http.StatusUnprocessableEntity && len(wrong) < 100 {
						continue // a reason, for example, may say anything
					}
					tried++
					if w.Code != http.StatusUnprocessableEntity || !marked(w.Body.String(), op, name) {
						t.Errorf("%s, %s %.10q: %d, and it is not marked: %s", op, name, wrong, w.Code, regexp.MustCompile(`(?s)role="alert".*?<p>(.*?)</p>`).FindString(w.Body.String()))
					}
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d fields were tried", tried)
	}
}
