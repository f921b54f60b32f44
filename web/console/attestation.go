package console

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
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
	chosen    bool // the nonce was given
	now       time.Time
	reference string
	facts     []ui.Fact
	state     []ui.Fact // of the head that the evidence names, and its anchors; nil if it names none
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
		d.failure = p.c.message(p.Request, err)
	default:
		return nil, err
	}
	for _, c := range d.verdict.Checks {
		if c.Code == string(fault.TPMReference) && c.Result == appraisal.Pass {
			d.reference = c.Detail
		}
	}
	d.facts = flat("", d.verdict.Facts)
	if err := d.look(p); err != nil {
		return nil, err
	}
	v.body = attestationPage(d)
	return v, nil
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
	status, err := read(p, operation.ShowStatus, operation.Nothing{})
	if err != nil {
		return err
	}
	if s := status.State; s != nil {
		for _, a := range s.Anchors {
			d.state = append(d.state, ui.Fact{Term: anchorName(a.Name), Value: a.Standing()})
		}
	}
	return nil
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
	steps []progress.Step
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

func countResults(v *appraisal.Verdict, r appraisal.Result) int {
	n := 0
	for _, c := range v.Checks {
		if c.Result == r {
			n++
		}
	}
	return n
}
