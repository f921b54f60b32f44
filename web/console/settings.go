package console

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type settingsData struct {
	*operation.SettingsDetail
	certificate                operation.Certificate
	fourEyes, request, install ui.Form
	testNotices                ui.Form
	// backup asks for a backup where another person must approve it; nil where nobody must.
	backup                          *ui.Form
	share, restore, unshare, revoke ui.Form
	// policy is the one by which the machine is judged; nil if there is none.
	policy        *operation.AppraisalPolicy
	noPolicy      string // why there is none
	installPolicy ui.Form
	launch        operation.LaunchDetail
	installLaunch ui.Form
	administers   bool
	now           time.Time
	status        operation.Status
}

func settings(p *page) (*view, error) {
	d := &settingsData{now: p.now, administers: p.may(identity.Administer)}
	var errs [4]error
	d.SettingsDetail, errs[0] = read(p, operation.ShowSettings, operation.Nothing{})
	d.certificate, errs[1] = read(p, operation.ShowCertificate, operation.Nothing{})
	d.status, errs[2] = read(p, operation.ShowStatus, operation.Nothing{})
	d.launch, errs[3] = read(p, operation.ShowLaunch, operation.Nothing{})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	d.installLaunch = p.form(operation.InstallLaunch, "", ui.Form{Folded: true, Kind: "quiet", Note: "It counts by its owner's signature and its version, and is in force from the next start of the machine on: restart it then.",
		Fields: []ui.Field{{Name: "document", Label: "Launch document", Type: "textarea", File: true, Mono: true, Required: true, Rows: 4, Hint: "the file that holdfast launch sign --user-data has written"}}})
	var options []ui.Option
	for _, o := range d.Approvable {
		options = append(options, ui.Option{Value: o.ID, Text: o.Words + alsoWith(d.Approvable, o)})
	}
	d.fourEyes = p.form(operation.SetSettings, operation.Revision(d.Settings), ui.Form{Label: "Four eyes", Fields: []ui.Field{
		{Name: "four_eyes", Label: "Operations that need a second person", Type: "checkboxes", Options: options, Values: d.FourEyes},
		{Name: "approval_hours", Label: "Hours until a request expires", Type: "number", Min: strconv.Itoa(approval.LeastHours), Max: strconv.Itoa(approval.MostHours), Required: true, Value: strconv.Itoa(d.ApprovalHours),
			Hint: "1 to 720 (30 days); a request that is there keeps what it was made with"}}})
	if d.administers && p.needsApproval(operation.Backup.Entry()) {
		f := p.form(operation.Backup, "", ui.Form{Kind: "quiet", Note: "Once it is approved, you download it from the page of the request, once."})
		d.backup = &f
	}
	if err := d.appraisal(p); err != nil {
		return nil, err
	}
	d.testNotices = p.form(operation.TestNotices, "", ui.Form{Kind: "quiet"})
	d.request = p.form(operation.RequestCertificate, "", ui.Form{Folded: true, Kind: "quiet", Note: "The key stays on this machine. KMS wants a certificate of a public authority.", Fields: []ui.Field{
		{Name: "names", Label: "DNS names and IP addresses", Mono: true, Required: true, Value: strings.Join(d.certificate.Names, " "), Hint: "with spaces between"}}})
	d.install = p.form(operation.InstallCertificate, "", ui.Form{Folded: true, Kind: "quiet", Fields: []ui.Field{
		{Name: "chain", Label: "Certificate chain (PEM)", Type: "textarea", Mono: true, Rows: 10, Required: true, Hint: "the server's first, then those that signed it"}, ownAuthority, otherName}})
	if before := d.certificate.Previous; before != nil {
		d.restore = p.form(operation.RestoreCertificate, "", ui.Form{Folded: true, Kind: "danger", Note: fmt.Sprintf("The appliance then serves again with the certificate for %s, which ends %s. The present one is kept in its place.", strings.Join(before.Names, ", "), ui.Stamp(before.NotAfter))})
	}
	d.share = p.form(operation.ShareCertificate, "", ui.Form{Folded: true, Kind: "quiet", Note: "All nodes of the fleet serve with it while they are unlocked. The key rests in the database, sealed under the state key. Leave both fields empty to share the certificate of this node.", Fields: []ui.Field{
		{Name: "chain", Label: "Certificate chain (PEM)", Type: "textarea", Mono: true, Rows: 10, Hint: "the server's first, then those that signed it"},
		{Name: "private_key", Label: "Private key (PEM)", Type: "textarea", Mono: true, Rows: 6, Autocomplete: "off"}, ownAuthority, otherName}})
	d.unshare = p.form(operation.UnshareCertificate, "", ui.Form{Folded: true, Kind: "danger", Note: "The shared certificate and its key are removed, and each node serves with its own."})
	d.revoke = p.form(operation.RevokePolicies, "", ui.Form{Folded: true, Kind: "danger", Note: "This machine's TPM then refuses policies and authorizations of older versions, and with them the releases that they name. It cannot be undone.",
		Fields: []ui.Field{{Name: "below", Label: "Refuse versions below", Type: "number", Min: "1", Required: true}}})
	return &view{title: "Settings", body: settingsPage(d)}, nil
}

// appraisal looks at the appraisal policy.
func (d *settingsData) appraisal(p *page) error {
	policy, err := read(p, operation.ShowAppraisalPolicy, operation.Nothing{})
	switch fault.CodeOf(err) {
	case "":
		d.policy = &policy
	case fault.PolicyFile, fault.PolicyUnproven, fault.Conflict:
		d.noPolicy = p.c.message(p.Request, err)
	default:
		return err
	}
	file := func(name, label, hint string) ui.Field {
		return ui.Field{Name: name, Label: label, Type: "textarea", File: true, Mono: true, Rows: 4, Hint: hint}
	}
	policyFile := file("policy", "Signed policy", "what holdfast policy sign has written")
	policyFile.Required = true
	d.installPolicy = p.form(operation.InstallPolicy, "", ui.Form{Folded: true, Kind: "quiet", Note: "It counts by its signature and its version. A machine that serves is judged by it at once; if it does not meet it, keys serve for the time of attestation.lease.",
		Fields: []ui.Field{policyFile,
			file("authorizations", "Authorizations", "the publisher's file, where the machine's TPM releases the PIN; empty leaves those that there are"),
			file("approvals", "Approvals", "the owner's file, on a machine that has an owner; empty leaves those that there are")}})
	return nil
}

// launchFacts are those of a launch file.
func launchFacts(f *operation.LaunchFile) []ui.Fact {
	return []ui.Fact{{Term: "Version", Value: strconv.FormatUint(f.Version, 10)}, {Term: "Owner's key", Value: f.Owner, Mono: true}, {Term: "Launch file SHA-256", Value: f.SHA256, Mono: true, Copy: true}}
}

// policyFacts are those of the policy.
func (d *settingsData) policyFacts() []ui.Fact {
	a := d.policy
	from, force := "the image", "at the next start, or when evidence is renewed"
	if a.Installed {
		from = "installed"
	}
	if a.InForce {
		force = "yes"
	}
	facts := []ui.Fact{{Term: "Policy", Value: fmt.Sprintf("%s, version %d", a.Name, a.Version)}, {Term: "From", Value: from}, {Term: "In force", Value: force},
		{Term: "Policy SHA-256", Value: a.SHA256, Mono: true, Copy: true}, {Term: "Policy signed by", Value: a.Signer, Mono: true},
		{Term: "Installed authorizations", Value: ui.Count(a.Authorizations)}, {Term: "Installed approvals", Value: ui.Count(a.Approvals)}}
	if a.Unproven != "" {
		facts = append(facts, ui.Fact{Term: "Unproven", Value: a.Unproven})
	}
	return facts
}

func certificateRequested(_ *page, r operation.SigningRequest) (*view, error) {
	return &view{title: "Signing request", crumbs: []ui.Link{{Text: "Settings", URL: "/settings"}}, body: requestPage(r.PEM)}, nil
}

// testedNotices shows what came of a test notice.
func testedNotices(_ *page, t operation.TestedNotices) (*view, error) {
	return &view{title: "Test notice", crumbs: []ui.Link{{Text: "Settings", URL: "/settings"}}, body: testedNoticesPage(t.Notices)}, nil
}

// noticeBadge says whether a receiver has taken a test notice.
func noticeBadge(n operation.SentNotice) ui.Badge {
	if n.Taken {
		return ui.Badge{Kind: ui.OK, Text: "Taken"}
	}
	return ui.Badge{Kind: ui.Bad, Text: "Not taken"}
}

// alsoWith says with which other operation one is chosen, without being chosen itself.
func alsoWith(all []operation.Named, o operation.Named) string {
	for _, single := range all {
		if o.With != "" && single.ID == o.With {
			return " (always with: " + single.Words + ")"
		}
	}
	return ""
}

func chosenOperations(d *settingsData) []string {
	var list []string
	for _, o := range d.Approvable {
		switch {
		case slices.Contains(d.FourEyes, o.ID):
			list = append(list, o.Words)
		case o.With != "" && slices.Contains(d.FourEyes, o.With):
			list = append(list, o.Words+alsoWith(d.Approvable, o))
		}
	}
	return list
}

// What is asked of a certificate that AWS KMS would most likely not take.
var (
	ownAuthority = ui.Field{Name: "own_authority", Label: "If no public authority has signed it", Type: "checkboxes", Options: []ui.Option{{Value: "true", Text: "It is of a private authority, which AWS KMS does not take: serve with it"}}}
	otherName    = ui.Field{Name: "other_name", Label: "If it lacks a name that is in use", Type: "checkboxes", Options: []ui.Option{{Value: "true", Text: "It is meant to have other names: serve with it"}}}
)

func usedBy(c operation.Certificate) string {
	if c.Shared {
		return "all nodes that are unlocked"
	}
	return "this node alone"
}
