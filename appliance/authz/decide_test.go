package authz

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	alice    = "arn:aws:iam::123456789012:user/Alice"
	app      = "arn:aws:iam::123456789012:role/app-1"
	session  = "arn:aws:sts::123456789012:assumed-role/app/i-0abc"
	stranger = "arn:aws:iam::999999999999:role/app-1"
	dynamodb = "dynamodb.amazonaws.com"
	keyARN   = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func all(principal string) Rule { return Rule{Principal: principal, Operations: operations} }

func (r Rule) forbid() Rule                { r.Effect = Forbid; return r }
func (r Rule) on(key string) Rule          { r.Key = key; return r }
func (r Rule) only(ops ...Operation) Rule  { r.Operations = ops; return r }
func (r Rule) until(t time.Time) Rule      { r.NotAfter = t; return r }
func (r Rule) when(c Conditions) Rule      { r.Conditions = c; return r }
func rules(r ...Rule) []Rule               { return r }
func from(p string, op Operation) Request  { return Request{Principal: p, Operation: op} }
func (r Request) via(s string) Request     { r.ViaService = s; return r }
func (r Request) vpc(s, e string) Request  { r.SourceVPC, r.SourceVPCE = s, e; return r }
func (r Request) kmsKey(s string) Request  { r.KMSKeyARN = s; return r }
func (r Request) kmsOp(s string) Request   { r.KMSOperation = s; return r }
func (r Request) onKey(s string) Request   { r.Key = s; return r }
func (r Request) at(t time.Time) Request   { r.Time = t; return r }
func (r Request) inStore(s string) Request { r.KeyStore = s; return r }

// compile names the rules g1, g2 and so on.
func compile(t testing.TB, list []Rule) []*Policy {
	t.Helper()
	var policies []*Policy
	for i, r := range list {
		r.ID = fmt.Sprintf("g%d", i+1)
		if r.Effect == "" {
			r.Effect = Allow
		}
		p, err := r.Compile()
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	return policies
}

func (r Request) defaults() Request {
	if r.Time.IsZero() {
		r.Time = now
	}
	if r.Key == "" {
		r.Key = "ledger"
	}
	if r.KeyStore == "" {
		r.KeyStore = "payments"
	}
	return r
}

// TestDecisions: each request with the rules that there are, the Cedar written
// by hand, and the decision with its reason.
func TestDecisions(t *testing.T) {
	const none = "no grant allows it"
	vpc := Conditions{SourceVPCs: []string{"vpc-1", "vpc-2"}}
	tests := []struct {
		name  string
		rules []Rule
		cedar string
		r     Request
		want  string
	}{
		{"nothing", nil, "", from(alice, Encrypt), none},
		{"exact", rules(all(alice)), "", from(alice, Encrypt), "allowed by g1"},
		{"exact, another", rules(all(alice)), "", from(app, Encrypt), none},
		{"exact, case matters", rules(all(alice)), "", from(strings.ToLower(alice), Encrypt), none},
		{"exact, longer", rules(all(alice)), "", from(alice+"2", Encrypt), none},
		{"exact, shorter", rules(all(alice)), "", from(alice[:len(alice)-1], Encrypt), none},
		{"the seed's service, Encrypt", rules(all(dynamodb)), "", from(dynamodb, Encrypt), "allowed by g1"},
		{"the seed's service, Decrypt", rules(all(dynamodb)), "", from(dynamodb, Decrypt), "allowed by g1"},
		{"the seed's service, GetAttributes", rules(all(dynamodb)), "", from(dynamodb, GetAttributes), "allowed by g1"},
		{"the seed's service, another", rules(all(dynamodb)), "", from("ec2.amazonaws.com", Encrypt), none},
		{"the seed's service, forged suffix", rules(all(dynamodb)), "", from(dynamodb+".evil.example", Encrypt), none},
		{"the seed's *, a user", rules(all("*")), "", from(alice, Encrypt), "allowed by g1"},
		{"the seed's *, a service", rules(all("*")), "", from(dynamodb, Decrypt), "allowed by g1"},
		{"the seed's *, AWS Internal", rules(all("*")), "", from("AWS Internal", GetAttributes), "allowed by g1"},
		{"the seed's *, a star itself", rules(all("*")), "", from("*", GetAttributes), "allowed by g1"},
		{"both of the seed", rules(all(dynamodb), all("*")), "", from(dynamodb, Encrypt), "allowed by g1, g2"},
		{"AWS Internal, exact", rules(all("AWS Internal")), "", from("AWS Internal", Encrypt), "allowed by g1"},

		{"one operation", rules(all(alice).only(Encrypt)), "", from(alice, Encrypt), "allowed by g1"},
		{"another operation", rules(all(alice).only(Encrypt)), "", from(alice, Decrypt), none},
		{"two operations", rules(all(alice).only(Encrypt, GetAttributes)), "", from(alice, GetAttributes), "allowed by g1"},
		{"not of two operations", rules(all(alice).only(Encrypt, GetAttributes)), "", from(alice, Decrypt), none},
		{"no operation of ours", rules(all("*")), "", from(alice, "Sign"), none},

		{"on the key", rules(all(alice).on("ledger")), "", from(alice, Encrypt), "allowed by g1"},
		{"on another key", rules(all(alice).on("other")), "", from(alice, Encrypt), none},
		{"key and key store", rules(all(alice).on("ledger"), all(alice)), "", from(alice, Encrypt), "allowed by g1, g2"},

		{"account", rules(all("123456789012")), "", from(alice, Encrypt), "allowed by g1"},
		{"account, a session", rules(all("123456789012")), "", from(session, Encrypt), "allowed by g1"},
		{"account, its root", rules(all("123456789012")), "", from("arn:aws:iam::123456789012:root", Encrypt), "allowed by g1"},
		{"account, China", rules(all("123456789012")), "", from("arn:aws-cn:iam::123456789012:role/r", Encrypt), "allowed by g1"},
		{"account, another", rules(all("123456789012")), "", from(stranger, Encrypt), none},
		{"account, a service has none", rules(all("123456789012")), "", from(dynamodb, Encrypt), none},
		{"account, not elsewhere in the ARN", rules(all("123456789012")), "", from("arn:aws:iam::999999999999:role/123456789012", Encrypt), none},
		{"account, not a text that ends so", rules(all("123456789012")), "", from("x:123456789012", Encrypt), none},

		{"pattern", rules(all("arn:aws:iam::123456789012:role/app-*")), "", from(app, Encrypt), "allowed by g1"},
		{"pattern, star for nothing", rules(all("arn:aws:iam::123456789012:role/app-1*")), "", from(app, Encrypt), "allowed by g1"},
		{"pattern, another beginning", rules(all("arn:aws:iam::123456789012:role/app-*")), "", from(alice, Encrypt), none},
		{"pattern, another account", rules(all("arn:aws:iam::123456789012:role/app-*")), "", from(stranger, Encrypt), none},
		{"pattern, sessions", rules(all("arn:aws:sts::123456789012:assumed-role/app/*")), "", from(session, Encrypt), "allowed by g1"},
		{"pattern, sessions of another role", rules(all("arn:aws:sts::123456789012:assumed-role/app/*")), "", from("arn:aws:sts::123456789012:assumed-role/apple/x", Encrypt), none},
		{"pattern, every account", rules(all("arn:aws:iam::*:role/app-1")), "", from(stranger, Encrypt), "allowed by g1"},
		{"pattern, star keeps to its part", rules(all("arn:*:iam::123456789012:role/app")), "", from("arn:aws:iam::999999999999:role/x:iam::123456789012:role/app", Encrypt), none},
		{"pattern, star over a path", rules(all("arn:aws:iam::123456789012:role/*")), "", from("arn:aws:iam::123456789012:role/a/b:c", Encrypt), "allowed by g1"},
		{"pattern, in the middle", rules(all("arn:aws:iam::123456789012:role/*-1")), "", from(app, Encrypt), "allowed by g1"},
		{"pattern, beginning and end overlap", rules(all("arn:aws:iam::123456789012:role/app-*p-1")), "", from(app, Encrypt), none},
		{"pattern, one character", rules(all("arn:aws:iam::123456789012:role/app-?")), "", from(app, Encrypt), "allowed by g1"},
		{"pattern, one character is not two", rules(all("arn:aws:iam::123456789012:role/app-?")), "", from(app+"2", Encrypt), none},
		{"pattern, one character is not none", rules(all("arn:aws:iam::123456789012:role/app-1?")), "", from(app, Encrypt), none},
		{"pattern, ? and * together", rules(all("arn:aws:iam::?23456789012:role/a??-*")), "", from(app, Encrypt), "allowed by g1"},
		{"pattern, every partition", rules(all("arn:aws*:iam::123456789012:role/app-1")), "", from("arn:aws-cn:iam::123456789012:role/app-1", Encrypt), "allowed by g1"},
		{"pattern, no service", rules(all("arn:aws:iam::123456789012:*")), "", from(dynamodb, Encrypt), none},

		{"forbidden wins", rules(all("*"), all(alice).forbid()), "", from(alice, Encrypt), "forbidden by g2"},
		{"forbidden for another", rules(all("*"), all(alice).forbid()), "", from(app, Encrypt), "allowed by g1"},
		{"forbidden operation", rules(all("*"), all("*").forbid().only(Decrypt)), "", from(alice, Decrypt), "forbidden by g2"},
		{"not the forbidden operation", rules(all("*"), all("*").forbid().only(Decrypt)), "", from(alice, Encrypt), "allowed by g1"},
		{"forbidden twice", rules(all(alice).forbid(), all("*").forbid()), "", from(alice, Encrypt), "forbidden by g1, g2"},
		{"forbidden account", rules(all("*"), all("123456789012").forbid()), "", from(app, Encrypt), "forbidden by g2"},
		{"forbidden pattern", rules(all("*"), all("arn:aws:iam::*:role/app-?").forbid()), "", from(app, Encrypt), "forbidden by g2"},
		{"forbidden, and no grant", rules(all("*").forbid()), "", from(alice, Encrypt), "forbidden by g1"},
		{"forbidden on the key", rules(all("*"), all("*").forbid().on("ledger")), "", from(alice, Encrypt), "forbidden by g2"},
		{"forbidden on another key", rules(all("*"), all("*").forbid().on("other")), "", from(alice, Encrypt), "allowed by g1"},
		{"forbidden if a condition holds", rules(all("*"), all("*").forbid().when(vpc)), "", from(alice, Encrypt).vpc("vpc-1", ""), "forbidden by g2"},
		{"not forbidden if it is absent", rules(all("*"), all("*").forbid().when(vpc)), "", from(alice, Encrypt), "allowed by g1"},

		{"in time", rules(all(alice).until(now.Add(time.Hour))), "", from(alice, Encrypt), "allowed by g1"},
		{"the last millisecond", rules(all(alice).until(now)), "", from(alice, Encrypt), "allowed by g1"},
		{"expired", rules(all(alice).until(now)), "", from(alice, Encrypt).at(now.Add(time.Millisecond)), none},
		{"a prohibition that expired", rules(all(alice), all(alice).forbid().until(now)), "", from(alice, Encrypt).at(now.Add(time.Second)), "allowed by g1"},

		{"calling account", rules(all("*").when(Conditions{CallingAccounts: []string{"123456789012"}})), "", from(alice, Encrypt), "allowed by g1"},
		{"another calling account", rules(all("*").when(Conditions{CallingAccounts: []string{"123456789012"}})), "", from(stranger, Encrypt), none},
		{"no calling account", rules(all("*").when(Conditions{CallingAccounts: []string{"123456789012"}})), "", from(dynamodb, Encrypt), none},
		{"via service", rules(all("*").when(Conditions{ViaServices: []string{"ebs"}})), "", from(alice, Encrypt).via("ebs"), "allowed by g1"},
		{"via a service by pattern", rules(all("*").when(Conditions{ViaServices: []string{"dynamodb.*.amazonaws.com"}})), "", from(alice, Encrypt).via("dynamodb.us-east-1.amazonaws.com"), "allowed by g1"},
		{"via another service", rules(all("*").when(Conditions{ViaServices: []string{"ebs"}})), "", from(alice, Encrypt).via("s3"), none},
		{"via no service", rules(all("*").when(Conditions{ViaServices: []string{"*"}})), "", from(alice, Encrypt), none},
		{"VPC", rules(all("*").when(vpc)), "", from(alice, Encrypt).vpc("vpc-2", "vpce-9"), "allowed by g1"},
		{"another VPC", rules(all("*").when(vpc)), "", from(alice, Encrypt).vpc("vpc-3", "vpce-9"), none},
		{"VPC endpoint by ?", rules(all("*").when(Conditions{SourceVPCEs: []string{"vpce-?"}})), "", from(alice, Encrypt).vpc("vpc-3", "vpce-9"), "allowed by g1"},
		{"VPC endpoint not by ?", rules(all("*").when(Conditions{SourceVPCEs: []string{"vpce-?"}})), "", from(alice, Encrypt).vpc("vpc-3", "vpce-99"), none},
		{"KMS key", rules(all("*").when(Conditions{KMSKeyARNs: []string{keyARN}})), "", from(alice, Encrypt).kmsKey(keyARN), "allowed by g1"},
		{"KMS key by pattern", rules(all("*").when(Conditions{KMSKeyARNs: []string{"arn:aws:kms:*:123456789012:key/*"}})), "", from(alice, Encrypt).kmsKey(keyARN), "allowed by g1"},
		{"another KMS key", rules(all("*").when(Conditions{KMSKeyARNs: []string{keyARN + "0"}})), "", from(alice, Encrypt).kmsKey(keyARN), none},
		{"no KMS key in GetAttributes", rules(all("*").when(Conditions{KMSKeyARNs: []string{keyARN}})), "", from(alice, GetAttributes), none},
		{"KMS key's Region", rules(all("*").when(Conditions{KMSKeyRegions: []string{"us-east-?"}})), "", from(alice, Encrypt).kmsKey(keyARN), "allowed by g1"},
		{"another Region", rules(all("*").when(Conditions{KMSKeyRegions: []string{"eu-*"}})), "", from(alice, Encrypt).kmsKey(keyARN), none},
		{"KMS key's account", rules(all("*").when(Conditions{KMSKeyAccounts: []string{"123456789012"}})), "", from(stranger, Encrypt).kmsKey(keyARN), "allowed by g1"},
		{"KMS operation", rules(all("*").when(Conditions{KMSOperations: []string{"GenerateDataKey*"}})), "", from(alice, Encrypt).kmsOp("GenerateDataKeyWithoutPlaintext"), "allowed by g1"},
		{"another KMS operation", rules(all("*").when(Conditions{KMSOperations: []string{"Encrypt"}})), "", from(alice, Encrypt).kmsOp("ReEncrypt"), none},
		{"all conditions", rules(all("*").when(Conditions{ViaServices: []string{"ebs"}, SourceVPCs: []string{"vpc-1"}})), "", from(alice, Encrypt).via("ebs").vpc("vpc-1", ""), "allowed by g1"},
		{"not all conditions", rules(all("*").when(Conditions{ViaServices: []string{"ebs"}, SourceVPCs: []string{"vpc-1"}})), "", from(alice, Encrypt).via("ebs").vpc("vpc-2", ""), none},

		{"Cedar permits", nil, `@id("all") permit (principal, action, resource);`, from(alice, Encrypt), "allowed by policy:all"},
		{"Cedar without a name", nil, `permit (principal, action, resource);`, from(alice, Encrypt), "allowed by policy:1"},
		{"Cedar forbids", rules(all("*")), `@id("no") forbid (principal == Principal::"` + alice + `", action, resource);`, from(alice, Encrypt), "forbidden by policy:no"},
		{"Cedar forbids another", rules(all("*")), `forbid (principal == Principal::"` + alice + `", action, resource);`, from(app, Encrypt), "allowed by g1"},
		{"Cedar, account", nil, `permit (principal in Account::"123456789012", action == Action::"Encrypt", resource);`, from(app, Encrypt), "allowed by policy:1"},
		{"Cedar, account in a condition", nil, `permit (principal, action, resource) when { principal in Account::"123456789012" };`, from(app, Encrypt), "allowed by policy:1"},
		{"Cedar, another operation", nil, `permit (principal, action in [Action::"Encrypt"], resource);`, from(app, Decrypt), none},
		{"Cedar, key", nil, `permit (principal, action, resource == Key::"ledger");`, from(app, Decrypt), "allowed by policy:1"},
		{"Cedar, another key", nil, `permit (principal, action, resource == Key::"ledger");`, from(app, Decrypt).onKey("other"), none},
		{"Cedar, key store", nil, `permit (principal, action, resource in KeyStore::"payments");`, from(app, Decrypt), "allowed by policy:1"},
		{"Cedar, another key store", nil, `permit (principal, action, resource in KeyStore::"payments");`, from(app, Decrypt).inStore("x"), none},
		{"Cedar, is", nil, `permit (principal is Principal in Account::"123456789012", action, resource is Key);`, from(app, Decrypt), "allowed by policy:1"},
		{"Cedar, unless", rules(all("*")), `forbid (principal, action, resource) unless { context has viaService && context.viaService == "ebs" };`, from(app, Decrypt), "forbidden by policy:1"},
		{"Cedar, the whole context", nil, `permit (principal, action, resource) when { (if true then context else context).time > datetime("2026-01-01") };`, from(app, Decrypt), "allowed by policy:1"},
		{"Cedar, the time of day", nil, `permit (principal, action, resource) when { context.time.toTime() < duration("11h") };`, from(app, Decrypt), none},
		{"Cedar, parts of the ARN", nil, `permit (principal, action, resource) when { principal has service && principal.service == "iam" && principal.name like "*app*" };`, from(app, Decrypt), "allowed by policy:1"},
		{"Cedar that fails forbids", rules(all("*")), `@id("f") forbid (principal, action, resource) when { 9223372036854775807 + (if context has viaService then 1 else 1) > 0 };`, from(alice, Encrypt), "forbidden by policy:f"},
		{"Cedar that fails permits nothing", nil, `permit (principal, action, resource) when { 9223372036854775807 + (if context has viaService then 1 else 1) > 0 };`, from(alice, Encrypt), none},
	}
	if len(tests) < 60 {
		t.Errorf("%d cases", len(tests))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			written, err := Parse(tt.cedar)
			if err != nil {
				t.Fatal(err)
			}
			r := tt.r.defaults()
			if got := Decide(&r, NewSet(compile(t, tt.rules)...), NewSet(written...), nil); got.String() != tt.want || got.Allowed != strings.HasPrefix(tt.want, "allowed") {
				t.Errorf("got %q (%v), want %q", got, got.Faults, tt.want)
			}
		})
	}
}

// The plain reference: what a rule means, without Cedar or an index.

func refGlob(pattern, s string) bool {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
	return regexp.MustCompile(`^(?s:` + expr + `)$`).MatchString(s)
}

func refPrincipal(pattern, s string) bool {
	want, got := strings.SplitN(pattern, ":", 6), strings.SplitN(s, ":", 6)
	switch {
	case pattern == "*" || pattern == s:
		return true
	case regexp.MustCompile(`^[0-9]{12}$`).MatchString(pattern):
		return len(got) == 6 && got[0] == "arn" && got[4] == pattern
	case !strings.ContainsAny(pattern, "*?") || len(want) != 6 || len(got) != 6:
		return false
	}
	for i := range want {
		if !refGlob(want[i], got[i]) {
			return false
		}
	}
	return true
}

func refMatches(r *Rule, q *Request) bool {
	part := func(arn string, i int) string {
		if p := strings.SplitN(arn, ":", 6); len(p) == 6 && p[0] == "arn" {
			return p[i]
		}
		return ""
	}
	if !slices.Contains(r.Operations, q.Operation) || (r.Key != "" && r.Key != q.Key) || !refPrincipal(r.Principal, q.Principal) ||
		(!r.NotAfter.IsZero() && q.Time.After(r.NotAfter)) {
		return false
	}
	c := r.Conditions
	for _, c := range []struct {
		values []string
		value  string
	}{
		{c.CallingAccounts, part(q.Principal, 4)}, {c.ViaServices, q.ViaService}, {c.SourceVPCs, q.SourceVPC}, {c.SourceVPCEs, q.SourceVPCE},
		{c.KMSKeyARNs, q.KMSKeyARN}, {c.KMSKeyRegions, part(q.KMSKeyARN, 3)}, {c.KMSKeyAccounts, part(q.KMSKeyARN, 4)}, {c.KMSOperations, q.KMSOperation},
	} {
		if len(c.values) > 0 && (c.value == "" || !slices.ContainsFunc(c.values, func(v string) bool { return refGlob(v, c.value) })) {
			return false
		}
	}
	return true
}

func reference(list []Rule, q *Request) string {
	var allow, forbid []string
	for i := range list {
		if !refMatches(&list[i], q) {
			continue
		}
		if list[i].Effect == Forbid {
			forbid = append(forbid, list[i].ID)
		} else {
			allow = append(allow, list[i].ID)
		}
	}
	slices.Sort(allow)
	slices.Sort(forbid)
	switch {
	case len(forbid) > 0:
		return "forbidden by " + strings.Join(forbid, ", ")
	case len(allow) > 0:
		return "allowed by " + strings.Join(allow, ", ")
	}
	return "no grant allows it"
}

// TestAgainstReference: for rules and requests made by chance, of few words, so
// that much matches, the index and Cedar decide as the plain reference does; and
// the Cedar text means the same to whoever parses it.
func TestAgainstReference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
	some := func(words ...string) (list []string) {
		for rnd.IntN(5) == 0 {
			list = append(list, pick(words...))
		}
		return list
	}
	principal := func() string {
		return pick("dynamodb.amazonaws.com", "AWS Internal", `a"b\c`, "é", "arn:aws:iam::111111111111:", "arn:",
			"arn:"+pick("aws", "aws-cn")+":"+pick("iam", "sts")+":"+pick("", "x")+":"+pick("111111111111", "222222222222", "")+":"+pick("role/", "user/", "")+pick("a", "b", "a:b", `q"q`, "ab", "é"))
	}
	pattern := func() string {
		return "arn:" + pick("aws", "aws*", "*", "a?s") + ":" + pick("iam", "*", "?am", "i*") + ":" + pick("", "*", "?") + ":" + pick("111111111111", "*", "1111*", "?11111111111") + ":" + pick("role/", "*/", "?ole/", "") + pick("a", "*", "?", "a*", "*b", "?*", `q"*`, "é", "*a?b")
	}
	decider := NewDecider()
	services := []string{"ebs", "s3", `x"y`, "é", "*", "e?s", "e*", `x"?`}
	for round := range 1500 {
		var list []Rule
		for i := range rnd.IntN(12) {
			r := Rule{ID: fmt.Sprintf("g%02d", i), Effect: Allow, Principal: pick("*", "111111111111", principal(), pattern(), pattern())}
			if rnd.IntN(5) == 0 {
				r.Effect = Forbid
			}
			for _, op := range operations {
				if rnd.IntN(3) > 0 {
					r.Operations = append(r.Operations, op)
				}
			}
			r.Key = pick("", "", "k", "l")
			if rnd.IntN(6) == 0 {
				r.NotAfter = now.Add(time.Duration(rnd.IntN(5)-2) * time.Millisecond)
			}
			r.Conditions = Conditions{CallingAccounts: some("111111111111", "1*", "2?2222222222"), ViaServices: some(services...), SourceVPCs: some(services...),
				SourceVPCEs: some(services...), KMSKeyARNs: some("arn:aws:kms:r1:111111111111:key/1", "arn:*", "*key/?"), KMSKeyRegions: some("r1", "r?", "x"),
				KMSKeyAccounts: some("111111111111", "*"), KMSOperations: some("Encrypt", "*crypt")}
			if r.Validate() == nil {
				list = append(list, r)
			}
		}
		var compiled, parsed []*Policy
		for i := range list {
			p, err := list[i].Compile()
			if err != nil {
				t.Fatal(err)
			}
			compiled = append(compiled, p)
			if again := list[i].Cedar(); again != list[i].Cedar() {
				t.Fatal("the Cedar is not always the same")
			}
			q, err := Parse(list[i].Cedar())
			if err != nil || len(q) != 1 {
				t.Fatalf("%v: %s", err, list[i].Cedar())
			}
			q[0].globs = p.globs // they are no part of the text
			parsed = append(parsed, q[0])
		}
		set, written := NewSet(compiled...), NewSet(parsed...)
		for range 10 {
			q := Request{Principal: principal(), Operation: operations[rnd.IntN(3)], Key: pick("k", "l"), Time: now,
				ViaService: pick("", "ebs", "s3", `x"y`, "é"), SourceVPC: pick("", "ebs"), SourceVPCE: pick("", "é"), KMSOperation: pick("", "Encrypt", "Decrypt"),
				KMSKeyARN: pick("", "arn:aws:kms:r1:111111111111:key/1", "arn:aws:kms:r2:222222222222:key/10", "x")}
			want := reference(list, &q)
			if got := Decide(&q, set).String(); got != want {
				t.Fatalf("round %d: %+v\ngot  %s\nwant %s\n%+v", round, q, got, want, list)
			}
			for _, at := range []time.Duration{0, 0, time.Millisecond, -time.Millisecond, 0} { // what is remembered is so at its time alone
				q := q
				q.Time = now.Add(at)
				if got, want := decider.Decide(&q, written, set), Decide(&q, written, set); !reflect.DeepEqual(got, want) {
					t.Fatalf("round %d: %+v\nthe decider says %s\nwant %s\n%+v", round, q, got, want, list)
				}
			}
			if got := strings.ReplaceAll(Decide(&q, written).String(), "policy:", ""); got != want {
				t.Fatalf("round %d: %+v\nthe text says %s\nwant %s", round, q, got, want)
			}
		}
	}
}

// TestParseErrors are one line that begins with the place of the mistake.
func TestParseErrors(t *testing.T) {
	permit := func(when string) string { return "permit (principal, action, resource)\nwhen { " + when + " };" }
	for _, tt := range []struct{ text, want string }{
		{"permit (principal, action,\n resource) whn { true };", "line 2, column 16: "},
		{"permit", "line 1, column 7: "},
		{permit(`context.foo == "x"`), "line 2, column 16: attribute `foo`"},
		{permit(`context.viaService == "x"`), "line 2, column 16: unable to guarantee safety of access to optional attribute `viaService`"},
		{permit(`context.time == 3`), "line 1, column 1: the types"},
		{"permit (principal, action, resource);\n  permit (principal == User::\"x\", action, resource);", "line 2, column 24: unrecognized entity type `User`"},
		{`permit (principal, action == Action::"Sign", resource);`, "line 1, column 30: unrecognized action"},
		{`@id("a b") permit (principal, action, resource);`, `line 1, column 1: @id("a b"): use 1 to 64`},
		{"@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);", `line 2, column 1: two policies are called "a"`},
		{permit(strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60)), "line 2, column 57: brackets are nested"},
		{strings.Repeat(" ", MaxCedar+1), "the policies have 65537 bytes"},
	} {
		_, err := Parse(tt.text)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q\ngot  %v\nwant %s", tt.text[:min(len(tt.text), 200)], err, tt.want)
		}
	}
	if p, err := Parse(permit(`"((((" == "" || true // ` + strings.Repeat("(", 60) + "\n")); err != nil || len(p) != 1 {
		t.Errorf("brackets in texts and comments: %v", err)
	}
}

// TestDocumentedPolicies: what the documentation shows can be set.
func TestDocumentedPolicies(t *testing.T) {
	text, err := os.ReadFile("../../docs/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range strings.Split(string(text), "```")[1:] {
		if !strings.Contains(block, "@id(") || !strings.HasPrefix(block, "\n") {
			continue
		}
		policies, err := Parse(block)
		if err != nil {
			t.Error(err)
		}
		n += len(policies)
	}
	if n < 3 {
		t.Errorf("found %d policies", n)
	}
}

// TestInvalidRules say in one line what to do.
func TestInvalidRules(t *testing.T) {
	for want, r := range map[string]Rule{
		"principal: give":     all(""),
		"of at most 2048":     all(strings.Repeat("x", 2049)),
		"cannot be printed":   all("a\nb"),
		"wildcards are":       all("*.amazonaws.com"),
		"such as arn":         all("arn:*"),
		"at least one":        all("*").only(),
		`operation "Sign"`:    all("*").only("Sign"),
		`effect "maybe"`:      {Effect: "maybe", Principal: "*", Operations: operations},
		"values of 1 to 2048": all("*").when(Conditions{SourceVPCs: []string{""}}),
		"has 101 values":      all("*").when(Conditions{SourceVPCs: make([]string, 101)}),
		"source VPC endpoint": all("*").when(Conditions{SourceVPCEs: []string{"\x00"}}),
	} {
		if r.Effect == "" {
			r.Effect = Allow
		}
		if _, err := r.Compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", want, err)
		}
	}
}

// FuzzParse: whatever is written, Parse gives policies that can be evaluated, or
// an error of one line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", `permit (principal, action, resource);`, `@id("x") forbid (principal in Account::"1", action in [Action::"Encrypt"], resource == Key::"k") unless { context has viaService };`,
		`permit (principal, action, resource) when { context.time < datetime("2026-01-01") && principal.name like "a*\*" && [1, 2].contains(1) && {a: 1}.a == 1 };`,
		`permit (principal, action, resource) when { ip("1.2.3.4").isInRange(ip("1.2.3.0/24")) || decimal("1.0").lessThan(decimal("2.0")) };`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		policies, err := Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than a line: %q", err)
			}
			return
		}
		r := from(app, Encrypt).via("ebs").kmsKey(keyARN).defaults()
		Decide(&r, NewSet(policies...))
	})
}

// FuzzPrincipal: a pattern matches what the reference says, and its Cedar is one
// policy.
func FuzzPrincipal(f *testing.F) {
	for _, p := range []string{"*", dynamodb, alice, "123456789012", "arn:aws:iam::*:role/app-?", `x"); permit(principal, action, resource); //`, "arn:*:*:*:*:*?*"} {
		f.Add(p, app)
	}
	f.Fuzz(func(t *testing.T, pattern, principal string) {
		rule := Rule{ID: "g", Effect: Allow, Principal: pattern, Operations: operations}
		p, err := rule.Compile()
		if err != nil || principal == "" || !printable(principal) {
			return
		}
		if q, err := Parse(rule.Cedar()); err != nil || len(q) != 1 {
			t.Fatalf("%v: %s", err, rule.Cedar())
		}
		r := from(principal, Encrypt).defaults()
		if got, want := Decide(&r, NewSet(p)).Allowed, refPrincipal(pattern, principal); got != want {
			t.Fatalf("%q of %q: got %v, want %v", pattern, principal, got, want)
		}
	})
}
