//go:build !race

package authz

import (
	"fmt"
	"testing"
	"time"
)

// TestAllocations fails when a decision costs more than before. Lower the number when it costs less.
func TestAllocations(t *testing.T) {
	const most = 25
	var all []*Policy
	for i := range 10 {
		r := &Rule{ID: fmt.Sprintf("%032x", i), Effect: Allow, Principal: fmt.Sprintf("arn:aws:iam::%012d:role/app-*", i), Operations: []Operation{Encrypt, Decrypt}}
		p, err := r.Compile()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	s, empty := NewSet(all...), NewSet()
	r := &Request{Principal: "arn:aws:iam::000000000007:role/app-7", Operation: Encrypt, KMSOperation: "GenerateDataKey",
		KMSKeyARN: "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", KeyStore: "payments", Key: "ledger", Time: time.Now()}
	if n := testing.AllocsPerRun(100, func() {
		if d := Decide(r, s, empty); !d.Allowed {
			t.Fatal(d)
		}
	}); n > most {
		t.Errorf("%.0f allocations instead of %d", n, most)
	}
}
