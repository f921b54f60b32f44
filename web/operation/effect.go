package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// Effect is how far a change is in effect.
type Effect struct {
	// Nodes is how many nodes have applied the change, Of how many there are. A node that
	// has not, and is not late, has stopped to serve.
	Nodes int `json:"nodes" jsonschema:"How many nodes have applied the change. A node that has not, and is not late, has stopped to serve."`
	Of    int `json:"of" jsonschema:"How many nodes there are."`
	// Late are the nodes that may still serve without it; empty if there is none.
	Late []LateNode `json:"late" jsonschema:"The nodes that may still serve without the change; empty if there is none."`
	// Until is when the change is in effect everywhere at the latest: the time of the
	// answer if no node is late. It is missing if that is not known of a late node.
	Until time.Time `json:"until,omitzero" jsonschema:"When the change is in effect everywhere at the latest. Absent if that is not known of a late node."`
}

// LateNode is a node that may still serve without a change.
type LateNode struct {
	Node string `json:"node" jsonschema:"The ID of the node."` // its ID
	// Until is when it has stopped to serve, unless it has applied the change. It is
	// missing while that is not known: the HSM could not be told of the change, or the
	// database has another one in its place.
	Until time.Time `json:"until,omitzero" jsonschema:"When the node has applied the change or has stopped to serve; absent while that is not known."`
}

// String says it for people; empty for an appliance that is no fleet's.
func (e *Effect) String() string {
	switch {
	case e == nil || e.Of <= 1 && len(e.Late) == 0:
		return ""
	case len(e.Late) == 0 && e.Nodes == e.Of:
		return fmt.Sprintf("In effect on %d of %d nodes.", e.Nodes, e.Of)
	case len(e.Late) == 0:
		return fmt.Sprintf("In effect on %d of %d nodes; the others do not serve.", e.Nodes, e.Of)
	}
	late := make([]string, len(e.Late))
	for i, l := range e.Late {
		late[i] = "node " + l.Node + " may serve without it for a time that is not known: stop its machine to be sure"
		if !l.Until.IsZero() {
			late[i] = "node " + l.Node + " has it or stops to serve by " + l.Until.UTC().Format(time.TimeOnly) + " UTC"
		}
	}
	return fmt.Sprintf("In effect on %d of %d nodes; %s.", e.Nodes, e.Of, strings.Join(late, "; "))
}

// Done is what an operation gave.
type Done[Out any] struct {
	Out Out
	// Effect is how far a change is in effect; nil if the operation changes nothing.
	Effect *Effect
}

func (d Done[Out]) out() any { return d.Out }

// Gave is what an operation gave, of a Done of any type.
func Gave(done any) any {
	if d, ok := done.(interface{ out() any }); ok {
		return d.out()
	}
	return done
}

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
	text, err := encodeAnswer(d.Out)
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

// encodeAnswer writes an answer as encoding/json does; but a list or a map without items is
// empty, and never null.
func encodeAnswer(v any) ([]byte, error) {
	return jsonv2.Marshal(v, jsonv1.DefaultOptionsV1(), jsonv2.FormatNilSliceAsNull(false), jsonv2.FormatNilMapAsNull(false))
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

// settleTime bounds how long an answer waits for the change to be in effect in all nodes
// of a fleet. It is less than listeners and clients wait.
const settleTime = 25 * time.Second

// effect is that of a change that was just made. What the only node has answered is in
// effect.
func (p *Performer) effect(ctx context.Context) *Effect {
	e := &Effect{Nodes: 1, Of: 1, Late: []LateNode{}}
	if p.Fleet != nil {
		ctx, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		s := p.Fleet.Settle(ctx)
		e.Nodes, e.Of = s.Nodes, s.Of
		for _, l := range s.Late {
			e.Late = append(e.Late, LateNode{Node: l.ID, Until: effectTime(l.Until)})
		}
	}
	e.Until = effectTime(p.Now())
	for _, l := range e.Late {
		if l.Until.IsZero() {
			e.Until = l.Until
			break
		}
		if l.Until.After(e.Until) {
			e.Until = l.Until
		}
	}
	return e
}

// Settle waits until what was changed is in effect in all nodes of a fleet, as an answer to an
// operation does, and as long. A node that is silent then has the change later.
func (p *Performer) Settle(ctx context.Context) { p.effect(ctx) }

func effectTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}
