package xks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// codes are all that package fault declares.
func codes(t *testing.T) (list []fault.Code) {
	t.Helper()
	files, err := filepath.Glob("../appliance/fault/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				return true
			}
			if of, ok := v.Type.(*ast.Ident); !ok || of.Name != "Code" {
				return true
			}
			if literal, ok := v.Values[0].(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					list = append(list, fault.Code(text))
				}
			}
			return true
		})
	}
	return list
}

// TestWordsAgreeWithResults: for every code, what KMS is told and what metrics and
// charts count mean the same.
func TestWordsAgreeWithResults(t *testing.T) {
	all := codes(t)
	if len(all) < 16 {
		t.Fatalf("only %d codes were found: %v", len(all), all)
	}
	for _, code := range all {
		o := &appliance.Outcome{Protocol: protocol{}, Err: fault.Errorf(code, "not so")}
		words := o.Words()
		want := appliance.ResultRefused
		switch {
		case words.Status == http.StatusForbidden:
			want = appliance.ResultDenied
		case words.Status >= 500 && words.Status != http.StatusNotImplemented:
			want = appliance.ResultFailed
		}
		if o.Result() != want || words.Error == "" {
			t.Errorf("%s: KMS is told %d %s, and the result counts as %s", code, words.Status, words.Error, o.Result())
		}
	}
	if o := (&appliance.Outcome{Protocol: protocol{}}); o.Result() != appliance.ResultDone || o.Words().Status != http.StatusOK || o.Words().Error != "" {
		t.Errorf("a request that was performed: %s, %+v", o.Result(), o.Words())
	}
}

// TestOwnRefusals: what this package refuses itself counts as its error name says,
// and what the domain refuses by the domain's code, before and after the answer.
func TestOwnRefusals(t *testing.T) {
	for name, meaning := range meanings {
		e := &apiError{name: name, message: "not so"}
		if code := fault.CodeOf(e); code != meaning.code {
			t.Errorf("%s counts as %s", name, code)
		}
		// As an outcome keeps it after the answer.
		if told := answerTo(fault.Wrapf(meaning.code, http.ErrBodyNotAllowed, "not so")); fault.CodeOf(told) != meaning.code {
			t.Errorf("%s counts as %s after the answer", meaning.code, fault.CodeOf(told))
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
