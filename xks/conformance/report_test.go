package conformance

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func testReport() *Report {
	results := []Result{
		{"tls/version", "TLS 1.2 or later is negotiated.", "spec: API content type", Pass, "TLS 1.3", time.Millisecond},
		{"sigv4/expired", "A request signed 6 minutes ago is refused.", "spec: Appendix A, task 4", Fail, "200 instead of 401 AuthenticationFailedException", time.Millisecond},
		{"sigv4/other-region", "The Region comes from the credential scope.", "spec: Appendix A", Warn, "401 AuthenticationFailedException", time.Millisecond},
		{"usage/none", "A key for neither.", "spec: Error codes", NotRun, "it was not named", 0},
	}
	return &Report{Target: "https://xks.test/kms/xks/v1", Started: time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC), Duration: 1234 * time.Millisecond,
		Summary: summarize(results), Results: results,
		Latency: []Latency{{"Encrypt", 200, 1.25, 3.5, 260, true}},
		Load:    &Load{32, 100, 99.6, 498, 1, 2, 1.5, 9.25}}
}

func TestWriteTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := testReport().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	want := `XKS conformance of https://xks.test/kms/xks/v1, 2026-11-03T04:05:06Z

pass  tls/version         TLS 1.3
FAIL  sigv4/expired       200 instead of 401 AuthenticationFailedException
warn  sigv4/other-region  401 AuthenticationFailedException
-     usage/none          it was not named

OPERATION  REQUESTS  P50 ms  P99 ms  MAX ms  UNDER 250 ms
Encrypt    200       1.25    3.50    260.00  yes

LOAD            ASKED/s  REACHED/s  ERRORS  THROTTLED  P50 ms  P99 ms
32 connections  100      100        1       2          1.50    9.25

Permitted, but worth a look:
  sigv4/other-region
    rule    The Region comes from the credential scope.
    source  spec: Appendix A
    seen    401 AuthenticationFailedException

Rules broken:
  sigv4/expired
    rule    A request signed 6 minutes ago is refused.
    source  spec: Appendix A, task 4
    seen    200 instead of 401 AuthenticationFailedException

1 passed, 1 failed, 1 warnings, 1 not run, in 1.2s
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func TestReportJSON(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(testReport())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"target":"https://xks.test/kms/xks/v1"`,
		`"summary":{"pass":1,"fail":1,"warn":1,"not_run":1}`,
		`{"id":"usage/none","rule":"A key for neither.","source":"spec: Error codes","outcome":"not_run","detail":"it was not named","duration_ns":0}`,
		`"latency":[{"operation":"Encrypt","count":200,"p50_ms":1.25,"p99_ms":3.5,"max_ms":260,"in_time":true}]`,
		`"load":{"connections":32,"asked_per_second":100,"reached_per_second":99.6,"requests":498,"errors":1,"throttled":2,"p50_ms":1.5,"p99_ms":9.25}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is missing in %s", want, text)
		}
	}
	if n := testReport().Failed(); n != 1 {
		t.Errorf("%d failed", n)
	}
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration(200-i)*time.Millisecond)
	}
	if p50, p99, longest := percentiles(took); p50 != 100 || p99 != 198 || longest != 200 {
		t.Errorf("%v %v %v", p50, p99, longest)
	}
	if p50, p99, longest := percentiles([]time.Duration{7 * time.Millisecond}); p50 != 7 || p99 != 7 || longest != 7 {
		t.Errorf("%v %v %v", p50, p99, longest)
	}
}
