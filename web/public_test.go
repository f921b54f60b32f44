package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

const nonce = "000102030405060708090a0b0c0d0e0f"

func fetch(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func public(f *webtest.Boot, log *slog.Logger) http.Handler {
	return web.NewHandler(web.Public{Boot: f, Ready: func(context.Context) (bool, string) { return false, "" }, Metrics: http.NotFoundHandler(), Log: log})
}

// TestPublicLocked: everybody may know that it is locked, and why.
func TestPublicLocked(t *testing.T) {
	h := public(&webtest.Boot{State: progress.Status{State: progress.Locked, Code: "E_SEAL_PCRS", Reason: "the machine is in no state that was authorized",
		Steps: []progress.Step{{Reason: "for administrators"}}}}, slog.New(slog.DiscardHandler))
	if w := fetch(t, h, "/healthz"); w.Code != 200 {
		t.Errorf("/healthz: %d", w.Code)
	}
	if w := fetch(t, h, "/readyz"); w.Code != 503 {
		t.Errorf("/readyz: %d", w.Code)
	}
	for _, path := range []string{"/boot"} {
		w := fetch(t, h, path)
		if w.Code != 200 || !strings.Contains(w.Body.String(), "E_SEAL_PCRS") || !strings.Contains(w.Body.String(), "locked") || strings.Contains(w.Body.String(), "for administrators") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestPublicEvidence: it is for the nonce of whoever asks, and not too often.
func TestPublicEvidence(t *testing.T) {
	f := &webtest.Boot{}
	h := public(f, slog.New(slog.DiscardHandler))
	w := fetch(t, h, "/attestation?nonce="+nonce)
	e, err := attest.Parse(w.Body.Bytes())
	if w.Code != 200 || err != nil || len(e.Nonce) != 16 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %v %s", w.Code, err, w.Header(), w.Body)
	}
	for _, bad := range []string{"", "00", "xyz", strings.Repeat("00", 65)} {
		if w := fetch(t, public(f, slog.New(slog.DiscardHandler)), "/attestation?nonce="+bad); w.Code != 400 || !strings.Contains(w.Body.String(), "16 to 64 random bytes") {
			t.Errorf("nonce %q: %d %s", bad, w.Code, w.Body)
		}
	}
	var last *httptest.ResponseRecorder
	for range 25 {
		last = fetch(t, h, "/attestation?nonce="+nonce)
	}
	if last.Code != 429 || last.Header().Get("Retry-After") == "" {
		t.Errorf("asked for often: %d %s", last.Code, last.Body)
	}

	f.Err = progress.ErrNoPlatform
	if w := fetch(t, public(f, slog.New(slog.DiscardHandler)), "/attestation?nonce="+nonce); w.Code != 409 || !strings.Contains(w.Body.String(), "no hardware") {
		t.Errorf("no hardware: %d %s", w.Code, w.Body)
	}
	var log bytes.Buffer
	f.Err = errors.New("what only the log says")
	w = fetch(t, public(f, slog.New(slog.NewTextHandler(&log, nil))), "/attestation?nonce="+nonce)
	if w.Code != 500 || strings.Contains(w.Body.String(), "what only") || !strings.Contains(log.String(), "what only the log says") {
		t.Errorf("broken hardware: %d %s; log %s", w.Code, w.Body, log.String())
	}
}

// TestSealAndStatus over the socket.
func TestSealAndStatus(t *testing.T) {
	f := &webtest.Boot{State: progress.Status{State: progress.Release, Code: "E_SEAL_MISSING", Reason: "nothing is sealed"}}
	h := as(root, web.NewAPI(options(t, xkstest.Start(t, xkstest.Options{}).Appliance, f, &webtest.Audit{}, slog.New(slog.DiscardHandler))))
	w := httptest.NewRecorder()
	body, err := json.Marshal(operation.SealRequest{PIN: []byte("4711")})
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v1/seal", bytes.NewReader(body)))
	if w.Code != 200 || string(f.PIN) != "4711" {
		t.Errorf("%d %s: %q", w.Code, w.Body, f.PIN)
	}
	if w := fetch(t, h, "/api/v1/attestation?nonce="+nonce); w.Code != 200 {
		t.Errorf("evidence: %d %s", w.Code, w.Body)
	}
}
