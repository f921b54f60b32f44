package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// quietAudit is an audit log that keeps records in memory.
type quietAudit struct {
	Audit
	records  []*audit.Record
	notReady error // of ordinary operations
}

func (q *quietAudit) Ready() error     { return q.notReady }
func (*quietAudit) ReadyUrgent() error { return nil }
func (q *quietAudit) RecordUrgent(_ context.Context, r *audit.Record) error {
	q.records = append(q.records, r)
	return nil
}
func (q *quietAudit) Record(_ context.Context, r *audit.Record) error {
	if q.notReady != nil {
		return q.notReady
	}
	q.records = append(q.records, r)
	return nil
}

// noSettings has chosen no operation for four eyes.
type noSettings struct{ approval.Settings }

func (noSettings) Setting(context.Context, string) (string, error) {
	return "", fault.Errorf(fault.NotFound, "none")
}

func quiet() (*Performer, *quietAudit) {
	log := &quietAudit{}
	return New(Options{Domain: notHeld{}, Audit: log, Settings: noSettings{}, Approvals: noApprovals{}, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(1_800_000_000, 0) }, Still: asBefore}), log
}

// noApprovals has no request for approval.
type noApprovals struct{ ApprovalStore }

func (noApprovals) Approval(context.Context, string) (*approval.Request, error) {
	return nil, fault.Errorf(fault.NotFound, "there is none")
}

// notHeld is a domain whose state is served, and that is asked nothing else.
type notHeld struct{ Domain }

func (notHeld) Held() error { return nil }

func (notHeld) Look(context.Context) *appliance.Look { return nil }

// asBefore takes callers that are no users.
func asBefore(_ context.Context, was identity.Principal) (identity.Principal, error) { return was, nil }

var admin = identity.Principal{Name: "admin", Role: identity.RoleAdministrator, UserID: "u", Session: "s", ProvenAt: time.Unix(1_800_000_000, 0)}

// filled gives a value of the type in which nothing is empty.
func filled(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch {
	case t == reflect.TypeFor[BackupRequest](): // of which nothing was approved
	case t == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1_800_000_000, 0).UTC()))
	case t == reflect.TypeFor[json.RawMessage]():
		v.SetBytes([]byte(`{"x":1}`))
	case t == reflect.TypeFor[Stream]():
		v.Set(reflect.ValueOf(Stream{Write: func(io.Writer) error { return nil }}))
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).IsExported() {
				v.Field(i).Set(filled(t.Field(i).Type))
			}
		}
	case t == reflect.TypeFor[*audit.NodeRecord]():
		v.Set(reflect.ValueOf(&audit.NodeRecord{Record: &audit.Record{Kind: audit.KindAdmin}}))
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
	case t.Kind() == reflect.Slice:
		v.Set(reflect.Append(v, filled(t.Elem())))
	case t.Kind() == reflect.String:
		v.SetString("a b/ä")
	case t.Kind() == reflect.Bool:
		v.SetBool(true)
	case t.Kind() == reflect.Interface:
		if r := reflect.ValueOf(strings.NewReader("backup")); r.Type().Implements(t) {
			v.Set(r)
		}
	case v.CanInt():
		v.SetInt(5)
	case v.CanUint():
		v.SetUint(5)
	}
	return v
}

// input gives an input of the route in which nothing is empty.
func input(r *Route) any {
	in := filled(r.input)
	for _, f := range r.fields {
		if len(f.Enum) > 0 {
			in.FieldByIndex(f.index).SetString(f.Enum[0])
		}
	}
	return in.Interface()
}

// TestEveryChangeHasAnEffect: the answer of each operation that changes something
// says how far the change is in effect, and no other answer does. A new operation is
// among them by itself.
func TestEveryChangeHasAnEffect(t *testing.T) {
	changes := 0
	for _, r := range Table() {
		p, _ := quiet()
		stub := *r
		stub.subject = func(context.Context, *Caller, any) any { return nil }
		stub.run = func(context.Context, *Caller, any) (any, error) { return filled(r.answer).Interface(), nil }
		in := input(r)
		done, err := stub.Perform(t.Context(), p.As(admin, ""), Request{Path: r.fields.of(in), Read: func() (any, error) { return in, nil }})
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		if r.BinaryAnswer != "" {
			continue
		}
		text, err := json.Marshal(done)
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		var twice any
		if err := jsonv2.Unmarshal(text, &twice); err != nil {
			t.Errorf("%s: %s: %v", r.ID, text, err)
		}
		var answer map[string]json.RawMessage
		_ = json.Unmarshal(text, &answer) // a list has none
		switch effect, want := string(answer[effectName(r.answer)]), `{"nodes":1,"of":1,"late":[],"until":"2027-01-15T08:00:00Z"}`; {
		case r.Changes() && effect != want:
			t.Errorf("%s: the effect is %s, want %s", r.ID, effect, want)
		case !r.Changes() && effect == want:
			t.Errorf("%s changes nothing, and has an effect", r.ID)
		}
		if r.Changes() {
			changes++
		}
	}
	if changes < 40 {
		t.Errorf("only %d changes were asked", changes)
	}
}

// TestAnswersTravel: an answer is read as it was written, with its effect.
func TestAnswersTravel(t *testing.T) {
	for _, done := range []Done[Quota]{{Out: Quota{RequestsPerSecond: 5}}, {Quota{RequestsPerSecond: 5}, &Effect{Nodes: 2, Of: 3, Late: []LateNode{{Node: "b"}, {"c", time.Unix(1_800_000_000, 0).UTC()}}}}} {
		text, err := json.Marshal(done)
		var got Done[Quota]
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || !reflect.DeepEqual(got, done) {
			t.Errorf("%s: %+v: %v", text, got, err)
		}
	}
	none := Listing[KeyStorePage, Named]{By: []Order[Named]{{Name: byID}}, All: func(context.Context, *Caller, KeyStorePage) ([]Named, error) { return nil, nil }}
	none.By[0].Key = func(Named) string { return "" }
	empty, err := none.page(t.Context(), nil, KeyStorePage{})
	if err != nil {
		t.Fatal(err)
	}
	for want, done := range map[string]any{`{"items":[]}`: Done[List[Named]]{Out: empty}, `{"effect":{"nodes":1,"of":1,"late":[]}}`: Done[Nothing]{Effect: &Effect{Nodes: 1, Of: 1, Late: []LateNode{}}}} {
		if text, err := json.Marshal(done); err != nil || string(text) != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestInputsTravel: what a program sends for an input, the API reads as that input,
// of each operation.
func TestInputsTravel(t *testing.T) {
	for _, r := range Table() {
		in := input(r)
		path, query, _ := strings.Cut(r.path(in), "?")
		named, ok := r.named(path)
		if !ok {
			t.Errorf("%s: the path %s is not its own", r.ID, path)
			continue
		}
		body, err := r.encode(in)
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		var from io.Reader = bytes.NewReader(body)
		if r.BinaryRequest != "" {
			from = in.(BackupUpload).Backup
		}
		got, err := r.Decode(Parts{Path: func(name string) string { return named[name] }, Query: query, Body: from})
		if err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("%s: %s?%s %s: read as %+v, want %+v: %v", r.ID, path, query, body, got, in, err)
		}
	}
}

// TestEmptyNames: an input that does not say what it is about is refused, by forms
// and programs as by requests, for each parameter of each path.
func TestEmptyNames(t *testing.T) {
	tried := 0
	for _, r := range Table() {
		for _, f := range r.fields {
			in := reflect.New(r.input).Elem()
			in.Set(reflect.ValueOf(input(r)))
			if field := in.FieldByIndex(f.index); f.in == inPathOf && field.Kind() == reflect.String {
				tried++
				field.SetString("")
				if err := r.fields.valid(in.Interface()); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), f.Name) {
					t.Errorf("%s without %s: %v", r.ID, f.Name, err)
				}
			}
		}
	}
	if tried < 40 {
		t.Errorf("only %d were tried", tried)
	}
	if _, err := ListKeys.Do(t.Context(), (&Performer{}).As(admin, ""), KeyPage{KeyStoreName: KeyStoreName{"p"}, Paging: Paging{Limit: 1001}}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a limit out of its bounds: %v", err)
	}
	if _, err := ListKeys.Do(t.Context(), (&Performer{}).As(admin, ""), KeyPage{KeyStoreName: KeyStoreName{"p"}, Standing: "nonsense"}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a state that there is not: %v", err)
	}
}

// TestSecretsAreHeldOnce: the function of an operation gets the very memory that a
// form or a request was read into, and it is zeroized afterwards: when the operation
// was performed, when it failed, and when the caller may not.
func TestSecretsAreHeldOnce(t *testing.T) {
	takes := 0
	for _, r := range Table() {
		if !holdsSecret(r.input) {
			continue
		}
		takes++
		for name, who := range map[string]identity.Principal{"allowed": admin, "failing": admin} {
			p, log := quiet()
			stub, in := *r, input(r)
			secrets := secretsOf(reflect.ValueOf(in))
			stub.subject = func(context.Context, *Caller, any) any { return nil }
			stub.run = func(_ context.Context, _ *Caller, got any) (any, error) {
				for i, s := range secretsOf(reflect.ValueOf(got)) {
					if &s[0] != &secrets[i][0] || s[0] == 0 {
						t.Errorf("%s: the function gets a copy, or nothing", r.ID)
					}
				}
				if name == "failing" {
					return nil, fault.Errorf(fault.Invalid, "no")
				}
				return filled(r.answer).Interface(), nil
			}
			_, err := stub.Perform(t.Context(), p.As(who, ""), Request{Path: r.fields.of(in), Read: func() (any, error) { return in, nil }})
			if (err != nil) != (name == "failing") {
				t.Errorf("%s, %s: %v", r.ID, name, err)
			}
			for _, s := range secrets {
				if bytes.ContainsFunc(s, func(c rune) bool { return c != 0 }) {
					t.Errorf("%s, %s: %q is not zeroized", r.ID, name, []byte(s))
				}
			}
			for _, rec := range log.records {
				if line, err := rec.MarshalJSON(); err != nil || strings.Contains(string(line), "BQ==") {
					t.Errorf("%s: %s %v", r.ID, line, err)
				}
			}
		}
	}
	if takes < 3 {
		t.Errorf("only %d operations take a secret", takes)
	}
	p, _ := quiet()
	material := Secret("0123456789abcdef0123456789abcdef")
	_, err := CreateKey.Do(t.Context(), p.As(identity.Principal{Name: "eve", Role: identity.RoleViewer}, ""), NewKey{KeyStoreName: KeyStoreName{"p"}, Material: material})
	if fault.CodeOf(err) != fault.Forbidden || bytes.ContainsFunc(material, func(c rune) bool { return c != 0 }) {
		t.Errorf("%v: %q is not zeroized", err, []byte(material))
	}
}

// secretsOf gives the secrets of an input.
func secretsOf(v reflect.Value) (all []Secret) {
	if s, ok := v.Interface().(Secret); ok {
		return []Secret{s}
	}
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				all = append(all, secretsOf(v.Field(i))...)
			}
		}
	}
	return all
}

// TestReadsAreNotChanges: what only reads is not in the audit log, unless something
// leaves the appliance by it.
func TestReadsAreNotChanges(t *testing.T) {
	for _, r := range Table() {
		if r.Mutates() {
			continue
		}
		p, log := quiet()
		stub, in := *r, input(r)
		stub.run = func(context.Context, *Caller, any) (any, error) { return filled(r.answer).Interface(), nil }
		if _, err := stub.Perform(t.Context(), p.As(admin, ""), Request{Path: r.fields.of(in), Read: func() (any, error) { return in, nil }}); err != nil {
			t.Errorf("%s: %v", r.ID, err)
		}
		if recorded := len(log.records) > 0; recorded != r.Recorded || r.Method != http.MethodGet {
			t.Errorf("%s: recorded %t", r.ID, recorded)
		}
	}
}

// settledFleet is one in which a change has come so far.
type settledFleet struct {
	Fleet
	appliance.Settled
}

func (s settledFleet) Settle(ctx context.Context) appliance.Settled {
	if _, bounded := ctx.Deadline(); !bounded {
		panic("an answer waits without end")
	}
	return s.Settled
}

// TestEffectInAFleet: the answer of a change says how many nodes have it, and which may
// serve without it until when, or that this is not known.
func TestEffectInAFleet(t *testing.T) {
	later := time.Unix(1_800_000_060, 0)
	for text, s := range map[string]appliance.Settled{
		"":                           {Nodes: 1, Of: 1},
		"In effect on 3 of 3 nodes.": {Nodes: 3, Of: 3},
		"In effect on 2 of 3 nodes; the others do not serve.":                                                               {Nodes: 2, Of: 3},
		"In effect on 2 of 3 nodes; node c has it or stops to serve by 08:01:00 UTC.":                                       {Nodes: 2, Of: 3, Late: []appliance.LateNode{{ID: "c", Until: later}}},
		"In effect on 1 of 2 nodes; node b may serve without it for a time that is not known: stop its machine to be sure.": {Nodes: 1, Of: 2, Late: []appliance.LateNode{{ID: "b"}}},
	} {
		p, _ := quiet()
		p.Fleet = settledFleet{Settled: s}
		e := p.effect(t.Context())
		if e.String() != text {
			t.Errorf("%q, want %q", e, text)
		}
		until := time.Unix(1_800_000_000, 0)
		if len(s.Late) > 0 {
			until = s.Late[0].Until
		}
		if !e.Until.Equal(until) {
			t.Errorf("%s: until %s, want %s", text, e.Until, until)
		}
	}
}

// TestNodeRevision: the state of a node that showNode names is the one that draining and removing
// compare; that it is heard or behind changes nothing.
func TestNodeRevision(t *testing.T) {
	node := appliance.Node{ID: "a", Address: "a:1", State: appliance.NodeServing, Joined: time.Unix(1, 0).UTC()}
	shown := NodeDetail{appliance.NodeStatus{Node: node, Heard: true, Behind: 3}}
	if Revision(shown) != Revision(&node) {
		t.Error("the two differ")
	}
	node.State = appliance.NodeDrained
	if Revision(shown) == Revision(&node) {
		t.Error("a drained node has the revision of one that serves")
	}
}
