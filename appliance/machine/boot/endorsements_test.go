package boot_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/snp"
)

// TestOwnEndorsements: a boot whose own list names the issuer of its key, or whose floors
// were raised above its firmware, comes to no PIN; nor does one whose files cannot be used, or
// whose TCB recovery file is not the one that the machine had before it was started, or newer.
func TestOwnEndorsements(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	recovery := func(key ed25519.PrivateKey, level uint8) []byte {
		file, err := attest.SignRecovery(&attest.Recovery{Format: attest.RecoveryFormat, Name: "x", Version: 1,
			SNP: []snp.Floor{{Product: "Milan", From: time.Now().Add(-time.Hour), TCB: &snp.TCB{SNP: level}}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := recovery(private, 29)
	idOf := func(file []byte) attest.SignedID {
		r, err := attest.OpenRecovery(file, public)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID()
	}
	list := func(s *site, days, more int, issuer bool) []byte {
		der, err := s.machine.Revoke(s.Now().AddDate(0, 0, -days), s.Now().AddDate(0, 0, more), issuer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, tt := range map[string]struct {
		crl  func(*site) []byte
		tcb  []byte
		code string // it serves if empty
		// noted is the TCB recovery file that the machine had before this start.
		noted   attest.SignedID
		noNames bool // the configuration names no recovery file
	}{
		"good":                 {crl: func(s *site) []byte { return list(s, 1, 10, false) }, tcb: recovery(private, 29)},
		"issuer revoked":       {crl: func(s *site) []byte { return list(s, 1, 10, true) }, tcb: recovery(private, 29), code: "E_SNP_CRL"},
		"revoked long ago":     {crl: func(s *site) []byte { return list(s, 500, -400, true) }, tcb: recovery(private, 29), code: "E_SNP_CRL"},
		"not in force":         {crl: func(s *site) []byte { return list(s, 50, -5, false) }, tcb: recovery(private, 29), code: "E_SNP_CRL"},
		"list damaged":         {crl: func(*site) []byte { return []byte("x") }, tcb: recovery(private, 29), code: "E_CRL_FILE"},
		"list missing":         {crl: func(*site) []byte { return nil }, tcb: recovery(private, 29), code: "E_CRL_FILE"},
		"floor raised":         {crl: func(s *site) []byte { return list(s, 1, 10, false) }, tcb: recovery(private, 30), code: "E_SNP_TCB"},
		"of another signer":    {crl: func(s *site) []byte { return list(s, 1, 10, false) }, tcb: recovery(other, 29), code: "E_TCB_FILE"},
		"recovery damaged":     {crl: func(s *site) []byte { return list(s, 1, 10, false) }, tcb: []byte("x"), code: "E_TCB_FILE"},
		"recovery missing":     {crl: func(s *site) []byte { return list(s, 1, 10, false) }, code: "E_TCB_FILE"},
		"the same as before":   {tcb: good, noted: idOf(good)},
		"newer than before":    {tcb: good, noted: attest.SignedID{Version: 0}},
		"older than before":    {tcb: good, noted: attest.SignedID{Version: 2, Digest: make([]byte, 32)}, code: "E_TCB_FILE"},
		"another of a version": {tcb: good, noted: attest.SignedID{Version: 1, Digest: make([]byte, 32)}, code: "E_TCB_FILE"},
		"none after one":       {noNames: true, noted: idOf(good), code: "E_TCB_FILE"},
		"none":                 {noNames: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			snp.PolicyOf(s.policy.Reports).RequireCRL = true
			if s.policy.CheckProof() != nil { // the site leaves open what it measures
				s.policy.Unproven = "a test"
			}
			dir := t.TempDir()
			path := func(file string, content []byte) string {
				if content != nil {
					if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				return filepath.Join(dir, file)
			}
			key := path("key.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			if tt.crl == nil {
				tt.crl = func(s *site) []byte { return list(s, 1, 10, false) }
			}
			tcb := path("tcb.json", tt.tcb)
			if tt.noNames {
				tcb = ""
			}
			s.options.Endorsements = boot.EndorsementFiles(path("amd.crl", tt.crl(s)), tcb, key, s.options.Roots)
			if _, err := s.store.Machine().RaiseRecovery(t.Context(), tt.noted); err != nil {
				t.Fatal(err)
			}
			s.start()
			if tt.code == "" {
				s.comesTo(progress.Serving)
				return
			}
			status := s.comesTo(progress.Locked)
			if !strings.Contains(status.Code, tt.code) || len(s.unlocks) != 0 {
				t.Errorf("got %s: %q; unlocked %d times", status.Code, status.Reason, len(s.unlocks))
			}
		})
	}
}
