package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/terminal"
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

// Notes is where a command tells what it does before it has a result: standard error. With --json
// nothing is told, since a program reads standard error as the one object of a failure.
func (o *Output) Notes(cmd *cobra.Command) io.Writer {
	if o.JSON {
		return io.Discard
	}
	return cmd.ErrOrStderr()
}

// Warn tells on standard error what a result lacks that standard output has already: for people,
// or as one JSON object in one line. Call it when the work is done, and not before a failure.
func (o *Output) Warn(cmd *cobra.Command, lack any, human func(w io.Writer)) error {
	if o.JSON {
		return printJSON(cmd.ErrOrStderr(), "", lack)
	}
	human(cmd.ErrOrStderr())
	return nil
}

// PrintJSON prints a result as JSON.
func (o *Output) PrintJSON(cmd *cobra.Command, v any) error {
	return printJSON(cmd.OutOrStdout(), "  ", v)
}

// PrintLine prints a result as JSON in one line, for commands whose results come one by one.
func (o *Output) PrintLine(cmd *cobra.Command, v any) error {
	return printJSON(cmd.OutOrStdout(), "", v)
}

func printJSON(w io.Writer, indent string, v any) error {
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, terminal.Lines(text.String()))
	return err
}

// Row prints cells of a table, each on one line ([terminal.Text]).
func Row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, terminal.Text(fmt.Sprint(c)))
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
