package ui

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/a-h/templ"
)

// Shell is what is around a page.
type Shell struct {
	Title string
	// Crumbs lead to the page from the one above; the page itself is not in it.
	Crumbs []Link
	Nav    []NavGroup
	// User and Role are who is signed in.
	User, Role string
	// State is the appliance's, a badge with the reason; StateURL tells more.
	State  Badge
	Reason string
	// Flash says what was just done.
	Flash string
	// Theme is "", "light" or "dark".
	Theme string
	// Version is the release.
	Version string
	// Here is the URL of the page, to come back to.
	Here string
}

// Link is a text with where it leads.
type Link struct{ Text, URL string }

// NavGroup is a part of the navigation.
type NavGroup struct {
	Title   string
	Entries []NavEntry
}

// NavEntry is one page of the navigation. With the letter g and then Key, the
// keyboard leads to it.
type NavEntry struct {
	Text, URL, Icon, Key string
	Current              bool
	// Count, if not 0, is what waits there.
	Count int
}

// Kind is the tone of a badge or an alert.
type Kind string

// The kinds.
const (
	OK   Kind = "ok"
	Warn Kind = "warn"
	Bad  Kind = "bad"
	Off  Kind = "off"
	Info Kind = "info"
)

// icon is shown besides the colour.
func (k Kind) icon() string {
	switch k {
	case OK:
		return "check"
	case Warn:
		return "alert"
	case Bad:
		return "cross"
	case Off:
		return "pause"
	}
	return "info"
}

// Badge is a short word of state.
type Badge struct {
	Kind Kind
	Text string
}

// Fact is an entry of a list of terms. Value is text; Component, if not nil, takes
// its place. Copy adds a button that copies Value.
type Fact struct {
	Term, Value string
	Component   templ.Component
	Mono, Copy  bool
}

// Form posts an operation.
type Form struct {
	// Action is the URL.
	Action string
	Hidden []Hidden
	Fields []Field
	// Submit is the button's text; Kind "danger", "quiet" or "" for the main one.
	Submit, Kind string
	// Confirm, if not empty, has to be typed before. Folded hides the form behind a
	// button of the text until it is opened.
	Confirm, Folded string
	// Note is said above the fields; Error what was wrong the last time.
	Note, Error string
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
	// Type is an HTML input's, or "select", "textarea" or "checkboxes".
	Type string
	// Options are for select and checkboxes; Values those of them that are chosen.
	Options                      []Option
	Values                       []string
	Required, Mono, AutoFocus    bool
	Autocomplete, Placeholder    string
	Pattern, Min, Max, InputMode string
	Rows                         int
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
		if h.Name != "version" && h.Name != "back" {
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

func (f Field) inputType() string { return cmp.Or(f.Type, "text") }

// Stamp is a time as people read it.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// Ago says how long ago a time is, or how far ahead.
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return "in " + Span(-d)
	}
	if d < time.Second {
		return "now"
	}
	return Span(d) + " ago"
}

// Span is a duration in its largest unit.
func Span(d time.Duration) string {
	plural := func(n int64, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d >= 48*time.Hour:
		return plural(int64(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return plural(int64(d/time.Hour), "hour")
	case d >= 2*time.Minute:
		return plural(int64(d/time.Minute), "minute")
	case d >= time.Second:
		return plural(int64(d/time.Second), "second")
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}

// Count writes a number with a space between thousands.
func Count[T int | int64 | uint64](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// Bytes writes a size.
func Bytes(n int64) string {
	const unit = 1024
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GiB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.1f MiB", float64(n)/(unit*unit))
	case n >= unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	}
	return fmt.Sprintf("%d bytes", n)
}
