// Package faulttest reads the whole source for tests that ask something of every
// text in it.
package faulttest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// fewest is how many files there are at least, so that a test does not pass because
// it has read nothing.
const fewest = 100

// Walk gives all Go files below root that are no tests, with their path below it.
func Walk(t testing.TB, root string, f func(fset *token.FileSet, at string, file *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		at, err := filepath.Rel(root, path)
		files++
		f(fset, filepath.ToSlash(at), file)
		return err
	})
	if err != nil || files < fewest {
		t.Fatalf("%d files were read, %v", files, err)
	}
}

// Text is a string literal. Literals that are joined by + are one.
type Text struct {
	// At is the file and the line.
	At, Value string
}

// Texts gives all string literals below root, but of tests.
func Texts(t testing.TB, root string) []Text {
	t.Helper()
	var all []Text
	Walk(t, root, func(fset *token.FileSet, at string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			if _, ok := n.(*ast.BasicLit); !ok {
				if b, ok := n.(*ast.BinaryExpr); !ok || b.Op != token.ADD {
					return true
				}
			}
			value, ok := joined(e)
			if !ok {
				return true
			}
			all = append(all, Text{at + ":" + strconv.Itoa(fset.Position(n.Pos()).Line), value})
			return false
		})
	})
	return all
}

// joined gives the text of literals joined by +.
func joined(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, ok := joined(e.X)
		right, also := joined(e.Y)
		return left + right, ok && also && e.Op == token.ADD
	}
	return "", false
}
