package tpm_test

import (
	"bytes"
	"crypto"
	"slices"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

// simulated is evidence of a boot that no TPM was needed for.
func simulated(events []swtpm.Event) *tpm.Evidence {
	e := &tpm.Evidence{EventLog: swtpm.Log(events), PCRs: tpm.PCRs{}}
	parsed := must(tcg.ParseEventLog(e.EventLog, tcg.ParseOpts{}))
	for _, b := range []struct {
		name string
		log  register.HashAlg
		hash crypto.Hash
	}{{"sha256", register.HashSHA256, crypto.SHA256}, {"sha384", register.HashSHA384, crypto.SHA384}} {
		values := map[int]tpm.Hex{}
		for n := range 16 {
			values[n] = make([]byte, b.hash.Size())
		}
		for _, ev := range parsed.Events(b.log) {
			w := b.hash.New()
			w.Write(values[ev.Index])
			w.Write(ev.Digest)
			values[ev.Index] = w.Sum(nil)
		}
		e.PCRs[b.name] = values
	}
	newForger().quote(e)
	return e
}

// fuzzPolicy asks for nothing that the simulated evidence lacks.
var fuzzPolicy = tpm.Policy{Bank: "sha384", RequiredPCRs: []int{4, 7, 11}}

// FuzzVerify: no bytes make it panic, and none but the signed ones pass.
func FuzzVerify(f *testing.F) {
	good := simulated(swtpm.Events(kernel))
	f.Add(good.AK, good.Quote, good.Signature, good.EventLog)
	f.Add(rsaAK(2048), good.Quote, good.Signature, good.EventLog)
	f.Add([]byte{}, []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, ak, quote, signature, log []byte) {
		e := *good
		e.AK, e.Quote, e.Signature, e.EventLog = ak, quote, signature, log
		v := verify(&e, fuzzPolicy, tpm.Expectation{QualifyingData: nonce})
		if v.Result != appraisal.Fail && bytes.Equal(ak, good.AK) && !bytes.Equal(quote, good.Quote) {
			t.Errorf("a quote that was not signed passed: %x", quote)
		}
	})
}

// FuzzEventLog: no log makes it panic, and what passes the library replays too.
func FuzzEventLog(f *testing.F) {
	good := simulated(swtpm.Events(kernel))
	f.Add(good.EventLog)
	f.Add(good.EventLog[:100])
	f.Add(relabel(good.EventLog))
	var values []register.MR
	for n, v := range good.PCRs["sha384"] {
		values = append(values, register.PCR{Index: n, Digest: v, DigestAlg: crypto.SHA384})
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		e := *good
		e.EventLog = log
		if verify(&e, fuzzPolicy, tpm.Expectation{QualifyingData: nonce}).Result == appraisal.Fail {
			return
		}
		if _, err := tcg.ParseAndReplay(log, values, tcg.ParseOpts{}); err != nil {
			t.Errorf("a log passed that does not replay: %v", err)
		}
	})
}

// What a log claims costs no more than what it has.
func TestLogsThatClaimMuch(t *testing.T) {
	good := simulated(swtpm.Events(kernel))
	for name, edit := range map[string]func([]byte) []byte{
		"algorithms":    func(l []byte) []byte { copy(l[56:], "\xff\xff\xff\xff"); return l },
		"a digest size": func(l []byte) []byte { copy(l[62:], "\xff\xff"); return l },
		"event data": func(l []byte) []byte {
			return append(l, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f)
		},
		"digests": func(l []byte) []byte {
			return append(l, 0, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0x0b, 0)
		},
		"an algorithm twice": func(l []byte) []byte {
			l[28] += 4 // the event's size
			l[56]++    // how many algorithms
			return slices.Insert(l, 60, 0x0b, 0, 32, 0)
		},
	} {
		e := *good
		e.EventLog = edit(bytes.Clone(good.EventLog))
		if n := testing.AllocsPerRun(1, func() { verify(&e, fuzzPolicy, tpm.Expectation{}) }); n > 20000 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if v := verify(&e, fuzzPolicy, tpm.Expectation{}); len(v.Failed()) == 0 || v.Failed()[0] != "E_TPM_LOG_FORMAT" {
			t.Errorf("%s: %v", name, v.Failed())
		}
	}
}
