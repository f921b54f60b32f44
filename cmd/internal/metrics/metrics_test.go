package metrics_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/metrics"
)

// TestPeers: of each other node there is when its head was countersigned, and how
// many were refused; without a fleet there is nothing of it.
func TestPeers(t *testing.T) {
	status := &audit.Status{}
	m := metrics.New(metrics.Sources{
		Version:            "test",
		Status:             func(context.Context) appliance.Status { return appliance.Status{} },
		Boot:               func() progress.Status { return progress.Status{} },
		Audit:              func() *audit.Status { return status },
		Credentials:        func() (map[string][]time.Time, error) { return nil, nil },
		CertificateExpires: func() time.Time { return time.Time{} },
	})
	scrape := func() string {
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	if text := scrape(); strings.Contains(text, "holdfast_audit_peer_") || !strings.Contains(text, "holdfast_audit_peers_refused 0\n") {
		t.Errorf("without a fleet: %s", text)
	}
	status.Peers = []audit.PeerStatus{{LogID: "node-b", Size: 7, At: time.Unix(1_800_000_000, 0)}, {LogID: "node-c", Refused: fault.AuditInconsistent}}
	text := scrape()
	for _, want := range []string{
		`holdfast_audit_peer_countersigned_timestamp_seconds{node="node-b"} 1.8e+09`,
		`holdfast_audit_peer_countersigned_timestamp_seconds{node="node-c"} 0`,
		`holdfast_audit_peers_refused 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
}
