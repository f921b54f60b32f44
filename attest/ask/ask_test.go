package ask_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/ask"
)

// clock goes on only by what is waited for.
type clock struct {
	now    time.Time
	waited []time.Duration
}

func (c *clock) Now() time.Time { return c.now }
func (c *clock) After(d time.Duration) <-chan time.Time {
	c.now, c.waited = c.now.Add(d), append(c.waited, d)
	woken := make(chan time.Time, 1)
	woken <- c.now
	return woken
}

func evidence(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "evidence-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func serve(t *testing.T, config *tls.Config, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(answer)
	s.TLS = config
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// TestAsk: what is given is of this very connection, and whether an authority vouches for the
// certificate is said and changes nothing else.
func TestAsk(t *testing.T) {
	text := evidence(t)
	var asked string
	s := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RequestURI()
		_, _ = w.Write(text)
	})
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	for what, tt := range map[string]struct {
		roots   *x509.CertPool
		vouched bool
	}{"vouched": {roots, true}, "by nobody": {x509.NewCertPool(), false}} {
		a := ask.Asker{Roots: tt.roots}
		got, err := a.Ask(t.Context(), s.URL)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if (got.Untrusted == nil) != tt.vouched {
			t.Errorf("%s: %v", what, got.Untrusted)
		}
		if !bytes.Equal(got.TLSKey(), s.Certificate().RawSubjectPublicKeyInfo) || !bytes.Equal(got.Text, text) || got.Evidence.Format != attest.FormatV1 || got.Address != s.URL {
			t.Errorf("%s: %+v", what, got)
		}
		if asked != "/attestation?nonce="+hex.EncodeToString(got.Nonce) || len(got.Nonce) != 32 {
			t.Errorf("%s: it was asked %s", what, asked)
		}
	}
	a := ask.Asker{Roots: roots}
	one, err1 := a.Ask(t.Context(), s.URL)
	two, err2 := a.Ask(t.Context(), s.URL)
	if err := errors.Join(err1, err2); err != nil || bytes.Equal(one.Nonce, two.Nonce) {
		t.Errorf("a nonce was used twice, or %v", err)
	}
	// Another name than the certificate's is vouched for by nobody.
	other := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	if got, err := a.Ask(t.Context(), other); err == nil && got.Untrusted == nil {
		t.Errorf("the certificate is vouched for under %s", other)
	}
}

// TestRefusals: what answers in the place of an appliance is told in one line, within bounds.
func TestRefusals(t *testing.T) {
	text := evidence(t)
	for what, tt := range map[string]struct {
		config *tls.Config
		answer http.HandlerFunc
		says   string
	}{
		"TLS 1.2": {&tls.Config{MaxVersion: tls.VersionTLS12}, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }, "protocol version"},
		"a redirect": {nil, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, "not followed"},
		"too much":     {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, endless{}, attest.MaxEvidence+2) }, "more than"},
		"not evidence": {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, "something else than evidence"},
		"cut short": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, "{")
		}, "does not come to its end"},
		"compressed": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(text)
			_ = z.Close()
		}, "something else than evidence"},
		"headers without end": {nil, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 2000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 100))
			}
			_, _ = w.Write(text)
		}, "header"},
		"a problem": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"code":"conflict","detail":"the TPM\u001b[2J is away"}`)
		}, "409 Conflict (conflict): the TPM [2J is away"},
		"a bare status":      {nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, "418"},
		"503 without a time": {nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "503"},
		"503 in an hour": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, "asks to come again in 1h0m0s, which is later"},
	} {
		s := serve(t, tt.config, tt.answer)
		a := ask.Asker{Roots: x509.NewCertPool(), Clock: &clock{now: time.Now()}}
		got, err := a.Ask(t.Context(), s.URL)
		if err == nil || got != nil || fault.CodeOf(err) != fault.Unreachable || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", what, err)
		} else if text := err.Error(); strings.ContainsAny(text, "\n\x1b") || len(text) > 800 {
			t.Errorf("%s: %q", what, text)
		}
	}
	for _, bad := range []string{"", "http://h:1", "https://", "https://h/path", "https://h?x=1", "https://u:p@h", "h:9443", "https://h#x", "https://\x00"} {
		if _, err := ask.ParseAddress(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := new(ask.Asker).Ask(ctx, "https://127.0.0.1:1"); fault.CodeOf(err) != fault.Unreachable {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestComesAgain: an appliance that is asked too often says when to come again.
func TestComesAgain(t *testing.T) {
	text := evidence(t)
	c := &clock{now: time.Now()}
	later := []string{"1", "0", c.now.Add(23 * time.Second).UTC().Format(http.TimeFormat)}
	n := 0
	s := serve(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		if n < len(later) {
			w.Header().Set("Retry-After", later[n])
			w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[n%2])
			n++
			return
		}
		_, _ = w.Write(text)
	})
	var told []time.Duration
	a := ask.Asker{Roots: x509.NewCertPool(), Clock: c, Waits: func(d time.Duration, why string) {
		told = append(told, d)
		if !strings.HasPrefix(why, "429 ") && !strings.HasPrefix(why, "503 ") {
			t.Errorf("it waits for %q", why)
		}
	}}
	if _, err := a.Ask(t.Context(), s.URL); err != nil {
		t.Fatal(err)
	}
	if len(c.waited) != 3 || !slices.Equal(c.waited, told) || c.waited[0] != time.Second || c.waited[1] != time.Second || c.waited[2] < 20*time.Second || c.waited[2] > 22*time.Second {
		t.Errorf("it waited %s", c.waited)
	}
	// One that always says so is left within the bound.
	n, later = 0, slices.Repeat([]string{"7"}, 1000)
	c.waited = nil
	if _, err := a.Ask(t.Context(), s.URL); fault.CodeOf(err) != fault.Unreachable || len(c.waited) != 8 {
		t.Errorf("%d waits: %v", len(c.waited), err)
	}
}
