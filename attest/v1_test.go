package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-sev-guest/verify/trust"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

// What testdata has was made by the last version that knew no format but v1: a
// file of evidence, the roots of its simulated machine, a signed policy, and the
// verdicts.

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rootsV1 are those of the machine that made the file.
func rootsV1(t testing.TB) *attest.Roots {
	t.Helper()
	var certs [3]*x509.Certificate
	rest := testdata(t, "evidence-v1-amd.pem")
	for i := range certs {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatal("three certificates are wanted")
		}
		var err error
		if certs[i], err = x509.ParseCertificate(block.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	kinds, err := attest.NewKinds(snp.Kind{Roots: snp.SimulatedRoots("Milan", &trust.ProductCerts{Ark: certs[0], Ask: certs[1], Asvk: certs[2]})})
	if err != nil {
		t.Fatal(err)
	}
	nitro, err := hex.DecodeString(strings.TrimSpace(string(testdata(t, "evidence-v1-nitro-root.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	return &attest.Roots{Kinds: kinds, Nitro: nitro}
}

// same wants the verdict that testdata has, in each word. FREEZE_VERDICTS=1 writes it
// there, for a person to look at what has changed.
func same(t *testing.T, name string, v *appraisal.Verdict) {
	t.Helper()
	got, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("FREEZE_VERDICTS") != "" {
		if err := os.WriteFile(filepath.Join("testdata", name), append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := testdata(t, name); !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("%s: the verdict is another than it was:\n%s", name, got)
	}
}

func fileV1(t testing.TB) *attest.Evidence {
	t.Helper()
	e, err := attest.Parse(testdata(t, "evidence-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestV1 reads and appraises a file of v1 as it always was, under a policy that was
// signed then, and writes it as it was.
func TestV1(t *testing.T) {
	e := fileV1(t)
	if e.Format != attest.FormatV1 || e.Report.Kind != snp.Name {
		t.Fatalf("it is read as %s, with a report of %s", e.Format, e.Report.Kind)
	}
	policy, err := attest.OpenPolicy(testdata(t, "policy-v1.signed"), signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "evidence-v1-verdict.json", attest.Verify(e, &policy.Policy, attest.Expectation{Nonce: nonce, TLSKey: tlsKey, Signed: policy,
		At: e.Created.Add(time.Minute), PolicyDigest: bytes.Repeat([]byte{5}, 32), Roots: rootsV1(t)}))
	same(t, "evidence-v1-distrusted.json", attest.Verify(e, &policy.Policy, attest.Expectation{Release: true}))
	text, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := canonical(t, text), canonical(t, testdata(t, "evidence-v1.json")); got != want {
		t.Errorf("written again it is %s", got)
	}
}

func canonical(t *testing.T, text []byte) string {
	t.Helper()
	v := jsontext.Value(bytes.Clone(text))
	if err := v.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

// members gives the members of a file.
func members(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestFormatsDoNotMix: no member of one format is read in a file of the other.
func TestFormatsDoNotMix(t *testing.T) {
	_, c := machine(t)
	c.LaunchDigest, c.OwnerDigest, c.AuditKey = bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32), []byte("an audit key")
	e, err := c.Collect(t.Context(), nonce, tlsKey, []byte("a release key"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v1, v2 := members(t, testdata(t, "evidence-v1.json")), members(t, text)
	for name, pair := range map[string][2]map[string]any{"v1 with v2's": {v1, v2}, "v2 with v1's": {v2, v1}} {
		tried := 0
		for member, value := range pair[1] {
			if _, both := pair[0][member]; both {
				continue
			}
			for _, value := range []any{value, nil, ""} { // also where it says nothing
				mixed := members(t, must(json.Marshal(pair[0])))
				mixed[member] = value
				_, err := attest.Parse(must(json.Marshal(mixed)))
				if err == nil || !strings.Contains(err.Error(), member) {
					t.Errorf("%s: %s = %.20v: %v", name, member, value, err)
				}
				tried++
			}
		}
		if tried == 0 {
			t.Errorf("%s: nothing was tried", name)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var bindingCodes = []string{"E_SNP_REPORT_DATA", "E_TPM_NONCE", "E_NITRO_USER_DATA"}

// TestRelabelled: evidence of one format with the name of the other, all else as it
// was, is bound by nothing.
func TestRelabelled(t *testing.T) {
	p, c := machine(t)
	down := copyOf(t, collect(t, c))
	policy, x := knowing(p, down), whole(p)
	if v := attest.Verify(down, &policy, x); v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	down.Format = attest.FormatV1
	if got := attest.Verify(copyOf(t, down), &policy, x).Failed(); !slices.Equal(got, bindingCodes) {
		t.Errorf("v2 as v1: failed: %v", got)
	}
	up := fileV1(t)
	up.Format = attest.Format
	if got := attest.Verify(copyOf(t, up), &policy, attest.Expectation{Roots: rootsV1(t)}).Failed(); !slices.Equal(got, bindingCodes) {
		t.Errorf("v1 as v2: failed: %v", got)
	}
	// The quote alone tells them apart as well.
	a, b := fileV1(t), fileV1(t)
	b.Format = attest.Format
	if bytes.Equal(a.QuoteData(), b.QuoteData()) || a.Binding() == b.Binding() {
		t.Error("both formats bind the same")
	}
}

// TestBinding: what is bound is what docs/attestation.md says, in this order. To
// change it is to have a new format.
func TestBinding(t *testing.T) {
	sum := func(b string) string { d := sha256.Sum256([]byte(b)); return string(d[:]) }
	framed := func(parts ...string) []byte {
		var all []byte
		for _, p := range parts {
			all = append(binary.BigEndian.AppendUint64(all, uint64(len(p))), p...)
		}
		return all
	}
	e := attest.Evidence{Created: time.Date(2026, 11, 27, 3, 4, 5, 678e6, time.UTC), Software: "1.2.3", Nonce: []byte("a nonce"), TLSKey: []byte("a TLS key"),
		ReleaseKey: []byte("a release key"), PolicyDigest: []byte("a policy's"), AuditKey: []byte("an audit key"), LaunchDigest: []byte("a launch file's"), OwnerDigest: []byte("an owner's"),
		Report: &processor.Report{Kind: snp.Name, Signed: []byte("a report"), Endorsements: map[string][]byte{"vek": []byte("a certificate")}},
		Nitro:  []byte("a document"), TPM: &tpm.Evidence{AK: []byte("an AK"), EKCertificate: []byte("an EK's")}}
	both := []string{"a nonce", sum("a TLS key"), sum("an AK"), "a policy's", "a release key", "an audit key", "1.2.3", "2026-11-27T03:04:05.678Z"}
	for _, tt := range []struct {
		format, quote string
		more          []string
	}{
		{"holdfast-evidence/v1", "holdfast-quote/v1", nil},
		{"holdfast-evidence/v2", "holdfast-quote/v2", []string{sum("an EK's"), "sev-snp", "a launch file's", "an owner's"}},
	} {
		e.Format = tt.format
		binding := sha512.Sum512(framed(slices.Concat([]string{tt.format}, both, tt.more)...))
		if e.Binding() != binding {
			t.Errorf("%s: the binding is another", tt.format)
		}
		quoted := sha256.Sum256(framed(tt.quote, string(binding[:]), sum("a report"), sum("a document")))
		if !bytes.Equal(e.QuoteData(), quoted[:]) {
			t.Errorf("%s: what is quoted is another", tt.format)
		}
	}
	e.State = &attest.State{Sequence: 0x0102, Digest: []byte("a digest"), At: time.UnixMilli(0x0304).UTC(), Anchored: true}
	with := slices.Concat([]string{"holdfast-evidence/v2"}, both, []string{sum("an EK's"), "sev-snp", "a launch file's", "an owner's", "state\x00\x00\x00\x00\x00\x00\x01\x02a digest\x00\x00\x00\x00\x00\x00\x03\x04\x01"})
	if e.Binding() != sha512.Sum512(framed(with...)) {
		t.Error("with a state the binding is another")
	}
	nothing := attest.Evidence{Format: attest.Format}
	if nothing.Binding() != sha512.Sum512(framed(attest.Format, "", sum(""), "", "", "", "", "", "0001-01-01T00:00:00Z", "", "", "", "")) {
		t.Error("what is absent is bound as another")
	}
}

// TestBeyondV1: evidence in memory that no file can say is neither written nor
// passed.
func TestBeyondV1(t *testing.T) {
	policy, err := attest.OpenPolicy(testdata(t, "policy-v1.signed"), signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(e *attest.Evidence){
		"launch file":  func(e *attest.Evidence) { e.LaunchDigest = make([]byte, 32) },
		"owner":        func(e *attest.Evidence) { e.OwnerDigest = make([]byte, 32) },
		"state":        func(e *attest.Evidence) { e.State = state() },
		"another kind": func(e *attest.Evidence) { e.Report.Kind = "another" },
		"no format":    func(e *attest.Evidence) { e.Format = "" },
		"v3":           func(e *attest.Evidence) { e.Format = "holdfast-evidence/v3" },
	} {
		e := fileV1(t)
		change(e)
		if text, err := e.Encode(); err == nil {
			t.Errorf("%s: written: %s", name, text)
		}
		v := attest.Verify(e, &policy.Policy, attest.Expectation{Roots: rootsV1(t)})
		if v.Result != appraisal.Fail || !slices.Contains(v.Failed(), "E_EVIDENCE_FORMAT") {
			t.Errorf("%s: %s: %v", name, v.Result, v.Failed())
		}
	}
}

// TestEachMemberIsBound: nothing in a file of v2 can be changed, but what is signed
// by itself.
func TestEachMemberIsBound(t *testing.T) {
	p, c := machine(t)
	if err := c.MeasureLaunch(bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)); err != nil {
		t.Fatal(err)
	}
	c.AuditKey = []byte("an audit key")
	good, err := c.Collect(t.Context(), nonce, tlsKey, []byte("a release key"))
	if err != nil {
		t.Fatal(err)
	}
	policy, x := knowing(p, good), whole(p)
	v := attest.Verify(copyOf(t, good), &policy, x)
	if v.Result != appraisal.Pass {
		t.Fatal(v.Err())
	}
	facts := v.Facts["evidence"].(map[string]any)
	if facts["launch_sha256"] != hex.EncodeToString(c.LaunchDigest) || facts["owner_sha256"] != hex.EncodeToString(c.OwnerDigest) {
		t.Errorf("facts: %v", facts)
	}
	text, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for member, value := range members(t, text) {
		for _, gone := range []bool{false, true} {
			changed := members(t, text)
			switch text := value.(type) {
			case string:
				changed[member] = another(member, text)
			default:
				changed[member] = nil // the hardware's, whose packages test each byte of it
			}
			if gone {
				delete(changed, member)
			}
			e, err := attest.Parse(must(json.Marshal(changed)))
			if err != nil {
				continue // refused at once
			}
			if v := attest.Verify(e, &policy, x); v.Result != appraisal.Fail {
				t.Errorf("%s: changed (gone: %v) it passes", member, gone)
			}
		}
	}
}

// TestEKCertificateIsBound: v2 binds the certificate, which nobody checks.
func TestEKCertificateIsBound(t *testing.T) {
	p, c := machine(t)
	policy := p.Policy()
	e := copyOf(t, collect(t, c))
	e.TPM.EKCertificate = []byte("of another TPM")
	if got := attest.Verify(e, &policy, attest.Expectation{Roots: p.Roots()}).Failed(); !slices.Equal(got, bindingCodes) {
		t.Errorf("failed: %v", got)
	}
}

// another gives another value of a member, of the same form.
func another(member, value string) string {
	switch member {
	case "created":
		return "2026-01-01T00:00:00Z"
	case "software":
		return value + "x"
	}
	return map[bool]string{true: "B", false: "A"}[value[0] == 'A'] + value[1:]
}

// TestVectors: what real hardware signed is judged as before, in each word.
func TestVectors(t *testing.T) {
	policy := attest.DefaultPolicy()
	june := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	aws := attest.Parts{Report: snp.NewReport(snp.Evidence{Report: vector(t, "aws-snp-2026", "report.bin"), VEK: vector(t, "aws-snp-2026", "vlek.der")}),
		Nitro: vector(t, "aws-snp-2026", "nitrotpm.cose")}
	same(t, "verdict-aws-snp-2026.json", attest.VerifyParts(aws, &policy, attest.Expectation{}, june))
	same(t, "verdict-nitro-alone.json", attest.VerifyParts(attest.Parts{Nitro: aws.Nitro}, &policy, attest.Expectation{}, june))
	chip := snp.Evidence{Report: vector(t, "milan-vcek", "report.bin"), VEK: vector(t, "milan-vcek", "vcek.der")}
	same(t, "verdict-milan-vcek.json", attest.VerifyParts(attest.Parts{Report: snp.NewReport(chip)}, &policy, attest.Expectation{At: june}, june))
	chip.Report = chip.Report[:100]
	same(t, "verdict-cut.json", attest.VerifyParts(attest.Parts{Report: snp.NewReport(chip), Nitro: aws.Nitro}, &policy, attest.Expectation{At: june}, june))
}

// vector reads evidence of real hardware.
func vector(t *testing.T, parts ...string) []byte {
	t.Helper()
	dir := os.Getenv("HOLDFAST_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "vectors")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, parts...)...))
	if err != nil {
		t.Skip("evidence of real hardware is not here:", err)
	}
	return b
}
