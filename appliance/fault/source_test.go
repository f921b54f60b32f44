package fault_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/fault/faulttest"
)

// root is the repository.
const root = "../.."

// home is the package with the registry, the one place where codes are written out.
const home = "appliance/fault"

var codeText = regexp.MustCompile(`\bE_[A-Z0-9_]*[A-Z0-9]\b`)

// foreign are words that look like codes and are others'.
var foreign = []string{"E_S"}

// source is what a reading of Go files found.
type source struct {
	problems []string
	// used are the names of the registry's constants that are used.
	used map[string]bool
}

// read reads a file. At is its path in the repository.
func (s *source) read(fset *token.FileSet, at string, f *ast.File, constants map[string]fault.Code) {
	wrong := func(n ast.Node, what string) {
		s.problems = append(s.problems, at+":"+strconv.Itoa(fset.Position(n.Pos()).Line)+": "+what)
	}
	inHome := filepath.Dir(at) == home
	literal := func(e ast.Expr) bool { l, ok := e.(*ast.BasicLit); return ok && l.Kind == token.STRING }
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			text, err := strconv.Unquote(n.Value)
			if n.Kind != token.STRING || err != nil {
				return true
			}
			for _, c := range codeText.FindAllString(text, -1) {
				switch {
				case slices.Contains(foreign, c):
				case !fault.Code(c).Registered():
					wrong(n, c+" is not in the registry")
				case text == c && !inHome:
					wrong(n, "raise "+c+" by the registry's constant")
				}
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "fault" {
				if _, ok := constants[n.Sel.Name]; ok {
					s.used[n.Sel.Name] = true
				}
			}
		case *ast.CallExpr:
			name := nameOf(n.Fun)
			if (name == "fault.Errorf" || name == "fault.Wrapf" || name == "fault.Code") && len(n.Args) > 0 && literal(n.Args[0]) {
				wrong(n, "a code that is written out")
			}
		case *ast.CompositeLit:
			if nameOf(n.Type) != "fault.Fault" {
				return true
			}
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok && nameOf(kv.Key) == "Code" && literal(kv.Value) {
					wrong(n, "a code that is written out")
				}
			}
		case *ast.ValueSpec:
			if nameOf(n.Type) == "fault.Code" && len(n.Values) > 0 && literal(n.Values[0]) && !inHome {
				wrong(n, "a code that is declared outside of the registry")
			}
		}
		return true
	})
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return nameOf(e.X) + "." + e.Sel.Name
	}
	return ""
}

// constantsOf gives the constants of codes that the package declares.
func constantsOf(t *testing.T) map[string]fault.Code {
	t.Helper()
	constants := map[string]fault.Code{}
	faulttest.Walk(t, root, func(fset *token.FileSet, at string, f *ast.File) {
		if filepath.Dir(at) != home {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || nameOf(v.Type) != "Code" {
				return true
			}
			for i, name := range v.Names {
				text, err := strconv.Unquote(v.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				constants[name.Name] = fault.Code(text)
			}
			return true
		})
	})
	return constants
}

// TestSource reads the whole source. Codes are raised by the registry's constants
// alone; each code that is written in a text is in the registry; and each that is in
// the registry is used.
func TestSource(t *testing.T) {
	constants := constantsOf(t)
	s := source{used: map[string]bool{}}
	faulttest.Walk(t, root, func(fset *token.FileSet, at string, f *ast.File) { s.read(fset, at, f, constants) })
	for _, p := range s.problems {
		t.Error(p)
	}
	declared := map[fault.Code]bool{}
	for name, code := range constants {
		declared[code] = true
		if !code.Registered() {
			t.Errorf("the constant %s is %s, which is not in the registry", name, code)
		}
		if !s.used[name] {
			t.Errorf("%s (%s) is in the registry, and nothing raises it", name, code)
		}
	}
	for _, e := range fault.All() {
		if !declared[e.Code] {
			t.Errorf("%s is in the registry without a constant", e.Code)
		}
	}
}

// TestSourceCanFail: what TestSource is there to find, it finds.
func TestSourceCanFail(t *testing.T) {
	constants := constantsOf(t)
	for text, want := range map[string]string{
		`const text = "it says E_NO_SUCH_CODE, alas"`:            "E_NO_SUCH_CODE is not in the registry",
		`const code = "E_AUDIT_EDITED"`:                          "raise E_AUDIT_EDITED by",
		`var _ = fault.Errorf("invalid", "x")`:                   "written out",
		`var _ = fault.Wrapf("E_AUDIT_IO", nil, "x")`:            "written out",
		`var _ = fault.Code("invalid")`:                          "written out",
		`var _ = &fault.Fault{Code: "internal", Message: "x"}`:   "written out",
		`const mine fault.Code = "mine"`:                         "declared outside",
		"var _ = fault.Errorf(fault.Invalid, \"E_AUDIT_IO: x\")": "",
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", "package x\n"+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := source{used: map[string]bool{}}
		s.read(fset, "x/x.go", f, constants)
		if got := strings.Join(s.problems, "\n"); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if want == "" && !s.used["Invalid"] {
			t.Error("a constant that is used is not seen")
		}
	}
}
