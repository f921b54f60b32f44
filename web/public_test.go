package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
	"holdfast/web"
	"holdfast/web/operation"
)

// fakeBoot is a boot that is where it is said to be.
type fakeBoot struct {
	status progress.Status
	err    error // of Evidence
	pin    []byte
	below  uint64
}

func (f *fakeBoot) Status() progress.Status { return f.status }

func (f *fakeBoot) Evidence(_ context.Context, nonce []byte) (*attest.Evidence, error) {
	if f.err != nil {
		return nil, f.err
	}
	return &attest.Evidence{Format: attest.Format, Created: time.Now(), Nonce: nonce, TLSKey: []byte("key"), Report: snp.NewReport(snp.Evidence{})}, nil
}

func (f *fakeBoot) Appraise(ctx context.Context, nonce []byte) (*attest.Evidence, *appraisal.Verdict, error) {
	e, err := f.Evidence(ctx, nonce)
	return e, &appraisal.Verdict{Result: appraisal.Pass, Checks: []appraisal.Check{}, Facts: map[string]any{}}, err
}

func (f *fakeBoot) Seal(_ context.Context, credential []byte) error {
	f.pin = bytes.Clone(credential)
	return nil
}

// fakeAudit is an audit log in memory, which fails on command.
type fakeAudit struct {
	mu      sync.Mutex
	records []*audit.Record
	ready   error
	failing error
}

func (f *fakeAudit) Ready() error { return f.ready }

func (f *fakeAudit) Record(_ context.Context, r *audit.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != nil {
		return f.failing
	}
	f.records = append(f.records, r)
	return nil
}

func (f *fakeAudit) Checkpoint() ([]byte, error) { return []byte("checkpoint"), nil }
func (f *fakeAudit) Status() *audit.Status       { return nil }

func (f *fakeAudit) Search(_ context.Context, q audit.Query) ([]*audit.Record, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records, "", nil
}

func (f *fakeAudit) Export(context.Context, audit.Query, io.Writer, string) error { return nil }
func (f *fakeAudit) Proof(context.Context, int64) ([]byte, error)                 { return []byte("{}"), nil }
func (f *fakeAudit) Verify(context.Context) (*audit.Report, error)                { return &audit.Report{}, nil }

// CheckRevoke is as if the policy in force had version 5.
func (f *fakeBoot) CheckRevoke(_ context.Context, below uint64) error {
	if below > 5 {
		return fault.Errorf(fault.Conflict, "the policy in force has version 5")
	}
	return nil
}

func (f *fakeBoot) Revoke(ctx context.Context, below uint64) error {
	if err := f.CheckRevoke(ctx, below); err != nil {
		return err
	}
	f.below = below
	return nil
}

const nonce = "000102030405060708090a0b0c0d0e0f"

func fetch(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func public(f *fakeBoot, log *slog.Logger) http.Handler {
	return web.NewHandler(web.Public{Boot: f, Ready: func(context.Context) bool { return false }, Metrics: http.NotFoundHandler(), Log: log})
}

// TestPublicLocked: everybody may know that it is locked, and why.
func TestPublicLocked(t *testing.T) {
	h := public(&fakeBoot{status: progress.Status{State: progress.Locked, Code: "E_SEAL_PCRS", Reason: "the machine is in no state that was authorized",
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
	f := &fakeBoot{}
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
	for range 10 {
		last = fetch(t, h, "/attestation?nonce="+nonce)
	}
	if last.Code != 429 || last.Header().Get("Retry-After") == "" {
		t.Errorf("asked for ten times: %d %s", last.Code, last.Body)
	}

	f.err = progress.ErrNoPlatform
	if w := fetch(t, public(f, slog.New(slog.DiscardHandler)), "/attestation?nonce="+nonce); w.Code != 409 || !strings.Contains(w.Body.String(), "no hardware") {
		t.Errorf("no hardware: %d %s", w.Code, w.Body)
	}
	var log bytes.Buffer
	f.err = errors.New("what only the log says")
	w = fetch(t, public(f, slog.New(slog.NewTextHandler(&log, nil))), "/attestation?nonce="+nonce)
	if w.Code != 500 || strings.Contains(w.Body.String(), "what only") || !strings.Contains(log.String(), "what only the log says") {
		t.Errorf("broken hardware: %d %s; log %s", w.Code, w.Body, log.String())
	}
}

// TestSealAndStatus over the socket.
func TestSealAndStatus(t *testing.T) {
	f := &fakeBoot{status: progress.Status{State: progress.Release, Code: "E_SEAL_MISSING", Reason: "nothing is sealed"}}
	h := as(root, web.NewAPI(options(t, nil, f, &fakeAudit{}, slog.New(slog.DiscardHandler))))
	w := httptest.NewRecorder()
	body, err := json.Marshal(operation.SealRequest{PIN: []byte("4711")})
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v1/seal", bytes.NewReader(body)))
	if w.Code != 200 || string(f.pin) != "4711" {
		t.Errorf("%d %s: %q", w.Code, w.Body, f.pin)
	}
	if w := fetch(t, h, "/api/v1/attestation?nonce="+nonce); w.Code != 200 {
		t.Errorf("evidence: %d %s", w.Code, w.Body)
	}
}
