package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

var (
	kernel  = swtpm.Component{Name: ".linux", Content: []byte("kernel 1")}
	cmdline = swtpm.Component{Name: ".cmdline", Content: []byte("roothash=00")}
	nonce   = bytes.Repeat([]byte{7}, 32)
)

func measurement(name, content string) tpm.Measurement {
	d := sha256.Sum256([]byte(content))
	return tpm.Measurement{PCR: tpm.ApplicationPCR, Name: name, Digest: d[:]}
}

func measurements() []tpm.Measurement {
	return []tpm.Measurement{measurement("program", "1"), measurement("configuration", "2"), measurement("pkcs11-module", "3")}
}

// collect boots a machine with the events, measures, and gives its evidence.
func collect(t testing.TB, events []swtpm.Event, list []tpm.Measurement) *tpm.Evidence {
	t.Helper()
	dev, _ := start(t, t.TempDir())
	log := must(swtpm.Measure(dev, events))
	for _, m := range list {
		if err := dev.Measure(m); err != nil {
			t.Fatal(err)
		}
	}
	return must(dev.Collect(nonce, log, list))
}

// policy is the default, with the evidence as the one reference.
func policy(e *tpm.Evidence) tpm.Policy {
	p := tpm.DefaultPolicy()
	r := tpm.Reference{Name: "release 1.2.0", PCRs: map[int]tpm.Hex{}}
	for _, n := range p.RequiredPCRs {
		if n != tpm.ApplicationPCR {
			r.PCRs[n] = e.PCRs[p.Bank][n]
		}
	}
	p.References = []tpm.Reference{r}
	return p
}

func verify(e *tpm.Evidence, p tpm.Policy, x tpm.Expectation) *appraisal.Verdict {
	var s appraisal.Sheet
	tpm.Verify(&s, *e, p, x)
	return s.Verdict()
}

// clone is a copy that shares nothing with the original.
func clone(e *tpm.Evidence) *tpm.Evidence {
	var c tpm.Evidence
	if err := json.Unmarshal(must(json.Marshal(e)), &c); err != nil {
		panic(err)
	}
	return &c
}

// forger is a key in software that claims to be an attestation key: with it a
// test can have anything signed.
type forger struct {
	key    *ecdsa.PrivateKey
	public tpm2.TPMTPublic
}

func newForger() *forger {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must(key.PublicKey.Bytes())
	return &forger{key, tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}),
	}}
}

// sign puts the key and its signature of the quote into the evidence.
func (f *forger) sign(e *tpm.Evidence) {
	digest := sha256.Sum256(e.Quote)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, digest[:])
	if err != nil {
		panic(err)
	}
	e.AK = tpm2.Marshal(f.public)
	e.Signature = tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()}})})
}

// quote makes a quote of the evidence's PCRs, as they are, and signs it.
func (f *forger) quote(e *tpm.Evidence) {
	algs := map[string]tpm2.TPMIAlgHash{"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384}
	var list tpm2.TPMLPCRSelection
	h := sha256.New()
	for _, bank := range slices.Sorted(maps.Keys(e.PCRs)) {
		var pcrs []uint
		for _, n := range slices.Sorted(maps.Keys(e.PCRs[bank])) {
			pcrs = append(pcrs, uint(n))
			h.Write(e.PCRs[bank][n])
		}
		list.PCRSelections = append(list.PCRSelections, tpm2.TPMSPCRSelection{Hash: algs[bank], PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)})
	}
	e.Quote = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: nonce},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: list, PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}}),
	})
	f.sign(e)
}

func TestEvidenceVerifies(t *testing.T) {
	e := collect(t, swtpm.Events(kernel, cmdline), measurements())
	v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
	if v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	if got, want := len(v.Checks), len(tpm.Questions()); got != want {
		t.Errorf("%d checks, not %d", got, want)
	}
	for i, c := range v.Checks {
		if c.Result != appraisal.Pass || c.Code != string(tpm.Questions()[i].Code) {
			t.Errorf("%+v", c)
		}
	}
	if c := v.Checks[len(v.Checks)-1]; c.Detail != "matches release 1.2.0" {
		t.Errorf("reference: %q", c.Detail)
	}
	text := string(must(json.Marshal(v.Facts["tpm"])))
	for _, want := range []string{`"bank":"sha384"`, `"reference":"release 1.2.0"`, `"capped":false`, `"name":"pkcs11-module"`, `"reset_count":`, `"firmware_version":"0x`,
		`"type":"EV_EFI_BOOT_SERVICES_APPLICATION"`, `"text":"SecureBoot = 0"`, `"text":"Calling EFI Application from Boot Option"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the facts have no %s: %s", want, text)
		}
	}
	if got := e.Bank("sha256"); len(got) != 16 || len(got[0]) != 32 {
		t.Errorf("Bank: %v", got)
	}
}

// The simulated firmware measures Secure Boot as EC2's does: this value is in
// documents that NitroTPMs have signed.
func TestSimulatedPCR7IsThatOfEC2(t *testing.T) {
	e := collect(t, swtpm.Events(kernel), nil)
	const ec2 = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
	if got := e.PCRs["sha384"][7].String(); got != ec2 {
		t.Errorf("PCR 7 is %s", got)
	}
}

func TestOtherComponentsGiveOtherPCRs(t *testing.T) {
	e := collect(t, swtpm.Events(kernel, cmdline), measurements())
	edited := collect(t, swtpm.Events(kernel, swtpm.Component{Name: ".cmdline", Content: []byte("roothash=01")}), measurements())
	v := verify(edited, policy(e), tpm.Expectation{QualifyingData: nonce})
	if got := v.Failed(); !slices.Equal(got, []string{"E_TPM_REFERENCE"}) {
		t.Fatal(got)
	}
	if d := v.Err().Error(); !strings.Contains(d, "PCR 4 ") || !strings.Contains(d, "PCR 11 ") || !strings.Contains(d, "release 1.2.0") || strings.Contains(d, "PCR 7 ") {
		t.Error(d)
	}
}

func TestCappedEvidenceVerifies(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	log := must(swtpm.Boot(dev, kernel))
	m := measurement("program", "1")
	if err := dev.Measure(m); err != nil {
		t.Fatal(err)
	}
	c := must(dev.Cap())
	e := must(dev.Collect(nonce, log, []tpm.Measurement{m, c}))
	v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
	if v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	if text := must(json.Marshal(v.Facts["tpm"])); !bytes.Contains(text, []byte(`"capped":true`)) {
		t.Errorf("%s", text)
	}
	e.Measurements = e.Measurements[:1]
	if got := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce}).Failed(); !slices.Equal(got, []string{"E_TPM_MEASUREMENTS"}) {
		t.Errorf("without the cap: %v", got)
	}
}

// TestReferenceBeforeCap: evidence from before and from after the cap matches the
// same reference, which names what was measured.
func TestReferenceBeforeCap(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	log := must(swtpm.Boot(dev, kernel))
	m := measurement("program", "1")
	if err := dev.Measure(m); err != nil {
		t.Fatal(err)
	}
	before := must(dev.Collect(nonce, log, []tpm.Measurement{m}))
	c := must(dev.Cap())
	after := must(dev.Collect(nonce, log, []tpm.Measurement{m, c}))
	p := tpm.DefaultPolicy()
	r := must(tpm.NewReference("release 1.2.0", before, p))
	if got := must(tpm.NewReference("release 1.2.0", after, p)); !reflect.DeepEqual(got, r) {
		t.Errorf("before the cap %v, after it %v", r, got)
	}
	if got, want := slices.Sorted(maps.Keys(r.PCRs)), p.RequiredPCRs; !slices.Equal(got, want) {
		t.Errorf("the reference has PCRs %v, not %v", got, want)
	}
	p.References = []tpm.Reference{r}
	failed := func(e *tpm.Evidence) string {
		return strings.Join(verify(e, p, tpm.Expectation{QualifyingData: nonce}).Failed(), " ")
	}
	for name, e := range map[string]*tpm.Evidence{"before": before, "after": after} {
		if got := failed(e); got != "" {
			t.Errorf("%s the cap: %s", name, got)
		}
		if got := len(e.ReferenceValues("sha256")[tpm.ApplicationPCR]); got != 32 {
			t.Errorf("%s the cap: a value of %d bytes in bank sha256", name, got)
		}
	}
	if bytes.Equal(after.Bank("sha384")[tpm.ApplicationPCR], r.PCRs[tpm.ApplicationPCR]) {
		t.Error("the cap has not changed the PCR")
	}

	// What is called cap and is none, or does not replay, hides nothing.
	const both = "E_TPM_MEASUREMENTS E_TPM_REFERENCE"
	for name, tt := range map[string]struct {
		list []tpm.Measurement
		want string
	}{
		"the cap not told":         {[]tpm.Measurement{m}, both},
		"the cap first":            {[]tpm.Measurement{c, m}, both},
		"the cap alone":            {[]tpm.Measurement{c}, both},
		"another content of a cap": {[]tpm.Measurement{m, measurement("cap", "1")}, both},
		"the cap of another PCR":   {[]tpm.Measurement{m, {PCR: 13, Name: c.Name, Digest: c.Digest}}, both},
	} {
		e := clone(after)
		e.Measurements = tt.list
		if got := failed(e); got != tt.want {
			t.Errorf("%s: failed %q, not %q", name, got, tt.want)
		}
	}
	e := clone(before)
	e.Measurements = []tpm.Measurement{m, c}
	if got := failed(e); got != "E_TPM_MEASUREMENTS" {
		t.Errorf("a cap that did not happen: failed %q", got)
	}
	own := measurement("cap", "1")
	if err := dev.Measure(own); err != nil {
		t.Fatal(err)
	}
	if got := failed(must(dev.Collect(nonce, log, []tpm.Measurement{m, c}))); got != both {
		t.Errorf("more after the cap, not told: failed %q", got)
	}
	if got := failed(must(dev.Collect(nonce, log, []tpm.Measurement{m, c, own}))); got != "E_TPM_FORMAT" {
		t.Errorf("two caps: failed %q", got)
	}
	later := measurement("later", "1")
	if err := dev.Measure(later); err != nil {
		t.Fatal(err)
	}
	if got := failed(must(dev.Collect(nonce, log, []tpm.Measurement{m, c, later}))); got != both {
		t.Errorf("more than the list after the cap: failed %q", got)
	}
}

// TestMeasuredMore: what is measured besides is no known release, neither after
// the cap nor under its name.
func TestMeasuredMore(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	log := must(swtpm.Boot(dev, kernel))
	program, fake, later := measurement("program", "1"), measurement("cap", "1"), measurement("later", "1")
	if err := dev.Measure(program); err != nil {
		t.Fatal(err)
	}
	p := tpm.DefaultPolicy()
	p.References = []tpm.Reference{must(tpm.NewReference("release 1.2.0", must(dev.Collect(nonce, log, []tpm.Measurement{program})), p))}
	wantUnknown := func(list ...tpm.Measurement) {
		t.Helper()
		v := verify(must(dev.Collect(nonce, log, list)), p, tpm.Expectation{QualifyingData: nonce})
		if got := v.Failed(); !slices.Equal(got, []string{"E_TPM_REFERENCE"}) {
			t.Errorf("failed: %v", got)
		}
	}
	if err := dev.Measure(fake); err != nil {
		t.Fatal(err)
	}
	wantUnknown(program, fake)

	dev, _ = start(t, t.TempDir())
	log = must(swtpm.Boot(dev, kernel))
	if err := dev.Measure(program); err != nil {
		t.Fatal(err)
	}
	c := must(dev.Cap())
	if err := dev.Measure(later); err != nil {
		t.Fatal(err)
	}
	wantUnknown(program, c, later)
}

// TestNewReference refuses evidence that would make a reference of little use.
func TestNewReference(t *testing.T) {
	dev, _ := start(t, t.TempDir())
	log := must(swtpm.Boot(dev, kernel))
	p := tpm.DefaultPolicy()
	if _, err := tpm.NewReference("empty", must(dev.Collect(nonce, log, nil)), p); err == nil || !strings.Contains(err.Error(), "PCR 14") {
		t.Errorf("nothing measured: %v", err)
	}
	c := must(dev.Cap())
	e := must(dev.Collect(nonce, log, []tpm.Measurement{c}))
	if _, err := tpm.NewReference("the cap alone", e, p); err == nil || !strings.Contains(err.Error(), "PCR 14") {
		t.Errorf("the cap alone: %v", err)
	}
	delete(e.PCRs[p.Bank], 4)
	e.Measurements = nil
	if _, err := tpm.NewReference("no PCR 4", e, p); err == nil || !strings.Contains(err.Error(), "PCR 4 ") {
		t.Errorf("PCR 4 not quoted: %v", err)
	}
	p.RequiredPCRs = []int{7}
	if r := must(tpm.NewReference("PCR 14 besides", e, p)); !slices.Equal(slices.Sorted(maps.Keys(r.PCRs)), []int{7, tpm.ApplicationPCR}) {
		t.Errorf("%v", r)
	}
}

// An unrestricted key signs whatever it is given: a real TPM quotes with it, and
// the quote must not count.
func TestUnrestrictedKeyOfRealTPM(t *testing.T) {
	good := collect(t, swtpm.Events(kernel), measurements())
	e := clone(good)
	dev, _ := start(t, t.TempDir())
	template := newForger().public
	template.ObjectAttributes.Restricted = false
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	e.EventLog = must(swtpm.Boot(dev, kernel))
	for _, m := range e.Measurements {
		if err := dev.Measure(m); err != nil {
			t.Fatal(err)
		}
	}
	err := dev.Do(func(tt transport.TPM) error {
		key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(tt)
		if err != nil {
			return err
		}
		defer tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(tt)
		all := []uint{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
		rsp, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
				{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(all...)}, {Hash: tpm2.TPMAlgSHA384, PCRSelect: tpm2.PCClientCompatible.PCRs(all...)}}},
		}.Execute(tt)
		if err != nil {
			return err
		}
		e.AK, e.Quote, e.Signature = key.OutPublic.Bytes(), rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := verify(e, policy(good), tpm.Expectation{QualifyingData: nonce}).Failed(); !slices.Equal(got, []string{"E_TPM_AK"}) {
		t.Error(got)
	}
}

// flip changes one bit of the byte.
func flip(b []byte, i int) {
	if i < 0 {
		i += len(b)
	}
	b[i] ^= 1
}

// Every edit must fail the checks that it is about, and no others.
func TestEveryCheckFailsForItself(t *testing.T) {
	events := swtpm.Events(kernel, cmdline)
	good := collect(t, events, measurements())
	f := newForger()
	find := func(pcr int, typ tcg.EventType) int {
		return slices.IndexFunc(events, func(e swtpm.Event) bool { return e.PCR == pcr && e.Type == typ })
	}
	relog := func(edit func([]swtpm.Event) []swtpm.Event) func(*tpm.Evidence) {
		return func(e *tpm.Evidence) { e.EventLog = swtpm.Log(edit(slices.Clone(events))) }
	}
	forged := func(edit func(*tpm.Evidence)) func(*tpm.Evidence) {
		return func(e *tpm.Evidence) { edit(e); f.quote(e) }
	}
	ak := func(edit func(*tpm2.TPMTPublic)) func(*tpm.Evidence) {
		return func(e *tpm.Evidence) {
			f.quote(e)
			public := f.public
			edit(&public)
			e.AK = tpm2.Marshal(public)
		}
	}
	setAll := func(n int, b byte) func(*tpm.Evidence) {
		return forged(func(e *tpm.Evidence) {
			for _, values := range e.PCRs {
				values[n] = bytes.Repeat([]byte{b}, len(values[n]))
			}
		})
	}
	for _, test := range []struct {
		name string
		edit func(*tpm.Evidence)
		want string // codes
	}{
		{"nothing", func(e *tpm.Evidence) {}, ""},
		{"forged, as it is", forged(func(e *tpm.Evidence) {}), ""},

		{"quote missing", func(e *tpm.Evidence) { e.Quote = nil }, "E_TPM_FORMAT"},
		{"quote cut", func(e *tpm.Evidence) { e.Quote = e.Quote[:len(e.Quote)-1] }, "E_TPM_FORMAT"},
		{"quote with a byte more", func(e *tpm.Evidence) { e.Quote = append(e.Quote, 0) }, "E_TPM_FORMAT"},
		{"quote too long", func(e *tpm.Evidence) { e.Quote = append(e.Quote, make([]byte, 4096)...) }, "E_TPM_FORMAT"},
		{"signature cut", func(e *tpm.Evidence) { e.Signature = e.Signature[:len(e.Signature)-1] }, "E_TPM_FORMAT"},
		{"signature with a byte more", func(e *tpm.Evidence) { e.Signature = append(e.Signature, 0) }, "E_TPM_FORMAT"},
		{"signature of no kind", func(e *tpm.Evidence) { e.Signature = []byte{0, 0x10} }, "E_TPM_SIGNATURE"},
		{"key cut", func(e *tpm.Evidence) { e.AK = e.AK[:len(e.AK)-1] }, "E_TPM_FORMAT"},
		{"key with a byte more", func(e *tpm.Evidence) { e.AK = append(e.AK, 0) }, "E_TPM_FORMAT"},
		{"certificate too long", func(e *tpm.Evidence) { e.EKCertificate = make([]byte, 1<<16) }, "E_TPM_FORMAT"},
		{"measurements too many", func(e *tpm.Evidence) { e.Measurements = make([]tpm.Measurement, 65) }, "E_TPM_FORMAT"},
		{"measurement without a name", func(e *tpm.Evidence) { e.Measurements[0].Name = "" }, "E_TPM_FORMAT"},
		{"measurement with a short digest", func(e *tpm.Evidence) { e.Measurements[0].Digest = e.Measurements[0].Digest[1:] }, "E_TPM_FORMAT"},
		{"measurement twice", func(e *tpm.Evidence) { e.Measurements = append(e.Measurements, e.Measurements[0]) }, "E_TPM_FORMAT"},

		{"not restricted", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }), "E_TPM_AK"},
		{"not sign", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = false }), "E_TPM_AK"},
		{"decrypt", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }), "E_TPM_AK"},
		{"not fixedTPM", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }), "E_TPM_AK"},
		{"not fixedParent", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false }), "E_TPM_AK"},
		{"not sensitiveDataOrigin", ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false }), "E_TPM_AK"},
		{"storage key", func(e *tpm.Evidence) { e.AK = tpm2.Marshal(tpm2.ECCSRKTemplate) }, "E_TPM_AK"},
		{"RSA of 1024 bits", func(e *tpm.Evidence) { e.AK = rsaAK(1024) }, "E_TPM_AK"},
		{"RSA with another signature", func(e *tpm.Evidence) { e.AK = rsaAK(2048) }, "E_TPM_SIGNATURE"},
		{"point off the curve", ak(func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
		}), "E_TPM_AK"},
		{"another key", func(e *tpm.Evidence) { e.AK = tpm2.Marshal(newForger().public) }, "E_TPM_SIGNATURE"},

		{"magic changed", func(e *tpm.Evidence) { flip(e.Quote, 0); f.sign(e) }, "E_TPM_QUOTE_TYPE"},
		{"magic changed, not signed", func(e *tpm.Evidence) { flip(e.Quote, 0) }, "E_TPM_QUOTE_TYPE E_TPM_SIGNATURE"},
		{"a certification, not a quote", func(e *tpm.Evidence) {
			e.Quote = tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: nonce},
				Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{})})
			f.sign(e)
		}, "E_TPM_QUOTE_TYPE"},
		{"quote's clock changed", func(e *tpm.Evidence) { flip(e.Quote, 6+2+34+2+32+7) }, "E_TPM_SIGNATURE"},
		{"signature changed", func(e *tpm.Evidence) { flip(e.Signature, -1) }, "E_TPM_SIGNATURE"},
		{"nonce changed", func(e *tpm.Evidence) { flip(e.Quote, 6+2+34+2); f.sign(e) }, "E_TPM_NONCE"},

		{"bank not quoted", forged(func(e *tpm.Evidence) { delete(e.PCRs, "sha384") }), "E_TPM_BANK"},
		{"bank SHA-1", forged(func(e *tpm.Evidence) { e.PCRs["sha1"] = map[int]tpm.Hex{0: make([]byte, 20)} }), "E_TPM_BANK"},

		{"PCR value changed", func(e *tpm.Evidence) { flip(e.PCRs["sha384"][4], 0) }, "E_TPM_PCRS"},
		{"PCR value of the other bank changed", func(e *tpm.Evidence) { flip(e.PCRs["sha256"][4], 0) }, "E_TPM_PCRS"},
		{"PCR value missing", func(e *tpm.Evidence) { delete(e.PCRs["sha256"], 4) }, "E_TPM_PCRS"},
		{"PCR value shorter", func(e *tpm.Evidence) { e.PCRs["sha256"][4] = e.PCRs["sha256"][4][1:] }, "E_TPM_PCRS"},
		{"PCR values swapped", func(e *tpm.Evidence) { p := e.PCRs["sha384"]; p[4], p[7] = p[7], p[4] }, "E_TPM_PCRS"},
		{"PCR value that was not quoted", func(e *tpm.Evidence) { e.PCRs["sha256"][16] = make([]byte, 32) }, "E_TPM_PCRS"},
		{"bank that was not quoted", func(e *tpm.Evidence) { e.PCRs["sha512"] = map[int]tpm.Hex{0: make([]byte, 64)} }, "E_TPM_PCRS"},
		{"required PCR not quoted", forged(func(e *tpm.Evidence) { delete(e.PCRs["sha384"], 12) }), "E_TPM_PCRS E_TPM_REFERENCE"},
		{"PCR 2 zero", setAll(2, 0), "E_TPM_PCRS E_TPM_LOG_REPLAY"},
		{"PCR 13 all ones", setAll(13, 0xff), "E_TPM_PCRS E_TPM_LOG_PCR E_TPM_REFERENCE"},

		{"log damaged", func(e *tpm.Evidence) { flip(e.EventLog, 32) }, "E_TPM_LOG_FORMAT"},
		{"log cut", func(e *tpm.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-1] }, "E_TPM_LOG_FORMAT"},
		{"log padded", func(e *tpm.Evidence) { e.EventLog = append(e.EventLog, bytes.Repeat([]byte{0xff}, 64)...) }, "E_TPM_LOG_FORMAT"},
		{"log too long", func(e *tpm.Evidence) { e.EventLog = make([]byte, tpm.MaxEventLog+1) }, "E_TPM_LOG_FORMAT"},
		{"log without the bank", func(e *tpm.Evidence) { e.EventLog = relabel(e.EventLog) }, "E_TPM_LOG_FORMAT"},
		{"log of a PCR that there is not", relog(func(l []swtpm.Event) []swtpm.Event { l[0].PCR = 24; return l }), "E_TPM_LOG_FORMAT"},
		{"log missing", func(e *tpm.Evidence) { e.EventLog = nil }, "E_TPM_LOG_EMPTY"},
		{"log without events", relog(func(l []swtpm.Event) []swtpm.Event { return nil }), "E_TPM_LOG_EMPTY"},
		{"event dropped", relog(func(l []swtpm.Event) []swtpm.Event { return slices.Delete(l, 0, 1) }), "E_TPM_LOG_REPLAY"},
		{"last events dropped, which the library would put back", relog(func(l []swtpm.Event) []swtpm.Event { return l[:len(l)-2] }), "E_TPM_LOG_REPLAY"},
		{"event edited", relog(func(l []swtpm.Event) []swtpm.Event { l[0].Data = []byte("x"); return l }), "E_TPM_LOG_REPLAY"},
		{"event added", relog(func(l []swtpm.Event) []swtpm.Event { return append(l, l[0]) }), "E_TPM_LOG_REPLAY"},
		{"events of a PCR swapped", relog(func(l []swtpm.Event) []swtpm.Event { l[0], l[1] = l[1], l[0]; return l }), "E_TPM_LOG_REPLAY"},
		{"locality of the start claimed", relog(func(l []swtpm.Event) []swtpm.Event {
			return slices.Insert(l, 0, swtpm.Event{PCR: 0, Type: tcg.NoAction, Data: []byte("StartupLocality\x00\x03")})
		}), "E_TPM_LOG_REPLAY"},
		{"locality of the start, zero", relog(func(l []swtpm.Event) []swtpm.Event {
			return slices.Insert(l, 0, swtpm.Event{PCR: 0, Type: tcg.NoAction, Data: []byte("StartupLocality\x00\x00")})
		}), ""},
		{"all events of PCR 11 dropped", relog(func(l []swtpm.Event) []swtpm.Event {
			return slices.DeleteFunc(l, func(e swtpm.Event) bool { return e.PCR == 11 })
		}), "E_TPM_LOG_PCR"},
		{"separator dropped", relog(func(l []swtpm.Event) []swtpm.Event {
			i := find(1, tcg.Separator)
			return slices.Delete(l, i, i+1)
		}), "E_TPM_LOG_REPLAY E_TPM_LOG_SEPARATOR"},
		{"separator by another name", relog(func(l []swtpm.Event) []swtpm.Event { l[find(1, tcg.Separator)].Type = tcg.PostCode; return l }), "E_TPM_LOG_SEPARATOR"},
		{"separator's name for another", relog(func(l []swtpm.Event) []swtpm.Event { l[0].Type = tcg.Separator; return l }), "E_TPM_LOG_SEPARATOR"},

		{"measurement dropped", func(e *tpm.Evidence) { e.Measurements = e.Measurements[1:] }, "E_TPM_MEASUREMENTS"},
		{"measurement changed", func(e *tpm.Evidence) { flip(e.Measurements[0].Digest, 0) }, "E_TPM_MEASUREMENTS"},
		{"measurement renamed", func(e *tpm.Evidence) { e.Measurements[0].Name = "other" }, "E_TPM_MEASUREMENTS"},
		{"measurements swapped", func(e *tpm.Evidence) { m := e.Measurements; m[0], m[1] = m[1], m[0] }, "E_TPM_MEASUREMENTS"},
		{"measurement of another PCR", func(e *tpm.Evidence) { e.Measurements[0].PCR = 13 }, "E_TPM_MEASUREMENTS"},
		{"measurements missing", func(e *tpm.Evidence) { e.Measurements = nil }, "E_TPM_MEASUREMENTS"},
		{"log has the application's PCR", relog(func(l []swtpm.Event) []swtpm.Event {
			return append(l, swtpm.Event{PCR: tpm.ApplicationPCR, Type: tcg.Ipl, Data: []byte("MokList")})
		}), "E_TPM_MEASUREMENTS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := clone(good)
			test.edit(e)
			v := verify(e, policy(good), tpm.Expectation{QualifyingData: nonce})
			if got := strings.Join(v.Failed(), " "); got != test.want {
				t.Errorf("failed: %q, not %q; %v", got, test.want, v.Err())
			}
			if (v.Result == appraisal.Pass) != (test.want == "") {
				t.Errorf("the verdict is %s", v.Result)
			}
			for _, c := range v.Checks {
				if strings.Contains(c.Detail, "\n") {
					t.Errorf("%s has more than a line: %q", c.Code, c.Detail)
				}
			}
		})
	}
}

// rsaAK is an attestation key with a modulus that means nothing.
func rsaAK(bits int) []byte {
	n := bytes.Repeat([]byte{0xff}, bits/8)
	public := newForger().public
	public.Type = tpm2.TPMAlgRSA
	public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme:  tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
		KeyBits: tpm2.TPMKeyBits(bits)})
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
	return tpm2.Marshal(public)
}

// relabel has a log say that its SHA-384 digests are SHA3-384.
func relabel(log []byte) []byte {
	le := binary.LittleEndian
	log = bytes.Clone(log)
	le.PutUint16(log[32+16+8+4+4:], 0x28)
	at := 32 + int(le.Uint32(log[28:]))
	for at < len(log) {
		at += 4 + 4 + 4 + 2 + 32
		le.PutUint16(log[at:], 0x28)
		at += 2 + 48
		at += 4 + int(le.Uint32(log[at:]))
	}
	return log
}

func TestBootsThatFail(t *testing.T) {
	without := func(pcr int) []swtpm.Event {
		return slices.DeleteFunc(swtpm.Events(kernel), func(e swtpm.Event) bool { return e.PCR == pcr && e.Type == tcg.Separator })
	}
	for _, test := range []struct {
		name   string
		events []swtpm.Event // that the machine measures
		log    []swtpm.Event // that its log has besides
		want   string
	}{
		{"no separator", without(7), nil, "E_TPM_LOG_SEPARATOR"},
		{"no separator, and one in the log that extends nothing", without(7), []swtpm.Event{{PCR: 7, Type: tcg.NoAction, Data: make([]byte, 4)}}, "E_TPM_LOG_SEPARATOR"},
		{"two separators", append(swtpm.Events(kernel), swtpm.Event{PCR: 7, Type: tcg.Separator, Data: make([]byte, 4)}), nil, "E_TPM_LOG_SEPARATOR"},
		{"an error separator", append(without(7), swtpm.Event{PCR: 7, Type: tcg.Separator, Data: []byte{1, 0, 0, 0}}), nil, "E_TPM_LOG_SEPARATOR"},
		{"a boot loader that uses the application's PCR", append(swtpm.Events(kernel), swtpm.Event{PCR: tpm.ApplicationPCR, Type: tcg.Ipl, Data: []byte("MokList")}), nil, "E_TPM_MEASUREMENTS"},
		{"firmware that measures nothing", nil, nil, "E_TPM_PCRS E_TPM_LOG_EMPTY"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := collect(t, test.events, measurements())
			e.EventLog = swtpm.Log(append(test.events, test.log...))
			v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
			if got := strings.Join(v.Failed(), " "); got != test.want {
				t.Errorf("failed: %q, not %q; %v", got, test.want, v.Err())
			}
		})
	}
	t.Run("extended after the log ended", func(t *testing.T) {
		dev, _ := start(t, t.TempDir())
		log := must(swtpm.Boot(dev, kernel))
		for _, pcr := range []int{11, 12} {
			if err := dev.Extend(pcr, []byte("late")); err != nil {
				t.Fatal(err)
			}
		}
		if err := dev.Measure(measurements()[0]); err != nil {
			t.Fatal(err)
		}
		e := must(dev.Collect(nonce, log, measurements()[:1]))
		v := verify(e, policy(e), tpm.Expectation{QualifyingData: nonce})
		if got := strings.Join(v.Failed(), " "); got != "E_TPM_LOG_REPLAY E_TPM_LOG_PCR" {
			t.Errorf("failed: %s; %v", got, v.Err())
		}
	})
}

// A log that was cut anywhere is refused: within an event it is damaged, between
// events it no longer replays.
func TestTruncatedLogs(t *testing.T) {
	e := collect(t, swtpm.Events(kernel, cmdline), measurements())
	p, whole := policy(e), e.EventLog
	codes := map[string]int{}
	for n := range len(whole) {
		e.EventLog = whole[:n]
		v := verify(e, p, tpm.Expectation{QualifyingData: nonce})
		if v.Result != appraisal.Fail || len(v.Failed()) == 0 {
			t.Fatalf("a log of %d bytes, of %d, passed", n, len(whole))
		}
		codes[v.Failed()[0]]++
	}
	if codes["E_TPM_LOG_EMPTY"] != 2 || codes["E_TPM_LOG_REPLAY"] == 0 || codes["E_TPM_LOG_FORMAT"] == 0 {
		t.Errorf("%v", codes)
	}
}

func TestNotRunWithReason(t *testing.T) {
	e := collect(t, swtpm.Events(kernel), nil)
	p := tpm.Policy{Bank: "sha256", RequiredPCRs: []int{4}}
	v := verify(e, p, tpm.Expectation{})
	if v.Result != appraisal.Incomplete {
		t.Fatal(v.Err())
	}
	left := map[appraisal.Result][]string{}
	for _, c := range v.Checks {
		left[c.Result] = append(left[c.Result], c.Code)
		if c.Result != appraisal.Pass && c.Detail == "" {
			t.Errorf("%s was not run without a reason", c.Code)
		}
	}
	if got := left[appraisal.NotRun]; !slices.Equal(got, []string{"E_TPM_MEASUREMENTS"}) {
		t.Errorf("not run: %v", got)
	}
	if got := left[appraisal.Missing]; !slices.Equal(got, []string{"E_TPM_NONCE", "E_TPM_REFERENCE"}) {
		t.Errorf("missing: %v", got)
	}
}

func TestReplayedQuote(t *testing.T) {
	e := collect(t, swtpm.Events(kernel), measurements())
	v := verify(e, policy(e), tpm.Expectation{QualifyingData: bytes.Repeat([]byte{8}, 32)})
	if got := v.Failed(); !slices.Equal(got, []string{"E_TPM_NONCE"}) {
		t.Error(got)
	}
	v = verify(e, policy(e), tpm.Expectation{QualifyingData: []byte{}})
	if got := v.Failed(); !slices.Equal(got, []string{"E_TPM_NONCE"}) {
		t.Errorf("empty, not nil: %v", got)
	}
}

func TestPolicyValidate(t *testing.T) {
	if err := tpm.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	full := func() map[int]tpm.Hex {
		m := map[int]tpm.Hex{}
		for _, n := range []int{4, 7, 11, 12, 13} {
			m[n] = make([]byte, 48)
		}
		return m
	}
	without := func(n int) map[int]tpm.Hex { m := full(); delete(m, n); return m }
	with := func(n, size int) map[int]tpm.Hex { m := full(); m[n] = make([]byte, size); return m }
	for _, test := range []struct {
		want string
		edit func(*tpm.Policy)
	}{
		{"", func(p *tpm.Policy) {
			p.References = []tpm.Reference{{Name: "a", PCRs: full()}, {Name: "b", PCRs: with(14, 48)}}
		}},
		{"bank", func(p *tpm.Policy) { p.Bank = "sha1" }},
		{"at least one", func(p *tpm.Policy) { p.RequiredPCRs = nil }},
		{"16", func(p *tpm.Policy) { p.RequiredPCRs = []int{16} }},
		{"-1", func(p *tpm.Policy) { p.RequiredPCRs = []int{-1} }},
		{"twice", func(p *tpm.Policy) { p.RequiredPCRs = []int{4, 4} }},
		{"PCR 12", func(p *tpm.Policy) { p.References = []tpm.Reference{{Name: "a", PCRs: without(12)}} }},
		{"PCR 23", func(p *tpm.Policy) { p.References = []tpm.Reference{{Name: "a", PCRs: with(23, 48)}} }},
		{"32 bytes", func(p *tpm.Policy) { p.References = []tpm.Reference{{Name: "a", PCRs: with(4, 32)}} }},
		{"used twice", func(p *tpm.Policy) {
			p.References = []tpm.Reference{{Name: "a", PCRs: full()}, {Name: "a", PCRs: full()}}
		}},
		{"1 to 200", func(p *tpm.Policy) { p.References = []tpm.Reference{{PCRs: full()}} }},
		{"1000", func(p *tpm.Policy) { p.References = make([]tpm.Reference, 1001) }},
	} {
		p := tpm.DefaultPolicy()
		test.edit(&p)
		err := p.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.want, err)
		}
	}
}

func TestJSON(t *testing.T) {
	e := collect(t, swtpm.Events(kernel), measurements())
	p := policy(e)
	text := must(json.Marshal(p))
	if !bytes.Contains(text, fmt.Appendf(nil, `"4":"%s"`, e.PCRs["sha384"][4])) {
		t.Errorf("%s", text)
	}
	var again tpm.Policy
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if v := verify(clone(e), again, tpm.Expectation{QualifyingData: nonce}); v.Result != appraisal.Pass {
		t.Error(v.Err())
	}
	// As the evidence file is encoded.
	strict := must(jsonv2.Marshal(e))
	var read tpm.Evidence
	if err := jsonv2.Unmarshal(strict, &read, jsonv2.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(json.Marshal(e)), must(json.Marshal(read))) {
		t.Errorf("%s", strict)
	}
	if err := jsonv2.Unmarshal([]byte(`{"pcrs":{"sha256":{"4":"00","4":"01"}}}`), &read); err == nil {
		t.Error("a PCR is there twice, and that was taken")
	}
	var h tpm.Hex
	if err := h.UnmarshalText([]byte("xy")); err == nil {
		t.Error("xy was taken for hexadecimal")
	}
	if crypto.SHA384.Size() != len(e.Bank("sha384")[4]) || e.Bank("sha512") != nil {
		t.Error("Bank")
	}
}
