package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Output is how results are shown: for people, or as JSON.
type Output struct{ JSON bool }

// jsonFlag is the one flag that every command has.
const jsonFlag = "json"

// AddFlag adds the flag --json to the command and those under it.
func (o *Output) AddFlag(c *cobra.Command) {
	c.PersistentFlags().BoolVar(&o.JSON, jsonFlag, false, "print results, and errors, as JSON")
}

// Show prints a result: as JSON, or else as the human function does.
func (o *Output) Show(cmd *cobra.Command, result any, human func(w io.Writer)) error {
	if o.JSON {
		return o.PrintJSON(cmd, result)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	human(w)
	return w.Flush()
}

// PrintJSON prints a result as JSON.
func (o *Output) PrintJSON(cmd *cobra.Command, v any) error {
	return printJSON(cmd.OutOrStdout(), "  ", v)
}

func printJSON(w io.Writer, indent string, v any) error {
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escaped(text.String(), func(r rune) string {
		if r == '\n' {
			return "\n" // between the members
		}
		return jsonEscape(r)
	}))
	return err
}

// Printable gives a text in which no character moves a terminal's cursor, changes its
// state or the order of what it shows: control characters, format characters such as
// those of directions, and separators of lines are written as escapes of JSON. What
// comes from requests, files and logs may have any.
func Printable(s string) string { return escaped(s, jsonEscape) }

func jsonEscape(r rune) string {
	if r > 0xffff {
		high, low := utf16.EncodeRune(r)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

func escaped(s string, escape func(rune) string) string {
	if !strings.ContainsFunc(s, active) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // a byte that is no UTF-8 becomes U+FFFD
		if active(r) {
			b.WriteString(escape(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// active says whether a character may do something to a terminal.
func active(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}

// Row prints cells of a table, each on one line ([Printable]).
func Row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, Printable(fmt.Sprint(c)))
	}
	fmt.Fprintln(w)
}

// When prints a time, or a dash for none.
func When(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// OrDash gives the text, or a dash for none.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
