package consoletest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// opens is what opens a browser without regard to how many nodes there are to be.
var opens = regexp.MustCompile(`\bbrowsertest\.Start\(`)

// runs is how make test-fleet finds the tests.
const runs = "-run Console "

// noConsole are files whose browser opens what no appliance serves.
var noConsole = map[string]string{
	"cmd/holdfast/report_test.go": "the report of holdfast verify, a file",
}

// TestEveryBrowserTestHasAFleet: browsers are opened by this package alone, which lets make
// test-fleet have a fleet for each; and that runs the tests of every package that uses it.
func TestEveryBrowserTestHasAFleet(t *testing.T) {
	users := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && (entry.Name() == "node_modules" || path != root && strings.HasPrefix(entry.Name(), ".")) {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		here := filepath.Base(filepath.Dir(path)) == "consoletest"
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if opens.Match(text) && !here && noConsole[filepath.ToSlash(name)] == "" {
			t.Errorf("%s opens a browser by itself: use consoletest.New, so that make test-fleet can have a fleet for it", path)
		}
		if strings.Contains(string(text), "consoletest.New"+"(") && !here {
			users++
			if !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s is no test", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if users < 2 {
		t.Errorf("%d files use consoletest", users)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil || !strings.Contains(string(makefile), runs) || !strings.Contains(string(makefile), "HOLDFAST_CONSOLE_NODES=3") {
		t.Errorf("make test-fleet does not run the tests of the console with a fleet: %v", err)
	}
}
