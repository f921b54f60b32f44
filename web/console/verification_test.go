package console_test

import (
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// TestVerificationTellsProgress: while the audit log is verified the console and the API say how many
// of its records were; the region that an open page asks for again is there after the end as well,
// so that the page learns of it.
func TestVerificationTellsProgress(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	for range 2500 {
		if err := r.audit.Record(t.Context(), &audit.Record{}); err != nil {
			t.Fatal(err)
		}
	}
	r.audit.Verifying = make(chan int64)
	shows := func(status operation.LogVerification, words ...string) {
		t.Helper()
		if got := r.performers[0].Verification(); got.Running != status.Running || got.Verified != status.Verified || got.Records < status.Records || got.Running != (got.Records > 0) {
			t.Errorf("the API says %+v, want %+v", got, status)
		}
		var region string
		for range r.performers { // the nodes answer in turn, and each speaks of its own log
			w := admin.do(http.MethodGet, "/audit", nil, nil)
			_, page, _ := strings.Cut(w.Body.String(), `<div id="verification"`)
			if region == "" || strings.Contains(page, "The log") {
				region = page
			}
		}
		for _, word := range words {
			if !strings.Contains(region, word) {
				t.Errorf("the page does not say %q", word)
			}
		}
		if refreshes := strings.HasPrefix(strings.TrimSpace(region), "data-refresh"); refreshes != status.Running {
			t.Errorf("the page asks again: %v, while running: %v", refreshes, status.Running)
		}
	}
	r.performers[0].Verify("admin")
	r.audit.Verifying <- 1024
	r.audit.Verifying <- 2048 // the number before was told by now
	r.audit.Verifying <- 2048
	shows(operation.LogVerification{Running: true, Verified: 2048, Records: 2500}, ui.Count(2048)+" of "+ui.Count(2500)[:3], "records so far", "The log is being verified")
	close(r.audit.Verifying)
	for r.performers[0].Verification().Running {
	}
	shows(operation.LogVerification{}, "The log verifies")
}
