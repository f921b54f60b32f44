package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type auditData struct {
	found        *operation.Records
	checks       operation.Verification
	filters      []ui.Field
	query        url.Values
	first, next  string
	verify       ui.Form
	now          time.Time
	failure      string
	export, json string
}

var auditFilters = []string{"actor", "operation", "object", "key_store", "key", "address", "result", "kind", "from", "to", "token", "error", "principal", "kms_request_id", "request_id", "node", "life"}

func auditLog(p *page) (*view, error) {
	d := &auditData{now: p.now, query: url.Values{}, found: &operation.Records{}}
	q := p.URL.Query()
	for _, name := range auditFilters {
		if v := strings.TrimSpace(q.Get(name)); v != "" {
			d.query.Set(name, v)
		}
	}
	filter, err := auditFilter(d.query)
	if err == nil {
		var found *operation.Records
		if found, err = read(p, operation.SearchAudit, operation.AuditSearch{AuditFilter: filter, Limit: pageSize, After: q.Get("after")}); err == nil {
			d.found = found
		}
	}
	switch fault.CodeOf(err) {
	case "":
	case fault.Invalid:
		d.failure = p.c.message(p.Request, err)
	default:
		return nil, err
	}
	if d.checks, err = read(p, operation.ShowAuditVerification, operation.Nothing{}); err != nil {
		return nil, err
	}
	d.fields(p.caller().AuditActors(p.Context()))
	if q.Get("after") != "" {
		d.first = "/audit?" + d.query.Encode()
	}
	if d.found.Next != "" {
		next := url.Values{"after": {d.found.Next}}
		for name, v := range d.query {
			next[name] = v
		}
		d.next = "/audit?" + next.Encode()
	}
	d.json, d.export = "/download/audit.jsonl?"+d.query.Encode(), "/download/audit.csv?"+d.query.Encode()
	d.verify = p.form(operation.VerifyAudit, "", ui.Form{Kind: "quiet"})
	title := "Audit log"
	if d.failure != "" {
		title = errorTitle(d.failure, title)
	}
	return &view{title: title, body: auditPage(d)}, nil
}

// fields makes the fields of the filter.
func (d *auditData) fields(actors []string) {
	kinds := []ui.Option{{Text: "all"}}
	for _, k := range []audit.Kind{audit.KindXKS, audit.KindAdmin, audit.KindBoot, audit.KindLease, audit.KindAudit, audit.KindFleet} {
		kinds = append(kinds, ui.Option{Value: string(k), Text: string(k)})
	}
	field := func(name, label string) ui.Field { return ui.Field{Name: name, Label: label, Value: d.query.Get(name)} }
	who, what := field("actor", "Done or approved by"), field("operation", "Operation")
	who.Grows = true
	for _, name := range actors {
		who.Options = append(who.Options, ui.Option{Value: name})
	}
	for _, words := range operation.RecordedWords() {
		what.Options = append(what.Options, ui.Option{Value: words})
	}
	life := ui.Field{Name: "life", Label: "KMS's requests", Type: "select", Value: d.query.Get("life"), Options: []ui.Option{{Text: "with them"}, {Value: "true", Text: "without, and with what concerns all keys"}}}
	d.filters = []ui.Field{who, what, field("object", "Done to"), field("key_store", "Key store"), field("key", "Key"), field("address", "Address"), field("token", "API token"), field("error", "Error"), field("principal", "Principal"), field("kms_request_id", "KMS request ID"), field("request_id", "Request"), life,
		{Name: "kind", Label: "Kind", Type: "select", Value: d.query.Get("kind"), Options: kinds},
		{Name: "result", Label: "Result", Type: "select", Value: d.query.Get("result"), Options: []ui.Option{{Text: "all"}, {Value: "allowed", Text: "allowed"}, {Value: "denied", Text: "denied"}, {Value: "failed", Text: "failed"}}},
		{Name: "from", Label: "From (UTC)", Type: "datetime-local", Value: d.query.Get("from")}, {Name: "to", Label: "Before (UTC)", Type: "datetime-local", Value: d.query.Get("to")}}
	if node := d.query.Get("node"); node != "" || len(d.found.Nodes) > 1 {
		nodes := []ui.Option{{Text: "all"}}
		for _, n := range d.found.Nodes {
			nodes = append(nodes, ui.Option{Value: n, Text: n})
		}
		if node != "" && !slices.Contains(d.found.Nodes, node) {
			nodes = append(nodes, ui.Option{Value: node, Text: node})
		}
		d.filters = append(d.filters, ui.Field{Name: "node", Label: "Node", Type: "select", Value: node, Options: nodes, Grows: true})
	}
}

// ofLog says whose log it is; nothing without a fleet.
func ofLog(node string) string {
	if node == "" {
		return ""
	}
	return ": node " + node
}

type recordData struct {
	record  *audit.NodeRecord
	changes []change
	asked   []ui.Fact
	proof   string
	failure string
}

// recordURL is the page of a record.
func recordURL(r audit.NodeRecord) string {
	return fmt.Sprintf("/audit/%d", r.Seq) + ofNode(r.Node, "?")
}

// ofNode is the parameter that names a record's node; empty without a fleet.
func ofNode(node, before string) string {
	if node == "" {
		return ""
	}
	return before + url.Values{"node": {node}}.Encode()
}

// change is a member of what an operation changed.
type change struct{ name, before, after string }

func auditRecord(p *page) (*view, error) {
	d := &recordData{}
	seq := p.param("seq")
	n, err := recordNumber(seq, p.URL.Query().Get("node"))
	if err != nil {
		return nil, err
	}
	if d.record, err = read(p, operation.ShowAuditRecord, n); err != nil {
		return nil, err
	}
	d.changes = changesOf(d.record.Before, d.record.After)
	d.asked = askedFacts(d.record.Record)
	proof, err := read(p, operation.ShowAuditProof, n)
	if err != nil {
		d.failure = p.c.message(p.Request, err)
	}
	d.proof = string(proof)
	return &view{title: "Record " + seq, crumbs: []ui.Link{{Text: "Audit log", URL: "/audit"}}, body: recordPage(d)}, nil
}

// askedFacts is what was asked for, member by member.
func askedFacts(r *audit.Record) (facts []ui.Fact) {
	for _, c := range changesOf(nil, r.Asked) {
		facts = append(facts, ui.Fact{Term: cmp.Or(c.name, "Text"), Value: cmp.Or(c.after, "none"), Mono: true})
	}
	return facts
}

// difference gives what an operation changed, in a line for each member, and how many more there
// are than a row shows.
func difference(r *audit.Record) (lines []string, more int) {
	if len(r.Before) == 0 || len(r.After) == 0 {
		return nil, 0
	}
	const shown, long = 3, 60
	for _, c := range changesOf(r.Before, r.After) {
		if c.before == c.after || c.name == "" {
			continue
		}
		if len(lines) == shown {
			more++
			continue
		}
		if strings.HasPrefix(c.before, "[{") || strings.HasPrefix(c.after, "[{") { // a list of things: its page has them
			lines = append(lines, c.name+" changed")
			continue
		}
		lines = append(lines, c.name+": "+cut(orNone(c.before), long)+" → "+cut(orNone(c.after), long))
	}
	return lines, more
}

// firstOf gives the lines of a difference, and says how many more there are.
func firstOf(lines []string, more int) []string {
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

// cut bounds a text, in characters.
func cut(text string, most int) string {
	if all := []rune(text); len(all) > most {
		return string(all[:most]) + "…"
	}
	return text
}

// changesOf lists the members of before and after, those that differ and those
// that do not.
func changesOf(before, after json.RawMessage) []change {
	b, okB := membersOf(before)
	a, okA := membersOf(after)
	if !okB || !okA {
		return []change{{"", string(before), string(after)}}
	}
	names := maps.Clone(b)
	maps.Copy(names, a)
	var list []change
	for _, n := range slices.Sorted(maps.Keys(names)) {
		list = append(list, change{name: n, before: b[n], after: a[n]})
	}
	return list
}

// membersOf gives the members of what was recorded, as [flat] names them. It is false for what is
// no object.
func membersOf(text json.RawMessage) (map[string]string, bool) {
	var object map[string]any
	if len(text) > 0 && json.Unmarshal(text, &object) != nil {
		return nil, false
	}
	members := map[string]string{}
	for _, f := range flat("", object, math.MaxInt) {
		members[f.Term] = f.Value
	}
	return members, true
}

// auditFilter reads the filter of a page of the audit log: fault.Invalid.
func auditFilter(q url.Values) (operation.AuditFilter, error) {
	text := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	if life := text("life"); life != "" && life != "true" && life != "false" {
		return operation.AuditFilter{}, fault.Errorf(fault.Invalid, "life %.40q: use true or false", life)
	}
	f := operation.AuditFilter{Actor: text("actor"), Operation: text("operation"), Object: text("object"), Token: text("token"), Address: text("address"), Error: text("error"), Life: text("life") == "true", KeyStore: text("key_store"), Key: text("key"), Principal: text("principal"), KMSRequestID: text("kms_request_id"), RequestID: text("request_id"),
		Kind: audit.Kind(text("kind")), Result: audit.Result(text("result")), Node: text("node")}
	for name, t := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		v := text(name)
		if v == "" {
			continue
		}
		var err error
		if *t, err = time.Parse(fieldTime, v); err != nil { // a field of time without a zone
			*t, err = time.Parse(time.RFC3339, v)
		}
		if err != nil {
			return f, fault.Errorf(fault.Invalid, "%s %.40q: give a time such as 2026-11-24T12:00:00Z", name, v)
		}
	}
	return f, nil
}

func recordNumber(text, node string) (operation.RecordNumber, error) {
	seq, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seq < 0 {
		return operation.RecordNumber{}, fault.Errorf(fault.Invalid, "record %.40q: a record has a number, from 0", text)
	}
	return operation.RecordNumber{Seq: seq, Node: node}, nil
}
