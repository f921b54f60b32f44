package docs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "holdfast/"

// listed is a package as "go list -json" gives it.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) (all []listed) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var quoted = regexp.MustCompile("`([^`]+)`")

// house is the table of the folders: for each, what it may import of the house.
func house(t *testing.T) map[string][]string {
	t.Helper()
	_, table, ok := strings.Cut(read(t, "architecture.md"), "| folder | what lives there | may import |\n")
	if !ok {
		t.Fatal("architecture.md has no table of the folders")
	}
	may := map[string][]string{}
	for _, line := range strings.Split(table, "\n")[1:] {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Fatalf("a row has %d cells: %s", len(cells), line)
		}
		var imports []string
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			imports = append(imports, m[1])
		}
		if len(imports) == 0 && cells[2] != "nothing" {
			t.Errorf("what may be imported is not said: %s", line)
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			if _, twice := may[m[1]]; twice {
				t.Errorf("%s is there twice", m[1])
			}
			may[m[1]] = imports
		}
	}
	return may
}

// matches says whether a path is the one that a pattern names: "a/b", or "a/..." for
// a and all below it.
func matches(pattern, path string) bool {
	all, ok := strings.CutSuffix(pattern, "/...")
	return pattern == path || ok && (path == all || strings.HasPrefix(path, all+"/"))
}

func ours(imports []string) (paths []string) {
	for _, i := range imports {
		if p, ok := strings.CutPrefix(i, module); ok {
			paths = append(paths, p)
		}
	}
	return paths
}

// violations says which imports the table does not allow.
func violations(all []listed, may map[string][]string) (wrong []string) {
	for _, p := range all {
		path := strings.TrimPrefix(p.ImportPath, module)
		allowed, there := may[path]
		if !there && path != "docs" {
			wrong = append(wrong, path+" is not in the table of architecture.md")
		}
		for _, i := range ours(p.Imports) {
			if i == everybodys {
				continue
			}
			if !slices.ContainsFunc(allowed, func(pattern string) bool { return matches(pattern, i) }) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, which architecture.md does not allow", path, i))
			}
		}
	}
	for path := range may {
		if !slices.ContainsFunc(all, func(p listed) bool { return p.ImportPath == module+path }) {
			if info, err := os.Stat(filepath.Join("..", path)); err != nil || !info.IsDir() {
				wrong = append(wrong, path+" is in the table of architecture.md, and there is no such folder")
			}
		}
	}
	return wrong
}

// everybodys is what every folder may import: it stands below all floors.
const everybodys = "appliance/fault"

// floors are the top folders, from the ground up. One that stands beside another is
// on the same floor.
var floors = map[string]int{"attest": 1, "hsm": 1, "appliance": 2, "xks": 3, "web": 3, "cmd": 4, "packer": 4, "docs": 5}

func floor(path string) int {
	if matches(everybodys+"/...", path) {
		return 1
	}
	top, _, _ := strings.Cut(path, "/")
	return floors[top]
}

// upward says which imports, also of tests, go to a higher floor.
func upward(all []listed) (wrong []string) {
	for _, p := range all {
		path := strings.TrimPrefix(p.ImportPath, module)
		if floor(path) == 0 {
			wrong = append(wrong, path+" is on no floor")
		}
		for _, i := range ours(slices.Concat(p.Imports, p.TestImports, p.XTestImports)) {
			if floor(i) > floor(path) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, which is on a higher floor", path, i))
			}
		}
	}
	return wrong
}

// TestImports: packages import what the table in architecture.md allows, and no
// package, nor its tests, what is on a higher floor.
func TestImports(t *testing.T) {
	all := packages(t)
	for _, w := range append(violations(all, house(t)), upward(all)...) {
		t.Error(w)
	}
}

// TestImportsAreSeen: the test above finds what is wrong.
func TestImportsAreSeen(t *testing.T) {
	may := map[string][]string{"attest": nil, "web": {"appliance/..."}, "xks/gone": nil}
	all := []listed{{ImportPath: "holdfast/attest", Imports: []string{"fmt", "holdfast/web"}},
		{ImportPath: "holdfast/web", Imports: []string{"holdfast/appliance", "holdfast/appliance/audit"}, XTestImports: []string{"holdfast/cmd/x"}},
		{ImportPath: "holdfast/new"}}
	want := []string{"attest imports web, which architecture.md does not allow", "new is not in the table of architecture.md",
		"xks/gone is in the table of architecture.md, and there is no such folder"}
	if got := violations(all, may); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	want = []string{"attest imports web, which is on a higher floor", "web imports cmd/x, which is on a higher floor", "new is on no floor"}
	if got := upward(all); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A name of a file or folder of this repository, perhaps with a line or a word after
// it, as in `web/api.go`.
var fileName = regexp.MustCompile("`((?:attest|hsm|appliance|xks|web|cmd|packer|docs|\\.ci)/[A-Za-z0-9_./-]*[A-Za-z0-9_])`")

// TestNamedFilesExist: each file and folder that architecture.md names is there.
func TestNamedFilesExist(t *testing.T) {
	names := fileName.FindAllStringSubmatch(read(t, "architecture.md"), -1)
	if len(names) < 50 {
		t.Errorf("only %d names were found", len(names))
	}
	for _, m := range names {
		name := strings.TrimSuffix(m[1], "/...")
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			t.Errorf("architecture.md names %s: %v", name, err)
		}
	}
}

const (
	maxLines      = 80
	maxParameters = 6
)

// sizes says what is too large in a file: functions of more than 80 lines that are
// not tables, and lists of more than 6 parameters.
func sizes(name string, source any) (wrong []string, err error) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, source, 0)
	if err != nil {
		return nil, err
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		var kind *ast.FuncType
		var body *ast.BlockStmt
		switch f := n.(type) {
		case *ast.FuncDecl:
			kind, body = f.Type, f.Body
		case *ast.FuncLit:
			kind, body = f.Type, f.Body
		default:
			return true
		}
		if n := kind.Params.NumFields(); n > maxParameters {
			wrong = append(wrong, fmt.Sprintf("%s: %d parameters", files.Position(kind.Pos()), n))
		}
		if body == nil {
			return true
		}
		lines := func(n ast.Node) int { return files.Position(n.End()).Line - files.Position(n.Pos()).Line }
		long := lines(body) + 1
		for _, s := range body.List { // a table is data
			if table(s) {
				long -= lines(s)
			}
		}
		if long > maxLines {
			wrong = append(wrong, fmt.Sprintf("%s: a function of %d lines", files.Position(kind.Pos()), long))
		}
		return true
	})
	return wrong, nil
}

// table says whether a statement does no more than to write down a composite value.
func table(s ast.Stmt) bool {
	var values []ast.Expr
	switch s := s.(type) {
	case *ast.ReturnStmt:
		values = s.Results
	case *ast.AssignStmt:
		values = s.Rhs
	}
	return len(values) == 1 && func() bool { _, composite := values[0].(*ast.CompositeLit); return composite }()
}

// sources gives the Go files that people wrote and that are no tests.
func sources(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "build" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, "_templ.go") {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestSizes: no function is longer than a page, tables apart, and no list of
// parameters longer than 6.
func TestSizes(t *testing.T) {
	names := sources(t)
	if len(names) < 200 {
		t.Errorf("only %d files were found", len(names))
	}
	for _, name := range names {
		wrong, err := sizes(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range wrong {
			t.Error(w)
		}
	}
}

// TestSizesAreSeen: the test above finds what is wrong.
func TestSizesAreSeen(t *testing.T) {
	long := strings.Repeat("\tprintln()\n", maxLines)
	rows := strings.Repeat("\t\t1,\n", 2*maxLines)
	for source, want := range map[string]int{
		"package p\nfunc f() {\n" + long + "}\n":                                  1,
		"package p\nvar f = func() {\n" + long + "}\n":                            1,
		"package p\nfunc f() []int {\n\treturn []int{\n" + rows + "\t}\n}\n":      0,
		"package p\nfunc f() {\n\tx := []int{\n" + rows + "\t}\n" + long + "}\n":  1,
		"package p\nfunc f(a, b, c, d, e, f, g int) {}\n":                         1,
		"package p\ntype i interface{ m(a, b, c int, d, e, f int) }\nfunc f() {}": 0,
	} {
		if wrong, err := sizes("p.go", source); err != nil || len(wrong) != want {
			t.Errorf("%d findings, not %d: %v %v", len(wrong), want, wrong, err)
		}
	}
}

// vague are names of files and packages that tell nothing of their content.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "shared", "types", "stuff", "do", "all"}

// TestNames: each file's name tells its content.
func TestNames(t *testing.T) {
	for _, name := range sources(t) {
		for _, part := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(name, "../"), ".go"), "/") {
			for _, word := range strings.Split(part, "_") {
				if slices.Contains(vague, word) {
					t.Errorf("%s: %q tells nothing", name, word)
				}
			}
		}
	}
}
