package daemon_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// TestTraces: off by default; with the standard variables each request is told to
// the collector, without anything secret.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var told bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s", r.URL.Path, r.Header.Get("Content-Type"))
		}
		_, _ = io.Copy(&told, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	s := newSite(t)
	requests := func() {
		r := s.start()
		k := r.newKeyStore()
		r.newKey("k", appliance.CustodyCached, "")
		k.OK("/keys/k/encrypt", xkstest.EncryptBody("what nobody may see"))
		k.Fails("/keys/nobody/decrypt", xkstest.DecryptBody(k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))), 404, "KeyNotFoundException")
		r.stop()
	}
	requests()
	if told.Len() != 0 {
		t.Error("traces are sent without being asked for")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	s = newSite(t)
	requests()
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"holdfast", "Encrypt", "Decrypt", "KeyNotFoundException", "service.version"} {
		if !bytes.Contains(told.Bytes(), []byte(want)) {
			t.Errorf("the collector was not told %s", want)
		}
	}
	if bytes.Contains(told.Bytes(), []byte("what nobody may see")) {
		t.Error("the collector was told a plaintext")
	}
}
