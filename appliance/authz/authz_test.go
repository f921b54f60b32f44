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
	s, empty := NewSet(rules...), NewSet()
	r := &Request{Principal: "arn:aws:iam::000000000007:role/app-7", Operation: Encrypt, KMSOperation: "GenerateDataKey", ViaService: "dynamodb.us-east-1.amazonaws.com",
		KMSKeyARN: "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", KeyStore: "payments", Key: "ledger", Time: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		if d := Decide(r, s, empty); !d.Allowed || len(d.Policies) != 1 {
			b.Fatal(d)
		}
	}
}

func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		for name, c := range map[string]Conditions{"": {}, "-conditions": {ViaServices: []string{"dynamodb.us-east-1.amazonaws.com"}, KMSKeyRegions: []string{"us-east-1"}}} {
			b.Run(fmt.Sprintf("exact%s/%d", name, n), func(b *testing.B) { benchmark(b, n, "arn:aws:iam::000000000007:role/app-%d", c) })
			b.Run(fmt.Sprintf("account%s/%d", name, n), func(b *testing.B) { benchmark(b, n, "%012d", c) })
			b.Run(fmt.Sprintf("pattern%s/%d", name, n), func(b *testing.B) { benchmark(b, n, "arn:aws:iam::*:role/app-%d", c) })
			b.Run(fmt.Sprintf("patternend%s/%d", name, n), func(b *testing.B) { benchmark(b, n, "arn:aws:iam::%012d:role/app-*", c) })
			b.Run(fmt.Sprintf("question%s/%d", name, n), func(b *testing.B) { benchmark(b, n, "arn:aws:iam::%012d:role/app-?", c) })
		}
	}
}
