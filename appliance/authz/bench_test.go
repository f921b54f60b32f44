package authz

import (
	"fmt"
	"testing"
	"time"
)

func benchmark(b *testing.B, n int, principal string, c Conditions) {
	rules := make([]*Policy, 0, n)
	for i := range n {
		r := &Rule{ID: fmt.Sprintf("%032x", i), Effect: Allow, Principal: fmt.Sprintf(principal, i), Operations: []Operation{Encrypt, Decrypt, GetAttributes}, Conditions: c}
		p, err := r.Compile()
		if err != nil {
			b.Fatal(err)
		}
		rules = append(rules, p)
	}
	s, empty := NewSet(rules...), NewSet() // the key store's, the key's
	r := &Request{Principal: "arn:aws:iam::000000000007:role/app-7", Operation: Encrypt, KMSOperation: "GenerateDataKey", ViaService: "dynamodb.us-east-1.amazonaws.com",
		KMSKeyARN: "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", KeyStore: "payments", Key: "ledger", Time: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(r, s, empty); !d.Allowed || len(d.Policies) != 1 {
			b.Fatal(d)
		}
	}
}

// BenchmarkDecision decides among grants of one kind for principals of their own,
// of which one is about the request. The number of grants must not matter.
func BenchmarkDecision(b *testing.B) {
	kinds := []struct{ name, principal string }{
		{"exact", "arn:aws:iam::000000000007:role/app-%d"},
		{"account", "%012d"},
		{"role pattern", "arn:aws:iam::%012d:role/app-*"},
		{"account pattern", "arn:aws:iam::*:role/app-%d"},
		{"question mark", "arn:aws:iam::%012d:role/app-?"},
	}
	two := Conditions{ViaServices: []string{"dynamodb.us-east-1.amazonaws.com"}, KMSKeyRegions: []string{"us-east-1"}}
	for _, k := range kinds {
		for _, n := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) { benchmark(b, n, k.principal, Conditions{}) })
			b.Run(fmt.Sprintf("%s with two conditions/%d", k.name, n), func(b *testing.B) { benchmark(b, n, k.principal, two) })
		}
	}
}

// BenchmarkRemembered decides once more what was allowed before.
func BenchmarkRemembered(b *testing.B) {
	p, err := (&Rule{ID: "g", Effect: Allow, Principal: alice, Operations: operations}).Compile()
	if err != nil {
		b.Fatal(err)
	}
	d, s, empty := NewDecider(), NewSet(p), NewSet()
	r := Request{Principal: alice, Operation: Encrypt, KMSOperation: "GenerateDataKey"}.defaults()
	b.ReportAllocs()
	for b.Loop() {
		if d := d.Decide(&r, empty, s, empty); !d.Allowed {
			b.Fatal(d)
		}
	}
}
