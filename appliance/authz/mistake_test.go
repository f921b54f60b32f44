package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestLooksLikeAnother: a character that looks like another, or like nothing, in whatever
// part of a name, makes a name that is refused. The names themselves are taken, in each of
// AWS's partitions.
func TestLooksLikeAnother(t *testing.T) {
	check := map[string]func(string) error{
		"principal": func(v string) error { return (&Rule{Principal: v}).Mistake() },
		"KMS key ARN": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{KMSKeyARNs: []string{v}}}).Mistake()
		},
		"calling account": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{CallingAccounts: []string{v}}}).Mistake()
		},
		"KMS key account": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{KMSKeyAccounts: []string{v}}}).Mistake()
		},
		"KMS key Region": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{KMSKeyRegions: []string{v}}}).Mistake()
		},
		"via service": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{ViaServices: []string{v}}}).Mistake()
		},
		"source VPC": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{SourceVPCs: []string{v}}}).Mistake()
		},
		"source VPCE": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{SourceVPCEs: []string{v}}}).Mistake()
		},
		"KMS operation": func(v string) error {
			return (&Rule{Principal: "*", Conditions: Conditions{KMSOperations: []string{v}}}).Mistake()
		},
	}
	names := map[string][]string{
		"principal": {"123456789012", "dynamodb.amazonaws.com"}, "calling account": {"123456789012"}, "KMS key account": {"123456789012"}, "KMS key Region": {"us-gov-west-1"},
		"via service": {"s3.us-east-1.amazonaws.com"}, "source VPC": {"vpc-1a2b"}, "source VPCE": {"vpce-1a2b"}, "KMS operation": {"GenerateDataKey"},
	}
	for _, p := range partitions {
		names["principal"] = append(names["principal"], "arn:"+p+":iam::123456789012:role/path/app", "arn:"+p+":sts::123456789012:assumed-role/app/session")
		names["KMS key ARN"] = append(names["KMS key ARN"], "arn:"+p+":kms:us-east-1:123456789012:key/1234abcd")
	}
	invisible := []rune{'\u00ad', '\u200b', '\u200d', '\u2060', '\ufeff', '\u0301', '\u202e', '\u00a0', '\u3000', '\x00', '\x7f', '\u2028', '\U000e0041'}
	for kind, list := range names {
		for _, name := range list {
			if err := check[kind](name); err != nil {
				t.Errorf("%s %q: %v", kind, name, err)
			}
			for i := 0; i <= len(name); i++ {
				for _, r := range invisible {
					if v := name[:i] + string(r) + name[i:]; check[kind](v) == nil {
						t.Errorf("%s %q is taken", kind, v)
					}
				}
				if i < len(name) && name[i] > ' ' { // the full-width form
					if v := name[:i] + string(rune(name[i])-'!'+'！') + name[i+1:]; check[kind](v) == nil {
						t.Errorf("%s %q is taken", kind, v)
					}
				}
			}
		}
	}
}

// TestDigitsOfOtherScripts: an account is written in the digits 0 to 9, and in no other of
// Unicode's, wherever it stands.
func TestDigitsOfOtherScripts(t *testing.T) {
	for _, table := range []*unicode.RangeTable{unicode.Nd, unicode.Nl, unicode.No} {
		for r := rune(0x80); r <= unicode.MaxRune; r++ {
			if !unicode.Is(table, r) {
				continue
			}
			account := "12345678901" + string(r)
			for _, rule := range []Rule{{Principal: account}, {Principal: "arn:aws:iam::" + account + ":role/app"}, {Principal: "*", Conditions: Conditions{CallingAccounts: []string{account}}},
				{Principal: "*", Conditions: Conditions{KMSKeyAccounts: []string{account}}}, {Principal: "*", Conditions: Conditions{KMSKeyARNs: []string{"arn:aws:kms:us-east-1:" + account + ":key/k"}}}} {
				if rule.Mistake() == nil {
					t.Errorf("%+v is taken", rule)
				}
			}
		}
	}
}

func TestMistakenPrincipals(t *testing.T) {
	for _, p := range []string{"*", "AWS Internal", "123456789012", "dynamodb.amazonaws.com", "secretsmanager.us-east-1.amazonaws.com", "ec2.amazonaws.com.cn",
		"arn:aws:iam::123456789012:user/Alice", "arn:aws:iam::123456789012:root", "arn:aws-cn:iam::123456789012:role/path/app", "arn:aws-us-gov:sts::123456789012:assumed-role/app/session@x+y=z,.",
		"arn:aws:sts::123456789012:federated-user/bob", "arn:aws:iam::123456789012:role/app-*", "arn:aws:iam::*:user/A?ice", "arn:*:iam::123456789012:role/*", "arn:aws*:*::1234????9012:*", "arn:aws:iam::123456789012:r*",
		"arn:aws:iam::12*:role/app", "arn:aws:*:*:123456789012:user/x"} {
		if err := cmp.Or((&Rule{Principal: p}).Mistake(), (&Rule{Principal: p}).Doubt()); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{" ", "", "p", "alice", "*a", "12345678901", "1234567890123", "１２３４５６７８９０１２", "12345678901２", "0x3456789012",
		"arn:aws:iam:123456789012:role/app", "arn:aws:iam::123456789012", "arn:aws:iam::12345678901:role/app", "arn:aws:iam::1234567890123:role/app", "arn:aws:iam::12345678901２:role/app", "arn:aws:iam::????????????1*:role/app",
		"ａrn:aws:iam::123456789012:role/app", "arn：aws:iam::123456789012:role/app", "arn:ａws:iam::123456789012:role/app", "arn:aws:iam::123456789012:rоle/app", "arn:aws:iam::123456789012:role/ａpp", "arn:aws:iam::123456789012:role/a\u00a0b",
		"Arn:aws:iam::123456789012:role/app", " arn:aws:iam::123456789012:role/app", "arn:aws:iam::123456789012:role/app ", "arn:aws2:iam::123456789012:role/app", "arn:aws-xx*:iam::123456789012:role/app", "arn::iam::123456789012:role/app",
		"arn:aws:iam:us-east-1:123456789012:role/app", "arn:aws:iam:?:123456789012:role/app", "arn:aws:s3::123456789012:role/app", "arn:aws:iam::123456789012:rol/app", "arn:aws:iam::123456789012:role/", "arn:aws:iam::123456789012:", "arn:aws:iam::123456789012:group/x",
		"dynamodb.amazonaws.con", "dynamodb", ".amazonaws.com", "dynamodb..amazonaws.com", "dynamodb.amazonaws.com.", "Dynamodb.amazonaws.com", "ｄynamodb.amazonaws.com", "aws internal", "arn:aws:iam::123456789012:role/a\x1b[0m"} {
		err := cmp.Or((&Rule{Principal: p}).Mistake(), (&Rule{Principal: p}).Doubt())
		if err == nil {
			t.Errorf("%q is accepted", p)
		} else if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: the error has a control character", p)
		}
	}
}

func TestMistakenConditions(t *testing.T) {
	for name, tt := range map[string]struct {
		set       func(*Conditions, string)
		good, bad []string
	}{
		"calling account": {func(c *Conditions, v string) { c.CallingAccounts = []string{v} }, []string{"123456789012", "1234*", "*", "????????????"}, []string{" ", "12345678901", "123456789012 ", "12345678901２", "abc"}},
		"KMS key account": {func(c *Conditions, v string) { c.KMSKeyAccounts = []string{v} }, []string{"123456789012"}, []string{"1", "1234567890123", "１23456789012"}},
		"KMS key Region":  {func(c *Conditions, v string) { c.KMSKeyRegions = []string{v} }, []string{"us-east-1", "us-gov-west-1", "us-east-?", "eu-*"}, []string{" ", "us-east", "us_east_1", "ｕs-east-1", "US-EAST-1"}},
		"via service":     {func(c *Conditions, v string) { c.ViaServices = []string{v} }, []string{"ebs", "dynamodb.*.amazonaws.com", "s3.us-east-1.amazonaws.com"}, []string{" ", "ｅbs", "EBS", "s3 "}},
		"source VPC":      {func(c *Conditions, v string) { c.SourceVPCs = []string{v} }, []string{"vpc-1a2b", "vpc-*", "*"}, []string{" ", "1a2b", "vpce-1", "ｖpc-1", "vpc-", "VPC-1"}},
		"source VPCE":     {func(c *Conditions, v string) { c.SourceVPCEs = []string{v} }, []string{"vpce-1a2b", "vpce-?"}, []string{"vpc-1", "vpce－1"}},
		"KMS key ARN": {func(c *Conditions, v string) { c.KMSKeyARNs = []string{v} }, []string{"arn:aws:kms:us-east-1:123456789012:key/k", "arn:aws:kms:*", "*", "arn:*:key/x", "arn:aws:kms:us-east-1:123456789012:key/*"},
			[]string{" ", "arn:aws:kms:us-east-1:key/k", "arn:aws:kms:us-east-1:12345678901:key/k", "ａrn:aws:kms:*", "arn:aws2:kms:*", "arn:aws:s3:*", "arn:aws:kms:us-east-1:123456789012:alias/k", "arn:aws:kms", "key/k"}},
		"KMS operation": {func(c *Conditions, v string) { c.KMSOperations = []string{v} }, []string{"GenerateDataKey", "Generate*"}, []string{" ", "kms:Encrypt", "Ｅncrypt", "Encrypt "}},
	} {
		check := func(v string) error {
			r := &Rule{Principal: "*"}
			tt.set(&r.Conditions, v)
			return r.Mistake()
		}
		for _, v := range tt.good {
			if err := check(v); err != nil {
				t.Errorf("%s %q: %v", name, v, err)
			}
		}
		for _, v := range tt.bad {
			if check(v) == nil {
				t.Errorf("%s %q is accepted", name, v)
			}
		}
	}
}

func TestMistakesInCedar(t *testing.T) {
	when := func(s string) string { return "forbid (principal, action, resource) when { " + s + " };" }
	for _, text := range []string{"", `permit (principal, action, resource);`,
		`@id("x") @why("größer") permit (principal == Principal::"arn:aws:iam::123456789012:role/app", action, resource); // für alle`,
		`permit (principal in Account::"123456789012", action == Action::"Encrypt", resource == Key::"k");`,
		when(`principal has account && principal.account == "123456789012"`), when(`principal.name like "arn:aws:iam::*:role/app"`), when(`principal has partition && principal.partition like "aws-*"`),
		when(`context has viaService && ["ebs", "s3"].contains(context.viaService)`), when(`context has kmsKeyArn && context.kmsKeyArn like "arn:aws:kms:*"`), when(`principal.name == "dynamodb.amazonaws.com"`)} {
		if _, err := Parse(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := cmp.Or(MistakeInCedar(text), DoubtInCedar(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{`forbid (principal in Account::"12345678901", action, resource);`, `forbid (principal in Account::"12345678901２", action, resource);`,
		`forbid (principal == Principal::"ａrn:aws:iam::123456789012:role/app", action, resource);`, `forbid (principal == Principal::"\u{ff41}rn:aws:iam::123456789012:role/app", action, resource);`,
		`forbid (principal == Principal::"arn:aws:iam::123456789012:role/*", action, resource);`, `forbid (principal == Principal::"arn:aws2:iam::123456789012:role/app", action, resource);`, `forbid (principal == Principal::" ", action, resource);`,
		`forbid (principal, action, resource == Key::"ｋ");`, `forbid (principal, action, resource in KeyStore::"dеmo");`,
		when(`principal in Account::"1"`), when(`principal has account && principal.account == "12345678901"`), when(`principal has account && "１23456789012" == principal.account`), when(`principal has account && principal.account like "12345678901２*"`),
		when(`principal has partition && principal.partition == "amazon"`), when(`principal.name like "ａrn:*"`), when(`principal.name like "arn:aws2:*"`), when(`principal.name == "arn:aws:iam:123456789012:role/app"`),
		when(`context has viaService && ["ｅbs"].contains(context.viaService)`), when(`context has kmsKeyAccount && context.kmsKeyAccount == "1"`), when(`context has kmsKeyRegion && context.kmsKeyRegion != "us_east_1"`)} {
		if _, err := Parse(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		text := "permit (principal, action, resource);\n" + text
		err := cmp.Or(MistakeInCedar(text), DoubtInCedar(text))
		if err == nil {
			t.Errorf("%s is accepted", text)
		} else if !strings.HasPrefix(err.Error(), "line 2, column 1: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestPrincipalsInCedar: a principal in a policy written by hand is doubted where the one of a grant
// is, for the same reason, however the policy names it; and who knows it can have it.
func TestPrincipalsInCedar(t *testing.T) {
	good, bad := principalsOf()
	ways := map[string]string{
		"scope":    "permit (principal == Principal::%q, action, resource);\n",
		"in":       "permit (principal, action, resource) when { principal in [Principal::%q] };\n",
		"equal":    "permit (principal, action, resource) when { principal.name == %q };\n",
		"turned":   "permit (principal, action, resource) unless { %q != principal.name };\n",
		"contains": "permit (principal, action, resource) when { [%q].contains(principal.name) };\n",
	}
	all := slices.DeleteFunc(append(bad, good...), hasWildcard) // of patterns: TestPatternsInCedar
	names, i := slices.Sorted(maps.Keys(ways)), 0
	for chunk := range slices.Chunk(all, 20) { // of each kind there are more than ways
		name := names[i%len(names)]
		doubtedAlike(t, name, ways[name], chunk)
		i++
	}
}

// doubtedAlike: of policies that each name a principal in some way, those are doubted whose
// principal is.
func doubtedAlike(t *testing.T, name, way string, principals []string) {
	t.Helper()
	var text strings.Builder
	var want []string
	for i, p := range principals {
		fmt.Fprintf(&text, way, p)
		if err := doubtfulPrincipal(p); err != nil {
			want = append(want, fmt.Sprintf("line %d, ", i+1)+err.Error())
		}
	}
	all, err := oddIn(text.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(want) {
		t.Errorf("%s: %d are odd, want %d", name, len(all), len(want))
		return
	}
	for i, o := range all {
		at, why, _ := strings.Cut(want[i], ", ")
		if !o.doubted || !strings.HasPrefix(o.err.Error(), at+", ") || !strings.HasSuffix(o.err.Error(), why) {
			t.Errorf("%s: %v, want %s", name, o.err, want[i])
		}
	}
	if err := MistakeInCedar(text.String()); err != nil {
		t.Errorf("%s: what is only doubted cannot be had: %v", name, err)
	}
	more := len(want) - toldDoubts
	if err := DoubtInCedar(text.String()); more > 0 && (err == nil || strings.Count(err.Error(), "; line ") != toldDoubts-1 || !strings.HasSuffix(err.Error(), fmt.Sprintf("; and %d more", more)) || strings.Contains(err.Error(), "\n")) {
		t.Errorf("%s: %v", name, err)
	} else if len(want) == 0 && err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// TestPatternsInCedar: of a pattern the parts before its first wildcard are judged.
func TestPatternsInCedar(t *testing.T) {
	for pattern, odd := range map[string]bool{
		"*": false, "arn:*": false, "*:role/backup-*": false, "arn:aws*": false, "arn:aws:iam::*:role/app": false, "arn:aws:iam::123456789012:role/a*": false, "arn:aws-cn:sts::123456789012:assumed-role/*": false, "dynamodb.*": false, "arn:aws:i*": false,
		"arn:aws2:*": true, "arn:aws:s3:*": true, "arn:aws:iam:eu-west-1:*": true, "arn:aws:iam::1234:*": true, "arn:aws:iam::12345678901x:role/*": true,
	} {
		text := fmt.Sprintf("permit (principal, action, resource) when { principal.name like %q };", pattern)
		if err := MistakeInCedar(text); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
		if err := DoubtInCedar(text); (err != nil) != odd {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for _, condition := range []string{`principal has partition && principal.partition == "aws-new"`, `principal has service && principal.service like "s3*"`, `principal in Account::"1234"`} {
		text := "forbid (principal, action, resource) when { " + condition + " };"
		if m, d := MistakeInCedar(text), DoubtInCedar(text); m != nil || d == nil {
			t.Errorf("%s: %v, %v", condition, m, d)
		}
	}
}
