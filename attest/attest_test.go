package attest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

var components = []swtpm.Component{{Name: ".linux", Content: []byte("a kernel")}, {Name: ".cmdline", Content: []byte("quiet")}}

// machine boots a simulated one, which measures its application.
func machine(t testing.TB) (*simulation.Platform, *attest.Collector) {
	t.Helper()
	p, err := simulation.Boot(t.TempDir(), nil, components...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	digest := sha256.Sum256([]byte("the program"))
	m := tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "program", Digest: digest[:]}
	if err := p.TPM.Measure(m); err != nil {
		t.Fatal(err)
	}
	c := p.Collector()
	c.Software, c.Measurements = "1.2.0", []tpm.Measurement{m}
	c.PolicyDigest = bytes.Repeat([]byte{5}, 32)
	return p, c
}

var (
	nonce  = bytes.Repeat([]byte{1}, 32)
	tlsKey = []byte("a public key of TLS")
)

func collect(t testing.TB, c *attest.Collector) *attest.Evidence {
	t.Helper()
	e, err := c.Collect(context.Background(), nonce, tlsKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// copyOf goes through the file.
func copyOf(t testing.TB, e *attest.Evidence) *attest.Evidence {
	t.Helper()
	text, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := attest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// knowing is the machine's policy with the evidence as its one release, so that the
// evidence passes it; whole is all that a verifier of it knows.
func knowing(p *simulation.Platform, e *attest.Evidence) attest.Policy {
	policy := p.Policy()
	policy.TPM.References = []tpm.Reference{reference(e, "release 1", 0)}
	return policy
}

func whole(p *simulation.Platform) attest.Expectation {
	return attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: p.Roots()}
}

// TestEvidence passes as it was made, and each part that is exchanged shows.
func TestEvidence(t *testing.T) {
	p, c := machine(t)
	good := collect(t, c)
	policy := knowing(p, good)
	expect := attest.Expectation{Nonce: nonce, TLSKey: tlsKey, At: time.Now(), PolicyDigest: c.PolicyDigest, Roots: p.Roots()}
	v := attest.Verify(copyOf(t, good), &policy, expect)
	if v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	codes := map[string]bool{}
	for _, q := range v.Checks {
		if codes[q.Code] || q.Name == "" || !strings.HasSuffix(q.Name, ".") {
			t.Errorf("check %+v", q)
		}
		codes[q.Code] = true
	}
	if len(codes) < 35 {
		t.Errorf("only %d checks", len(codes))
	}

	_, c2 := machine(t)
	foreign := collect(t, c2) // of another machine, with the same nonce and key
	old := collect(t, c)      // of the same machine, earlier
	binding := []string{"E_SNP_REPORT_DATA", "E_TPM_NONCE", "E_NITRO_USER_DATA"}
	for name, tt := range map[string]struct {
		evidence func(e *attest.Evidence)
		expect   func(x *attest.Expectation)
		policy   func(p *attest.Policy)
		codes    []string
	}{
		"replayed nonce":        {expect: func(x *attest.Expectation) { x.Nonce = bytes.Repeat([]byte{2}, 32) }, codes: []string{"E_NONCE"}},
		"nonce exchanged":       {evidence: func(e *attest.Evidence) { e.Nonce = bytes.Repeat([]byte{2}, 32) }, codes: append([]string{"E_NONCE", "E_NITRO_NONCE"}, binding...)},
		"TLS key of another":    {expect: func(x *attest.Expectation) { x.TLSKey = []byte("of the man in the middle") }, codes: []string{"E_TLS_KEY"}},
		"TLS key exchanged":     {evidence: func(e *attest.Evidence) { e.TLSKey = []byte("of the man in the middle") }, codes: append([]string{"E_TLS_KEY"}, binding...)},
		"release key added":     {evidence: func(e *attest.Evidence) { e.ReleaseKey = []byte("x") }, codes: binding},
		"launch file named":     {evidence: func(e *attest.Evidence) { e.LaunchDigest = bytes.Repeat([]byte{7}, 32) }, codes: binding},
		"owner named":           {evidence: func(e *attest.Evidence) { e.OwnerDigest = bytes.Repeat([]byte{8}, 32) }, codes: binding},
		"report of no kind":     {evidence: func(e *attest.Evidence) { e.Report.Kind = "another" }, codes: []string{"E_REQUIRED", "E_REPORT_KIND", "E_TPM_NONCE", "E_NITRO_USER_DATA"}},
		"endorsement unknown":   {evidence: func(e *attest.Evidence) { e.Report.Endorsements["another"] = []byte{1} }, codes: []string{"E_SNP_FORMAT"}},
		"endorsement taken out": {evidence: func(e *attest.Evidence) { delete(e.Report.Endorsements, "vek") }, codes: []string{"E_SNP_FORMAT"}},
		"software exchanged":    {evidence: func(e *attest.Evidence) { e.Software = "9.9.9" }, codes: binding},
		"time exchanged":        {evidence: func(e *attest.Evidence) { e.Created = e.Created.Add(-time.Second) }, codes: binding},
		"another policy":        {expect: func(x *attest.Expectation) { x.PolicyDigest = bytes.Repeat([]byte{6}, 32) }, codes: []string{"E_POLICY"}},
		"policy exchanged":      {evidence: func(e *attest.Evidence) { e.PolicyDigest = bytes.Repeat([]byte{6}, 32) }, codes: append([]string{"E_POLICY"}, binding...)},
		"too old":               {expect: func(x *attest.Expectation) { x.At = time.Now().Add(10 * time.Minute) }, codes: []string{"E_TIME"}},
		"of the future":         {expect: func(x *attest.Expectation) { x.At = time.Now().Add(-10 * time.Minute) }, codes: []string{"E_TIME"}},
		"kept, and asked later": {expect: func(x *attest.Expectation) { x.At = time.Now().AddDate(0, 1, 0) }, codes: []string{"E_TIME"}},
		"as of its own time":    {expect: func(x *attest.Expectation) { x.At = good.Created }},
		"report of another":     {evidence: func(e *attest.Evidence) { e.Report = foreign.Report }, codes: []string{"E_SNP_REPORT_DATA", "E_TPM_NONCE"}},
		"report of before":      {evidence: func(e *attest.Evidence) { e.Report = old.Report }, codes: []string{"E_SNP_REPORT_DATA", "E_TPM_NONCE"}},
		"quote of another TPM":  {evidence: func(e *attest.Evidence) { e.TPM = foreign.TPM }, codes: binding},
		"quote of before":       {evidence: func(e *attest.Evidence) { e.TPM = old.TPM }, codes: []string{"E_TPM_NONCE"}},
		"document of before":    {evidence: func(e *attest.Evidence) { e.Nitro = old.Nitro }, codes: []string{"E_TPM_NONCE", "E_NITRO_USER_DATA"}},
		"report taken out":      {evidence: func(e *attest.Evidence) { e.Report = nil }, codes: []string{"E_REQUIRED", "E_TPM_NONCE"}},
		"document taken out":    {evidence: func(e *attest.Evidence) { e.Nitro = nil }, codes: []string{"E_REQUIRED", "E_TPM_NONCE"}},
		"quote taken out":       {evidence: func(e *attest.Evidence) { e.TPM = nil }, codes: []string{"E_REQUIRED", "E_SNP_REPORT_DATA", "E_NITRO_USER_DATA"}},
		"log cut":               {evidence: func(e *attest.Evidence) { e.TPM.EventLog = e.TPM.EventLog[:len(e.TPM.EventLog)/2] }, codes: []string{"E_TPM_LOG_FORMAT"}},
		"no log":                {evidence: func(e *attest.Evidence) { e.TPM.EventLog = nil }, codes: []string{"E_TPM_LOG_EMPTY"}},
		"measurement taken out": {evidence: func(e *attest.Evidence) { e.TPM.Measurements = nil }, codes: []string{"E_TPM_MEASUREMENTS"}},
		"manufacturers' roots":  {expect: func(x *attest.Expectation) { x.Roots = nil }, codes: []string{"E_SNP_CHAIN", "E_NITRO_ROOT"}},
		"unknown release":       {policy: func(p *attest.Policy) { p.TPM.References = []tpm.Reference{reference(good, "release 1", 1)} }, codes: []string{"E_TPM_REFERENCE"}},
		"known release": {policy: func(p *attest.Policy) {
			p.TPM.References = []tpm.Reference{reference(good, "release 1", 1), reference(good, "release 2", 0)}
		}},
		"document only, and wanted": {evidence: func(e *attest.Evidence) { e.TPM, e.Report = nil, nil }, policy: func(p *attest.Policy) { p.Require = []attest.Technology{attest.NitroTPM} }, codes: []string{"E_NITRO_USER_DATA"}},
	} {
		t.Run(name, func(t *testing.T) {
			e, x, policy := copyOf(t, good), expect, knowing(p, good)
			if tt.evidence != nil {
				tt.evidence(e)
			}
			if tt.expect != nil {
				tt.expect(&x)
			}
			if tt.policy != nil {
				tt.policy(&policy)
			}
			if err := policy.Validate(); err != nil {
				t.Fatal(err)
			}
			v := attest.Verify(e, &policy, x)
			got, want := v.Failed(), slices.Clone(tt.codes)
			slices.Sort(got)
			slices.Sort(want)
			for _, code := range want {
				if !slices.Contains(got, code) {
					t.Errorf("%s does not fail; failed: %v", code, got)
				}
			}
			if (v.Result == appraisal.Pass) != (len(want) == 0) || (len(want) == 0 && len(got) != 0) {
				t.Errorf("the verdict is %s: %v", v.Result, v.Err())
			}
			if len(want) == 1 && len(got) != 1 && !strings.HasPrefix(want[0], "E_TPM_LOG") {
				t.Errorf("failed: %v, want %v alone", got, want)
			}
			if name == "known release" && !strings.Contains(detail(v, "E_TPM_REFERENCE"), "release 2") {
				t.Errorf("the release is not named: %q", detail(v, "E_TPM_REFERENCE"))
			}
		})
	}
}

func detail(v *appraisal.Verdict, code string) string {
	for _, c := range v.Checks {
		if c.Code == code {
			return c.Detail
		}
	}
	return ""
}

// reference gives the values of the evidence, or others.
func reference(e *attest.Evidence, name string, change byte) tpm.Reference {
	r := tpm.Reference{Name: name, PCRs: map[int]tpm.Hex{}}
	for _, i := range tpm.DefaultPolicy().RequiredPCRs {
		value := bytes.Clone(e.TPM.Bank("sha384")[i])
		value[0] ^= change
		r.PCRs[i] = value
	}
	return r
}

// TestParse refuses what is not exactly an evidence file.
func TestParse(t *testing.T) {
	_, c := machine(t)
	text, err := collect(t, c).Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	for name, bad := range map[string]string{
		"empty":                      "",
		"cut":                        good[:len(good)-1],
		"two":                        good + good,
		"unknown name":               strings.Replace(good, `{"format"`, `{"extra":1,"format"`, 1),
		"name twice":                 strings.Replace(good, `{"format"`, `{"nonce":"AAAAAAAAAAAAAAAAAAAAAA==","format"`, 1),
		"other case":                 strings.Replace(good, `"nonce"`, `"Nonce"`, 1),
		"other format":               strings.Replace(good, attest.Format, "holdfast-evidence/v3", 1),
		"short nonce":                strings.Replace(good, `"nonce":"AQ`, `"nonce":"","x":"`, 1),
		"too large":                  good + strings.Repeat(" ", attest.MaxEvidence),
		"nobody signed":              `{"format":"holdfast-evidence/v2","created":"2026-01-01T00:00:00Z","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"AA=="}`,
		"no TLS key":                 `{"format":"holdfast-evidence/v1","created":"2026-01-01T00:00:00Z","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"","nitrotpm":"AA=="}`,
		"nobody signed, v1":          `{"format":"holdfast-evidence/v1","created":"2026-01-01T00:00:00Z","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"AA=="}`,
		"no TLS key, v2":             `{"format":"holdfast-evidence/v2","created":"2026-01-01T00:00:00Z","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"","nitrotpm":"AA=="}`,
		"no time, v2":                `{"format":"holdfast-evidence/v2","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"AA==","nitrotpm":"AA=="}`,
		"format twice":               strings.Replace(good, `{"format"`, `{"format":"holdfast-evidence/v1","format"`, 1),
		"no format":                  strings.Replace(good, `"format":"holdfast-evidence/v2",`, "", 1),
		"a kind without a name":      strings.Replace(good, `"kind":"sev-snp"`, `"kind":""`, 1),
		"a kind of odd name":         strings.Replace(good, `"kind":"sev-snp"`, `"kind":"sev_snp"`, 1),
		"kind twice":                 strings.Replace(good, `"kind":"sev-snp"`, `"kind":"sev-snp","kind":"sev-snp"`, 1),
		"unknown name in the report": strings.Replace(good, `"kind":"sev-snp"`, `"kind":"sev-snp","vek":"AA=="`, 1),
		"short launch digest":        strings.Replace(good, `"report":`, `"launch_digest":"AA==","report":`, 1),
		"short owner digest":         strings.Replace(good, `"report":`, `"owner_digest":"AA==","report":`, 1),
		"short policy digest":        strings.Replace(good, `"policy_digest":"`, `"policy_digest":"AAAA`, 1),
		"not an object":              "[]",
	} {
		if bad == good {
			t.Errorf("%s: nothing was changed", name)
		} else if _, err := attest.Parse([]byte(bad)); err == nil {
			t.Errorf("%s: it is read", name)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has several lines", name, err)
		}
	}
	for _, n := range []int{0, 15, 65} {
		if _, err := c.Collect(context.Background(), make([]byte, n), tlsKey, nil); err == nil {
			t.Errorf("a nonce of %d bytes is taken", n)
		}
	}
}

// TestSignedPolicy opens with its key alone, in no other bytes.
func TestSignedPolicy(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := attest.DefaultPolicy()
	p.Name, p.Version = "production", 7
	p.TPM.References = []tpm.Reference{known("release 1", tpm.DefaultPolicy().RequiredPCRs...)}
	file, err := attest.SignPolicy(&p, private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := attest.OpenPolicy(file, public)
	if err != nil || got.Version != 7 || got.Name != "production" || len(got.Digest) != 32 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := attest.OpenPolicy(file, other); !errors.Is(err, attest.ErrSignature) {
		t.Errorf("with another key: %v", err)
	}
	for i := range file {
		changed := bytes.Clone(file)
		changed[i] ^= 1
		if got, err := attest.OpenPolicy(changed, public); err == nil && (got.Version != 7 || got.Name != "production") {
			t.Errorf("byte %d changed: it opens to another policy", i)
		}
	}
	p.Require = nil
	if _, err := attest.SignPolicy(&p, private); err == nil || !strings.Contains(err.Error(), "require") {
		t.Errorf("a policy that requires nothing is signed: %v", err)
	}
}

// FuzzParse: no file makes it panic, and what it reads it can write.
func FuzzParse(f *testing.F) {
	_, c := machine(f)
	text, err := collect(f, c).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(testdata(f, "evidence-v1.json"))
	bound := collect(f, c)
	bound.LaunchDigest, bound.OwnerDigest = make([]byte, 32), make([]byte, 32)
	bound.Report.Kind = "another"
	if text, err = bound.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"holdfast-evidence/v1","created":"2026-01-01T00:00:00Z","software":"","nonce":"AAAAAAAAAAAAAAAAAAAAAA==","tls_key":"AA==","nitrotpm":"AA=="}`))
	policy := attest.DefaultPolicy()
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := attest.Parse(text)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		e2, err := attest.Parse(again)
		if err != nil || e2.Binding() != e.Binding() || !bytes.Equal(e2.QuoteData(), e.QuoteData()) || e2.Format != e.Format {
			t.Errorf("written and read again it is another: %v", err)
		}
		if v := attest.Verify(e, &policy, attest.Expectation{}); v.Result != appraisal.Fail {
			t.Error("simulated evidence passes without its roots")
		}
	})
}
