package release_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/snp"
)

// list is one of revocations, made days ago and in force for so many more.
func (s *site) list(t *testing.T, days, more int, issuer bool) []byte {
	t.Helper()
	now := time.Now()
	der, err := s.platform.Revoke(now.AddDate(0, 0, -days), now.AddDate(0, 0, more), issuer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestBrokersRevocations: a list that names the issuer of the machine's key keeps the PIN
// back, however old it is; and the broker needs one of its own if the policy says so.
func TestBrokersRevocations(t *testing.T) {
	s := newSite(t)
	s.setPolicy(t, func(p *attest.Policy) { p.Version = 2; snp.PolicyOf(p.Reports).RequireCRL = true })
	s.refuses(t, "E_SNP_CRL")
	add := func(der []byte) {
		t.Helper()
		if _, err := s.vault.AddRevocations(der, s.platform.Roots()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.vault.AddRevocations(s.list(t, 1, 30, false), nil); err == nil {
		t.Error("a list that AMD did not sign is kept")
	}
	add(s.list(t, 60, -30, false))
	s.refuses(t, "E_SNP_CRL") // none is in force
	add(s.list(t, 2, 30, false))
	s.releases(t)
	if lists, err := s.vault.Revocations(); err != nil || len(lists) != 1 {
		t.Errorf("it keeps %d lists: %v", len(lists), err)
	}
	add(s.list(t, 500, -400, true)) // an old one
	s.refuses(t, "E_SNP_CRL")
	add(s.list(t, 1, 30, false)) // a newer one does not take back what an older one says
	s.refuses(t, "E_SNP_CRL")
	if lists, err := s.vault.Revocations(); err != nil || len(lists) != 2 || lists[1].Revoked != 1 {
		t.Errorf("it keeps %+v: %v", lists, err)
	}
	folder := filepath.Join(s.dir, "revocations")
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files { // damaged: it may be the one that revokes
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.refuses(t, "E_CRL_FILE")
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	add(s.list(t, 1, 30, false))
	s.releases(t)
}

// TestBrokersRecovery: a TCB recovery file raises the policy's floors from its date on; one
// that cannot be used keeps all PINs back.
func TestBrokersRecovery(t *testing.T) {
	s := newSite(t)
	sign := func(version uint64, key ed25519.PrivateKey, from time.Time, tcb snp.TCB) []byte {
		t.Helper()
		file, err := attest.SignRecovery(&attest.Recovery{Format: attest.RecoveryFormat, Name: "AMD-SB-9999", Version: version, SNP: []snp.Floor{{Product: "Milan", From: from, TCB: &tcb}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	now := time.Now()
	has, higher := snp.TCB{Bootloader: 4, SNP: 29, Microcode: 222}, snp.TCB{Bootloader: 4, SNP: 30, Microcode: 222}
	set := func(file []byte, says string) {
		t.Helper()
		if _, err := s.vault.SetRecovery(file); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	set(sign(2, s.key, now.Add(-time.Hour), has), "")
	s.releases(t)
	set(sign(3, s.key, now.Add(time.Hour), higher), "")
	s.releases(t) // it is not in effect yet
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set(sign(9, other, now, higher), "does not verify")
	set(sign(2, s.key, now, higher), "older")
	set(sign(3, s.key, now, higher), "another")
	set([]byte("x"), "cannot be used")
	set(sign(4, s.key, now.Add(-time.Hour), higher), "")
	s.refuses(t, "E_SNP_TCB")
	for name, content := range map[string][]byte{"damaged": []byte("x"), "empty": nil, "of another signer": sign(9, other, now, has)} {
		if err := os.WriteFile(filepath.Join(s.dir, "tcb.json"), content, 0o600); err != nil {
			t.Fatal(name, err)
		}
		s.refuses(t, "E_TCB_FILE")
	}
	if err := os.WriteFile(filepath.Join(s.dir, "tcb.json"), sign(5, s.key, now, has), 0o600); err != nil {
		t.Fatal(err)
	}
	s.releases(t)
}
