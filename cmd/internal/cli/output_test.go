package cli_test

import (
	"bytes"
	"encoding/json"
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
