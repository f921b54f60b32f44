package console

import (
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type grantsData struct {
	*storeData
	grants         listed[operation.Grant]
	create, render ui.Form
	file           ui.Form
	remove         map[string]ui.Form
	policy         string
	setPolicy      ui.Form
	test           *allowedData
}

func grants(p *page) (*view, error) {
	s, err := p.store("Grants and policy")
	if err != nil {
		return nil, err
	}
	d := &grantsData{storeData: s, remove: map[string]ui.Form{}}
	name := operation.KeyStoreName{KeyStore: s.Name}
	if d.grants, err = listOf(p, "", operation.ListGrants); err != nil {
		return nil, err
	}
	policy, err := read(p, operation.ShowPolicy, name)
	if err != nil {
		return nil, err
	}
	d.policy = policy.Cedar
	for _, g := range d.grants.Items {
		d.remove[g.ID] = p.form(operation.RemoveGrant, operation.Revision(g.Grant), ui.Form{Kind: "quiet", Inline: true, Label: "grant to " + g.Principal}, "keystore", s.Name, "grant", g.ID)
	}
	d.create = p.form(operation.CreateGrant, "", grantForm(), "keystore", s.Name)
	d.create.Folded = true
	d.file = p.checkForm(operation.CheckGrantFile, "grants", grantColumns, s.Name)
	d.render = p.form(operation.RenderGrant, "", grantForm(), "keystore", s.Name)
	d.render.Folded, d.render.Kind = true, "quiet"
	d.setPolicy = p.form(operation.SetPolicy, operation.Revision(policy), ui.Form{Label: "Cedar policies", Fields: []ui.Field{
		{Name: "cedar", Label: "Cedar policies", Type: "textarea", Mono: true, Rows: 12, Value: policy.Cedar, Hint: "they hold besides the grants: what one forbids is denied"},
		knownPrincipal("If IAM has no principal of a form that they name, or a via service is not documented", "I know that KMS sends it: set the policies")}}, "keystore", s.Name)
	d.test = p.allowed(s.Name, "")
	return &view{title: "Grants of " + s.Name, crumbs: s.crumbs(ui.Link{Text: "Grants"}), body: grantsPage(d)}, nil
}

var operationOptions = []ui.Option{{Value: "Encrypt", Text: "Encrypt"}, {Value: "Decrypt", Text: "Decrypt"}, {Value: "GetAttributes", Text: "GetAttributes: KMS asks what the key is"}}

// knownPrincipal is the box for a principal of a form that IAM does not have.
func knownPrincipal(label, text string) ui.Field {
	return ui.Field{Name: "force", Label: label, Type: "checkboxes", Options: []ui.Option{{Value: "true", Text: text}}}
}

func grantForm() ui.Form {
	return ui.Form{Fields: []ui.Field{
		{Name: "principal", Label: "Principal", Required: true, Mono: true, Placeholder: "arn:aws:iam::123456789012:role/app-*", Hint: "an ARN, with * and ? if you like; a service such as dynamodb.amazonaws.com; an account of 12 digits; or *"},
		knownPrincipal("If IAM has no principal of this form, or a via service is not documented", "I know that KMS sends it: make the grant"),
		{Name: "operations", Label: "Operations", Type: "checkboxes", Options: operationOptions, Values: []string{"Encrypt", "Decrypt", "GetAttributes"}},
		{Name: "effect", Label: "Effect", Type: "select", Value: "allow", Options: []ui.Option{{Value: "allow", Text: "allow"}, {Value: "forbid", Text: "forbid, whatever else allows"}}},
		{Name: "key_id", Label: "Only this key", Mono: true, Hint: "its ID; empty for all keys of the key store"},
		{Name: "not_after", Label: "Until the end of", Type: "date", Hint: "UTC; empty for ever"},
		{Name: "via_services", Label: "Only through these AWS services", Mono: true, Hint: "such as s3.us-east-1.amazonaws.com; several with spaces between"},
		{Name: "calling_accounts", Label: "Only principals of these accounts", Mono: true},
		{Name: "source_vpcs", Label: "Only from these VPCs", Mono: true},
		{Name: "source_vpces", Label: "Only from these VPC endpoints", Mono: true},
		{Name: "kms_key_arns", Label: "Only for these KMS keys", Mono: true, Hint: "ARNs"},
		{Name: "kms_key_regions", Label: "Only for KMS keys of these Regions", Mono: true},
		{Name: "kms_key_accounts", Label: "Only for KMS keys of these accounts", Mono: true},
		{Name: "kms_operations", Label: "Only for these KMS operations", Mono: true, Hint: "such as GenerateDataKey"},
	}}
}

func renderedGrant(p *page, policy operation.Policy) (*view, error) {
	return &view{title: "Grant in Cedar", body: renderedPage(policy.Cedar, p.here())}, nil
}
