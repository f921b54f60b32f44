package terminal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestOneWayOut: what the programs of operators print to standard output and standard
// error goes through Writer. The programs of developers are left out.
func TestOneWayOut(t *testing.T) {
	through := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "holdfast-dev" || d.Name() == "bench") {
			return errOr(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		good := map[ast.Node]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if named(n.Fun, "terminal", "Writer") && len(n.Args) == 1 {
					good[n.Args[0]] = true
					through++
				}
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") {
					t.Errorf("%s: %s", set.Position(n.Pos()), id.Name)
				}
			case *ast.SelectorExpr:
				for _, way := range [][2]string{{"os", "Stdout"}, {"os", "Stderr"}, {"fmt", "Print"}, {"fmt", "Println"}, {"fmt", "Printf"}, {"log", "Print"}, {"log", "Printf"}, {"log", "Println"}} {
					if named(n, way[0], way[1]) && !good[n] {
						t.Errorf("%s: %s.%s; print to the command's writer", set.Position(n.Pos()), way[0], way[1])
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil || through != 2 {
		t.Errorf("%d files go through Writer: %v", through, err)
	}
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func named(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == pkg
}
