package release_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/attest/release"
)

// TestHistory: a machine is told what the broker's log has under its name, and of no other;
// nobody else is told; and a machine that has had its PIN may ask.
func TestHistory(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	if err := s.vault.Add("hsm-2", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	s.client.Machine = "hsm-2"
	s.refuses(t, "E_BROKER_INSTANCE")
	s.client.Machine = "hsm-1"
	h, err := s.client.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []release.Record
	if err := s.vault.Log(func(r release.Record) error {
		if r.Machine == "hsm-1" {
			want = append(want, r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(h.Records)
	if text, _ := json.Marshal(want); !bytes.Equal(got, text) || len(want) < 3 || h.More || want[len(want)-1].Result != release.Released {
		t.Errorf("it is told %s, not %s", got, text)
	}
	for range 110 {
		if err := s.vault.Admit("hsm-1", release.Admission{First: true}); err != nil {
			t.Fatal(err)
		}
	}
	if h, err = s.client.History(t.Context()); err != nil || len(h.Records) != 100 || !h.More || h.Records[99].Result != release.Admitted {
		t.Errorf("of many records: %d, more %v, %v", len(h.Records), h.More, err)
	}

	// Another machine, and one under another name, are told nothing.
	s.client.Machine = "hsm-2"
	if _, err := s.client.History(t.Context()); fault.CodeOf(err) != fault.BrokerInstance {
		t.Errorf("under another name: %v", err)
	}
	s.client.Machine = "hsm-1"
	s.releases(t) // it is pinned again
	_, c := s.another(t, "i-0123456789abcdef0-tpm0123456789abcdef0")
	own := s.client.Collect
	s.client.Collect = c.Collect
	if _, err := s.client.History(t.Context()); err == nil {
		t.Error("another machine is told")
	}
	s.client.Collect = own
	if _, err := s.client.History(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestHistoryRefused: what a broker's answer has that the key of its log has not signed, that
// is of another machine, or out of order, is refused; so is an endless one. To the machine
// all of it is a broker that does not tell.
func TestHistoryRefused(t *testing.T) {
	s := newSite(t)
	if err := s.vault.Add("hsm-2", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	s.releases(t)
	s.releases(t)
	log, err := os.ReadFile(s.vault.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	of := func(machine string) (lines []any) {
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, `"machine":"`+machine+`"`) {
				lines = append(lines, strings.TrimSuffix(line, "\n"))
			}
		}
		return lines
	}
	text, err := os.ReadFile(s.vault.LogKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	own := of("hsm-1")
	answers := func(key, lines any) map[string]any { return map[string]any{"log_key": key, "records": lines} }
	for name, c := range map[string]struct {
		answer map[string]any
		good   bool
	}{
		"as it is":           {answers(key, own), true},
		"some left out":      {answers(key, own[1:]), true},
		"none":               {answers(key, []any{}), true},
		"no key":             {answers(nil, own), false},
		"another key":        {answers(make([]byte, 32), own), false},
		"changed":            {answers(key, []any{strings.Replace(own[0].(string), `"result":"`, `"result":"x`, 1)}), false},
		"no signature":       {answers(key, []any{"{}"}), false},
		"exchanged":          {answers(key, []any{own[1], own[0]}), false},
		"doubled":            {answers(key, []any{own[0], own[0]}), false},
		"too many":           {answers(key, make([]string, 101)), false},
		"of another machine": {answers(key, of("hsm-2")), false},
		"too long":           {answers(key, []any{strings.Repeat("x", 2<<20)}), false},
		"with more":          {map[string]any{"log_key": key, "records": own, "pin": "x"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var answer any = c.answer
				if r.URL.Path == "/v1/nonce" {
					answer = map[string]any{"nonce": make([]byte, 32)}
				}
				_ = json.NewEncoder(w).Encode(answer)
			}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{s.cert}, ClientAuth: tls.RequireAnyClientCert}
			server.StartTLS()
			t.Cleanup(server.Close)
			client := *s.client
			client.URL = server.URL
			h, err := client.History(t.Context())
			if c.good != (err == nil) || err != nil && (h != nil || fault.CodeOf(err) != fault.BrokerUnreachable) {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}
