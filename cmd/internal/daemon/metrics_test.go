package daemon_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/metrics"
	"holdfast/xks/xkstest"
)

// scrape gets the metrics, as Prometheus does.
func (r *running) scrape() string {
	r.s.t.Helper()
	res, err := r.s.client().Get("https://" + r.Admin.String() + "/metrics")
	if err != nil {
		r.s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		r.s.t.Fatalf("%s: %v", res.Status, err)
	}
	return string(text)
}

// promtool checks a text with Prometheus's own tool.
func promtool(t *testing.T, input string, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; on Debian: apt-get install prometheus")
	}
	cmd := exec.Command(tool, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

const monitoring = "../../../docs/monitoring"

// TestMetrics: what happens is counted, in the form that Prometheus wants.
func TestMetrics(t *testing.T) {
	s := newSite(t)
	r := s.start()
	k := r.newKeyStore()
	r.newKey("k", appliance.CustodyCached, "")
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	k.Fails("/keys/nobody/encrypt", xkstest.EncryptBody("x"), 404, "KeyNotFoundException")
	r.kms("AAAAAAAAAAAAAAAAAAAAAAAA", k.SecretAccessKey).Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 401, "AuthenticationFailedException")
	k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	r.newKey("h", appliance.CustodyHSM, "")
	sealed := k.OK("/keys/h/encrypt", xkstest.EncryptBody("x"))
	sealed["authenticationTag"] = "AAAAAAAAAAAAAAAAAAAAAA=="
	k.Fails("/keys/h/decrypt", xkstest.DecryptBody(sealed), 400, "InvalidCiphertextException")

	// Proofs of who somebody is, and requests for approval.
	res, err := s.client().PostForm("https://"+r.Admin.String()+"/signin", url.Values{"name": {"nobody"}, "password": {"x"}, "code": {"0"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.Admin.String()+"/api/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer hf_nothing")
	if res, err = s.client().Do(q); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()

	text := r.scrape()
	for _, want := range []string{
		`holdfast_xks_requests_total{error="",key_store="p",operation="Encrypt",result="ok"} 3`,
		`holdfast_xks_requests_total{error="KeyNotFoundException",key_store="p",operation="Encrypt",result="refused"} 1`,
		`holdfast_xks_requests_total{error="AuthenticationFailedException",key_store="p",operation="Encrypt",result="refused"} 1`,
		`holdfast_xks_request_duration_seconds_bucket{operation="Encrypt",le="0.25"} `,
		`holdfast_xks_request_duration_seconds_count{operation="Encrypt"} 5`,
		`holdfast_xks_clock_skew_seconds_count 7`,
		`holdfast_boot_state{state="serving"} 1`,
		`holdfast_boot_state{state="locked"} 0`,
		`holdfast_boot_step_duration_seconds{state="unlock"} `,
		`holdfast_hsm_active{serial=`,
		`holdfast_hsm_operations_total{operation="GenerateKey",result="ok",token="`,
		`holdfast_hsm_operations_total{operation="Decrypt",result="refused",token="`,
		`holdfast_hsm_operation_duration_seconds_bucket{operation="Encrypt",token="`,
		`holdfast_hsm_busy_sessions{token="`,
		`holdfast_attestation_success 1`,
		`holdfast_attestation_result{result="pass"} 1`,
		`holdfast_attestation_result{result="incomplete"} 0`,
		`holdfast_attestation_result{result="fail"} 0`,
		`holdfast_credentials{key_store="p"} 1`,
		`holdfast_key_stores 1`,
		`holdfast_keys_in_memory 2`,
		`holdfast_keys_in_memory_most `,
		`holdfast_keys_evicted_total 0`,
		`holdfast_sign_ins_total{result="refused",way="password"} 1`,
		`holdfast_sign_ins_total{result="refused",way="token"} 1`,
		`holdfast_sign_ins_total{result="ok",way="passkey"} 0`,
		`holdfast_approvals_total{event="asked"} 0`,
		`holdfast_approvals{state="pending"} 0`,
		`holdfast_notices_waiting 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s", want)
		}
	}
	// A machine that stood still for a moment is some seconds ahead.
	if !regexp.MustCompile(`(?m)^holdfast_clock_ahead_seconds -?[0-9]$`).MatchString(text) {
		t.Error("the wall clock is not said to be within ten seconds of the time that has passed")
	}
	if strings.Contains(text, k.AccessKeyID) || strings.Contains(text, "nobody") {
		t.Error("a metric names a credential or a key")
	}
	promtool(t, text, "check", "metrics")
	promtool(t, "", "check", "rules", filepath.Join(monitoring, "rules.yml"))
	known := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^([a-z_]+)[{ ]`).FindAllStringSubmatch(text+metricsOfNode(t), -1) {
		known[name[1]] = true
	}
	for file, queries := range map[string][]string{"rules.yml": rules(t), "dashboard.json": queries(t)} {
		if len(queries) < 10 {
			t.Errorf("%s has only %d queries", file, len(queries))
		}
		for _, q := range queries {
			for _, name := range regexp.MustCompile(`\b(holdfast|process|go)_[a-z_]+`).FindAllString(q, -1) {
				if !known[name] {
					t.Errorf("%s asks for %s, which there is not: %s", file, name, q)
				}
			}
		}
	}
	readme, err := os.ReadFile(filepath.Join(monitoring, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range known {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "holdfast_") && !strings.Contains(string(readme), name) {
			t.Errorf("the documentation does not have %s", name)
		}
	}
}

// metricsOfNode gives the metrics that a node of a fleet has.
func metricsOfNode(t *testing.T) string {
	t.Helper()
	peers := appliance.FleetStatus{Node: "a", Nodes: []appliance.NodeStatus{{Node: appliance.Node{ID: "a"}}, {Node: appliance.Node{ID: "b"}}}}
	m := metrics.New(metrics.Sources{
		Status: func(context.Context) appliance.Status {
			return appliance.Status{Replication: &appliance.ReplicationState{}}
		},
		Boot:        func() progress.Status { return progress.Status{} },
		Audit:       func() *audit.Status { return nil },
		Credentials: func() (map[string][]time.Time, error) { return nil, nil }, CertificateExpires: func() time.Time { return time.Time{} },
		Fleet: func() appliance.FleetStatus { return peers },
	})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := w.Body.String()
	promtool(t, text, "check", "metrics")
	return text
}

// rules gives the expressions of the alert rules.
func rules(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(monitoring, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^ +expr: (.*)$`).FindAllStringSubmatch(string(text), -1) {
		exprs = append(exprs, line[1])
	}
	return exprs
}

// queries gives those of the dashboard.
func queries(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(monitoring, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			exprs = append(exprs, q.Expr)
		}
	}
	return exprs
}
