package console

import (
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/attest/appraisal"
	"holdfast/web/operation"
)

// TestFailedCheckFirst: the report of a machine that is not what it should be begins with what
// failed, what to do about that, and where its page is, for every code of the registry.
func TestFailedCheckFirst(t *testing.T) {
	for _, e := range fault.All() {
		d := &attestationData{report: &operation.Report{}, verdict: &appraisal.Verdict{Result: appraisal.Fail, Checks: []appraisal.Check{
			{Name: "passes", Result: appraisal.Pass, Detail: "well"}, {Name: "idles", Result: appraisal.NotRun, Detail: "not there"}, {Name: "fails", Result: appraisal.Fail, Code: string(e.Code), Detail: "PCR 4 differs"},
		}}}
		var text strings.Builder
		if err := attestationPage(d).Render(t.Context(), &text); err != nil {
			t.Fatal(err)
		}
		page, last := text.String(), 0
		for _, want := range []string{"fails: failed", "PCR 4 differs", `href="/codes#` + string(e.Code) + `"`, "<table", ">fails<", ">idles<", ">passes<"} {
			at := strings.Index(page[last:], want)
			if at < 0 {
				t.Fatalf("%s: %q is not there, or too early: %s", e.Code, want, page)
			}
			last += at
		}
		for i, part := range strings.Split(e.Do, "`") {
			if i%2 == 1 && !strings.Contains(page, "<code>") {
				t.Errorf("%s: the command %q is not shown as one", e.Code, part)
			}
		}
	}
}
