package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// enclave is a second kind of processor report, for tests: the data, signed by
// Ed25519, with the key's last day as an endorsement.
type enclave struct {
	name string     // "test-enclave" if empty
	code fault.Code // of its check
}

var (
	checkEnclave = appraisal.Question{Code: "E_ENCLAVE", Name: "The test enclave's report is good."}
	enclaveKey   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))
	enclaveEnds  = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
)

const enclaveName = "test-enclave"

// enclavePolicy names the level that a report must have.
type enclavePolicy struct {
	Level int `json:"level"`
}

func (p *enclavePolicy) Validate() error {
	if p.Level < 1 {
		return errors.New("policy: test_enclave: level: use 1 or more")
	}
	return nil
}

func (p *enclavePolicy) Gaps() []string { return nil }

func (k enclave) Name() string {
	if k.name != "" {
		return k.name
	}
	return enclaveName
}

func (k enclave) Questions() []appraisal.Question {
	if k.code != "" {
		return []appraisal.Question{{Code: k.code, Name: "A check of another code."}}
	}
	return []appraisal.Question{checkEnclave}
}

func (enclave) Title() string  { return "test enclave's report" }
func (enclave) Remedy() string { return "buy one" }

func (enclave) ParsePolicy(text []byte) (processor.Policy, error) {
	p := new(enclavePolicy)
	return p, json.Unmarshal(text, p, json.RejectUnknownMembers(true))
}

func (enclave) Verify(s *appraisal.Sheet, r processor.Report, p processor.Policy, x processor.Expectation) {
	policy, ok := p.(*enclavePolicy)
	if !ok || len(r.Signed) <= processor.DataSize {
		s.Answer(checkEnclave, errors.New("it is malformed"))
		return
	}
	level := r.Signed[processor.DataSize]
	s.Fact(processor.Section(enclaveName), map[string]any{"level": int(level)})
	end := processor.DataSize + 1
	switch {
	case !ed25519.Verify(enclaveKey.Public().(ed25519.PublicKey), r.Signed[:end], r.Signed[end:]):
		s.Answer(checkEnclave, errors.New("its signature is bad"))
	case x.Data != nil && !bytes.Equal(r.Signed[:processor.DataSize], x.Data[:]):
		s.Answer(checkEnclave, errors.New("it was made for something else"))
	case int(level) < policy.Level:
		s.Answer(checkEnclave, fmt.Errorf("its level is %d, the policy asks for %d", level, policy.Level))
	case x.At.After(enclaveEnds):
		s.Answer(checkEnclave, errors.New("its key has expired"))
	default:
		s.Answer(checkEnclave, nil)
	}
}

func (enclave) Data(r processor.Report) []byte {
	return r.Signed[:min(len(r.Signed), processor.DataSize)]
}

func (enclave) Expires(r processor.Report) (time.Time, error) {
	return time.Parse(time.RFC3339, string(r.Endorsements["expires"]))
}

// enclaveSource makes the reports, of the level.
type enclaveSource struct {
	level byte
	says  string // the kind that its reports say; its own if empty
}

func (enclaveSource) Kind() string { return enclaveName }

func (e enclaveSource) Collect(data [processor.DataSize]byte) (*processor.Report, error) {
	signed := append(slices.Clone(data[:]), e.level)
	r := &processor.Report{Kind: enclaveName, Signed: append(signed, ed25519.Sign(enclaveKey, signed)...),
		Endorsements: map[string][]byte{"expires": []byte(enclaveEnds.Format(time.RFC3339))}}
	if e.says != "" {
		r.Kind = e.says
	}
	return r, nil
}

func kinds(t *testing.T, list ...processor.Kind) *attest.Kinds {
	t.Helper()
	k, err := attest.NewKinds(list...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// enclaveMachine is a simulated one whose processor is the enclave, the roots under
// which its evidence passes, and the policy, as a file.
func enclaveMachine(t *testing.T, source processor.Source) (*attest.Collector, *attest.Roots, []byte) {
	t.Helper()
	p, c := machine(t)
	c.Report = source
	policy := p.Policy()
	policy.Require = []attest.Technology{enclaveName, attest.TPM, attest.NitroTPM}
	policy.Reports = processor.Policies{processor.Section(enclaveName): &enclavePolicy{Level: 5}}
	policy.TPM.References = []tpm.Reference{known("release 1", policy.TPM.RequiredPCRs...)}
	file, err := attest.SignPolicy(&policy, signer)
	if err != nil {
		t.Fatal(err)
	}
	return c, &attest.Roots{Kinds: kinds(t, snp.Kind{}, enclave{}), Nitro: p.Roots().Nitro}, file
}

// TestSecondKind: a second kind of report is one that a registration brings: it is
// collected, written, read, appraised under its section of a signed policy, and
// expires.
func TestSecondKind(t *testing.T) {
	c, roots, file := enclaveMachine(t, enclaveSource{level: 5})
	if got := c.Technologies(); !slices.Equal(got, []attest.Technology{enclaveName, attest.TPM, attest.NitroTPM}) {
		t.Errorf("the machine has %v", got)
	}
	e := copyOf(t, collect(t, c))
	if e.Report.Kind != enclaveName {
		t.Fatalf("the report is of the kind %s", e.Report.Kind)
	}
	signed, err := roots.Kinds.OpenPolicy(file, signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	policy := signed.Policy
	policy.TPM.References = []tpm.Reference{reference(e, "release 1", 0)}
	x := attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: roots, Release: true}
	v := attest.Verify(e, &policy, x)
	if v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	if fact := fmt.Sprint(v.Facts["test_enclave"]); fact != "map[level:5]" {
		t.Errorf("its fact is %s", fact)
	}
	for _, check := range v.Checks {
		if strings.HasPrefix(check.Code, "E_SNP_") && (check.Result != appraisal.NotRun || check.Detail != "the evidence has no SEV-SNP report") {
			t.Errorf("%s: %s, %q", check.Code, check.Result, check.Detail)
		}
	}
	if ends, err := attest.Expires(e, roots); err != nil || !ends.Equal(enclaveEnds) {
		t.Errorf("it expires at %s, %v", ends, err)
	}

	fails := func(what string, e *attest.Evidence, change func(p *attest.Policy, x *attest.Expectation), codes ...string) {
		t.Helper()
		policy, x := policy, x
		if change != nil {
			change(&policy, &x)
		}
		if v := attest.Verify(e, &policy, x); v.Result != appraisal.Fail || !slices.Equal(v.Failed(), codes) {
			t.Errorf("%s: %s, failed: %v, want %v", what, v.Result, v.Failed(), codes)
		}
	}
	changed := copyOf(t, e)
	changed.Report.Signed[0] ^= 1
	fails("another byte", changed, nil, "E_ENCLAVE", "E_TPM_NONCE")
	old := copyOf(t, e)
	old.Report = collect(t, c).Report
	fails("a report of another time", old, nil, "E_ENCLAVE", "E_TPM_NONCE")
	gone := copyOf(t, e)
	gone.Report = nil
	fails("taken out", gone, nil, "E_REQUIRED", "E_TPM_NONCE", "E_NITRO_USER_DATA")
	fails("a higher level is asked for", e, func(p *attest.Policy, _ *attest.Expectation) {
		p.Reports = processor.Policies{"test_enclave": &enclavePolicy{Level: 6}}
	}, "E_ENCLAVE")
	fails("late", e, func(_ *attest.Policy, x *attest.Expectation) { x.At = enclaveEnds.Add(1) }, "E_TIME", "E_ENCLAVE")
	fails("SEV-SNP is required", e, func(p *attest.Policy, _ *attest.Expectation) {
		p.Require = []attest.Technology{attest.SEVSNP, attest.TPM, attest.NitroTPM}
		p.Reports = processor.Policies{"test_enclave": p.Reports["test_enclave"], snp.Section: attest.DefaultPolicy().Reports[snp.Section]}
	}, "E_REQUIRED")
	fails("another kind's policy", e, func(p *attest.Policy, _ *attest.Expectation) {
		p.Reports = processor.Policies{"test_enclave": attest.DefaultPolicy().Reports[snp.Section]}
	}, "E_ENCLAVE")
}

// TestNothingIsPassedOver: a report that cannot be appraised fails the evidence,
// whether or not the policy requires it.
func TestNothingIsPassedOver(t *testing.T) {
	c, roots, file := enclaveMachine(t, enclaveSource{level: 5})
	e := copyOf(t, collect(t, c))
	signed, err := roots.Kinds.OpenPolicy(file, signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(p *attest.Policy, r *attest.Roots)
		codes  []string
	}{
		"kind that is not registered":            {func(_ *attest.Policy, r *attest.Roots) { r.Kinds = kinds(t, snp.Kind{}) }, []string{"E_REPORT_KIND"}},
		"of which no kind is registered":         {func(_ *attest.Policy, r *attest.Roots) { r.Kinds = kinds(t) }, []string{"E_REPORT_KIND"}},
		"of which the program knows":             {func(_ *attest.Policy, r *attest.Roots) { r.Kinds = nil }, []string{"E_REPORT_KIND"}},
		"of which the policy says nothing":       {func(p *attest.Policy, _ *attest.Roots) { p.Reports = nil }, []string{"E_REPORT_KIND"}},
		"of which the policy has a null section": {func(p *attest.Policy, _ *attest.Roots) { p.Reports = processor.Policies{"test_enclave": nil} }, []string{"E_REPORT_KIND"}},
	} {
		for _, require := range [][]attest.Technology{signed.Require, {attest.TPM, attest.NitroTPM}} {
			policy, r := signed.Policy, *roots
			policy.Require = require
			policy.TPM.References = []tpm.Reference{reference(e, "release 1", 0)}
			tt.change(&policy, &r)
			v := attest.Verify(e, &policy, attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: &r})
			if v.Result != appraisal.Fail || !slices.Equal(v.Failed(), tt.codes) {
				t.Errorf("%s, required: %v: %s, failed: %v", name, require, v.Result, v.Failed())
			}
		}
	}
	if _, err := attest.Expires(e, nil); err == nil || !strings.Contains(err.Error(), enclaveName) {
		t.Errorf("when it expires is said to be known: %v", err)
	}
	parts := attest.VerifyParts(attest.Parts{Report: e.Report}, &signed.Policy, attest.Expectation{At: e.Created}, e.Created)
	if parts.Result != appraisal.Fail || !slices.Equal(parts.Failed(), []string{"E_REPORT_KIND"}) {
		t.Errorf("as a part: %s, failed: %v", parts.Result, parts.Failed())
	}
	// A report that only says that it is of a kind.
	claims := copyOf(t, e)
	claims.Report.Kind = snp.Name
	policy := attest.DefaultPolicy()
	if v := attest.Verify(claims, &policy, attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: roots}); v.Result != appraisal.Fail || !slices.Contains(v.Failed(), "E_SNP_FORMAT") {
		t.Errorf("another kind's bytes: failed: %v", v.Failed())
	}
	// A kind cannot take the place of another technology.
	for _, t2 := range []attest.Technology{attest.TPM, attest.NitroTPM} {
		claims.Report.Kind, claims.TPM, claims.Nitro = string(t2), nil, nil
		policy.Require = []attest.Technology{t2}
		if v := attest.Verify(claims, &policy, attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: roots}); v.Result != appraisal.Fail {
			t.Errorf("a report that says %s passes for one", t2)
		}
	}
}

// TestSourceSaysAnotherKind: what is bound is what is collected.
func TestSourceSaysAnotherKind(t *testing.T) {
	c, _, _ := enclaveMachine(t, enclaveSource{says: snp.Name})
	if _, err := c.Collect(t.Context(), nonce, tlsKey, nil); err == nil || !strings.Contains(err.Error(), `"sev-snp", not "test-enclave"`) {
		t.Errorf("it is collected: %v", err)
	}
}

// TestKinds refuses kinds that could be taken for one another.
func TestKinds(t *testing.T) {
	for says, list := range map[string][]processor.Kind{
		`two technologies "test-enclave"`: {enclave{}, enclave{code: "E_OTHER"}},
		`two technologies "sev-snp"`:      {snp.Kind{}, snp.Kind{Roots: &snp.Roots{}}},
		`two technologies "tpm"`:          {enclave{name: "tpm"}},
		`two technologies "nitrotpm"`:     {enclave{name: "nitrotpm"}},
		`E_SNP_TIME is both of`:           {snp.Kind{}, enclave{code: "E_SNP_TIME"}},
		`E_TPM_NONCE is both of "tpm"`:    {enclave{code: "E_TPM_NONCE"}},
		`E_NITRO_PCRS is both of`:         {enclave{code: "E_NITRO_PCRS"}},
		`E_TIME is both of "evidence"`:    {enclave{code: "E_TIME"}},
		`E_REPORT_KIND is both of`:        {enclave{code: "E_REPORT_KIND"}},
		`E_PARTS is both of`:              {enclave{code: "E_PARTS"}},
		`"test_enclave" cannot be`:        {enclave{name: "test_enclave"}},
		`"Test" cannot be`:                {enclave{name: "Test"}},
		`"a-" cannot be`:                  {enclave{name: "a-"}},
		strings.Repeat("x", 33):           {enclave{name: strings.Repeat("x", 33)}},
	} {
		if _, err := attest.NewKinds(list...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	for _, technology := range attest.Technologies() {
		if attest.Remedy(technology) == "" {
			t.Errorf("nobody is told how to get %s", technology)
		}
	}
	if attest.Remedy("another") != "" {
		t.Error("there is a remedy for what nobody knows")
	}
}

// TestSections: the section of a kind is read by that kind, and one that no kind
// reads makes the policy another than its signer meant.
func TestSections(t *testing.T) {
	_, roots, file := enclaveMachine(t, enclaveSource{})
	public := signer.Public().(ed25519.PublicKey)
	if _, err := attest.ReadPolicy(file, public); err == nil || !strings.Contains(err.Error(), `"test_enclave"`) || !strings.Contains(err.Error(), `["sev-snp"]`) {
		t.Errorf("a program without the kind reads the policy: %v", err)
	}
	signed, err := roots.Kinds.OpenPolicy(file, public)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := signed.Reports["test_enclave"].(*enclavePolicy); !ok || p.Level != 5 {
		t.Errorf("the section is %+v", signed.Reports["test_enclave"])
	}
	text := string(must(json.Marshal(attest.DefaultPolicy())))
	at := strings.Index(text, `"sev_snp":`)
	without := text[:at] + `"sev_snp":`
	rest := strings.TrimPrefix(text[at:], `"sev_snp":`)
	for name, bad := range map[string]string{
		"null":                 without + "null}",
		"not an object":        without + "[]}",
		"empty":                without + "{}}",
		"missing, and needed":  strings.TrimSuffix(text[:at], ",") + "}",
		"unknown name in it":   without + strings.Replace(rest, "{", `{"x":1,`, 1),
		"name twice in it":     without + strings.Replace(rest, "{", `{"allow_vcek":false,`, 1),
		"twice":                text[:len(text)-1] + `,"sev_snp":` + rest,
		"by the kind's name":   strings.Replace(text, `"sev_snp"`, `"sev-snp"`, 1),
		"other case":           strings.Replace(text, `"sev_snp"`, `"SEV_SNP"`, 1),
		"unknown section":      text[:len(text)-1] + `,"tdx":{}}`,
		"unknown, says naught": text[:len(text)-1] + `,"tdx":null}`,
		"required by section":  strings.Replace(text, `"sev-snp"`, `"sev_snp"`, 1),
		"required, no section": strings.Replace(text, `"sev-snp"`, `"sev-snp","test-enclave"`, 1),
	} {
		if _, err := attest.ParsePolicy([]byte(bad)); err == nil || bad == text {
			t.Errorf("%s: the policy is read", name)
		}
	}
	if _, err := attest.ParsePolicy([]byte(text)); err != nil {
		t.Error(err)
	}
}

// FuzzParsePolicy: no text makes it panic, and what it reads it can write, with the
// same meaning.
func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(must(json.Marshal(proving()))))
	f.Add([]byte(`{"format":"holdfast-policy/v1","name":"x","version":1,"require":["tpm"],"max_age_seconds":1,"tdx":{},"sev_snp":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := attest.ParsePolicy(text)
		if err != nil {
			return
		}
		written := must(json.Marshal(p))
		again, err := attest.ParsePolicy(written)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(must(json.Marshal(again)), written) || !slices.Equal(again.Gaps(), p.Gaps()) {
			t.Errorf("written and read again it is another: %s", written)
		}
	})
}
