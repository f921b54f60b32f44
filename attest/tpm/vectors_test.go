package tpm_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"google.golang.org/protobuf/encoding/protowire"

	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// vector reads a file of the folder of real evidence, which is beside the
// project's root, or where HOLDFAST_VECTORS says.
func vector(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("HOLDFAST_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if os.IsNotExist(err) {
		t.Skipf("skipped: the real evidence %s is not here; set HOLDFAST_VECTORS to its folder", name)
	}
	return must(data, err)
}

// fields calls f with every field of a protobuf message.
func fields(t *testing.T, message []byte, f func(n protowire.Number, value []byte, number uint64)) {
	t.Helper()
	for len(message) > 0 {
		n, typ, size := protowire.ConsumeTag(message)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		message = message[size:]
		var value []byte
		var number uint64
		switch typ {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(message)
		default:
			size = protowire.ConsumeFieldValue(n, typ, message)
		}
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		message = message[size:]
		f(n, value, number)
	}
}

// gce reads an Attestation message of go-tpm-tools (proto/attest.proto): an RSA
// key, one quote for each bank, and the event log.
func gce(t *testing.T) map[string]*tpm.Evidence {
	t.Helper()
	var ak, log []byte
	quotes := map[string]*tpm.Evidence{}
	fields(t, vector(t, "gce-vtpm/attestation.pb"), func(n protowire.Number, value []byte, _ uint64) {
		switch n {
		case 1: // ak_pub
			ak = value
		case 2: // quotes
			e, bank := &tpm.Evidence{}, ""
			values := map[int]tpm.Hex{}
			fields(t, value, func(n protowire.Number, value []byte, _ uint64) {
				switch n {
				case 1: // quote
					e.Quote = value
				case 2: // raw_sig
					e.Signature = value
				case 3: // pcrs
					fields(t, value, func(n protowire.Number, value []byte, number uint64) {
						if n == 1 { // hash, by the TPM's number
							bank = map[uint64]string{4: "sha1", 11: "sha256", 12: "sha384"}[number]
							return
						}
						var index int
						var digest tpm.Hex
						fields(t, value, func(n protowire.Number, value []byte, number uint64) {
							if n == 1 {
								index = int(number)
							} else {
								digest = value
							}
						})
						values[index] = digest
					})
				}
			})
			e.PCRs = tpm.PCRs{bank: values}
			quotes[bank] = e
		case 3: // event_log
			log = value
		}
	})
	for _, e := range quotes {
		e.AK, e.EventLog = ak, log
	}
	return quotes
}

func TestGoogleVTPM(t *testing.T) {
	quotes := gce(t)
	if got := slices.Sorted(maps.Keys(quotes)); !slices.Equal(got, []string{"sha1", "sha256", "sha384"}) {
		t.Fatalf("banks: %v", got)
	}
	x := tpm.Expectation{QualifyingData: []byte{0x90, 0x09}}
	for bank, e := range quotes {
		p := tpm.Policy{Bank: bank, RequiredPCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
		v := verify(e, p, x)
		if bank == "sha1" {
			p.Bank = "sha256"
			v = verify(e, p, x)
			if got := v.Failed(); !slices.Equal(got, []string{"E_TPM_BANK"}) || !strings.Contains(v.Err().Error(), "SHA-1") {
				t.Errorf("SHA-1: %v: %v", got, v.Err())
			}
			continue
		}
		if v.Result != appraisal.Incomplete || !slices.Equal(v.Lacks(), []string{"E_TPM_REFERENCE"}) { // there are no references
			t.Errorf("%s: %v", bank, v.Err())
			continue
		}
		for _, c := range v.Checks {
			if c.Code == "E_TPM_LOG_REPLAY" && c.Detail != "PCRs [0 1 2 3 4 5 6 7 8 9]" {
				t.Errorf("%s: replayed: %q", bank, c.Detail)
			}
		}

		p.Bank = map[string]string{"sha256": "sha384", "sha384": "sha256"}[bank]
		if got := verify(e, p, x).Failed(); !slices.Equal(got, []string{"E_TPM_BANK"}) {
			t.Errorf("%s, the other bank asked for: %v", bank, got)
		}
		p.Bank = bank
		if got := verify(e, p, tpm.Expectation{QualifyingData: []byte{0x90, 0x0a}}).Failed(); !slices.Equal(got, []string{"E_TPM_NONCE"}) {
			t.Errorf("%s, another nonce: %v", bank, got)
		}
		changed := clone(e)
		flip(changed.Signature, -1)
		if got := verify(changed, p, x).Failed(); !slices.Equal(got, []string{"E_TPM_SIGNATURE"}) {
			t.Errorf("%s, signature changed: %v", bank, got)
		}
		// The same machine's quote, under the values of a known release.
		p.References = []tpm.Reference{{Name: "a", PCRs: map[int]tpm.Hex{4: e.PCRs[bank][5]}}, {Name: "b", PCRs: e.PCRs[bank]}}
		if v := verify(e, p, x); v.Checks[len(v.Checks)-1].Detail != "matches b" {
			t.Errorf("%s: %+v", bank, v.Checks[len(v.Checks)-1])
		}
	}
	// A quote of one bank with the values of another.
	mixed := clone(quotes["sha256"])
	mixed.PCRs = quotes["sha384"].PCRs
	if got := verify(mixed, tpm.Policy{Bank: "sha256", RequiredPCRs: []int{4}}, x).Failed(); !slices.Equal(got, []string{"E_TPM_PCRS"}) {
		t.Errorf("values of another bank: %v", got)
	}
}

// Logs of other real machines replay as the library replays them.
func TestRealEventLogs(t *testing.T) {
	for _, name := range []string{"cos-85-amd-sev.bin", "ubuntu-2404-amd-sevsnp.bin"} {
		log := vector(t, "gce-vtpm/"+name)
		parsed := must(tcg.ParseEventLog(log, tcg.ParseOpts{}))
		e := &tpm.Evidence{EventLog: log, PCRs: tpm.PCRs{}}
		for bank, h := range map[string]register.HashAlg{"sha256": register.HashSHA256, "sha384": register.HashSHA384} {
			values := map[int]tpm.Hex{}
			for _, ev := range parsed.Events(h) {
				if ev.Type == tcg.NoAction {
					continue
				}
				if values[ev.Index] == nil {
					values[ev.Index] = make([]byte, h.CryptoHash().Size())
				}
				w := h.CryptoHash().New()
				w.Write(values[ev.Index])
				w.Write(ev.Digest)
				values[ev.Index] = w.Sum(nil)
			}
			delete(values, tpm.ApplicationPCR) // shim's
			if values[tpm.LaunchPCR] == nil {  // nothing was measured: a quote has it as zero
				values[tpm.LaunchPCR] = make([]byte, h.CryptoHash().Size())
			}
			e.PCRs[bank] = values
		}
		newForger().quote(e)
		v := verify(e, tpm.Policy{Bank: "sha384", RequiredPCRs: []int{4, 7}}, tpm.Expectation{QualifyingData: nonce})
		if v.Result != appraisal.Incomplete || !slices.Equal(v.Lacks(), []string{"E_TPM_REFERENCE"}) { // there are no references
			t.Errorf("%s: %v", name, v.Err())
		}
	}
}
