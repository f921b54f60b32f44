package xks

import (
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// TestWordsAgreeWithResults: for every code that KMS can see, what KMS is told and
// what metrics and charts count mean the same.
func TestWordsAgreeWithResults(t *testing.T) {
	seen := 0
	for _, e := range fault.All() {
		if e.XKS == "" {
			continue
		}
		seen++
		o := &appliance.Outcome{Protocol: protocol{}, Err: fault.Errorf(e.Code, "not so")}
		words := o.Words()
		want := appliance.ResultRefused
		switch {
		case words.Status == http.StatusForbidden:
			want = appliance.ResultDenied
		case words.Status >= 500 && words.Status != http.StatusNotImplemented:
			want = appliance.ResultFailed
		}
		if o.Result() != want || words.Error != e.XKS {
			t.Errorf("%s: KMS is told %d %s, and the result counts as %s", e.Code, words.Status, words.Error, o.Result())
		}
		// As an outcome keeps it after the answer.
		told := answerTo(o.Err)
		if o.Err = told; fault.CodeOf(told) != e.Code || o.Result() != want || o.Words() != words {
			t.Errorf("%s counts as %s after the answer", e.Code, fault.CodeOf(told))
		}
	}
	if seen < 14 {
		t.Errorf("only %d codes were found", seen)
	}
	if o := (&appliance.Outcome{Protocol: protocol{}}); o.Result() != appliance.ResultDone || o.Words().Status != http.StatusOK || o.Words().Error != "" {
		t.Errorf("a request that was performed: %s, %+v", o.Result(), o.Words())
	}
}

// TestOwnRefusals: what this package refuses itself counts as its error name says.
func TestOwnRefusals(t *testing.T) {
	for name, code := range raised {
		for _, cause := range []error{nil, http.ErrBodyNotAllowed} {
			if got := fault.CodeOf(&apiError{name: name, message: "not so", cause: cause}); got != code {
				t.Errorf("%s counts as %s", name, got)
			}
		}
	}
}

// TestOperationNames: every operation that the routes know has the specification's
// name.
func TestOperationNames(t *testing.T) {
	want := map[string]string{"metadata": "GetKeyMetadata", "encrypt": "Encrypt", "decrypt": "Decrypt"}
	for word, op := range keyOperations {
		if got := operationName(op.is); got != want[word] {
			t.Errorf("%s is called %s", word, got)
		}
	}
	if got := operationName(appliance.OpHealth); got != "GetHealthStatus" || strings.Contains(string(appliance.OpHealth), "Status") {
		t.Errorf("health is called %s", got)
	}
	if got := operationName(""); got != "" {
		t.Errorf("no operation is called %s", got)
	}
}
