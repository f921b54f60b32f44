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
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/nitro"
	"holdfast/attest/nitro/nitrotest"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

var signer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// known is a reference with some value of each of the PCRs.
func known(name string, pcrs ...int) tpm.Reference {
	r := tpm.Reference{Name: name, PCRs: map[int]tpm.Hex{}}
	for _, n := range pcrs {
		r.PCRs[n] = bytes.Repeat([]byte{byte(n)}, 48)
	}
	return r
}

// proving is the default policy with a reference: it proves the code.
func proving() attest.Policy {
	p := attest.DefaultPolicy()
	p.TPM.References = []tpm.Reference{known("release 1", p.TPM.RequiredPCRs...)}
	return p
}

// boots powers on a simulated machine that measures the program.
func boots(t *testing.T, kernel, program string) (*simulation.Platform, *attest.Collector) {
	t.Helper()
	p, err := simulation.Boot(t.TempDir(), nil, swtpm.Component{Name: ".linux", Content: []byte(kernel)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	c := p.Collector()
	if err := c.Measure("program", bytes.Repeat([]byte(program), 32)); err != nil {
		t.Fatal(err)
	}
	return p, c
}

// TestPolicyMatrix: of all sets of technologies, with references and without, those
// are signed that no machine with other code passes. That is tried: the machine has
// genuine hardware, other code, and a software TPM that has the known code's PCRs.
func TestPolicyMatrix(t *testing.T) {
	_, good := boots(t, "a kernel", "1")
	evil, honest := boots(t, "another kernel", "1")
	_, software := boots(t, "a kernel", "1") // any machine can run this emulator
	forged := evil.Collector()
	forged.TPM, forged.EventLog, forged.Measurements = software.TPM, software.EventLog, software.Measurements
	p := evil.Policy()
	known, err := tpm.NewReference("release 1", collect(t, good).TPM, p.TPM)
	if err != nil {
		t.Fatal(err)
	}
	// drop is how a machine leaves a technology out.
	drop := map[attest.Technology]func(e *attest.Collector){
		attest.SEVSNP:   func(c *attest.Collector) { c.Report = nil },
		attest.TPM:      func(c *attest.Collector) { c.TPM = nil },
		attest.NitroTPM: func(c *attest.Collector) { c.Nitro = nil },
	}
	all := attest.Technologies()
	accepted := 0
	for set := 1; set < 1<<len(all); set++ {
		for _, references := range [][]tpm.Reference{nil, {known}} {
			p.Require, p.TPM.References = nil, references
			for i, technology := range all {
				if set>>i&1 == 1 {
					p.Require = append(p.Require, technology)
				}
			}
			proves := true
			for _, from := range []*attest.Collector{honest, forged} {
				c := &attest.Collector{Report: from.Report, TPM: from.TPM, EventLog: from.EventLog, Measurements: from.Measurements, Nitro: from.Nitro}
				for _, technology := range all {
					leave := drop[technology]
					if leave == nil {
						t.Fatalf("say how a machine leaves %s out", technology)
					}
					if !slices.Contains(p.Require, technology) {
						leave(c)
					}
				}
				v := attest.Verify(collect(t, c), &p, attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: evil.Roots()})
				proves = proves && v.Result == appraisal.Fail
			}
			what := fmt.Sprintf("%v, references: %d", p.Require, len(references))
			signs(t, what, p, proves)
			if proves {
				accepted++
			}
		}
	}
	if accepted == 0 || accepted == 2*(1<<len(all)-1) {
		t.Errorf("%d sets prove the code", accepted)
	}
}

// signs wants the policy to be signed if it proves the code, and opened, and
// otherwise with words alone.
func signs(t *testing.T, what string, p attest.Policy, proves bool) {
	t.Helper()
	p.Unproven = ""
	_, err := attest.SignPolicy(&p, signer)
	if (err == nil) != proves {
		t.Errorf("%s: proves the code: %v; signed without words: %v", what, proves, err)
	}
	if !proves && (!errors.Is(err, attest.ErrUnproven) || len(p.Gaps()) == 0 || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), p.Gaps()[0])) {
		t.Errorf("%s: %v", what, err)
	}
	p.Unproven = "a test"
	file, err := attest.SignPolicy(&p, signer)
	if (err == nil) == proves {
		t.Errorf("%s: proves the code: %v; signed with words: %v", what, proves, err)
	}
	if err != nil {
		return
	}
	again, err := attest.OpenPolicy(file, signer.Public().(ed25519.PublicKey))
	if err != nil || again.Unproven != "a test" || again.Forced().Words != "a test" || !slices.Equal(again.Forced().Because, p.Gaps()) {
		t.Errorf("%s: opened: %+v, %v", what, again, err)
	}
}

// TestGaps: what else keeps a policy from proving the code, each for itself.
func TestGaps(t *testing.T) {
	signs(t, "the default with a reference", proving(), true)
	for says, change := range map[string]func(p *attest.Policy){
		"no reference values":           func(p *attest.Policy) { p.TPM.References = nil },
		"no reference values are given": func(p *attest.Policy) { p.TPM.References = []tpm.Reference{} },
		"no value of PCR 4":             func(p *attest.Policy) { only(p, 0, 14) },
		"no value of PCR 4, without":    func(p *attest.Policy) { only(p, 14) },
		"no value of PCR 12":            func(p *attest.Policy) { only(p, 4, 7, 11, 14) },
		"no value of PCR 14":            func(p *attest.Policy) { delete(p.TPM.References[0].PCRs, 14) }, // which a reference may leave out
		"has zero for PCR 14":           func(p *attest.Policy) { p.TPM.References[0].PCRs[14] = make([]byte, 48) },
		"1 of 2, such as \"release 0\"": func(p *attest.Policy) {
			p.TPM.RequiredPCRs = []int{12}
			p.TPM.References = append(p.TPM.References, known("release 0", 12))
		},
		"bank sha384, and the references are of sha256": func(p *attest.Policy) {
			p.TPM.Bank = "sha256"
			for n := range p.TPM.References[0].PCRs {
				p.TPM.References[0].PCRs[n] = make([]byte, 32)
			}
		},
		"the document need not have it": func(p *attest.Policy) { p.Nitro.ComparePCRs = []int{0} },
		"a software TPM quotes any":     func(p *attest.Policy) { p.Require = []attest.Technology{attest.SEVSNP, attest.TPM} },
		"needs no quote":                func(p *attest.Policy) { p.Require = []attest.Technology{attest.SEVSNP, attest.NitroTPM} },
	} {
		p := proving()
		change(&p)
		if err := p.Validate(); err != nil {
			t.Fatalf("%s: %v", says, err)
		}
		signs(t, says, p, false)
		if gaps := strings.Join(p.Gaps(), "; "); !strings.Contains(gaps, says) {
			t.Errorf("want %q, got %s", says, gaps)
		}
	}
	// As files say that there are none.
	text, err := json.Marshal(proving())
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte(`"references":[`))
	end := at + bytes.Index(text[at:], []byte("]"))
	p, err := attest.ParsePolicy(slices.Concat(text[:at], []byte(`"references":[]`), text[end+1:]))
	if err != nil {
		t.Fatal(err)
	}
	signs(t, "empty", *p, false)
	if _, err := attest.ParsePolicy(slices.Concat(text[:at], []byte(`"references":null`), text[end+1:])); err == nil || !strings.Contains(err.Error(), "tpm.references is null") {
		t.Errorf("null: %v", err)
	}
}

// only has the policy require these PCRs alone, and its reference name no other.
func only(p *attest.Policy, pcrs ...int) {
	p.TPM.RequiredPCRs = pcrs
	p.TPM.References = []tpm.Reference{known("release 1", slices.DeleteFunc(slices.Clone(pcrs), func(n int) bool { return n == tpm.ApplicationPCR })...)}
}

// TestWords: the words that force a policy are for people to read.
func TestWords(t *testing.T) {
	p := attest.DefaultPolicy()
	for words, good := range map[string]bool{
		"x": true, "boot test under QEMU: a software TPM": true, strings.Repeat("ü", 200): true,
		strings.Repeat("x", 201): false, "two\nlines": false, "\x1b[2J": false, " ": false, "\xff": false, "\u202e": false,
	} {
		p.Unproven = words
		if _, err := attest.SignPolicy(&p, signer); (err == nil) != good {
			t.Errorf("%q: %v", words, err)
		}
	}
}

// TestVerdictSaysUnproven: every verdict says whether the policy proves the code.
func TestVerdictSaysUnproven(t *testing.T) {
	machine, c := machine(t)
	e := collect(t, c)
	policy := machine.Policy()
	forced := policy
	forced.Unproven = "only a test"
	proves := policy
	proves.TPM.References = []tpm.Reference{reference(e, "release 1", 0)}
	const code = "E_POLICY_UNPROVEN"
	for name, tt := range map[string]struct {
		policy attest.Policy
		result appraisal.Result
		detail []string
	}{
		"without references": {policy, appraisal.Missing, []string{"no reference values are given"}},
		"forced":             {forced, appraisal.Missing, []string{`"only a test"`, "no reference values are given"}},
		"proves":             {proves, appraisal.Pass, nil},
	} {
		parts := attest.Parts{TPM: e.TPM}
		for how, v := range map[string]*appraisal.Verdict{
			"evidence": attest.Verify(e, &tt.policy, whole(machine)),
			"parts":    attest.VerifyParts(parts, &tt.policy, attest.Expectation{At: e.Created}, e.Created),
		} {
			i := slices.IndexFunc(v.Checks, func(c appraisal.Check) bool { return c.Code == code })
			want := map[bool]appraisal.Result{true: appraisal.Pass, false: appraisal.Incomplete}[name == "proves" && how == "evidence"]
			if i < 0 || v.Checks[i].Result != tt.result || v.Result != want {
				t.Fatalf("%s, %s: %+v", name, how, v)
			}
			text, err := json.Marshal(v.Policy)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.detail {
				if !strings.Contains(v.Checks[i].Detail, want) {
					t.Errorf("%s, %s: %q has no %s", name, how, v.Checks[i].Detail, want)
				}
			}
			if got := strings.Contains(string(text), `"unproven":"only a test"`); got != (name == "forced") {
				t.Errorf("%s, %s: %s", name, how, text)
			}
			if got := strings.Contains(string(text), "no reference values are given"); got != (name != "proves") {
				t.Errorf("%s, %s: %s", name, how, text)
			}
		}
	}
	// A release does not accept it.
	if v := attest.Verify(e, &policy, attest.Expectation{Release: true, Roots: machine.Roots()}); !slices.Equal(v.Failed(), []string{code}) {
		t.Errorf("a release by an unproven policy: %v", v.Err())
	}
}

// TestStripped: a list of measurements that was taken out shows, also where the
// policy does not require the PCR.
func TestStripped(t *testing.T) {
	machine, c := machine(t)
	e, x := collect(t, c), whole(machine)
	policy := knowing(machine, e)
	policy.TPM.RequiredPCRs = []int{4, 7, 11, 12, 13}
	if v := attest.Verify(e, &policy, x); v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	e.TPM.Measurements = nil
	if got := attest.Verify(e, &policy, x).Failed(); !slices.Equal(got, []string{"E_TPM_MEASUREMENTS"}) {
		t.Errorf("failed: %v", got)
	}
	e.TPM.Measurements = []tpm.Measurement{} // as a file may have it
	if got := attest.Verify(copyOf(t, e), &policy, x).Failed(); !slices.Equal(got, []string{"E_TPM_MEASUREMENTS"}) {
		t.Errorf("failed: %v", got)
	}
}

// TestReleaseNeedsThePCR: without the application's PCR, in the quote and in the
// NitroTPM's document, nobody knows whether the machine is capped.
func TestReleaseNeedsThePCR(t *testing.T) {
	machine, c := machine(t)
	policy := machine.Policy()
	policy.TPM.RequiredPCRs, policy.Unproven = []int{4, 12}, "a test"
	x := attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Roots: machine.Roots()}
	want := func(what string, e *attest.Evidence, x attest.Expectation, codes ...string) {
		t.Helper()
		for _, x.Release = range []bool{false, true} {
			var want []string
			if x.Release {
				want = codes
			}
			if got := attest.Verify(e, &policy, x).Failed(); !slices.Equal(got, want) {
				t.Errorf("%s, for a release: %v; failed: %v, want %v", what, x.Release, got, want)
			}
		}
	}
	want("all of it", collect(t, c), x)

	e := collect(t, c)
	q, err := machine.TPM.Quote(&tpm.AK{Public: e.TPM.AK}, e.QuoteData(), tpm.Selection{Bank: "sha384", PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13}})
	if err != nil {
		t.Fatal(err)
	}
	e.TPM.Quote, e.TPM.Signature, e.TPM.PCRs, e.TPM.Measurements = q.Attest, q.Signature, q.PCRs, nil
	want("not quoted", e, x, "E_TPM_PCRS", "E_TPM_MEASUREMENTS", "E_NITRO_PCRS")

	aws := nitrotest.New()
	x.Roots.Nitro = aws.Root
	c.Nitro = func(userData, nonce []byte) (document []byte, err error) {
		pcrs, err := machine.TPM.ReadPCRs("sha384", []int{4, 7, 11, 12})
		if err != nil {
			return nil, err
		}
		err = machine.TPM.Do(func(t transport.TPM) (err error) {
			document, err = nitro.Request(&nitrotest.TPM{Authority: aws, Inner: t, Document: func() (nitro.Document, error) {
				return nitro.Document{Time: time.Now(), PCRs: pcrs}, nil
			}}, userData, nonce, nil)
			return err
		})
		return document, err
	}
	want("not in the document", collect(t, c), x, "E_NITRO_PCRS")

	policy.Require = []attest.Technology{attest.SEVSNP}
	c.TPM, c.Nitro = nil, nil
	want("no TPM", collect(t, c), x, "E_BROKER_CAPPED")
}
