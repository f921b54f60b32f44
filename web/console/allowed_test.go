package console

import (
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/audit"
)

// TestAskAgain: a denied request of the audit log, and nothing else, is asked again with all
// that it had.
func TestAskAgain(t *testing.T) {
	denied := audit.Record{Kind: audit.KindXKS, Result: audit.Denied, Operation: "GetKeyMetadata", KeyStore: "bank", Key: "k", Principal: "arn:aws:iam::123456789012:role/a b",
		ViaService: "s3", KMSOperation: "DescribeKey", KMSKeyARN: "arn:aws:kms:eu-west-1:123456789012:key/x", SourceVPC: "vpc-1", SourceVPCE: "vpce-1"}
	u, err := url.Parse(askAgain(denied))
	if err != nil || u.Path != "/keystores/bank/grants" || u.Fragment != allowedCard {
		t.Fatalf("%v %s", err, u)
	}
	want := url.Values{askKey: {"k"}, askPrincipal: {denied.Principal}, askOperation: {"GetAttributes"}, askService: {"s3"}, askKMSOperation: {"DescribeKey"}, askKMSKey: {denied.KMSKeyARN}, askVPC: {"vpc-1"}, askVPCE: {"vpce-1"}}
	if got := u.Query().Encode(); got != want.Encode() {
		t.Errorf("%s", strings.ReplaceAll(got, "&", " "))
	}
	for name, change := range map[string]func(*audit.Record){
		"allowed": func(r *audit.Record) { r.Result = audit.Allowed }, "failed": func(r *audit.Record) { r.Result = audit.Failed },
		"of an administrator": func(r *audit.Record) { r.Kind = audit.KindAdmin }, "health": func(r *audit.Record) { r.Operation = "GetHealthStatus" },
		"without a key": func(r *audit.Record) { r.Key = "" }, "without a principal": func(r *audit.Record) { r.Principal = "" },
	} {
		r := denied
		if change(&r); askAgain(r) != "" {
			t.Errorf("%s: %s", name, askAgain(r))
		}
	}
}
