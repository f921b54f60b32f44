package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Arguments are those of a command, as its Use line names them: the words between
// the command's name and the first flag. A word in brackets may be left out. The
// words in {KEYSTORE [KEYID] | --everything} give way to the flag.
type Arguments struct {
	Required, Optional []string
	// Repeated: the last may be given again.
	Repeated bool
	// Instead is the flag, without dashes, that stands for all of them; empty if
	// there is none.
	Instead string
}

// ArgumentsOf reads the Use line of a command.
func ArgumentsOf(c *cobra.Command) (a Arguments) {
	words := strings.Fields(c.Use)[1:]
	for i := 0; i < len(words); i++ {
		word := strings.Trim(words[i], "[]{}")
		switch {
		case word == "|" && i+1 < len(words):
			i++
			a.Instead = strings.Trim(words[i], "-[]{}")
		case word == "...":
			a.Repeated = true
		case word == "<" || strings.HasPrefix(word, "-"):
			return a // flags follow, and their values
		case strings.HasPrefix(words[i], "["):
			a.Optional = append(a.Optional, word)
		default:
			a.Required = append(a.Required, word)
		}
	}
	return a
}

// Words are all of them, in order.
func (a Arguments) Words() []string { return slices.Concat(a.Required, a.Optional) }

// checkCall says what is wrong with a call whose flags could be read: which
// arguments and flags are missing, surplus, empty, or exclude each other. It is the
// Args of every command, so the Use line is the one place that says what a command
// takes.
func checkCall(c *cobra.Command, args []string) error {
	want := ArgumentsOf(c)
	if len(args) > 0 && c.HasSubCommands() && len(want.Words()) == 0 {
		return unknownCommand(c, args[0])
	}
	instead := want.Instead != "" && c.Flag(want.Instead).Value.String() == "true"
	words := want.Words()
	switch {
	case instead && len(args) > 0:
		return misused(c, "give %s or --%s, not both", words[0], want.Instead)
	case len(args) > len(words) && !want.Repeated:
		return misused(c, "%s too many: %s", counted(len(args)-len(words), "argument is", "arguments are"), quoted(args[len(words):]))
	}
	for i, arg := range args {
		if arg == "" { // such as of an unset variable
			return misused(c, "%s is empty", words[min(i, len(words)-1)])
		}
	}
	var missing []string
	if !instead && len(args) < len(want.Required) {
		missing = slices.Clone(want.Required[len(args):])
		if want.Instead != "" {
			missing[len(missing)-1] += " (or say --" + want.Instead + ")"
		}
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if _, required := f.Annotations[cobra.BashCompOneRequiredFlag]; required && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	if len(missing) > 0 {
		verb := "is"
		if len(missing) > 1 {
			verb = "are"
		}
		return misused(c, "%s %s missing", list(missing, "and"), verb)
	}
	if err := c.ValidateFlagGroups(); err != nil {
		return misused(c, "%s", groupError(err))
	}
	return nil
}

// misused makes the error of a call that cannot be used, with how it is used.
func misused(c *cobra.Command, format string, args ...any) error {
	return fmt.Errorf("%s: %s; usage: %s", pathOf(c), fmt.Sprintf(format, args...), c.UseLine())
}

// pathOf is the command's name without the program's, which stands before every
// error.
func pathOf(c *cobra.Command) string {
	if !c.HasParent() {
		return c.Name()
	}
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

// unknownCommand is the error of a word that names no command of the group.
func unknownCommand(group *cobra.Command, word string) error {
	var names []string
	for _, sub := range group.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return fmt.Errorf("unknown command %q for %q%s", word, group.CommandPath(), didYouMean(word, "", names, group.CommandPath()+" --help lists its commands"))
}

// The errors of cobra about flags that belong together, which name them as Go prints
// lists.
var (
	together  = regexp.MustCompile(`^if any flags in the group \[(.*)\] are set they must all be set; missing \[(.*)\]$`)
	oneNeeded = regexp.MustCompile(`^at least one of the flags in the group \[(.*)\] is required$`)
	exclusive = regexp.MustCompile(`^if any flags in the group \[(.*)\] are set none of the others can be; \[(.*)\] were all set$`)
)

func groupError(err error) string {
	flags := func(names, conjunction string) string {
		all := strings.Fields(names)
		for i, name := range all {
			all[i] = "--" + name
		}
		return list(all, conjunction)
	}
	text := err.Error()
	if m := together.FindStringSubmatch(text); m != nil {
		return flags(m[1], "and") + " go together: give " + flags(m[2], "and") + " too"
	}
	if m := oneNeeded.FindStringSubmatch(text); m != nil {
		return "give " + flags(m[1], "or")
	}
	if m := exclusive.FindStringSubmatch(text); m != nil {
		return "give only one of " + flags(m[2], "and")
	}
	return text
}

// list joins words as a sentence has them: "a, b and c".
func list(words []string, conjunction string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " " + conjunction + " " + words[last]
}

func quoted(words []string) string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = fmt.Sprintf("%.40q", word)
	}
	return list(all, "and")
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
