package ui

import "github.com/a-h/templ"

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
