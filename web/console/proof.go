package console

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type attestationData struct {
	report    *operation.Report
	verdict   *appraisal.Verdict
	nonce     string
	chosen    bool // the nonce was given
	now       time.Time
	reference string
	facts     []ui.Fact
	failure   string
}

func attestation(p *page) (*view, error) {
	d := &attestationData{now: p.now, nonce: strings.TrimSpace(p.URL.Query().Get("nonce")), report: &operation.Report{}, verdict: &appraisal.Verdict{}}
	if d.chosen = d.nonce != ""; !d.chosen {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		d.nonce = hex.EncodeToString(b)
	}
	v := &view{title: "Attestation report"}
	switch r, err := read(p, operation.ShowReport, operation.Nonce{Nonce: d.nonce}); fault.CodeOf(err) {
	case "":
		d.report, d.verdict = r, r.Verdict
	case fault.Conflict, fault.Invalid:
		d.failure = operation.Message(err)
	default:
		return nil, err
	}
	for _, c := range d.verdict.Checks {
		if c.Code == "E_TPM_REFERENCE" && c.Result == appraisal.Pass {
			d.reference = c.Detail
		}
	}
	d.facts = flat("", d.verdict.Facts)
	v.body = attestationPage(d)
	return v, nil
}

// maxFact is the longest fact that the page shows, in bytes; the evidence has all.
const maxFact = 300

// flat lists facts that are within others, each with the names that lead to it.
func flat(prefix string, facts map[string]any) []ui.Fact {
	var list []ui.Fact
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		term := strings.ReplaceAll(prefix+name, "_", " ")
		if inner, ok := asWritten(facts[name]).(map[string]any); ok {
			list = append(list, flat(prefix+name+" · ", inner)...)
		} else if v := plain(facts[name]); len(v) <= maxFact {
			list = append(list, ui.Fact{Term: term, Value: v, Mono: true})
		}
	}
	return list
}

// asWritten gives a fact by the names that it has in the verdict's document.
func asWritten(fact any) any {
	var tree any
	if text, err := json.Marshal(fact); err != nil || json.Unmarshal(text, &tree) != nil {
		return fact
	}
	return tree
}

// plain writes a fact in a line: a text as it is, all else in JSON.
func plain(v any) string {
	if s, ok := asWritten(v).(string); ok {
		return s
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

type historyData struct {
	steps []appliance.BootStep
	now   time.Time
}

func bootHistory(p *page) (*view, error) {
	steps, err := read(p, operation.ListBootSteps, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &historyData{steps: steps, now: p.now}
	return &view{title: "Boots and releases", crumbs: []ui.Link{{Text: "Attestation", URL: "/attestation/report"}}, body: historyPage(d)}, nil
}

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

var auditFilters = []string{"key_store", "key", "principal", "kms_request_id", "kind", "result", "from", "to"}

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
		if found, err = read(p, operation.SearchAudit, operation.AuditSearch{AuditFilter: filter, Limit: pageSize, Cursor: q.Get("cursor")}); err == nil {
			d.found = found
		}
	}
	switch fault.CodeOf(err) {
	case "":
	case fault.Invalid:
		d.failure = operation.Message(err)
	default:
		return nil, err
	}
	if d.checks, err = read(p, operation.ShowAuditVerification, operation.Nothing{}); err != nil {
		return nil, err
	}
	d.fields()
	if q.Get("cursor") != "" {
		d.first = "/audit?" + d.query.Encode()
	}
	if d.found.Next != "" {
		next := url.Values{"cursor": {d.found.Next}}
		for name, v := range d.query {
			next[name] = v
		}
		d.next = "/audit?" + next.Encode()
	}
	d.json, d.export = "/download/audit.jsonl?"+d.query.Encode(), "/download/audit.csv?"+d.query.Encode()
	d.verify = p.form(operation.VerifyAudit, "", ui.Form{Submit: "Verify the whole log now", Kind: "quiet"})
	return &view{title: "Audit log", body: auditPage(d)}, nil
}

// fields makes the fields of the filter.
func (d *auditData) fields() {
	kinds := []ui.Option{{Text: "all"}}
	for _, k := range []audit.Kind{audit.KindXKS, audit.KindAdmin, audit.KindBoot, audit.KindLease, audit.KindAudit} {
		kinds = append(kinds, ui.Option{Value: string(k), Text: string(k)})
	}
	field := func(name, label string) ui.Field { return ui.Field{Name: name, Label: label, Value: d.query.Get(name)} }
	d.filters = []ui.Field{field("key_store", "Key store"), field("key", "Key"), field("principal", "Principal"), field("kms_request_id", "KMS request ID"),
		{Name: "kind", Label: "Kind", Type: "select", Value: d.query.Get("kind"), Options: kinds},
		{Name: "result", Label: "Result", Type: "select", Value: d.query.Get("result"), Options: []ui.Option{{Text: "all"}, {Value: "allowed", Text: "allowed"}, {Value: "denied", Text: "denied"}, {Value: "failed", Text: "failed"}}},
		{Name: "from", Label: "From (UTC)", Type: "datetime-local", Value: d.query.Get("from")}, {Name: "to", Label: "Before (UTC)", Type: "datetime-local", Value: d.query.Get("to")}}
}

type recordData struct {
	record  *audit.Record
	changes []change
	proof   string
	failure string
}

// change is a member of what an operation changed.
type change struct{ name, before, after string }

func auditRecord(p *page) (*view, error) {
	d := &recordData{}
	seq := p.param("seq")
	n, err := recordNumber(seq)
	if err != nil {
		return nil, err
	}
	if d.record, err = read(p, operation.ShowAuditRecord, n); err != nil {
		return nil, err
	}
	d.changes = changesOf(d.record.Before, d.record.After)
	proof, err := read(p, operation.ShowAuditProof, n)
	if err != nil {
		d.failure = operation.Message(err)
	}
	d.proof = string(proof)
	return &view{title: "Record " + seq, crumbs: []ui.Link{{Text: "Audit log", URL: "/audit"}}, body: recordPage(d)}, nil
}

// changesOf lists the members of before and after, those that differ and those
// that do not.
func changesOf(before, after json.RawMessage) []change {
	var b, a map[string]any
	if json.Unmarshal(before, &b) != nil && len(before) > 0 || json.Unmarshal(after, &a) != nil && len(after) > 0 {
		return []change{{"", string(before), string(after)}}
	}
	names := map[string]bool{}
	for n := range b {
		names[n] = true
	}
	for n := range a {
		names[n] = true
	}
	var list []change
	for n := range names {
		c := change{name: n}
		if v, ok := b[n]; ok {
			c.before = plain(v)
		}
		if v, ok := a[n]; ok {
			c.after = plain(v)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y change) int { return strings.Compare(x.name, y.name) })
	return list
}

func countResults(v *appraisal.Verdict, r appraisal.Result) int {
	n := 0
	for _, c := range v.Checks {
		if c.Result == r {
			n++
		}
	}
	return n
}
