package kmsload_test

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/cmd/internal/kmsload"
)

// proxy is an XKS proxy that gives back the plaintext as the ciphertext, and does what a
// test asks of it.
type proxy struct {
	*httptest.Server
	say atomic.Pointer[func(w http.ResponseWriter) bool] // whether it has answered

	mu  sync.Mutex
	ids []string
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			RequestMetadata       struct{ KMSRequestID string }
			Plaintext, Ciphertext []byte
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=ID/") {
			t.Errorf("%v: %v", r.Header, err)
		}
		p.mu.Lock()
		p.ids = append(p.ids, body.RequestMetadata.KMSRequestID)
		p.mu.Unlock()
		if say := p.say.Load(); say != nil && (*say)(w) {
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ciphertext": body.Plaintext, "plaintext": body.Ciphertext})
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) load(t *testing.T) *kmsload.Load {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	return kmsload.Start(kmsload.Options{Connections: 3, Keys: []string{"a", "b"}, Name: "test", Pause: time.Millisecond,
		Client: func() *kmsload.Client { return kmsload.New(p.URL, "ID", "secret", roots, time.Minute) }})
}

// await waits until the load has so many answers more.
func await(l *kmsload.Load, more int) {
	for want := l.Count() + more; l.Count() < want; time.Sleep(time.Millisecond) {
	}
}

// TestLoad: every request that the proxy has answered is in the report, with who answered.
func TestLoad(t *testing.T) {
	p := newProxy(t)
	l := p.load(t)
	await(l, 50)
	r := l.Stop()
	if r.Failed != 0 || len(r.Wrong) != 0 || len(r.Answered) != len(p.ids) {
		t.Errorf("%d of %d: %v", len(r.Answered), len(p.ids), r)
	}
	known := map[string]bool{}
	for _, a := range r.Answered {
		if known[a.ID] || a.Server == nil || !a.Server.Equal(p.Certificate()) {
			t.Errorf("%s: %v", a.ID, a.Server)
		}
		known[a.ID] = true
	}
}

// TestFailures: what has no answer, and what is an error of the proxy, counts, with how
// long it was so; a refusal and another plaintext are wrong.
func TestFailures(t *testing.T) {
	const outage = 50 * time.Millisecond
	for name, c := range map[string]struct {
		say   func(w http.ResponseWriter) bool
		wrong bool
	}{
		"hangs up":          {say: func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) }},
		"error":             {say: func(w http.ResponseWriter) bool { w.WriteHeader(503); return true }},
		"refusal":           {say: func(w http.ResponseWriter) bool { w.WriteHeader(409); return true }, wrong: true},
		"another plaintext": {say: func(w http.ResponseWriter) bool { _, _ = w.Write([]byte(`{"plaintext":"AAAA"}`)); return true }, wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			l := p.load(t)
			await(l, 10)
			p.say.Store(&c.say)
			time.Sleep(outage)
			p.say.Store(nil)
			await(l, 10)
			r := l.Stop()
			if c.wrong != (len(r.Wrong) > 0) || c.wrong == (r.Failed > 0) {
				t.Errorf("%v %v", r, r.Wrong)
			}
			if !c.wrong && (r.Gap < outage/2 || r.Outage < outage/2 || r.Detail() == "") {
				t.Errorf("%v:\n%s", r, r.Detail())
			}
		})
	}
}
