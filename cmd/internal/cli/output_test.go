package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
)

// TestNothingReachesTheTerminal: no control or format character of a foreign text is
// printed, in a table or as JSON, and JSON still has it.
func TestNothingReachesTheTerminal(t *testing.T) {
	evil := "\x1b[2J\x1b]0;title\a\r\n\t\x00\x7f\u009b31m\u202egnp\u2066\u200b\u2028\xff\U000e0041 ä"
	var out bytes.Buffer
	cli.Row(&out, 1, evil, "b")
	cmd := &cobra.Command{}
	var asJSON bytes.Buffer
	cmd.SetOut(&asJSON)
	if err := (&cli.Output{}).PrintJSON(cmd, map[string]string{"x": evil}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"row": strings.Replace(strings.TrimSuffix(out.String(), "\n"), "\t", "", 2), "JSON": strings.ReplaceAll(asJSON.String(), "\n", "")} {
		if i := strings.IndexFunc(text, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }); i >= 0 || !strings.Contains(text, "ä") {
			t.Errorf("%s: %q at %d", name, text, i)
		}
	}
	var back map[string]string
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || back["x"] != strings.ToValidUTF8(evil, "\ufffd") {
		t.Errorf("%q: %v", back["x"], err)
	}
}

// TestNotes: what a command tells before it has a result is for people. With --json standard error
// has nothing but the object of a failure, however long the work takes.
func TestNotes(t *testing.T) {
	for asJSON, want := range map[bool]string{false: "waiting\n", true: ""} {
		var stderr bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetErr(&stderr)
		cli.Row((&cli.Output{JSON: asJSON}).Notes(cmd), "waiting")
		if stderr.String() != want {
			t.Errorf("with --json %v it is told %q, want %q", asJSON, stderr.String(), want)
		}
	}
}

// elsewhere says what else a file of the programs of operators writes to standard error.
var elsewhere = map[string]string{
	"internal/cli/output.go":       "notes, and what a result lacks",
	"internal/cli/program.go":      "the failure",
	"holdfast/confirm.go":          "asks a person at a terminal, and nobody with --json",
	"holdfast/admission.go":        "asks a person, and nobody with --json",
	"internal/holdfastd/serve.go":  "the log",
	"internal/holdfastd/broker.go": "the log",
	"internal/holdfastd/move.go":   "warnings of the log",
}

// TestOneLineOnStandardError: what commands tell goes through Notes.
func TestOneLineOnStandardError(t *testing.T) {
	files, err := filepath.Glob("../../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(filepath.ToSlash(file), "../../")
		if strings.HasSuffix(name, "_test.go") || !bytes.Contains(text, []byte("ErrOrStderr")) {
			continue
		}
		seen++
		if elsewhere[name] == "" {
			t.Errorf("%s writes to standard error; with --json it must have nothing but the object of a failure: write to Notes", name)
		}
	}
	if seen != len(elsewhere) {
		t.Errorf("%d files write to standard error, %d are listed", seen, len(elsewhere))
	}
}
