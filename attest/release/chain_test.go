package release_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/release"
)

// logged is a vault with some records.
func logged(t testing.TB) (*release.Vault, ed25519.PublicKey) {
	t.Helper()
	v, err := release.CreateVault(filepath.Join(t.TempDir(), "vault"), "")
	if err != nil {
		t.Fatal(err)
	}
	v.Person = "ann"
	if err := errors.Join(v.Add("hsm-1", []byte(pin)), v.Admit("hsm-1", release.Admission{First: true}), v.Stop("hsm-1"), v.Stop(""), v.Resume()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(v.LogKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	return v, publicKeyOf(t, text)
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestEachChangeOfTheLog: whatever is changed, removed, added or exchanged in a log shows.
func TestEachChangeOfTheLog(t *testing.T) {
	v, key := logged(t)
	log, headText := read(t, v.LogFile()), read(t, v.LogHeadFile())
	report, err := release.VerifyLog(bytes.NewReader(log), headText, key)
	if err != nil || report.Records != 6 || report.First != 1 || report.Last != 6 || !report.Head {
		t.Fatalf("the log as it was written: %+v, %v", report, err)
	}
	breaks := func(what string, changed []byte) {
		t.Helper()
		if bytes.Equal(changed, log) {
			return
		}
		if _, err := release.VerifyLog(bytes.NewReader(changed), headText, key); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range log {
		changed := bytes.Clone(log)
		changed[i] ^= 1
		breaks(fmt.Sprintf("byte %d", i), changed)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	lines = lines[:len(lines)-1]
	for i := range lines {
		breaks(fmt.Sprintf("without line %d", i+1), bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
		breaks(fmt.Sprintf("line %d twice", i+1), bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil))
		breaks(fmt.Sprintf("up to line %d", i), bytes.Join(lines[:i], nil))
		if i > 0 {
			exchanged := slices.Clone(lines)
			exchanged[i-1], exchanged[i] = lines[i], lines[i-1]
			breaks(fmt.Sprintf("lines %d and %d exchanged", i, i+1), bytes.Join(exchanged, nil))
		}
	}
	// Of another broker, and its head.
	other, _ := logged(t)
	breaks("another broker's", read(t, other.LogFile()))
	for i := range headText[:len(headText)-1] {
		changed := bytes.Clone(headText)
		changed[i] ^= 1
		if _, err := release.VerifyLog(bytes.NewReader(log), changed, key); err == nil {
			t.Errorf("byte %d of the head", i)
		}
	}
}

// TestLogAfterCrash: a crash at each byte of what an append writes leaves a log that goes on.
func TestLogAfterCrash(t *testing.T) {
	v, key := logged(t)
	dir := filepath.Dir(v.LogFile())
	before, headBefore := read(t, v.LogFile()), read(t, v.LogHeadFile())
	if err := v.Stop("hsm-1"); err != nil {
		t.Fatal(err)
	}
	after := read(t, v.LogFile())
	for n := len(before); n <= len(after); n += 1 + (len(after)-len(before))/40 {
		n = min(n, len(after))
		if err := errors.Join(os.WriteFile(v.LogFile(), after[:n], 0o600), os.WriteFile(v.LogHeadFile(), headBefore, 0o600)); err != nil {
			t.Fatal(err)
		}
		again, err := release.FindVault(dir, "")
		if err == nil {
			err = again.Stop("hsm-1")
		}
		if err != nil {
			t.Errorf("after %d bytes: %v", n-len(before), err)
			continue
		}
		report, err := release.VerifyLog(bytes.NewReader(read(t, v.LogFile())), read(t, v.LogHeadFile()), key)
		want := 7
		if n == len(after) { // the line was whole: it counts
			want = 8
		}
		if err != nil || report.Records != want {
			t.Errorf("after %d bytes there are %d records: %v", n-len(before), report.Records, err)
		}
	}
}

// TestPolicyAfterCrash: a crash between record, key and file of a policy leaves one policy
// or the other in force, and each can be replaced.
func TestPolicyAfterCrash(t *testing.T) {
	public := func(s *site) ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }
	t.Run("before the record", func(t *testing.T) {
		s := newSite(t)
		if err := os.WriteFile(filepath.Join(s.dir, "policy-next.json"), s.sign(t, func(p *attest.Policy) { p.Version = 2 }), 0o600); err != nil {
			t.Fatal(err)
		}
		s.releases(t)
		if p, err := s.vault.Policy(); err != nil || p.Version != 1 {
			t.Errorf("in force is %+v, %v", p, err)
		}
		s.setPolicy(t, func(p *attest.Policy) { p.Version = 2 })
	})
	t.Run("after the record", func(t *testing.T) {
		s := newSite(t)
		old := read(t, filepath.Join(s.dir, "policy.json"))
		s.setPolicy(t, func(p *attest.Policy) { p.Version = 2 })
		err := errors.Join(os.Rename(filepath.Join(s.dir, "policy.json"), filepath.Join(s.dir, "policy-next.json")),
			os.WriteFile(filepath.Join(s.dir, "policy.json"), old, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.vault.Policy(); err != nil || p.Version != 2 {
			t.Errorf("in force is %+v, %v", p, err)
		}
		s.releases(t)
	})
	t.Run("of another signer, before its key", func(t *testing.T) {
		s := newSite(t)
		_, other, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(s.dir, "policy-key")); err != nil {
			t.Fatal(err)
		}
		s.refuses(t, "E_BROKER_POLICY")
		s.key = other
		file := s.sign(t, func(*attest.Policy) {})
		if err := s.vault.SetPolicy(file, public(s)); err != nil {
			t.Fatal(err)
		}
		s.releases(t)
		if err := os.Remove(filepath.Join(s.dir, "policy-key")); err != nil { // as if it was not written yet
			t.Fatal(err)
		}
		s.refuses(t, "E_BROKER_POLICY")
		if err := s.vault.SetPolicy(file, public(s)); err != nil {
			t.Error(err)
		}
		s.restart(t)
		s.releases(t)
	})
}

// TestLogBegunAgain: a log that was cut is begun again by a person, on record; policy and
// admitted machines stay, and the number goes on.
func TestLogBegunAgain(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	last := s.verified(t)
	s.write(t, "releases.jsonl", func(text string) string { return text[:len(text)/2] })
	s.refuses(t, "E_BROKER_LOG")
	if _, err := s.verify(t); err == nil {
		t.Error("a log that was cut verifies")
	}
	former, err := s.vault.BeginLog(release.Beginning{By: "ann", Reason: "it was cut by a test", Now: time.Now()})
	if err != nil || len(read(t, former)) == 0 {
		t.Fatalf("%q, %v", former, err)
	}
	s.restart(t)
	s.releases(t)
	report := s.verified(t)
	if report.First != last.Last+1 || report.Before == nil || report.Before.Number != last.Last || report.Before.Digest != last.Digest || report.Before.File != filepath.Base(former) {
		t.Errorf("the log is %+v, %+v after %+v", report, report.Before, last)
	}
	if p, err := s.vault.Policy(); err != nil || p.Version != 1 {
		t.Errorf("the policy is %+v, %v", p, err)
	}
}

func publicKeyOf(t testing.TB, text []byte) ed25519.PublicKey {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return publicKey(t, file)
}

// FuzzLog: of bytes of any kind the reader finds the genuine log alone good, and says where
// another breaks in one line.
func FuzzLog(f *testing.F) {
	v, key := logged(f)
	log, headText := read(f, v.LogFile()), read(f, v.LogHeadFile())
	f.Add(log, headText)
	f.Add(log[:len(log)-10], headText)
	f.Add([]byte(`{"number":1,"prev":"","signature":""}`+"\n"), []byte("{}"))
	f.Add(bytes.Repeat([]byte("x"), 200), []byte(nil))
	f.Fuzz(func(t *testing.T, changed, changedHead []byte) {
		if changedHead == nil {
			changedHead = []byte{}
		}
		report, err := release.VerifyLog(bytes.NewReader(changed), changedHead, key)
		if err == nil && !bytes.HasPrefix(changed, log) {
			t.Errorf("%d records are good", report.Records)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("several lines: %q", err)
		}
	})
}
