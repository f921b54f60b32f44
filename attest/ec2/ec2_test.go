package ec2_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"

	"holdfast/attest/appraisal"
	"holdfast/attest/ec2"
	"holdfast/attest/ec2/ec2test"
)

// document is the example of the EC2 User Guide.
const document = `{
    "devpayProductCodes" : null,
    "marketplaceProductCodes" : [ "1abc2defghijklm3nopqrs4tu" ],
    "availabilityZone" : "us-west-2b",
    "privateIp" : "10.158.112.84",
    "version" : "2017-09-30",
    "instanceId" : "i-1234567890abcdef0",
    "billingProducts" : null,
    "instanceType" : "t2.micro",
    "accountId" : "123456789012",
    "imageId" : "ami-5fb8c835",
    "pendingTime" : "2016-11-19T16:32:11Z",
    "architecture" : "x86_64",
    "kernelId" : null,
    "ramdiskId" : null,
    "region" : "us-west-2"
}`

func TestParseInstance(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no object": "[]", "null": "null", "cut": document[:100], "twice": strings.Replace(document, `"version"`, `"region"`, 1),
		"no instance": strings.Replace(document, "instanceId", "instanceID", 1), "markup": strings.Replace(document, "t2.micro", "<b>", 1),
		"long": strings.Replace(document, "us-west-2b", strings.Repeat("u", 65), 1), "account": strings.Replace(document, "123456789012", "12345678901", 1),
		"big": document + strings.Repeat(" ", 16<<10), "number": strings.Replace(document, `"ami-5fb8c835"`, "7", 1),
	} {
		if got, err := ec2.ParseInstance([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzParseInstance(f *testing.F) {
	f.Add([]byte(document))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := ec2.ParseInstance(text); err == nil && strings.ContainsAny(d.ID+d.Type+d.Image+d.Region+d.Zone+d.Account, "<>\"'& \n") {
			t.Errorf("%+v", d)
		}
	})
}

var (
	aws  = ec2test.New()
	good = ec2.Instance{ID: "i-0123456789abcdef0", Type: "m6a.large", Image: "ami-0123456789abcdef0", Region: "eu-west-1", Zone: "eu-west-1a", Account: "123456789012"}
)

// owner is the SHA-256 of a key.
var owner = bytes.Repeat([]byte{7}, 32)

func policy() *ec2.Policy {
	return &ec2.Policy{Accounts: []string{"210987654321", good.Account}, Regions: []string{good.Region}, Images: []string{good.Image},
		Owners: []string{hex.EncodeToString(owner)}, Certificates: [][]byte{ec2test.New().Certificate, aws.Certificate}}
}

func appraise(document []byte, p *ec2.Policy, x ec2.Expectation) *appraisal.Verdict {
	var s appraisal.Sheet
	ec2.Verify(&s, document, p, x)
	return s.Verdict()
}

// indefinite gives a DER structure as EC2 sends it: in BER, with indefinite lengths down to
// the content.
func indefinite(t *testing.T, der []byte) []byte {
	t.Helper()
	var outer, signed, info asn1.RawValue
	rest := func(b []byte, into *asn1.RawValue) []byte {
		left, err := asn1.Unmarshal(b, into)
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	open := func(tag byte, parts ...[]byte) []byte {
		return slices.Concat([]byte{tag, 0x80}, bytes.Join(parts, nil), []byte{0, 0})
	}
	rest(der, &outer)
	var oid, explicit, version, digests, contentType, content, octets asn1.RawValue
	rest(rest(outer.Bytes, &oid), &explicit)
	rest(explicit.Bytes, &signed)
	after := rest(rest(rest(signed.Bytes, &version), &digests), &info)
	rest(rest(info.Bytes, &contentType), &content)
	rest(content.Bytes, &octets)
	return open(0x30, oid.FullBytes, open(0xa0, open(0x30, version.FullBytes, digests.FullBytes,
		open(0x30, contentType.FullBytes, open(0xa0, open(0x24, octets.FullBytes))), after)))
}

func TestVerify(t *testing.T) {
	x := ec2.Expectation{Instance: good.ID, Owner: owner}
	document := aws.Sign(good)
	for name, d := range map[string][]byte{"DER": document, "BER, as EC2's": indefinite(t, document)} {
		v := appraise(d, policy(), x)
		if v.Result != appraisal.Pass || len(v.Checks) != len(ec2.Questions()) {
			t.Errorf("%s: %s %v", name, v.Result, v.Err())
		}
		if v.Facts["instance"] == nil {
			t.Errorf("%s: nothing is told of the instance", name)
		}
	}
	of := func(change func(*ec2.Instance)) []byte {
		i := good
		change(&i)
		return aws.Sign(i)
	}
	for name, c := range map[string]struct {
		document []byte
		change   func(*ec2.Policy, *ec2.Expectation)
		want     []string
	}{
		"no document":                   {nil, nil, []string{"E_INSTANCE_MISSING"}},
		"garbage":                       {[]byte("x"), nil, []string{"E_INSTANCE_FORMAT"}},
		"too long":                      {bytes.Repeat([]byte{0x30}, ec2.MaxDocument+1), nil, []string{"E_INSTANCE_FORMAT"}},
		"no content":                    {aws.SignContent(nil), nil, []string{"E_INSTANCE_FORMAT"}},
		"content is another":            {aws.SignContent([]byte("{}")), nil, []string{"E_INSTANCE_FORMAT"}},
		"another's key":                 {ec2test.New().Sign(good), nil, []string{"E_INSTANCE_SIGNATURE"}},
		"changed content":               {bytes.Replace(document, []byte(good.Account), []byte("210987654321"), 1), nil, []string{"E_INSTANCE_SIGNATURE"}},
		"SHA-1":                         {sha1(t), nil, []string{"E_INSTANCE_FORMAT"}},
		"two signers":                   {twice(t), nil, []string{"E_INSTANCE_FORMAT"}},
		"certificate of another Region": {document, func(p *ec2.Policy, _ *ec2.Expectation) { p.Certificates = p.Certificates[:1] }, []string{"E_INSTANCE_SIGNATURE"}},
		"other instance":                {of(func(i *ec2.Instance) { i.ID = "i-0123456789abcdef1" }), nil, []string{"E_INSTANCE_OTHER"}},
		"no NitroTPM":                   {document, func(_ *ec2.Policy, x *ec2.Expectation) { x.Instance = "" }, []string{"E_INSTANCE_OTHER"}},
		"other account":                 {of(func(i *ec2.Instance) { i.Account = "000000000001" }), nil, []string{"E_INSTANCE_ACCOUNT"}},
		"other Region":                  {of(func(i *ec2.Instance) { i.Region = "eu-west-2" }), nil, []string{"E_INSTANCE_REGION"}},
		"other image":                   {of(func(i *ec2.Instance) { i.Image = "ami-0123456789abcdef1" }), nil, []string{"E_INSTANCE_IMAGE"}},
		"other owner":                   {document, func(_ *ec2.Policy, x *ec2.Expectation) { x.Owner = make([]byte, 32) }, []string{"E_INSTANCE_OWNER"}},
		"no owner":                      {document, func(_ *ec2.Policy, x *ec2.Expectation) { x.Owner = nil }, []string{"E_INSTANCE_OWNER"}},
		"any Region, image, owner": {of(func(i *ec2.Instance) { i.Region, i.Image = "eu-west-2", "ami-0123456789abcdef1" }),
			func(p *ec2.Policy, _ *ec2.Expectation) { p.Regions, p.Images, p.Owners = nil, nil, nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, x := policy(), x
			if c.change != nil {
				c.change(p, &x)
			}
			v := appraise(c.document, p, x)
			if got := v.Failed(); !slices.Equal(got, c.want) || (c.want == nil) != (v.Result == appraisal.Pass) {
				t.Errorf("%v, not %v: %v", got, c.want, v.Err())
			}
			if unproven := slices.ContainsFunc(c.want, func(code string) bool {
				return slices.Contains([]string{"E_INSTANCE_MISSING", "E_INSTANCE_FORMAT", "E_INSTANCE_SIGNATURE", "E_INSTANCE_OTHER"}, code)
			}); unproven == (v.Facts["instance"] != nil) {
				t.Errorf("what is told: %v", v.Facts)
			}
		})
	}
}

// TestEveryBitCounts: whatever is changed of a document, it says nothing else.
func TestEveryBitCounts(t *testing.T) {
	document, p := aws.Sign(good), policy()
	p.Certificates = [][]byte{aws.Certificate}
	for i := range document {
		changed := bytes.Clone(document)
		changed[i] ^= 1 << (i % 8)
		v := appraise(changed, p, ec2.Expectation{Instance: good.ID, Owner: owner})
		if d, err := ec2.Parse(changed); v.Result == appraisal.Pass && (err != nil || d.Instance != good) {
			t.Errorf("byte %d: it passes as %+v", i, d)
		}
	}
}

// TestRegionsCertificate: AWS's certificate of one Region signs for no other.
func TestRegionsCertificate(t *testing.T) {
	p, x := policy(), ec2.Expectation{Instance: good.ID, Owner: owner}
	for region, want := range map[string][]string{good.Region: nil, "us-east-1": {"E_INSTANCE_SIGNATURE"}} {
		forget := ec2.Known(aws.Certificate, region)
		if v := appraise(aws.Sign(good), p, x); !slices.Equal(v.Failed(), want) {
			t.Errorf("%s: %v", region, v.Err())
		}
		forget()
	}
	digest, region := regexp.MustCompile(`^[0-9a-f]{64}$`), regexp.MustCompile(`^[a-z]+(-[a-z]+)+-[0-9]$`)
	seen := map[string]bool{}
	for sum, of := range ec2.All() {
		if !digest.MatchString(sum) || !region.MatchString(of) || seen[of] {
			t.Errorf("%s of %s", sum, of)
		}
		seen[of] = true
	}
}

func sha1(t *testing.T) []byte {
	return signed(t, func(s *pkcs7.SignedData, add func()) { s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA1); add() })
}

func twice(t *testing.T) []byte {
	return signed(t, func(s *pkcs7.SignedData, add func()) {
		s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
		add()
		add()
	})
}

func signed(t *testing.T, how func(s *pkcs7.SignedData, add func())) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pkcs7.NewSignedData(ec2test.Content(good))
	if err != nil {
		t.Fatal(err)
	}
	how(s, func() {
		if err := s.AddSigner(c, key, pkcs7.SignerInfoConfig{}); err != nil {
			t.Fatal(err)
		}
	})
	out, err := s.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPolicy(t *testing.T) {
	if err := policy().Validate(); err != nil {
		t.Error(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	short, err := x509.CreateCertificate(rand.Reader, template, template, weak.Public(), weak)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*ec2.Policy){
		"no account":     func(p *ec2.Policy) { p.Accounts = nil },
		"any account":    func(p *ec2.Policy) { p.Accounts = []string{"*"} },
		"account twice":  func(p *ec2.Policy) { p.Accounts = []string{good.Account, good.Account} },
		"no Region":      func(p *ec2.Policy) { p.Regions = []string{"Ireland"} },
		"no image":       func(p *ec2.Policy) { p.Images = []string{""} },
		"no digest":      func(p *ec2.Policy) { p.Owners = []string{strings.Repeat("F", 64)} },
		"many":           func(p *ec2.Policy) { p.Images = make([]string, 101) },
		"no certificate": func(p *ec2.Policy) { p.Certificates = nil },
		"empty":          func(p *ec2.Policy) { p.Certificates = [][]byte{nil} },
		"PEM":            func(p *ec2.Policy) { p.Certificates = [][]byte{[]byte("-----BEGIN CERTIFICATE-----")} },
		"RSA of 1024":    func(p *ec2.Policy) { p.Certificates = [][]byte{short} },
		"all is amiss":   func(p *ec2.Policy) { *p = ec2.Policy{} },
	} {
		p := policy()
		change(p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: is accepted", name)
		}
	}
	says := strings.Join(policy().Admits(), " ")
	for _, want := range []string{good.Account, good.Region, good.Image, hex.EncodeToString(owner), "does not know it"} {
		if !strings.Contains(says, want) {
			t.Errorf("%q is not told: %s", want, says)
		}
	}
	p := policy()
	if p.Admit = true; strings.Contains(says, "by itself") || !strings.Contains(strings.Join(p.Admits(), " "), "by itself") {
		t.Error("it is not told that new machines are admitted")
	}
}

// FuzzParse: nothing panics, and nothing passes under a key that has not signed it.
func FuzzParse(f *testing.F) {
	f.Add(aws.Sign(good))
	other, p := ec2test.New(), policy()
	p.Certificates = [][]byte{other.Certificate}
	f.Fuzz(func(t *testing.T, der []byte) {
		if v := appraise(der, p, ec2.Expectation{Instance: good.ID, Owner: owner}); v.Result == appraisal.Pass {
			t.Errorf("it passes: %x", der)
		}
	})
}
