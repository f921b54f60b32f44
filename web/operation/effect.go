package operation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// Effect is how far a change is in effect.
type Effect struct {
	// Nodes is how many nodes have applied the change.
	Nodes int `json:"nodes"`
	// Late names the nodes that have not applied it yet; empty if all have.
	Late []string `json:"late"`
	// Until is when the change is in effect everywhere at the latest. Of a change that
	// all nodes have applied, it is the time of the answer.
	Until time.Time `json:"until"`
}

// Done is what an operation gave.
type Done[Out any] struct {
	Out Out
	// Effect is how far a change is in effect; nil if the operation changes nothing.
	Effect *Effect
}

func (d Done[Out]) out() any { return d.Out }

// effectName is the member that an answer has of its effect: "effect", unless the
// thing itself has one, as a grant does, which allows or forbids.
func effectName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && slices.ContainsFunc(members(t), func(m member) bool { return m.name == "effect" }) {
		return "change_effect"
	}
	return "effect"
}

// MarshalJSON writes the API's answer: Out, with one more member of a change.
func (d Done[Out]) MarshalJSON() ([]byte, error) {
	if v := reflect.ValueOf(d.Out); v.Kind() == reflect.Slice && v.IsNil() {
		return []byte("[]"), nil
	}
	text, err := json.Marshal(d.Out)
	if err != nil || d.Effect == nil {
		return text, err
	}
	effect, err := json.Marshal(d.Effect)
	if err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(text, []byte("}")) // answers of changes are objects: a test asks each
	if len(out) > 1 {
		out = append(out, ',')
	}
	return fmt.Appendf(out, "%q:%s}", effectName(reflect.TypeFor[Out]()), effect), nil
}

// UnmarshalJSON reads the API's answer.
func (d *Done[Out]) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &d.Out); err != nil {
		return err
	}
	if len(text) == 0 || text[0] != '{' {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	if effect := all[effectName(reflect.TypeFor[Out]())]; effect != nil {
		return json.Unmarshal(effect, &d.Effect)
	}
	return nil
}

// effect is that of a change that was just made. There is one node, and what it
// has answered is in effect.
func (p *Performer) effect() *Effect {
	return &Effect{Nodes: 1, Late: []string{}, Until: p.Now().UTC().Truncate(time.Millisecond)}
}
