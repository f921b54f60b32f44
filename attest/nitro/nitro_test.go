package nitro_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"holdfast/attest/appraisal"
	"holdfast/attest/nitro"
	"holdfast/attest/nitro/nitrotest"
)

// vector gives a file of real evidence, which is not in this repository.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("HOLDFAST_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("there is no real evidence here to test with (set HOLDFAST_VECTORS): %v", err)
	}
	return b
}

const realDocument = "aws-snp-2026/nitrotpm.cose"

func appraise(document []byte, p nitro.Policy, x nitro.Expectation) *appraisal.Verdict {
	var s appraisal.Sheet
	nitro.Verify(&s, document, p, x)
	return s.Verdict()
}

func check(t *testing.T, v *appraisal.Verdict, code string) appraisal.Check {
	t.Helper()
	i := slices.IndexFunc(v.Checks, func(c appraisal.Check) bool { return c.Code == code })
	if i < 0 {
		t.Fatalf("there is no check %s", code)
	}
	return v.Checks[i]
}

func facts(t *testing.T, v *appraisal.Verdict) map[string]any {
	t.Helper()
	text, err := json.Marshal(v.Facts["nitro"])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// realExpectation is what the real document is good for. The PCRs stand in for
// a quote.
func realExpectation(t testing.TB, document []byte) nitro.Expectation {
	t.Helper()
	d, err := nitro.Parse(document)
	if err != nil {
		t.Fatal(err)
	}
	report := vector(t, "aws-snp-2026/report.bin")
	return nitro.Expectation{At: d.Time, UserData: report[0x50:0x90], PCRs: d.PCRs}
}

func TestRootIsTheOneThatAWSPublishes(t *testing.T) {
	block, _ := pem.Decode(vector(t, "aws-snp-2026/nitro_root.pem"))
	if got := fmt.Sprintf("%x", sha256.Sum256(block.Bytes)); got != nitro.AWSRoot {
		t.Errorf("the pinned root is %s; AWS's certificate has %s", nitro.AWSRoot, got)
	}
}

func TestRealDocument(t *testing.T) {
	document := vector(t, realDocument)
	x := realExpectation(t, document)
	p := nitro.DefaultPolicy()
	p.Regions, p.Instances = []string{"us-east-2"}, []string{"i-06db2e7b3a8a90535"}
	v := appraise(document, p, x)
	if v.Result != appraisal.Incomplete || !slices.Equal(v.Lacks(), []string{"E_NITRO_NONCE"}) { // AWS's document has none
		t.Fatal(v.Err())
	}
	for _, c := range v.Checks {
		if c.Result != appraisal.Pass && c.Code != "E_NITRO_NONCE" {
			t.Errorf("%s: %s (%s)", c.Code, c.Result, c.Detail)
		}
	}
	f := facts(t, v)
	for name, want := range map[string]any{
		"module_id":   "i-06db2e7b3a8a90535-tpm0000000000000000",
		"timestamp":   "2026-06-19T21:14:03.476Z",
		"region":      "us-east-2",
		"root_sha256": nitro.AWSRoot,
		"user_data":   hex.EncodeToString(x.UserData),
		"nonce":       nil,
		"simulated":   nil,
	} {
		if f[name] != want {
			t.Errorf("fact %s is %v, not %v", name, f[name], want)
		}
	}
	pcrs := f["pcrs"].(map[string]any)
	if got := pcrs["7"].(string); len(pcrs) != 24 || !strings.HasPrefix(got, "98441c7f") || !strings.HasSuffix(got, "af35") {
		t.Errorf("%d PCRs; PCR 7 is %s", len(pcrs), got)
	}
	certs := f["certificates"].([]any)
	if len(certs) != 5 || !strings.Contains(fmt.Sprint(certs[0]), "aws.nitro-enclaves") {
		t.Errorf("certificates: %v", certs)
	}
}

// stride is every how many bytes TestEveryByteCounts changes one.
var stride = 1

// Whatever is changed, the document does not pass.
func TestEveryByteCounts(t *testing.T) {
	document := vector(t, realDocument)
	x := realExpectation(t, document)
	step := stride
	if testing.Short() {
		step = 37
	}
	var wg sync.WaitGroup
	for worker := range runtime.NumCPU() {
		wg.Go(func() {
			changed := bytes.Clone(document)
			for i := worker * step; i < len(document); i += step * runtime.NumCPU() {
				bit := byte(1) << (i % 8)
				changed[i] ^= bit
				if v := appraise(changed, nitro.DefaultPolicy(), x); v.Result != appraisal.Fail {
					t.Errorf("passes with bit %#x of byte %d changed", bit, i)
				}
				changed[i] ^= bit
			}
		})
	}
	wg.Wait()
	for n := range document {
		if _, err := nitro.Parse(document[:n]); err == nil {
			t.Errorf("the first %d bytes parse", n)
		}
	}
}

// signedAt is when the documents of the tests are signed.
var signedAt = time.Date(2026, 11, 3, 12, 0, 0, 123e6, time.UTC)

// forger makes documents under a chain of its own, with what is changed.
type forger struct {
	certs []*x509.Certificate // from the root to the leaf
	keys  []*ecdsa.PrivateKey
}

// newForger makes a chain like AWS's. Edit changes certificate i of five before
// it is signed; curves[i] is its curve if there is one.
func newForger(t *testing.T, edit func(i int, c *x509.Certificate), curves map[int]elliptic.Curve) *forger {
	t.Helper()
	f := &forger{}
	for i, name := range []string{"aws.nitro-enclaves", "a.us-east-2.aws.nitro-enclaves", "b.zonal.us-east-2.aws.nitro-enclaves", "i-0123456789abcdef0.us-east-2.aws.nitro-enclaves", "i-0123456789abcdef0-tpm0.us-east-2.aws"} {
		curve := elliptic.P384()
		if c, ok := curves[i]; ok {
			curve = c
		}
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, NotBefore: signedAt.Add(-time.Hour), NotAfter: signedAt.Add(2 * time.Hour),
			BasicConstraintsValid: true, IsCA: i < 4, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: x509.ECDSAWithSHA384,
		}
		if i == 4 {
			c.KeyUsage = x509.KeyUsageDigitalSignature
		}
		if edit != nil {
			edit(i, c)
		}
		parent, signer := c, key
		if i > 0 {
			parent, signer = f.certs[i-1], f.keys[i-1]
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		f.certs, f.keys = append(f.certs, c), append(f.keys, key)
	}
	return f
}

func (f *forger) root() []byte {
	d := sha256.Sum256(f.certs[0].Raw)
	return d[:]
}

func (f *forger) bundle() (ders [][]byte) {
	for _, c := range f.certs[:4] {
		ders = append(ders, c.Raw)
	}
	return ders
}

func pcr(b byte) []byte { return bytes.Repeat([]byte{b}, 48) }

func (f *forger) payload() map[string]any {
	return map[string]any{
		"module_id": "i-0123456789abcdef0-tpm0", "digest": "SHA384", "timestamp": signedAt.UnixMilli(),
		"nitrotpm_pcrs": map[int][]byte{0: pcr(0), 4: pcr(4), 7: pcr(7), 11: pcr(11), 12: pcr(12), 23: pcr(23)},
		"certificate":   f.certs[4].Raw, "cabundle": f.bundle(),
		"public_key": []byte("key"), "user_data": []byte("user data"), "nonce": []byte("nonce"),
	}
}

// expectation is what the unchanged payload is good for.
func (f *forger) expectation() nitro.Expectation {
	return nitro.Expectation{
		At: signedAt.Add(time.Minute), UserData: []byte("user data"), Nonce: []byte("nonce"), Root: f.root(),
		PCRs: map[int][]byte{4: pcr(4), 7: pcr(7), 8: pcr(8), 11: pcr(11), 12: pcr(12)},
	}
}

var es384 = cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sign(t testing.TB, key *ecdsa.PrivateKey, alg cose.Algorithm, headers cose.Headers, payload []byte) []byte {
	t.Helper()
	signer, err := cose.NewSigner(alg, key)
	if err != nil {
		t.Fatal(err)
	}
	document, err := cose.Sign1Untagged(rand.Reader, signer, headers, payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func (f *forger) sign(t testing.TB, payload any) []byte {
	t.Helper()
	return sign(t, f.keys[4], cose.AlgorithmES384, es384, encode(t, payload))
}

// verdict checks that exactly these codes fail and no other check is left out.
func wantFailed(t *testing.T, v *appraisal.Verdict, want ...string) {
	t.Helper()
	if got := v.Failed(); !slices.Equal(got, want) || (v.Result == appraisal.Pass) != (len(want) == 0) {
		t.Errorf("failed: %v (%s), not %v: %v", got, v.Result, want, v.Err())
	}
	if slices.Contains(want, "E_NITRO_FORMAT") {
		return
	}
	for _, c := range v.Checks {
		if c.Result == appraisal.NotRun && c.Code != "E_NITRO_INSTANCE" {
			t.Errorf("%s was not run: %s", c.Code, c.Detail)
		}
	}
}

func TestGoodDocument(t *testing.T) {
	f := newForger(t, nil, nil)
	document := f.sign(t, f.payload())
	v := appraise(document, nitro.DefaultPolicy(), f.expectation())
	wantFailed(t, v)
	if d := check(t, v, "E_NITRO_PCRS").Detail; d != "equal: [4 7 11 12]" {
		t.Error(d)
	}
	if fact := facts(t, v); fact["simulated"] != true || fact["public_key_sha256"] != fmt.Sprintf("%x", sha256.Sum256([]byte("key"))) || fact["nonce"] != hex.EncodeToString([]byte("nonce")) {
		t.Error(fact)
	}
	t.Run("with tag 18", func(t *testing.T) {
		wantFailed(t, appraise(append([]byte{0xd2}, document...), nitro.DefaultPolicy(), f.expectation()))
	})
	t.Run("without what is optional", func(t *testing.T) {
		p := f.payload()
		delete(p, "nonce")
		p["public_key"] = nil
		x := f.expectation()
		x.Nonce, x.UserData, x.PCRs = nil, nil, nil
		v := appraise(f.sign(t, p), nitro.DefaultPolicy(), x)
		if v.Result != appraisal.Incomplete {
			t.Errorf("%s: %v", v.Result, v.Err())
		}
		for code, want := range map[string]appraisal.Result{"E_NITRO_NONCE": appraisal.Missing, "E_NITRO_USER_DATA": appraisal.Missing,
			"E_NITRO_PCRS": appraisal.Missing, "E_NITRO_INSTANCE": appraisal.NotRun} {
			if c := check(t, v, code); c.Result != want || c.Detail == "" {
				t.Errorf("%+v", c)
			}
		}
	})
}

// What is signed properly but says something else.
func TestPayload(t *testing.T) {
	f := newForger(t, nil, nil)
	set := func(name string, value any) func(map[string]any) { return func(p map[string]any) { p[name] = value } }
	setPCR := func(i int, value []byte) func(map[string]any) {
		return func(p map[string]any) { p["nitrotpm_pcrs"].(map[int][]byte)[i] = value }
	}
	reverse := func(p map[string]any) { slices.Reverse(p["cabundle"].([][]byte)) }
	for name, c := range map[string]struct {
		edit func(map[string]any)
		want []string
	}{
		"other user data":        {set("user_data", []byte("other")), []string{"E_NITRO_USER_DATA"}},
		"no user data":           {set("user_data", nil), []string{"E_NITRO_USER_DATA"}},
		"other nonce":            {set("nonce", []byte("other")), []string{"E_NITRO_NONCE"}},
		"PCR differs":            {setPCR(7, pcr(8)), []string{"E_NITRO_PCRS"}},
		"optional PCR differs":   {setPCR(8, pcr(9)), []string{"E_NITRO_PCRS"}},
		"PCR is missing":         {func(p map[string]any) { delete(p["nitrotpm_pcrs"].(map[int][]byte), 12) }, []string{"E_NITRO_PCRS"}},
		"other digest":           {set("digest", "SHA512"), []string{"E_NITRO_DIGEST"}},
		"PCR of another digest":  {setPCR(0, make([]byte, 32)), []string{"E_NITRO_DIGEST"}},
		"signed before valid":    {set("timestamp", signedAt.Add(-2*time.Hour).UnixMilli()), []string{"E_NITRO_TIME"}},
		"signed after valid":     {set("timestamp", signedAt.Add(3*time.Hour).UnixMilli()), []string{"E_NITRO_TIME"}},
		"bundle without root":    {set("cabundle", f.bundle()[1:]), []string{"E_NITRO_ROOT", "E_NITRO_CHAIN"}},
		"bundle with a gap":      {set("cabundle", slices.Delete(f.bundle(), 1, 2)), []string{"E_NITRO_CHAIN"}},
		"bundle of root alone":   {set("cabundle", f.bundle()[:1]), []string{"E_NITRO_CHAIN"}},
		"bundle in other order":  {reverse, []string{"E_NITRO_ROOT", "E_NITRO_CHAIN"}},
		"bundle with more":       {set("cabundle", append(f.bundle(), newForger(t, nil, nil).certs[1].Raw)), []string{"E_NITRO_CHAIN"}},
		"other's leaf":           {set("certificate", newForger(t, nil, nil).certs[4].Raw), []string{"E_NITRO_CHAIN", "E_NITRO_SIGNATURE"}},
		"other's root":           {func(p map[string]any) { p["cabundle"].([][]byte)[0] = newForger(t, nil, nil).certs[0].Raw }, []string{"E_NITRO_ROOT", "E_NITRO_CHAIN"}},
		"unknown field":          {set("pcrs", 1), []string{"E_NITRO_FORMAT"}},
		"field in capitals":      {func(p map[string]any) { p["NONCE"] = p["nonce"]; delete(p, "nonce") }, []string{"E_NITRO_FORMAT"}},
		"module_id is empty":     {set("module_id", ""), []string{"E_NITRO_FORMAT"}},
		"module_id is long":      {set("module_id", strings.Repeat("i", 257)), []string{"E_NITRO_FORMAT"}},
		"module_id is bytes":     {set("module_id", []byte("i")), []string{"E_NITRO_FORMAT"}},
		"timestamp is zero":      {set("timestamp", 0), []string{"E_NITRO_FORMAT"}},
		"timestamp is negative":  {set("timestamp", -1), []string{"E_NITRO_FORMAT"}},
		"timestamp is a float":   {set("timestamp", 1.5e12), []string{"E_NITRO_FORMAT"}},
		"timestamp is too late":  {set("timestamp", uint64(1)<<63), []string{"E_NITRO_FORMAT"}},
		"timestamp is tagged":    {set("timestamp", cbor.Tag{Number: 1, Content: 1}), []string{"E_NITRO_FORMAT"}},
		"PCR 24":                 {setPCR(24, pcr(0)), []string{"E_NITRO_FORMAT"}},
		"PCR -1":                 {setPCR(-1, pcr(0)), []string{"E_NITRO_FORMAT"}},
		"PCR of no digest":       {setPCR(0, make([]byte, 20)), []string{"E_NITRO_FORMAT"}},
		"PCR is an array":        {set("nitrotpm_pcrs", map[int]any{4: make([]int, 16)}), []string{"E_NITRO_FORMAT"}},
		"no PCRs":                {set("nitrotpm_pcrs", map[int][]byte{}), []string{"E_NITRO_FORMAT"}},
		"user_data is long":      {set("user_data", make([]byte, 1025)), []string{"E_NITRO_FORMAT"}},
		"nonce is long":          {set("nonce", make([]byte, 1025)), []string{"E_NITRO_FORMAT"}},
		"public_key is long":     {set("public_key", make([]byte, 1025)), []string{"E_NITRO_FORMAT"}},
		"nonce is text":          {set("nonce", "nonce"), []string{"E_NITRO_FORMAT"}},
		"nonce is an array":      {set("nonce", []int{1}), []string{"E_NITRO_FORMAT"}},
		"nonce is deep":          {set("nonce", []any{[]any{[]any{[]any{[]any{}}}}}), []string{"E_NITRO_FORMAT"}},
		"certificate is long":    {set("certificate", make([]byte, 1025)), []string{"E_NITRO_FORMAT"}},
		"certificate is none":    {set("certificate", []byte("no")), []string{"E_NITRO_FORMAT"}},
		"bundle is empty":        {set("cabundle", [][]byte{}), []string{"E_NITRO_FORMAT"}},
		"bundle has nine":        {set("cabundle", slices.Repeat([][]byte{f.certs[0].Raw}, 9)), []string{"E_NITRO_FORMAT"}},
		"bundle has a null":      {set("cabundle", []any{nil}), []string{"E_NITRO_FORMAT"}},
		"module_id is missing":   {func(p map[string]any) { delete(p, "module_id") }, []string{"E_NITRO_FORMAT"}},
		"digest is missing":      {func(p map[string]any) { delete(p, "digest") }, []string{"E_NITRO_FORMAT"}},
		"timestamp is missing":   {func(p map[string]any) { delete(p, "timestamp") }, []string{"E_NITRO_FORMAT"}},
		"PCRs are missing":       {func(p map[string]any) { delete(p, "nitrotpm_pcrs") }, []string{"E_NITRO_FORMAT"}},
		"certificate is missing": {func(p map[string]any) { delete(p, "certificate") }, []string{"E_NITRO_FORMAT"}},
		"bundle is missing":      {func(p map[string]any) { delete(p, "cabundle") }, []string{"E_NITRO_FORMAT"}},
		"two things are wrong":   {func(p map[string]any) { p["user_data"] = nil; p["digest"] = "SHA256" }, []string{"E_NITRO_DIGEST", "E_NITRO_USER_DATA"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := f.payload()
			c.edit(p)
			x := f.expectation()
			if ms, ok := p["timestamp"].(int64); ok {
				x.At = time.UnixMilli(ms)
			}
			wantFailed(t, appraise(f.sign(t, p), nitro.DefaultPolicy(), x), c.want...)
		})
	}
}

// Certificates that AWS would not issue.
func TestCertificates(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(i int, c *x509.Certificate)
		curves map[int]elliptic.Curve
		want   []string
	}{
		"issuer is no CA":           {edit: func(i int, c *x509.Certificate) { c.IsCA = i != 2 && i != 4 }, want: []string{"E_NITRO_CHAIN"}},
		"issuer has no usage":       {edit: func(i int, c *x509.Certificate) { usage(c, i == 2, 0) }, want: []string{"E_NITRO_CHAIN"}},
		"issuer has other usage":    {edit: func(i int, c *x509.Certificate) { usage(c, i == 2, x509.KeyUsageCRLSign) }, want: []string{"E_NITRO_CHAIN"}},
		"path is too long":          {edit: func(i int, c *x509.Certificate) { c.MaxPathLenZero = i == 1; c.MaxPathLen = pathLen(i, 1) }, want: []string{"E_NITRO_CHAIN"}},
		"signer is a CA":            {edit: func(_ int, c *x509.Certificate) { c.IsCA = true }, want: []string{"E_NITRO_CHAIN"}},
		"signer may not sign":       {edit: func(i int, c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }, want: []string{"E_NITRO_CHAIN"}},
		"unknown critical":          {edit: critical, want: []string{"E_NITRO_CHAIN"}},
		"signer expired":            {edit: func(i int, c *x509.Certificate) { expire(c, i == 4) }, want: []string{"E_NITRO_TIME"}},
		"root expired":              {edit: func(i int, c *x509.Certificate) { expire(c, i == 0) }, want: []string{"E_NITRO_TIME"}},
		"never valid together":      {edit: never, want: []string{"E_NITRO_CHAIN", "E_NITRO_TIME"}},
		"P-256 issuer":              {curves: map[int]elliptic.Curve{2: elliptic.P256()}, want: []string{"E_NITRO_CHAIN"}},
		"P-256 root":                {curves: map[int]elliptic.Curve{0: elliptic.P256()}, want: []string{"E_NITRO_CHAIN"}},
		"P-521 signer":              {curves: map[int]elliptic.Curve{4: elliptic.P521()}, want: []string{"E_NITRO_CHAIN", "E_NITRO_SIGNATURE"}},
		"issuer signs with SHA-256": {edit: func(i int, c *x509.Certificate) { c.SignatureAlgorithm = sha256At(i, 3) }, want: []string{"E_NITRO_CHAIN"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForger(t, c.edit, c.curves)
			wantFailed(t, appraise(f.sign(t, f.payload()), nitro.DefaultPolicy(), f.expectation()), c.want...)
		})
	}
}

func usage(c *x509.Certificate, yes bool, u x509.KeyUsage) {
	if yes {
		c.KeyUsage = u
	}
}

func pathLen(i, n int) int {
	if i == n {
		return 0
	}
	return -1
}

func sha256At(i, n int) x509.SignatureAlgorithm {
	if i == n {
		return x509.ECDSAWithSHA256
	}
	return x509.ECDSAWithSHA384
}

func critical(i int, c *x509.Certificate) {
	if i == 3 {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	}
}

func expire(c *x509.Certificate, yes bool) {
	if yes {
		c.NotAfter = signedAt.Add(-time.Minute)
	}
}

func never(i int, c *x509.Certificate) {
	if i == 1 {
		c.NotAfter = signedAt.Add(-90 * time.Minute)
		c.NotBefore = signedAt.Add(-2 * time.Hour)
	}
}

// The envelope, and who signed it.
func TestEnvelope(t *testing.T) {
	f := newForger(t, nil, nil)
	payload := encode(t, f.payload())
	good := sign(t, f.keys[4], cose.AlgorithmES384, es384, payload)
	header := func(label int64, value any) cose.Headers {
		h := cose.Headers{Protected: maps.Clone(es384.Protected), Unprotected: cose.UnprotectedHeader{}}
		h.Protected[label] = value
		return h
	}
	duplicate := bytes.Clone(payload)
	duplicate[0]++
	duplicate = append(duplicate, encode(t, "nonce")...)
	duplicate = append(duplicate, encode(t, []byte("nonce"))...)
	indefinite := append(append([]byte{0xbf}, payload[1:]...), 0xff)

	for name, c := range map[string]struct {
		document []byte
		want     []string
	}{
		"as AWS encodes the payload": {sign(t, f.keys[4], cose.AlgorithmES384, es384, indefinite), nil},
		"another's signature":        {sign(t, f.keys[3], cose.AlgorithmES384, es384, payload), []string{"E_NITRO_SIGNATURE"}},
		"other algorithm":            {sign(t, f.keys[4], cose.AlgorithmES512, cose.Headers{}, payload), []string{"E_NITRO_SIGNATURE"}},
		"changed payload":            {bytes.Replace(good, []byte("\x43key"), []byte("\x43kex"), 1), []string{"E_NITRO_SIGNATURE"}},
		"duplicate key":              {sign(t, f.keys[4], cose.AlgorithmES384, es384, duplicate), []string{"E_NITRO_FORMAT"}},
		"protected key ID":           {sign(t, f.keys[4], cose.AlgorithmES384, header(cose.HeaderLabelKeyID, []byte("1")), payload), []string{"E_NITRO_FORMAT"}},
		"unprotected key ID":         {bytes.Replace(good, []byte{0x38, 0x22, 0xa0}, []byte{0x38, 0x22, 0xa1, 4, 0x41, '1'}, 1), []string{"E_NITRO_FORMAT"}},
		"headers in long form":       {bytes.Replace(good, []byte{0x84, 0x44}, []byte{0x84, 0x58, 4}, 1), []string{"E_NITRO_FORMAT"}},
		"algorithm in long form":     {bytes.Replace(good, []byte{0x84, 0x44, 0xa1, 1}, []byte{0x84, 0x45, 0xa1, 0x18, 1}, 1), []string{"E_NITRO_FORMAT"}},
		"no algorithm":               {bytes.Replace(good, []byte{0x84, 0x44, 0xa1, 1, 0x38, 0x22}, []byte{0x84, 0x40}, 1), []string{"E_NITRO_FORMAT"}},
		"tagged twice":               {append([]byte{0xd2, 0xd2}, good...), []string{"E_NITRO_FORMAT"}},
		"other tag":                  {append([]byte{0xd1}, good...), []string{"E_NITRO_FORMAT"}},
		"more after it":              {append(bytes.Clone(good), 0), []string{"E_NITRO_FORMAT"}},
		"less of it":                 {good[:len(good)-1], []string{"E_NITRO_FORMAT"}},
		"nothing":                    {nil, []string{"E_NITRO_FORMAT"}},
		"only a tag":                 {[]byte{0xd2}, []string{"E_NITRO_FORMAT"}},
		"oversize":                   {append(bytes.Clone(good), make([]byte, nitro.MaxDocument)...), []string{"E_NITRO_FORMAT"}},
		"payload is none":            {sign(t, f.keys[4], cose.AlgorithmES384, es384, []byte{0xf6}), []string{"E_NITRO_FORMAT"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantFailed(t, appraise(c.document, nitro.DefaultPolicy(), f.expectation()), c.want...)
		})
	}
}

// What the verifier knows, and what it asks for.
func TestExpectations(t *testing.T) {
	f := newForger(t, nil, nil)
	document := f.sign(t, f.payload())
	for name, c := range map[string]struct {
		edit func(*nitro.Policy, *nitro.Expectation)
		want []string
	}{
		"no simulated root":    {func(_ *nitro.Policy, x *nitro.Expectation) { x.Root = nil }, []string{"E_NITRO_ROOT"}},
		"other simulated root": {func(_ *nitro.Policy, x *nitro.Expectation) { x.Root = make([]byte, 32) }, []string{"E_NITRO_ROOT"}},
		"empty simulated root": {func(_ *nitro.Policy, x *nitro.Expectation) { x.Root = []byte{} }, []string{"E_NITRO_ROOT"}},
		"at the oldest":        {func(_ *nitro.Policy, x *nitro.Expectation) { x.At = signedAt.Add(5 * time.Minute) }, nil},
		"too old":              {func(_ *nitro.Policy, x *nitro.Expectation) { x.At = signedAt.Add(301 * time.Second) }, []string{"E_NITRO_TIME"}},
		"of the future":        {func(_ *nitro.Policy, x *nitro.Expectation) { x.At = signedAt.Add(-301 * time.Second) }, []string{"E_NITRO_TIME"}},
		"no time":              {func(_ *nitro.Policy, x *nitro.Expectation) { x.At = time.Time{} }, []string{"E_NITRO_TIME"}},
		"older is allowed":     {func(p *nitro.Policy, x *nitro.Expectation) { p.MaxAgeSeconds = 3600; x.At = signedAt.Add(time.Hour) }, nil},
		"empty user data":      {func(_ *nitro.Policy, x *nitro.Expectation) { x.UserData = []byte{} }, []string{"E_NITRO_USER_DATA"}},
		"PCR is not quoted":    {func(_ *nitro.Policy, x *nitro.Expectation) { delete(x.PCRs, 4) }, []string{"E_NITRO_PCRS"}},
		"no PCR is quoted":     {func(_ *nitro.Policy, x *nitro.Expectation) { x.PCRs = map[int][]byte{} }, []string{"E_NITRO_PCRS"}},
		"none in common":       {func(p *nitro.Policy, x *nitro.Expectation) { p.ComparePCRs = nil; x.PCRs = map[int][]byte{9: pcr(9)} }, []string{"E_NITRO_PCRS"}},
		"quote differs":        {func(_ *nitro.Policy, x *nitro.Expectation) { x.PCRs[11] = pcr(0) }, []string{"E_NITRO_PCRS"}},
		"quote has SHA-256":    {func(_ *nitro.Policy, x *nitro.Expectation) { x.PCRs[11] = make([]byte, 32) }, []string{"E_NITRO_PCRS"}},
		"PCR 0 is needed":      {func(p *nitro.Policy, _ *nitro.Expectation) { p.ComparePCRs = []int{0} }, []string{"E_NITRO_PCRS"}},
		"Region":               {func(p *nitro.Policy, _ *nitro.Expectation) { p.Regions = []string{"eu-west-1", "us-east-2"} }, nil},
		"other Region":         {func(p *nitro.Policy, _ *nitro.Expectation) { p.Regions = []string{"eu-west-1"} }, []string{"E_NITRO_INSTANCE"}},
		"instance":             {func(p *nitro.Policy, _ *nitro.Expectation) { p.Instances = []string{"i-0123456789abcdef0"} }, nil},
		"other instance":       {func(p *nitro.Policy, _ *nitro.Expectation) { p.Instances = []string{"i-0123456789abcdef1"} }, []string{"E_NITRO_INSTANCE"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, x := nitro.DefaultPolicy(), f.expectation()
			c.edit(&p, &x)
			wantFailed(t, appraise(document, p, x), c.want...)
		})
	}
}

// An issuer that names another Region or instance than the rest is not believed.
func TestInstanceNamesAgree(t *testing.T) {
	f := newForger(t, func(i int, c *x509.Certificate) {
		if i == 3 {
			c.Subject.CommonName = "i-0fffffffffffffff0.eu-west-1.aws.nitro-enclaves"
		}
	}, nil)
	document := f.sign(t, f.payload())
	for _, p := range []nitro.Policy{{Regions: []string{"us-east-2", "eu-west-1"}}, {Instances: []string{"i-0123456789abcdef0"}}} {
		p.MaxAgeSeconds = 300
		wantFailed(t, appraise(document, p, f.expectation()), "E_NITRO_INSTANCE")
	}
}

func TestCodesAreStable(t *testing.T) {
	var codes []string
	for _, q := range nitro.Questions() {
		codes = append(codes, string(q.Code))
		if !strings.HasSuffix(q.Name, ".") {
			t.Errorf("%s is no sentence: %q", q.Code, q.Name)
		}
	}
	want := []string{"E_NITRO_FORMAT", "E_NITRO_DIGEST", "E_NITRO_ROOT", "E_NITRO_CHAIN", "E_NITRO_TIME", "E_NITRO_SIGNATURE", "E_NITRO_USER_DATA", "E_NITRO_NONCE", "E_NITRO_PCRS", "E_NITRO_INSTANCE"}
	if !slices.Equal(codes, want) {
		t.Errorf("the codes are %v", codes)
	}
}

func TestPolicy(t *testing.T) {
	if err := nitro.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*nitro.Policy){
		"no age":        func(p *nitro.Policy) { p.MaxAgeSeconds = 0 },
		"too old":       func(p *nitro.Policy) { p.MaxAgeSeconds = 86401 },
		"no PCRs":       func(p *nitro.Policy) { p.ComparePCRs = nil },
		"PCR 24":        func(p *nitro.Policy) { p.ComparePCRs = []int{24} },
		"PCR -1":        func(p *nitro.Policy) { p.ComparePCRs = []int{-1} },
		"PCR twice":     func(p *nitro.Policy) { p.ComparePCRs = []int{4, 4} },
		"no Region":     func(p *nitro.Policy) { p.Regions = []string{"Ohio"} },
		"no instance":   func(p *nitro.Policy) { p.Instances = []string{"i-06db-tpm"} },
		"all is amiss":  func(p *nitro.Policy) { *p = nitro.Policy{} },
		"module, not i": func(p *nitro.Policy) { p.Instances = []string{"i-0123456789abcdef0-tpm0"} },
	} {
		p := nitro.DefaultPolicy()
		edit(&p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: is accepted", name)
		}
	}
	for _, region := range []string{"us-east-2", "us-gov-west-1", "us-isob-east-1", "ap-southeast-5"} {
		p := nitro.DefaultPolicy()
		p.Regions = []string{region}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	text, err := json.Marshal(nitro.DefaultPolicy())
	if want := `{"max_age_seconds":300,"compare_pcrs":[4,7,11,12]}`; err != nil || string(text) != want {
		t.Errorf("%s, not %s (%v)", text, want, err)
	}
}

// The simulated authority's documents pass with its root and nowhere else.
func TestAuthority(t *testing.T) {
	a := nitrotest.New()
	document := a.Sign(nitro.Document{PCRs: map[int][]byte{4: pcr(4), 7: pcr(7), 11: pcr(11), 12: pcr(12)}, UserData: []byte("u"), Time: signedAt})
	x := nitro.Expectation{At: signedAt, UserData: []byte("u"), Nonce: []byte{}, PCRs: map[int][]byte{4: pcr(4), 7: pcr(7), 11: pcr(11), 12: pcr(12)}, Root: a.Root}
	p := nitro.DefaultPolicy()
	p.Regions, p.Instances = []string{nitrotest.Region}, []string{"i-00000000000000000"}
	wantFailed(t, appraise(document, p, x))
	x.Root = nil
	wantFailed(t, appraise(document, p, x), "E_NITRO_ROOT")
	x.Root = nitrotest.New().Root
	wantFailed(t, appraise(document, p, x), "E_NITRO_ROOT")
}

// FuzzVerify: nothing but the real document passes, and nothing panics.
func FuzzVerify(f *testing.F) {
	document := vector(f, realDocument)
	x := realExpectation(f, document)
	f.Add(document)
	f.Add(append([]byte{0xd2}, document...))
	f.Add(nitrotest.New().Sign(nitro.Document{PCRs: x.PCRs, UserData: x.UserData, Time: x.At}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := appraise(b, nitro.DefaultPolicy(), x)
		if v.Result != appraisal.Fail && !bytes.Equal(bytes.TrimPrefix(b, []byte{0xd2}), document) {
			t.Errorf("passes: %x", b)
		}
	})
}
