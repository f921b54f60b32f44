package console

import (
	"net/url"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// allowedData is a request that is decided and not made. It is in the page's URL, so that
// the answer stands beside what was asked, and the question can be asked again.
type allowedData struct {
	action   string // the page that it stands on
	fields   []ui.Field
	asked    bool
	decision appliance.Decision
	refused  string
}

// The members of a request in the URL.
const (
	askKey, askPrincipal, askOperation     = "ask_key", "ask_principal", "ask_operation"
	askService, askKMSOperation, askKMSKey = "ask_via_service", "ask_kms_operation", "ask_kms_key_arn"
	askVPC, askVPCE                        = "ask_source_vpc", "ask_source_vpce"
	allowedCard                            = "allowed"
)

// allowed decides what the URL asks about a key; the URL names the key if it is empty.
func (p *page) allowed(keyStore, key string) *allowedData {
	q := p.URL.Query()
	d := &allowedData{action: p.URL.Path + "#" + allowedCard, asked: q.Has(askPrincipal)}
	field := func(name, label, hint string) ui.Field {
		return ui.Field{Name: name, Label: label, Value: q.Get(name), Mono: true, Placeholder: hint}
	}
	if key == "" {
		key = q.Get(askKey)
		x := field(askKey, "Key ID", "")
		x.Required = true
		d.fields = append(d.fields, x)
	}
	principal := field(askPrincipal, "Principal", "arn:aws:iam::123456789012:role/app")
	principal.Required = true
	d.fields = append(d.fields, principal,
		ui.Field{Name: askOperation, Label: "Operation", Type: "select", Value: q.Get(askOperation), Options: []ui.Option{{Value: "Encrypt", Text: "Encrypt"}, {Value: "Decrypt", Text: "Decrypt"}, {Value: "GetAttributes", Text: "GetAttributes"}}},
		field(askService, "Through the AWS service", ""), field(askKMSOperation, "KMS operation", ""), field(askKMSKey, "KMS key ARN", ""),
		field(askVPC, "Source VPC", ""), field(askVPCE, "Source VPC endpoint", ""))
	if !d.asked {
		return d
	}
	decision, err := read(p, operation.TestGrants, operation.GrantTest{KeyName: operation.KeyName{KeyStoreName: operation.KeyStoreName{KeyStore: keyStore}, Key: key},
		Principal: q.Get(askPrincipal), Operation: appliance.Operation(q.Get(askOperation)), ViaService: q.Get(askService), KMSOperation: q.Get(askKMSOperation),
		KMSKeyARN: q.Get(askKMSKey), SourceVPC: q.Get(askVPC), SourceVPCE: q.Get(askVPCE)})
	if err != nil {
		d.refused = p.c.message(p.Request, err)
		return d
	}
	d.decision = decision
	return d
}

// operationsAsked are the operations that policies speak of, by their names in records.
var operationsAsked = map[string]appliance.Operation{"Encrypt": appliance.OpEncrypt, "Decrypt": appliance.OpDecrypt, "GetKeyMetadata": appliance.OpGetAttributes}

// askAgain is the URL that decides a denied request of the audit log by what holds now;
// empty for any other record.
func askAgain(r audit.Record) string {
	op := operationsAsked[r.Operation]
	if r.Kind != audit.KindXKS || r.Result != audit.Denied || op == "" || r.KeyStore == "" || r.Key == "" || r.Principal == "" {
		return ""
	}
	return "/keystores/" + url.PathEscape(r.KeyStore) + "/grants" + query(askKey, r.Key, askPrincipal, r.Principal, askOperation, string(op), askService, r.ViaService,
		askKMSOperation, r.KMSOperation, askKMSKey, r.KMSKeyARN, askVPC, r.SourceVPC, askVPCE, r.SourceVPCE) + "#" + allowedCard
}
