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

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/processor"
	"holdfast/attest/snp"
)

func recovery(version uint64, floors ...snp.Floor) *attest.Recovery {
	return &attest.Recovery{Format: attest.RecoveryFormat, Name: "AMD-SB-9999", Version: version, SNP: floors}
}

func signedRecovery(t testing.TB, r *attest.Recovery) *attest.SignedRecovery {
	t.Helper()
	file, err := attest.SignRecovery(r, signer)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := attest.OpenRecovery(file, signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestRecoveryRaises: a floor of the file counts from its date on, for its product line,
// where it is higher; it lowers none and admits none.
func TestRecoveryRaises(t *testing.T) {
	p, c := machine(t)
	e := copyOf(t, collect(t, c))
	now := e.Created
	at := func(product string, from time.Time, tcb snp.TCB) snp.Floor {
		return snp.Floor{Product: product, From: from, TCB: &tcb}
	}
	higher := snp.TCB{Bootloader: 4, SNP: 30, Microcode: 222}
	zero := snp.TCB{}
	for name, tt := range map[string]struct {
		floors []snp.Floor
		change func(*attest.Policy)
		codes  []string
	}{
		"the policy's own":      {floors: []snp.Floor{at("Milan", now, snp.TCB{Bootloader: 4, SNP: 29, Microcode: 222})}},
		"higher":                {floors: []snp.Floor{at("Milan", now, higher)}, codes: []string{"E_SNP_TCB"}},
		"higher in one part":    {floors: []snp.Floor{at("Milan", now, snp.TCB{TEE: 1})}, codes: []string{"E_SNP_TCB"}},
		"higher, from later on": {floors: []snp.Floor{at("Milan", now.Add(time.Second), higher)}},
		"higher, since long":    {floors: []snp.Floor{at("Milan", now.AddDate(-1, 0, 0), higher)}, codes: []string{"E_SNP_TCB"}},
		"higher, then lower":    {floors: []snp.Floor{at("Milan", now, higher), at("Milan", now, zero)}, codes: []string{"E_SNP_TCB"}},
		"of another product":    {floors: []snp.Floor{at("Genoa", now, snp.TCB{SNP: 255})}},
		"lower than the policy's": {floors: []snp.Floor{at("Milan", now, zero)}, codes: []string{"E_SNP_TCB"}, change: func(p *attest.Policy) {
			snp.PolicyOf(p.Reports).MinimumTCB["Milan"] = snp.TCB{Bootloader: 4, SNP: 31, Microcode: 222}
		}},
		"of a product that the policy refuses": {floors: []snp.Floor{at("Milan", now, zero)}, codes: []string{"E_SNP_PRODUCT", "E_SNP_TCB"}, change: func(p *attest.Policy) {
			delete(snp.PolicyOf(p.Reports).MinimumTCB, "Milan")
		}},
	} {
		policy := p.Policy()
		if tt.change != nil {
			tt.change(&policy)
		}
		before := string(must(json.Marshal(&policy)))
		r := signedRecovery(t, recovery(3, tt.floors...))
		v := attest.Verify(e, &policy, attest.Expectation{At: now, Roots: p.Roots(), Endorsements: attest.Endorsements{Recovery: r}})
		if !slices.Equal(v.Failed(), tt.codes) {
			t.Errorf("%s: failed: %v, want %v", name, v.Failed(), tt.codes)
		}
		if fact := fmt.Sprint(v.Facts["tcb_recovery"]); !strings.Contains(fact, "AMD-SB-9999") || !strings.Contains(fact, r.Signer) {
			t.Errorf("%s: the fact is %s", name, fact)
		}
		if after := string(must(json.Marshal(&policy))); after != before {
			t.Errorf("%s: the policy itself was changed", name)
		}
		parts := attest.VerifyParts(attest.Parts{Report: e.Report}, &policy, attest.Expectation{At: now, Endorsements: attest.Endorsements{Recovery: r}}, now)
		if got, want := slices.Contains(parts.Failed(), "E_SNP_TCB"), slices.Contains(tt.codes, "E_SNP_TCB"); got != want {
			t.Errorf("%s: as a part: failed: %v", name, parts.Failed())
		}
	}
}

// TestRecoveryFile: what is not a file of the signer is refused, in each byte.
func TestRecoveryFile(t *testing.T) {
	from := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	good := recovery(2, snp.Floor{Product: "Milan", From: from, TCB: &snp.TCB{SNP: 30}}, snp.Floor{Product: "Turin", From: from, TCB: &snp.TCB{FMC: new(uint8(1)), SNP: 5}})
	file, err := attest.SignRecovery(good, signer)
	if err != nil {
		t.Fatal(err)
	}
	public := signer.Public().(ed25519.PublicKey)
	read := signedRecovery(t, good)
	if string(must(json.Marshal(&read.Recovery))) != string(must(json.Marshal(good))) || read.ID().Version != 2 {
		t.Errorf("read: %+v", read.Recovery)
	}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	policy := proving()
	ofPolicy, err := attest.SignPolicy(&policy, signer)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"empty": nil, "no JSON": []byte("x"), "a policy": ofPolicy, "cut": file[:len(file)-1], "doubled": slices.Concat(file, file), "huge": make([]byte, 2<<20)}
	for i := range file {
		changed := bytes.Clone(file)
		changed[i] ^= 1
		bad[fmt.Sprint("byte ", i)] = changed
	}
	for name, text := range bad {
		if r, err := attest.OpenRecovery(text, public); err == nil && !bytes.Equal(r.Digest, read.Digest) || err != nil && !errors.Is(err, attest.ErrRecovery) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := attest.OpenRecovery(file, other.Public().(ed25519.PublicKey)); !errors.Is(err, attest.ErrRecovery) {
		t.Errorf("of another signer: %v", err)
	}
	if _, err := attest.OpenPolicy(file, public); err == nil {
		t.Error("it is taken for a policy")
	}
}

// TestRecoveryIsWhole: each member is written.
func TestRecoveryIsWhole(t *testing.T) {
	const floor = `{"product":"Milan","from":"2026-12-01T00:00:00Z","minimum_tcb":{"bootloader":4,"tee":0,"snp":30,"microcode":223}}`
	const good = `{"format":"holdfast-tcb/v1","name":"x","version":1,"sev_snp":[` + floor + `]}`
	if _, err := attest.ParseRecovery([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"holdfast-tcb/v1"`, `"holdfast-policy/v1"`}, {`"version":1`, `"version":0`}, {`"version":1`, `"version":null`}, {`"version":1,`, ``}, {`"name":"x"`, `"name":""`},
		{`[` + floor + `]`, `[]`}, {`[` + floor + `]`, `null`}, {`"sev_snp"`, `"tdx"`}, {`"Milan"`, `"Venice"`}, {`"Milan"`, `""`}, {`"from":"2026-12-01T00:00:00Z",`, ``},
		{`"2026-12-01T00:00:00Z"`, `null`}, {`"2026-12-01T00:00:00Z"`, `"soon"`}, {`"snp":30,`, ``}, {`"snp":30`, `"snp":null`}, {`"snp":30`, `"snp":300`}, {`"bootloader"`, `"fmc":1,"bootloader"`},
		{`"Milan"`, `"Turin"`}, {`,"minimum_tcb":{"bootloader":4,"tee":0,"snp":30,"microcode":223}`, ``}, {`{"bootloader":4,"tee":0,"snp":30,"microcode":223}`, `null`},
		{`{"bootloader":4,"tee":0,"snp":30,"microcode":223}`, `{}`}, {`"name":"x"`, `"name":"x","name":"y"`}, {`}]}`, `}]}{}`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if _, err := attest.ParseRecovery([]byte(bad)); err == nil || bad == good {
			t.Errorf("%s is read", bad)
		}
	}
}

// FuzzParseRecovery: no text makes it panic, and what it reads it can write.
func FuzzParseRecovery(f *testing.F) {
	f.Add(must(json.Marshal(recovery(1, snp.Floor{Product: "Turin", From: time.Unix(1e9, 0).UTC(), TCB: &snp.TCB{FMC: new(uint8(0))}}))))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := attest.ParseRecovery(text)
		if err != nil {
			return
		}
		written := must(json.Marshal(r))
		if again, err := attest.ParseRecovery(written); err != nil || !bytes.Equal(must(json.Marshal(again)), written) {
			t.Errorf("written and read again it is another: %v", err)
		}
	})
}

// TestGapsOfReports: a policy that lets any chip in, or broken firmware, proves nothing,
// and needs words.
func TestGapsOfReports(t *testing.T) {
	for says, change := range map[string]func(*snp.Policy){
		"any AMD chip in the world": func(p *snp.Policy) { p.AllowVCEK = true },
		"AMD asks for 24":           func(p *snp.Policy) { p.MinimumTCB = map[string]snp.TCB{"Milan": {Microcode: 255}} },
	} {
		p := proving()
		p.Require = append(slices.Clone(p.Require), attest.SEVSNP)
		slices.Sort(p.Require)
		p.Require = slices.Compact(p.Require)
		ofSNP := snp.DefaultPolicy()
		change(&ofSNP)
		p.Reports = processor.Policies{snp.Section: &ofSNP}
		if _, err := attest.SignPolicy(&p, signer); !errors.Is(err, attest.ErrUnproven) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
		p.Unproven = "a test"
		if _, err := attest.SignPolicy(&p, signer); err != nil {
			t.Errorf("%s, with words: %v", says, err)
		}
	}
}

// TestOwnRevocations: the machine's evidence fails under a list of the verifier's own, and
// under one that the machine brings, and needs one of the verifier's if the policy says so.
func TestOwnRevocations(t *testing.T) {
	p, c := machine(t)
	e := copyOf(t, collect(t, c))
	now := e.Created
	list := func(issuer bool) []byte { return must(p.Revoke(now.AddDate(0, 0, -3), now.AddDate(0, 1, 0), issuer)) }
	policy := p.Policy()
	snp.PolicyOf(policy.Reports).RequireCRL = true
	for name, tt := range map[string]struct {
		lists [][]byte
		codes []string
	}{
		"none":           {codes: []string{"E_SNP_CRL"}},
		"good":           {lists: [][]byte{list(false)}},
		"one revokes":    {lists: [][]byte{list(false), list(true)}, codes: []string{"E_SNP_CRL"}},
		"not one at all": {lists: [][]byte{[]byte("no")}, codes: []string{"E_SNP_CRL"}},
	} {
		v := attest.Verify(e, &policy, attest.Expectation{At: now, Roots: p.Roots(), Endorsements: attest.Endorsements{Revocations: tt.lists}})
		if !slices.Equal(v.Failed(), tt.codes) || (v.Result == appraisal.Fail) != (tt.codes != nil) {
			t.Errorf("%s: %s, failed: %v", name, v.Result, v.Failed())
		}
	}
	if _, err := attest.ReadRevocations(list(false), p.Roots()); err != nil {
		t.Error(err)
	}
	if _, err := attest.ReadRevocations(list(false), nil); !errors.Is(err, snp.ErrRevocations) {
		t.Errorf("by another than AMD: %v", err)
	}
}
