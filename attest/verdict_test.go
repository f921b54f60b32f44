package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

func result(v *appraisal.Verdict, code string) appraisal.Result {
	for _, c := range v.Checks {
		if c.Code == code {
			return c.Result
		}
	}
	return ""
}

// TestIncomplete: evidence with which nothing is wrong passes if all was given that
// matters, and is incomplete for each thing that was not.
func TestIncomplete(t *testing.T) {
	p, c := machine(t)
	e := collect(t, c)
	for name, tt := range map[string]struct {
		x      func(x *attest.Expectation)
		policy func(p *attest.Policy)
		lacks  []string
	}{
		"nothing":       {},
		"the nonce":     {x: func(x *attest.Expectation) { x.Nonce = nil }, lacks: []string{"E_NONCE", "E_TIME"}},
		"the TLS key":   {x: func(x *attest.Expectation) { x.TLSKey = nil }, lacks: []string{"E_TLS_KEY"}},
		"references":    {policy: func(p *attest.Policy) { p.TPM.References = nil }, lacks: []string{"E_POLICY_UNPROVEN", "E_TPM_REFERENCE"}},
		"proof, forced": {policy: func(p *attest.Policy) { p.Require, p.Unproven = []attest.Technology{attest.TPM}, "a test" }, lacks: []string{"E_POLICY_UNPROVEN"}},
	} {
		policy, x := knowing(p, e), whole(p)
		if tt.x != nil {
			tt.x(&x)
		}
		if tt.policy != nil {
			tt.policy(&policy)
		}
		v := attest.Verify(e, &policy, x)
		want := appraisal.Pass
		if tt.lacks != nil {
			want = appraisal.Incomplete
		}
		if v.Result != want || !slices.Equal(v.Lacks(), tt.lacks) || v.Failed() != nil {
			t.Errorf("without %s: %s, lacks %v: %v", name, v.Result, v.Lacks(), v.Err())
		}
		for _, check := range v.Checks {
			if check.Result == appraisal.Missing && (check.Detail == "" || strings.Contains(check.Detail, "\n")) {
				t.Errorf("without %s: %+v", name, check)
			}
		}
		// Who gives secrets accepts none of them, but by words.
		if err := policy.Accept(v); (err == nil) != (tt.lacks == nil || policy.Unproven != "") {
			t.Errorf("without %s: accepted: %v", name, err)
		}
	}
	// A policy that is forced takes no verdict that lacks something else.
	forced := knowing(p, e)
	forced.TPM.References, forced.Unproven = nil, "a test"
	if err := forced.Accept(attest.Verify(e, &forced, whole(p))); err != nil {
		t.Error(err)
	}
	x := whole(p)
	x.TLSKey = nil
	if err := forced.Accept(attest.Verify(e, &forced, x)); err == nil || !strings.Contains(err.Error(), "E_TLS_KEY") {
		t.Errorf("without the TLS key: %v", err)
	}
	if err := forced.Accept(&appraisal.Verdict{}); err == nil {
		t.Error("a verdict that says nothing is accepted")
	}
}

// TestTimeRunsWithANonce: whoever has asked with a nonce is told that the evidence is old.
func TestTimeRunsWithANonce(t *testing.T) {
	p, c := machine(t)
	c.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	e := collect(t, c)
	policy := knowing(p, e)
	policy.Nitro.MaxAgeSeconds = 7200 // the document's own time is now
	x := whole(p)
	if v := attest.Verify(e, &policy, x); !slices.Equal(v.Failed(), []string{"E_TIME"}) {
		t.Errorf("an hour old: %v", v.Failed())
	}
	x.At = e.Created.Add(time.Minute)
	if v := attest.Verify(e, &policy, x); v.Result != appraisal.Pass {
		t.Errorf("at its time: %v", v.Err())
	}
}

// TestVerdictNamesThePolicy: its digest and signer if it is the signed one, or that nobody
// has signed it.
func TestVerdictNamesThePolicy(t *testing.T) {
	p, c := machine(t)
	e := collect(t, c)
	policy := knowing(p, e)
	file, err := attest.SignPolicy(&policy, signer)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := attest.OpenPolicy(file, signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	x := whole(p)
	x.Signed = signed
	digest := hex.EncodeToString(signed.Digest)
	if u := attest.Verify(e, &signed.Policy, x).Policy; u == nil || u.Digest != digest || u.Signer != attest.KeyID(signer.Public().(ed25519.PublicKey)) || u.Name != policy.Name || u.Version != policy.Version {
		t.Errorf("signed: %+v", u)
	}
	// A copy may have been changed; nobody has signed it.
	changed := signed.Policy
	changed.MaxAgeSeconds++
	if u := attest.Verify(e, &changed, x).Policy; u.Signer != appraisal.Unsigned || u.Digest == digest {
		t.Errorf("changed: %+v", u)
	}
	x.Signed = nil
	v := attest.Verify(e, &policy, x)
	if u := v.Policy; u.Signer != appraisal.Unsigned || u.Digest != digest { // the text that was signed
		t.Errorf("unsigned: %+v", u)
	}
	if line := v.Policy.String(); !strings.Contains(line, "unsigned, SHA-256 "+digest) {
		t.Error(line)
	}
	if text := string(must(json.Marshal(v))); !strings.Contains(text, `"signer":"unsigned"`) {
		t.Error(text)
	}
}

// TestBonds: documents that nothing ties to each other are not one machine's.
func TestBonds(t *testing.T) {
	p, c := machine(t)
	_, c2 := machine(t)
	e, stranger := collect(t, c), collect(t, c2)
	policy := knowing(p, e)
	blank := func(e *attest.Evidence) *attest.Parts { // nobody has chosen any bytes
		r := *e.Report
		r.Signed = slices.Clone(r.Signed)
		copy(r.Signed[0x50:0x90], make([]byte, 64))
		return &attest.Parts{Report: &r}
	}
	for name, tt := range map[string]struct {
		parts attest.Parts
		want  appraisal.Result
		says  string
	}{
		"all of one machine":            {attest.Parts{Report: e.Report, Nitro: e.Nitro, TPM: e.TPM}, appraisal.Pass, ""},
		"one alone":                     {attest.Parts{TPM: e.TPM}, appraisal.NotRun, "one document alone"},
		"a stranger's quote":            {attest.Parts{Report: e.Report, Nitro: e.Nitro, TPM: stranger.TPM}, appraisal.Missing, "the TPM quote and the others"},
		"a stranger's quote, no report": {attest.Parts{Nitro: e.Nitro, TPM: stranger.TPM}, appraisal.Missing, "the TPM quote and the others"},
		"a report and its quote alone":  {attest.Parts{Report: e.Report, TPM: e.TPM}, appraisal.Missing, "the TPM quote and the others"}, // which is over a document, too
		"a stranger's document":         {attest.Parts{Report: e.Report, Nitro: stranger.Nitro, TPM: e.TPM}, appraisal.Fail, "different machines or times"},
		"a stranger's report":           {attest.Parts{Report: stranger.Report, Nitro: e.Nitro}, appraisal.Fail, "different machines or times"},
		"a report without data":         {attest.Parts{Report: blank(e).Report, TPM: e.TPM}, appraisal.Missing, "the TPM quote and the others"},
	} {
		v := attest.VerifyParts(tt.parts, &policy, attest.Expectation{At: e.Created}, e.Created)
		if got := result(v, "E_PARTS"); got != tt.want || !strings.Contains(detail(v, "E_PARTS"), tt.says) || v.Result == appraisal.Pass {
			t.Errorf("%s: %s, %q; the verdict is %s", name, got, detail(v, "E_PARTS"), v.Result)
		}
		if got := result(v, "E_TPM_NONCE"); tt.parts.TPM != nil && (got == appraisal.Pass) != (tt.want == appraisal.Pass) {
			t.Errorf("%s: whom the quote was made for: %s", name, got)
		}
	}
}

// TestStrangersQuote: a real report of 2026, with what any software TPM has quoted.
func TestStrangersQuote(t *testing.T) {
	report, vlek, document := vector(t, "aws-snp-2026", "report.bin"), vector(t, "aws-snp-2026", "vlek.der"), vector(t, "aws-snp-2026", "nitrotpm.cose")
	_, c := machine(t)
	e := collect(t, c)
	policy := attest.DefaultPolicy()
	policy.TPM.References = []tpm.Reference{reference(e, "the stranger's", 0)}
	policy.Require = []attest.Technology{attest.SEVSNP, attest.TPM}
	parts := attest.Parts{Report: snp.NewReport(snp.Evidence{Report: report, VEK: vlek}), TPM: e.TPM}
	x := attest.Expectation{At: time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)}
	v := attest.VerifyParts(parts, &policy, x, x.At)
	if v.Result != appraisal.Incomplete || result(v, "E_PARTS") != appraisal.Missing || result(v, "E_TPM_REFERENCE") != appraisal.Pass {
		t.Errorf("%s: %v", v.Result, v.Err())
	}
	parts.Nitro = document
	if v := attest.VerifyParts(parts, &policy, attest.Expectation{}, x.At); v.Result != appraisal.Fail || !slices.Contains(v.Failed(), "E_NITRO_PCRS") {
		t.Errorf("beside AWS's document: %s: %v", v.Result, v.Failed())
	}
}

// TestUnjudgedEvents: events of PCRs that no verdict rests upon are facts.
func TestUnjudgedEvents(t *testing.T) {
	p, c := machine(t)
	e := collect(t, c)
	policy := knowing(p, e)
	text := must(json.Marshal(attest.Verify(e, &policy, whole(p)).Facts["tpm"]))
	var f struct {
		Count  int `json:"unjudged_event_count"`
		Events []struct {
			PCR int    `json:"pcr"`
			Why string `json:"why"`
		} `json:"unjudged_events"`
	}
	if err := json.Unmarshal(text, &f); err != nil || f.Count == 0 || len(f.Events) != f.Count {
		t.Fatalf("%v: %s", err, text)
	}
	for _, event := range f.Events {
		if slices.Contains(policy.TPM.RequiredPCRs, event.PCR) || event.Why != "not compared" {
			t.Errorf("%+v", event)
		}
	}
	if bytes.Count(text, []byte(`"why":"not compared"`)) != f.Count {
		t.Errorf("%s", text)
	}
}
