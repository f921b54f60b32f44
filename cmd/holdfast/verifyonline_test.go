package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
)

// verdictOf reads the verdict of a call with --json.
func verdictOf(t *testing.T, r calledResult) *appraisal.Verdict {
	t.Helper()
	var v appraisal.Verdict
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("exit code %d: %v: %s%s", r.code, err, r.stdout, r.stderr)
	}
	return &v
}

// TestVerifyOnline asks an appliance, and comes to the same verdict from the files that it
// kept.
func TestVerifyOnline(t *testing.T) {
	m := simulated(t)
	out := filepath.Join(m.dir, "evidence.json")
	r := m.call(m.judged("verify", m.server.URL, "--json", "--out", out)...)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	v := verdictOf(t, r)
	for _, code := range []fault.Code{fault.EvidenceNonce, fault.EvidenceTLSKey, fault.EvidenceTime, fault.TPMReference, fault.PolicyUnproven} {
		if !slices.ContainsFunc(v.Checks, func(c appraisal.Check) bool { return c.Code == string(code) && c.Result == appraisal.Pass }) {
			t.Errorf("%s did not pass", code)
		}
	}
	c, _ := v.Facts["connection"].(map[string]any)
	if c["address"] != m.server.URL || c["vouched"] != false || c["tls_key_sha256"] != hexDigest(m.server.Certificate().RawSubjectPublicKeyInfo) {
		t.Errorf("the connection: %v", c)
	}
	if r := m.call(m.judged("verify", m.server.URL, "--json", "--ca", m.ca)...); r.code != 0 || verdictOf(t, r).Facts["connection"].(map[string]any)["vouched"] != true {
		t.Errorf("with --ca: exit code %d: %s", r.code, r.stdout)
	}

	// Again from the files, by the command that stands in one of them.
	kept, err := os.ReadFile(filepath.Join(m.dir, "evidence.pem"))
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^holdfast (verify .*)$`).FindStringSubmatch(string(kept))
	if command == nil {
		t.Fatalf("there is no command in %s", kept)
	}
	again := m.call(append(strings.Fields(command[1]), "--json")...)
	w := verdictOf(t, again)
	if again.code != r.code || w.Result != v.Result || !slices.Equal(w.Checks, v.Checks) || w.Policy.String() != v.Policy.String() {
		t.Errorf("offline, %s: exit code %d: %+v, not %+v", command[1], again.code, w, v)
	}
	// Nothing is written over, and that is known before the appliance is asked.
	if r := m.call(m.judged("verify", "https://127.0.0.1:1", "--out", out)...); r.code != 2 || !strings.Contains(r.stderr, "exists") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	// For people it says the same.
	for _, says := range []string{"verdict", "pass", "no authority vouches", "signed by", m.server.URL} {
		if r := m.call(m.judged("verify", m.server.URL)...); r.code != 0 || !strings.Contains(r.stdout, says) {
			t.Errorf("it does not say %q: %s%s", says, r.stdout, r.stderr)
		}
	}
}

// TestVerifyOnlineIsStrict: what would change what is asked is refused with an address.
func TestVerifyOnlineIsStrict(t *testing.T) {
	m := simulated(t)
	for flag, value := range map[string]string{"nonce": strings.Repeat("ab", 32), "tls-cert": m.ca, "at": "2026-11-28T09:00:00Z", "snp-report": m.ca} {
		if r := m.call(m.judged("verify", m.server.URL, "--"+flag, value)...); r.code != 2 || !strings.Contains(r.stderr, "--"+flag) && flag != "snp-report" {
			t.Errorf("--%s: exit code %d: %s", flag, r.code, r.stderr)
		}
	}
	for _, flag := range []string{"ca", "out"} {
		if r := m.call(m.judged("verify", m.ca, "--"+flag, filepath.Join(m.dir, "new"))...); r.code != 2 || !strings.Contains(r.stderr, "--"+flag) {
			t.Errorf("--%s with a file: exit code %d: %s", flag, r.code, r.stderr)
		}
	}
	for _, address := range []string{"http://127.0.0.1:9443", "https://127.0.0.1:9443/x", "https://u:p@127.0.0.1", "https://"} {
		if r := m.call(m.judged("verify", address)...); r.code != 2 || !strings.Contains(r.stderr, "https://") {
			t.Errorf("%s: exit code %d: %s", address, r.code, r.stderr)
		}
	}
}

// relay stands between: it asks the machine with the caller's nonce, and passes on what it is
// given, on a connection with a key of its own.
func relay(t *testing.T, to *httptest.Server, change func([]byte) []byte) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res, err := to.Client().Get(to.URL + r.URL.RequestURI())
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
			return
		}
		w.Header().Set("Retry-After", res.Header.Get("Retry-After"))
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(change(text))
	}))
	certificate, _ := appliancetest.Certificate(t, "127.0.0.1")
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func same(text []byte) []byte { return text }

// TestVerifyRelay: who passes on the evidence of another machine is told by the TLS key, and
// who plays back an old answer by the nonce.
func TestVerifyRelay(t *testing.T) {
	m := simulated(t)
	r := m.call(m.judged("verify", relay(t, m.server, same).URL, "--json")...)
	if v := verdictOf(t, r); r.code != 1 || !slices.Equal(v.Failed(), []string{"E_TLS_KEY"}) {
		t.Errorf("a relay: exit code %d, failed %v", r.code, v.Failed())
	}
	old, err := m.Evidence(t.Context(), []byte(strings.Repeat("n", 32)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := old.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r = m.call(m.judged("verify", relay(t, m.server, func([]byte) []byte { return text }).URL, "--json")...)
	if v := verdictOf(t, r); r.code != 1 || !slices.Contains(v.Failed(), "E_NONCE") || !slices.Contains(v.Failed(), "E_TLS_KEY") {
		t.Errorf("an old answer: exit code %d, failed %v", r.code, v.Failed())
	}
	// Without the words of a policy there is no pass.
	r = m.call("verify", m.server.URL, "--json")
	if r.code == 0 {
		t.Errorf("under the default policy: %s", r.stdout)
	}
}

// TestVerifyHostileServers: whatever answers in the place of an appliance, verify and watch say
// so in one line, in plain words, and nothing passes.
func TestVerifyHostileServers(t *testing.T) {
	for name, answer := range hostile {
		t.Run(name, func(t *testing.T) {
			s := newStub(t, answer)
			for _, asJSON := range []bool{false, true} {
				ctx, cancel := t.Context(), func() {}
				if name == "never" {
					ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				}
				args := []string{"verify", s.server}
				if asJSON {
					args = append(args, "--json")
				}
				r := callProgram(ctx, newRoot(), args...)
				cancel()
				if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, s.server) {
					t.Errorf("%q: exit code %d: %s%s", args, r.code, r.stdout, r.stderr)
				}
				checkFailure(t, name, r, asJSON)
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		for _, address := range []string{"https://127.0.0.1:1", "https://" + strings.Repeat("x", 300), "https://nowhere.invalid", "https://[::1]:1"} {
			r := callProgram(t.Context(), newRoot(), "verify", address, "--json")
			if r.code != 2 {
				t.Errorf("%s: exit code %d: %s", address, r.code, r.stdout)
			}
			checkFailure(t, address, r, true)
		}
	})
}

// TestVerifyWaits: an appliance that is asked too often is asked again, and the user is told.
func TestVerifyWaits(t *testing.T) {
	m := simulated(t)
	busy := 0
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if busy++; busy == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		m.server.Config.Handler.ServeHTTP(w, r)
	}))
	front.TLS = m.server.TLS
	front.StartTLS()
	t.Cleanup(front.Close)
	r := m.call(m.judged("verify", front.URL)...)
	if r.code != 0 || !strings.Contains(r.stderr, "it answers 429 Too Many Requests; it is asked again in 1s\n") {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
}
