package release_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/attest"
	"holdfast/attest/release"
)

// formerly signs policies as programs did that signed any.
type formerly struct{ key ed25519.PrivateKey }

func (f formerly) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(f.key, data), nil
}
func (f formerly) KeyID() (string, error)                       { return attest.KeyID(f.public()), nil }
func (f formerly) Verify(context.Context, []byte, []byte) error { return nil }
func (f formerly) Public() crypto.PublicKey                     { return f.public() }
func (f formerly) public() ed25519.PublicKey                    { return f.key.Public().(ed25519.PublicKey) }

func (f formerly) sign(t *testing.T, p attest.Policy) []byte {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return f.envelope(t, text)
}

// envelope signs any text.
func (f formerly) envelope(t *testing.T, text []byte) []byte {
	t.Helper()
	s, err := dsse.NewEnvelopeSigner(f)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := s.SignPayload(t.Context(), "application/vnd.holdfast.policy.v1+json", text)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBrokerRefusesUnproven: a policy that does not prove the code is not
// installed; one that was installed before releases nothing, and can be replaced.
func TestBrokerRefusesUnproven(t *testing.T) {
	for name, change := range map[string]func(p *attest.Policy){
		"no references": func(p *attest.Policy) { p.TPM.References = nil },
		"a TPM alone":   func(p *attest.Policy) { p.Require = []attest.Technology{attest.TPM} },
		"SEV-SNP and a TPM": func(p *attest.Policy) {
			p.Require = []attest.Technology{attest.SEVSNP, attest.TPM}
		},
		"SEV-SNP alone, no references": func(p *attest.Policy) {
			p.Require, p.TPM.References = []attest.Technology{attest.SEVSNP}, nil
		},
		"the document need not have the PCRs": func(p *attest.Policy) { p.Nitro.ComparePCRs = []int{0} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.releases(t)
			weak := s.policy()
			weak.Version = 2
			change(&weak)
			file, public := formerly{s.key}.sign(t, weak), s.key.Public().(ed25519.PublicKey)
			if err := s.vault.SetPolicy(file, public); !errors.Is(err, attest.ErrUnproven) || strings.Contains(err.Error(), "\n") {
				t.Errorf("it is installed: %v", err)
			}
			s.releases(t) // by the one before

			if err := os.WriteFile(filepath.Join(s.dir, "policy.json"), file, 0o600); err != nil {
				t.Fatal(err)
			}
			if p, err := s.vault.Policy(); !errors.Is(err, attest.ErrUnproven) {
				t.Errorf("it is in force: %+v, %v", p, err)
			}
			s.refuses(t, "E_BROKER_POLICY")

			old := s.policy() // of version 1
			if file, err := attest.SignPolicy(&old, s.key); err != nil {
				t.Fatal(err)
			} else if err := s.vault.SetPolicy(file, public); err == nil || !strings.Contains(err.Error(), "older") {
				t.Errorf("an older policy is taken in its place: %v", err)
			}
			s.setPolicy(t, func(p *attest.Policy) { p.Version = 3 })
			s.releases(t)

			// With words it is installed, and they are on record with each decision.
			const words = "only a test, which has no hardware"
			s.setPolicy(t, func(p *attest.Policy) {
				change(p)
				p.Version, p.Unproven = 4, words
			})
			s.releases(t)
			s.client.Machine = "nobody"
			s.refuses(t, "E_BROKER_MACHINE")
			var last []release.Record
			if err := s.vault.Log(func(r release.Record) error { last = append(last, r); return nil }); err != nil {
				t.Fatal(err)
			}
			gaps := weak.Gaps()
			for i, r := range last {
				forced := i >= len(last)-2
				if (r.Unproven.Words == words && slices.Equal(r.Unproven.Because, gaps)) != forced || (r.Unproven.Words != "" && !forced) {
					t.Errorf("record %d has %+v", i, r)
				}
			}
			if log := s.logged(); strings.Count(log, words) < 2 || !strings.Contains(log, "because=") {
				t.Errorf("the log does not say by which words: %s", log)
			}
		})
	}
}
