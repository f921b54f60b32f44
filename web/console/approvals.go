package console

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type approvalsData struct {
	list  listed[operation.ApprovalDetail]
	now   time.Time
	names map[string]string // of operations
}

func approvals(p *page) (*view, error) {
	list, err := listOf(p, "", operation.ListApprovals)
	if err != nil {
		return nil, err
	}
	return &view{title: "Approvals", body: approvalsPage(&approvalsData{now: p.now, list: list, names: operationWords()})}, nil
}

// operationWords are the words of all operations by their IDs.
func operationWords() map[string]string {
	words := map[string]string{}
	for _, r := range operation.Table() {
		words[r.ID] = r.Words
	}
	return words
}

// approvalData is a request for approval with all that the person who decides needs.
type approvalData struct {
	operation.ApprovalDetail
	name        string
	now         time.Time
	differences []operation.Difference
	// unknown says why the differences are not known; empty if they are.
	unknown string
	// depends is what relies on the thing that the operation is about.
	depends []ui.Fact
	// dependents are the same in full, with who has used it, of an operation that a person
	// confirms by a name; nil of any other. Undiscovered says why they are not known.
	dependents   *operation.Dependents
	undiscovered string
	forms        []ui.Form
	// download is where the one who asked gets what was approved; empty for nothing.
	download string
	// barred says why this user cannot approve; empty if they can, or nobody can.
	barred string
}

func approvalPage(p *page) (*view, error) {
	a, err := read(p, operation.ShowApproval, operation.ApprovalName{Approval: chi.URLParam(p.Request, "approval")})
	if err != nil {
		return nil, err
	}
	d := &approvalData{ApprovalDetail: a, name: orNone(operationWords()[a.Operation]), now: p.now}
	if d.differences, err = p.caller().Differences(p.Context(), a.Request); err != nil {
		d.unknown = p.c.message(p.Request, err)
	}
	d.depends = p.dependsOn(a.Request)
	if of := p.caller().DependentsOf(p.Context(), a.Request); of != nil && p.may(identity.ManageKeys) {
		if d.dependents, err = read(p, operation.ShowDependents, *of); err != nil {
			d.undiscovered = p.c.message(p.Request, err)
		}
	}
	d.decide(p)
	return &view{title: d.name, crumbs: []ui.Link{{Text: "Approvals", URL: "/approvals"}}, body: approvalDetail(d)}, nil
}

// decide makes the forms of what this user may do with the request.
func (d *approvalData) decide(p *page) {
	if d.State != approval.Pending && d.State != approval.Approved || !p.may(identity.ManageKeys) {
		return
	}
	revision := operation.Revision(d.Request)
	why := func(hint string) []ui.Field {
		return []ui.Field{{Name: "reason", Label: "Reason", Required: true, Autocomplete: "off", Hint: hint}}
	}
	own := d.UserID == p.who.UserID && d.Token == ""
	if d.State == approval.Pending {
		if err := p.caller().MayDecide(p.Context(), d.Request); err != nil {
			d.barred = p.c.message(p.Request, err)
		} else {
			d.forms = append(d.forms, p.form(operation.Approve, revision, ui.Form{Label: "Approve", Fields: why("the one who asked and the audit log have it")}, "approval", d.ID))
		}
	}
	if d.State == approval.Approved && own {
		d.perform(p, revision)
	}
	reject := ui.Form{Label: "Reject", Kind: "quiet", Fields: why("the one who asked and the audit log have it")}
	if own {
		reject.Label, reject.Submit, reject.Fields = "Take back", "Take back", why("the audit log has it")
	}
	d.forms = append(d.forms, p.form(operation.Reject, revision, reject, "approval", d.ID))
}

// perform makes what the one who asked does once it was approved.
func (d *approvalData) perform(p *page, revision string) {
	if d.Operation == operation.Backup.ID {
		d.download = "/download/backup?approval=" + d.ID
		return
	}
	f := ui.Form{Label: "Do it now"}
	if d.TakesSecret {
		name := "secret"
		if d.Operation == operation.CreateKeys.ID || d.Operation == operation.CreateGrants.ID {
			f.Fields = []ui.Field{{Name: "file", Label: "The file that you asked with", Type: "textarea", File: true, Mono: true, Required: true, Rows: 8, Hint: "no request for approval stores it, so give it once more"}}
			d.forms = append(d.forms, p.form(operation.PerformApproved, revision, f, "approval", d.ID))
			return
		}
		if d.Operation == operation.CreateKey.ID || d.Operation == operation.RotateKey.ID {
			name = "material"
		}
		f.Fields = []ui.Field{{Name: name, Label: "The secret that you asked with", Type: "password", Required: true, Autocomplete: "off", Hint: "no request for approval stores it, so enter it once more"}}
	}
	d.forms = append(d.forms, p.form(operation.PerformApproved, revision, f, "approval", d.ID))
}

// dependsOn says what relies on the key store and the key that a request is about; nil if it is
// about none.
func (p *page) dependsOn(r *approval.Request) []ui.Fact {
	keyStore, key := operation.AboutOf(r)
	if keyStore == "" {
		return nil
	}
	ks, err := read(p, operation.ShowKeyStore, operation.KeyStoreName{KeyStore: keyStore})
	if err != nil {
		return nil
	}
	var last time.Time
	active := 0
	for _, c := range ks.Credentials {
		if c.LastUsedAt.After(last) {
			last = c.LastUsedAt
		}
		if c.Active {
			active++
		}
	}
	facts := []ui.Fact{{Term: "Active credentials of the key store", Value: strconv.Itoa(active)}, {Term: "KMS called the key store last", Value: whenOrNever(last)}}
	grants := ks.Grants
	if key != "" {
		if k, err := read(p, operation.ShowKey, operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: keyStore}, Key: key}); err == nil {
			facts = append(facts, ui.Fact{Term: "Grants on the key", Value: strconv.Itoa(len(k.Grants))}, ui.Fact{Term: "Versions of the key", Value: strconv.Itoa(len(k.Versions))})
		}
		grants = onWhole(grants)
	}
	return append(facts, ui.Fact{Term: "Grants of the key store", Value: strconv.Itoa(len(grants))})
}

// onWhole gives the grants on all keys of a key store.
func onWhole(all []*appliance.Grant) (whole []*appliance.Grant) {
	for _, g := range all {
		if g.KeyID == "" {
			whole = append(whole, g)
		}
	}
	return whole
}

// approvalFacts say who asked for it, when, from where and why, and the same of the decision.
func approvalFacts(d *approvalData) []ui.Fact {
	facts := []ui.Fact{
		{Term: "Asked by", Value: d.RequestedBy},
		{Term: "Why", Value: orNone(d.Reason)},
		{Term: "Asked", Component: ui.When(d.CreatedAt, d.now)},
		{Term: "From", Value: orNone(d.Address), Mono: true},
	}
	if d.DecidedBy == "" {
		return append(facts, ui.Fact{Term: "Expires", Component: ui.When(d.ExpiresAt, d.now)})
	}
	facts = append(facts, ui.Fact{Term: "Decided by", Value: d.DecidedBy}, ui.Fact{Term: "Decided because", Value: orNone(d.DecisionReason)}, ui.Fact{Term: "Decided", Component: ui.When(d.DecidedAt, d.now)})
	if d.State == approval.Approved {
		facts = append(facts, ui.Fact{Term: "Expires", Component: ui.When(d.ExpiresAt, d.now)})
	}
	if d.Outcome != "" {
		facts = append(facts, ui.Fact{Term: "Failed", Value: d.Outcome})
	}
	return facts
}

// byLines says whether a change is shown line by line: a text of several lines that becomes
// another one.
func byLines(x operation.Difference) bool {
	return x.Before != x.After && (hasLines(x.Before) || hasLines(x.After))
}

// hasLines says whether a text has several lines.
func hasLines(text string) bool { return strings.Contains(text, "\n") }

func whenOrNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return ui.Stamp(t)
}

func approvalBadge(s approval.State) ui.Badge {
	switch s {
	case approval.Pending:
		return ui.Badge{Kind: ui.Info, Text: "Waits"}
	case approval.Approved:
		return ui.Badge{Kind: ui.Info, Text: "Approved, not done yet"}
	case approval.Invalid:
		return ui.Badge{Kind: ui.Bad, Text: "Not valid"}
	case approval.Done:
		return ui.Badge{Kind: ui.OK, Text: "Approved, done"}
	case approval.Failed:
		return ui.Badge{Kind: ui.Bad, Text: "Approved, failed"}
	case approval.Rejected:
		return ui.Badge{Kind: ui.Off, Text: "Rejected"}
	}
	return ui.Badge{Kind: ui.Off, Text: "Expired"}
}

// approved shows the result of an approved operation. One that shows a secret is
// done by the person who asked, and only they come here with a result of it.
func approved(p *page, a operation.ApprovalDetail) (*view, error) {
	switch {
	case a.State == approval.Failed:
		return nil, fault.Errorf(fault.Conflict, "it was approved, and failed: %s", a.Outcome)
	case a.State == approval.Approved && len(a.Result) > 0:
		return performedStep(p, a)
	case a.State == approval.Done && actions[a.Operation].show != nil && len(a.Result) > 0:
		answer, err := actions[a.Operation].decode(a.Result)
		if err != nil {
			return nil, err
		}
		return actions[a.Operation].show(p, answer)
	}
	return &view{title: "Approved", body: approvedPage(a)}, nil
}

// performedStep shows how far the making of an approved file's things is, with the form that goes
// on.
func performedStep(p *page, a operation.ApprovalDetail) (*view, error) {
	var r operation.FileResult
	if err := json.Unmarshal(a.Result, &r); err != nil {
		return nil, err
	}
	what := "keys"
	if a.Operation == operation.CreateGrants.ID {
		what = "grants"
	}
	f := p.form(operation.PerformApproved, operation.Revision(a.Request), ui.Form{Label: "Go on", Continue: r.Stopped == nil,
		Fields: []ui.Field{{Name: "file", Label: "The file that you asked with", Type: "textarea", Mono: true, Required: true, Rows: 4, Value: strings.ReplaceAll(p.values.Get("file"), "\r\n", "\n")}}}, "approval", a.ID)
	d := &fileData{what: what, back: p.here(), result: r, create: &f}
	return &view{title: fmt.Sprintf("%s of %s %s are there", ui.Count(r.Done()), ui.Count(r.Rows), what), body: madeOfFilePage(d)}, nil
}
