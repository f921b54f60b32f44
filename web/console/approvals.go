package console

import (
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type approvalsData struct {
	list  listed[operation.ApprovalDetail]
	forms map[string][]ui.Form
	now   time.Time
	names map[string]string // of operations
}

func approvals(p *page) (*view, error) {
	list, err := listOf(p, "", operation.ListApprovals)
	if err != nil {
		return nil, err
	}
	d := &approvalsData{now: p.now, list: list, forms: map[string][]ui.Form{}, names: map[string]string{}}
	for _, r := range operation.Table() {
		d.names[r.ID] = r.Words
	}
	for _, a := range d.list.Items {
		if (a.State != approval.Pending && a.State != approval.Approved) || !p.may(identity.ManageKeys) {
			continue
		}
		revision := operation.Revision(a.Request)
		switch own := a.UserID == p.who.UserID; {
		case own:
			if a.State == approval.Approved {
				d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.PerformApproved, revision, ui.Form{Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
			}
		case a.State == approval.Pending:
			d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.Approve, revision, ui.Form{Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
		}
		d.forms[a.ID] = append(d.forms[a.ID], p.form(operation.Reject, revision, ui.Form{Kind: "quiet", Inline: true, Label: d.names[a.Operation] + " " + a.ID[:8]}, "approval", a.ID))
	}
	return &view{title: "Approvals", body: approvalsPage(d)}, nil
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
	case a.State == approval.Done && actions[a.Operation].show != nil && len(a.Result) > 0:
		answer, err := actions[a.Operation].decode(a.Result)
		if err != nil {
			return nil, err
		}
		return actions[a.Operation].show(p, answer)
	}
	return &view{title: "Approved", body: approvedPage(a)}, nil
}
