package fault_test

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance/fault"
)

// errorNames are those of the XKS specification's table "Error codes", with the
// status that each has there.
var errorNames = map[string]int{
	"ValidationException": 400, "InvalidStateException": 400, "InvalidCiphertextException": 400, "InvalidKeyUsageException": 400,
	"AuthenticationFailedException": 401, "AccessDeniedException": 403, "KeyNotFoundException": 404, "InvalidUriPathException": 404,
	"ThrottlingException": 429, "UnsupportedOperationException": 501, "DependencyTimeoutException": 503, "InternalException": 500,
}

var codeForm = regexp.MustCompile(`^(E(_[A-Z0-9]+)+|[a-z]+(_[a-z]+)*)$`)

// TestRegistry: every entry is whole, and no code stands twice.
func TestRegistry(t *testing.T) {
	seen := map[fault.Code]bool{}
	sentences := map[string]fault.Code{}
	for _, e := range fault.All() {
		if seen[e.Code] {
			t.Errorf("%s stands twice", e.Code)
		}
		seen[e.Code] = true
		if other := sentences[e.Title]; other != "" {
			t.Errorf("%s and %s have one sentence", e.Code, other)
		}
		sentences[e.Title] = e.Code
		if !codeForm.MatchString(string(e.Code)) || !slices.Contains(fault.Classes(), e.Class) {
			t.Errorf("%q has the class %q", e.Code, e.Class)
		}
		for what, text := range map[string]string{"sentence": e.Title, "what to do": e.Do} {
			if len(text) < 10 || !strings.HasSuffix(text, ".") || strings.ContainsAny(text, "\n\t") || strings.Count(text, "`")%2 != 0 {
				t.Errorf("%s: its %s is %q", e.Code, what, text)
			}
		}
		if http.StatusText(e.Status) == "" || e.Status < 400 || (e.Status == 500) != (e.Class == fault.ClassInternal) {
			t.Errorf("%s of the class %q has the status %d", e.Code, e.Class, e.Status)
		}
		if e.Exit != 1 && e.Exit != 2 {
			t.Errorf("%s has the exit code %d", e.Code, e.Exit)
		}
		if _, ok := errorNames[e.XKS]; e.XKS != "" && !ok {
			t.Errorf("%s has the XKS error name %q", e.Code, e.XKS)
		}
		if got := e.Code.Entry(); got != e || !e.Code.Registered() {
			t.Errorf("%s is looked up as %+v", e.Code, got)
		}
	}
	if unknown := fault.Code("E_OF_ANOTHER_RELEASE"); unknown.Registered() || unknown.Entry().Class != fault.Refused || unknown.Entry().Status != 403 {
		t.Errorf("a code of another release is %+v", unknown.Entry())
	}
}

// TestDocument: docs/codes.md is what the registry says.
func TestDocument(t *testing.T) {
	got, err := os.ReadFile("../../docs/codes.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != fault.Document() {
		t.Error("docs/codes.md is not what the registry says: run make generate, and commit it")
	}
	for _, e := range fault.All() {
		if n := strings.Count(string(got), "\n### `"+string(e.Code)+"`\n"); n != 1 {
			t.Errorf("%s is in docs/codes.md %d times", e.Code, n)
		}
	}
}
