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

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/appraisal"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type attestationData struct {
	report    *operation.Report
	verdict   *appraisal.Verdict
	nonce     string
	node      string   // whose evidence is asked for; empty for the node that answers
	chosen    bool     // the nonce was given
	nodes     []string // of the fleet; nil without one
	now       time.Time
	reference string
	facts     []ui.Fact
	state     []ui.Fact // of the head that the evidence names, and its anchors; nil if it names none
	failure   string
}

func attestation(p *page) (*view, error) {
	d := &attestationData{now: p.now, nonce: strings.TrimSpace(p.URL.Query().Get("nonce")), node: p.URL.Query().Get("node"), report: &operation.Report{}, verdict: &appraisal.Verdict{}}
	if d.chosen = d.nonce != ""; !d.chosen {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		d.nonce = hex.EncodeToString(b)
	}
	v := &view{title: "Attestation report"}
	switch r, err := read(p, operation.ShowReport, operation.Nonce{Nonce: d.nonce, Node: d.node}); fault.CodeOf(err) {
	case "":
		d.report, d.verdict = r, r.Verdict
	case fault.Conflict, fault.Invalid, fault.NotFound, fault.Unreachable:
		d.failure = p.c.message(p.Request, err)
	default:
		return nil, err
	}
	for _, c := range d.verdict.Checks {
		if c.Code == string(fault.TPMReference) && c.Result == appraisal.Pass {
			d.reference = c.Detail
		}
	}
	d.facts = flat("", d.verdict.Facts, maxFact)
	if p.c.Performer.Node() != "" {
		status, err := read(p, operation.ShowFleet, operation.Nothing{})
		if err != nil {
			return nil, err
		}
		for i := range status.Nodes {
			d.nodes = append(d.nodes, status.Nodes[i].ID)
		}
		if d.report.Node == "" {
			d.report.Node = d.node
		}
	}
	if err := d.look(p); err != nil {
		return nil, err
	}
	v.body = attestationPage(d)
	return v, nil
}

// worstFirst gives the checks that failed, those that are missing, those that were not run,
// and those that passed.
func worstFirst(checks []appraisal.Check) []appraisal.Check {
	order := map[appraisal.Result]int{appraisal.Fail: -3, appraisal.Missing: -2, appraisal.NotRun: -1}
	return slices.SortedStableFunc(slices.Values(checks), func(a, b appraisal.Check) int { return order[a.Result] - order[b.Result] })
}

// filters are the fields of what evidence is asked for.
func (d *attestationData) filters() []ui.Field {
	fields := []ui.Field{{Name: "nonce", Label: "Nonce of the auditor", Value: chosenNonce(d), Mono: true}}
	if len(d.nodes) > 0 {
		options := []ui.Option{}
		for _, n := range d.nodes {
			options = append(options, ui.Option{Value: n, Text: n})
		}
		fields = append(fields, ui.Field{Name: "node", Label: "Node", Type: "select", Value: d.report.Node, Options: options, Grows: true})
	}
	return fields
}

// asked are the facts of what the evidence was made for.
func (d *attestationData) asked() []ui.Fact {
	facts := []ui.Fact{{Term: "Nonce", Value: d.nonce, Mono: true}}
	if d.report.Node != "" {
		facts = append(facts, ui.Fact{Term: "Node", Value: d.report.Node, Mono: true})
	}
	if u := d.verdict.Policy; u != nil {
		by := "nobody: it is unsigned"
		if u.Signer != appraisal.Unsigned {
			by = u.Signer
		}
		facts = append(facts, ui.Fact{Term: "Policy", Value: fmt.Sprintf("%s, version %d", u.Name, u.Version)},
			ui.Fact{Term: "Policy signed by", Value: by}, ui.Fact{Term: "Policy SHA-256", Value: u.Digest, Mono: true, Copy: true})
	}
	return facts
}

// download is where the evidence can be had as a file: of the node whose the page shows,
// whichever answers then.
func (d *attestationData) download() string {
	q := url.Values{"nonce": {d.nonce}}
	if d.report.Node != "" {
		q.Set("node", d.report.Node)
	}
	return "/download/evidence.json?" + q.Encode()
}

// look takes the head that the evidence names, and what is known of its anchors.
func (d *attestationData) look(p *page) error {
	named := d.report.State
	if named == nil {
		return nil
	}
	anchored := "no"
	if named.Anchored {
		anchored = "yes"
	}
	d.state = []ui.Fact{{Term: "Number", Value: ui.Count(named.Sequence)}, {Term: "Digest", Value: hex.EncodeToString(named.Digest), Mono: true, Copy: true},
		{Term: "Changed", Component: ui.When(named.At, d.now)}, {Term: "Counted by the TPM", Value: anchored}}
	if d.report.Node != p.c.Performer.Node() {
		return nil // the anchors are known to the other node
	}
	status, err := read(p, operation.ShowStatus, operation.Nothing{})
	if err != nil {
		return err
	}
	if s := status.State; s != nil {
		for _, a := range s.Anchors {
			d.state = append(d.state, ui.Fact{Term: anchorName(a.Name), Value: a.Words()})
		}
	}
	return nil
}

// maxFact is the longest fact that the page shows, in bytes; the evidence has all.
const maxFact = 300

// flat lists facts that are within others, each with the names that lead to it; none that is longer
// than most bytes.
func flat(prefix string, facts map[string]any, most int) []ui.Fact {
	var list []ui.Fact
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		term := strings.ReplaceAll(prefix+name, "_", " ")
		if inner, ok := asWritten(facts[name]).(map[string]any); ok {
			list = append(list, flat(prefix+name+" · ", inner, most)...)
		} else if v := plain(facts[name]); len(v) <= most {
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

// plain writes a fact in a line: a text as it is, texts with commas between, all else in JSON.
func plain(v any) string {
	switch v := asWritten(v).(type) {
	case string:
		return v
	case []any:
		texts := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok || strings.Contains(text, ", ") {
				return inJSON(v)
			}
			texts[i] = text
		}
		return strings.Join(texts, ", ")
	}
	return inJSON(v)
}

func inJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

type historyData struct {
	steps listed[progress.Step]
	now   time.Time
	// broker is what the broker has on record; unknown says why that is not known. Both are
	// empty where no broker releases the PIN.
	broker  *progress.Releases
	unknown string
}

func bootHistory(p *page) (*view, error) {
	steps, err := listOf(p, "", operation.ListBootSteps)
	if err != nil {
		return nil, err
	}
	d := &historyData{steps: steps, now: p.now}
	switch d.broker, err = read(p, operation.ShowReleases, operation.Nothing{}); {
	case fault.CodeOf(err) == fault.Conflict:
	case err != nil:
		d.unknown = string(fault.CodeOf(err)) + ": " + fault.ReasonOf(err)
	}
	return &view{title: "Boots and releases", crumbs: []ui.Link{{Text: "Attestation", URL: "/attestation/report"}}, body: historyPage(d)}, nil
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
