package attest_test

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/ec2"
	"holdfast/attest/ec2/ec2test"
)

// TestInstanceIdentity: evidence carries what EC2 says of the instance, which v1 cannot, and
// of which there is a limit; a policy that asks says so in its sentences, and single documents
// do not meet it.
func TestInstanceIdentity(t *testing.T) {
	m, c := machine(t)
	e := collect(t, c)
	aws := ec2test.New()
	e.Instance = aws.Sign(ec2.Instance{ID: "i-00000000000000000", Type: "m6a.large", Image: "ami-00000000000000000", Region: "us-sim-1", Zone: "us-sim-1a", Account: "123456789012"})
	text, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := attest.Parse(text)
	if err != nil || !bytes.Equal(again.Instance, e.Instance) || again.Binding() != e.Binding() {
		t.Fatalf("%v", err)
	}
	p := m.Policy()
	p.Instance = &ec2.Policy{Accounts: []string{"123456789012"}, Certificates: [][]byte{aws.Certificate}}
	if v := attest.Verify(again, &p, whole(m)); len(v.Failed()) > 0 || v.Facts["instance"] == nil {
		t.Errorf("%v", v.Err())
	}
	if says := strings.Join(p.Admits(), " "); !strings.Contains(says, "of the account 123456789012") || strings.Contains(says, "any account") {
		t.Errorf("the sentences: %s", says)
	}
	again.Nitro = nil
	if v := attest.Verify(again, &p, whole(m)); !strings.Contains(strings.Join(v.Failed(), " "), "E_INSTANCE_OTHER") {
		t.Errorf("without a NitroTPM document: %v", v.Err())
	}
	if v := attest.VerifyParts(attest.Parts{Nitro: e.Nitro}, &p, attest.Expectation{}, e.Created); !strings.Contains(strings.Join(v.Lacks(), " "), "E_INSTANCE_ACCOUNT") || v.Result == appraisal.Pass {
		t.Errorf("single documents: %v", v.Err())
	}
	long := *e
	long.Instance = make([]byte, ec2.MaxDocument+1)
	v1 := *e
	v1.Format, v1.LaunchDigest, v1.OwnerDigest, v1.State = attest.FormatV1, nil, nil, nil
	for name, e := range map[string]*attest.Evidence{"too long": &long, "v1": &v1} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
	p.Require = []attest.Technology{attest.SEVSNP, attest.TPM}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "instance: require") {
		t.Errorf("a policy without NitroTPM: %v", err)
	}
}
