package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/fault/faulttest"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/holdfastd"
)

// root is the repository.
const root = "../.."

// programs are those that texts may tell people to call, with their commands.
func programs() map[string]*cobra.Command {
	return map[string]*cobra.Command{"holdfast": newRoot(), "holdfastd": holdfastd.New()}
}

var (
	// called is a command in prose: a program's name and what follows it.
	called = regexp.MustCompile(`(?:^|[^-/.\w])(holdfastd?) ([a-z][^,;:()<"` + "`" + `\n]*)`)
	// quoted is a whole command line, in the registry's advice.
	quoted = regexp.MustCompile("`(holdfastd?) ([^`]+)`")
	word   = regexp.MustCompile(`^[a-z][a-z-]*$`)
	page   = regexp.MustCompile(`docs/([a-z-]+\.md)(#[a-z0-9-]+)?`)
	option = regexp.MustCompile(`(^|[^\w./-])([a-z]+)\.([a-z][a-z_]*[a-z])($|[^\w./(])`)
)

// extensions are those of files whose names could be options.
var extensions = map[string]bool{"toml": true, "sig": true, "sock": true, "templ": true, "jsonl": true, "csv": true, "db": true}

// follows are words that go on with a sentence, where no command is named.
var follows = map[string]bool{"and": true, "or": true, "in": true, "which": true, "that": true, "of": true, "is": true}

// prose is where the product's name is no program.
var prose = map[string]string{
	"holdfast cluster reference":  "what the members of a cluster have wrapped",
	"holdfast simulated firmware": "the simulated machine's firmware",
}

// inProse says what is wrong with a command in prose; empty if it exists, with the
// flags that follow it.
func inProse(tree map[string]*cobra.Command, program, rest string) string {
	c := tree[program]
	if c == nil {
		return "there is no program " + program
	}
	rest, _, _ = strings.Cut(rest, ". ") // where the sentence ends
	words := strings.Fields(strings.TrimRight(rest, ". "))
	for len(words) > 0 && c.HasSubCommands() {
		next, _, err := c.Find(words[:1])
		if err != nil || next == c {
			if word.MatchString(words[0]) && !follows[words[0]] {
				return c.CommandPath() + " has no command " + words[0]
			}
			break
		}
		c, words = next, words[1:]
	}
	for _, w := range words {
		if w == "holdfast" || w == "holdfastd" {
			break
		}
		name, isFlag := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(strings.TrimRight(name, ".]}"), "=")
		if isFlag && name != "" && name != "help" && c.Flag(name) == nil && c.InheritedFlags().Lookup(name) == nil {
			return c.CommandPath() + " has no flag --" + name
		}
	}
	return ""
}

// whole says what is wrong with a whole command line: it must be accepted, but for
// what its names in capitals stand for.
func whole(tree map[string]*cobra.Command, program, rest string) string {
	c := tree[program]
	if c == nil {
		return "there is no program " + program
	}
	c, args, err := c.Find(strings.Fields(rest))
	if err == nil && c.HasSubCommands() && !c.HasLocalFlags() { // seal does something, though it has others below
		return c.CommandPath() + " does nothing by itself"
	}
	for i := range args[min(len(args), 1):] { // a name in capitals stands for one of the flag's values
		f := c.Flag(strings.TrimPrefix(args[i], "--"))
		if f == nil || args[i+1] != strings.ToUpper(args[i+1]) {
			continue
		}
		if choice, few := f.Value.(cli.Choices); few {
			args[i+1] = choice.Choices()[0]
		} else if strings.HasPrefix(f.Value.Type(), "uint") {
			args[i+1] = "1"
		}
	}
	if err == nil {
		err = c.ParseFlags(args)
	}
	if err == nil {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err == nil {
		err = c.ValidateRequiredFlags()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// anchors gives the anchors of a page in docs, as they are made of its headings; nil
// if there is no such page.
func anchors(t testing.TB, name string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	fenced := false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if heading := strings.TrimLeft(line, "#"); !fenced && heading != line && strings.HasPrefix(heading, " ") {
			slug := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			found["#"+strings.ReplaceAll(slug, " ", "-")] = true
		}
	}
	return found
}

// options gives the configuration's options, by section.
func options(t reflect.Type) map[string]map[string]bool {
	found := map[string]map[string]bool{}
	for section := range t.Fields() {
		inner := section.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct {
			continue
		}
		names := map[string]bool{}
		for f := range inner.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			names[name] = true
		}
		name, _, _ := strings.Cut(section.Tag.Get("toml"), ",")
		found[name] = names
	}
	return found
}

// judge says what in a text cannot be done.
func judge(t testing.TB, tree map[string]*cobra.Command, known map[string]map[string]bool, text string) (wrong []string) {
	t.Helper()
	add := func(problem string) {
		if problem != "" {
			wrong = append(wrong, problem)
		}
	}
	for _, m := range called.FindAllStringSubmatch(text, -1) {
		isProse := false
		for p := range prose {
			isProse = isProse || strings.HasPrefix(m[1]+" "+m[2], p)
		}
		if !isProse {
			add(inProse(tree, m[1], m[2]))
		}
	}
	for _, m := range page.FindAllStringSubmatch(text, -1) {
		switch found := anchors(t, m[1]); {
		case found == nil:
			add("there is no page docs/" + m[1])
		case m[2] != "" && !found[m[2]]:
			add("docs/" + m[1] + " has no heading " + m[2])
		}
	}
	for _, m := range option.FindAllStringSubmatch(text, -1) {
		if names := known[m[2]]; names != nil && !names[m[3]] && !extensions[m[3]] {
			add("the configuration has no option " + m[2] + "." + m[3])
		}
	}
	return wrong
}

// TestAdviceCanBeDone: what any text of the programs tells people to call, to set and
// to read is there; and each command line in the registry's advice is accepted.
func TestAdviceCanBeDone(t *testing.T) {
	tree, known := programs(), options(reflect.TypeFor[config.Config]())
	if len(known) < 8 {
		t.Fatalf("the sections of the configuration are %v", known)
	}
	for _, text := range faulttest.Texts(t, root) {
		for _, wrong := range judge(t, tree, known, text.Value) {
			t.Errorf("%s: %s", text.At, wrong)
		}
	}
	n := 0
	for _, e := range fault.All() {
		for _, m := range quoted.FindAllStringSubmatch(e.Do, -1) {
			n++
			if wrong := whole(programs(), m[1], m[2]); wrong != "" {
				t.Errorf("%s: %s: %s", e.Code, m[0], wrong)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d command lines are in the registry", n)
	}
}

// TestAdviceCanFail: what TestAdviceCanBeDone is there to find, it finds.
func TestAdviceCanFail(t *testing.T) {
	tree, known := programs(), options(reflect.TypeFor[config.Config]())
	for text, want := range map[string]string{
		"give it with holdfast seel":                      "no command seel",
		"see holdfast key destroy":                        "no command destroy",
		"try holdfast seal --pin FILE":                    "no flag --pin",
		"see docs/nowhere.md":                             "no page docs/nowhere.md",
		"see docs/operations.md#nowhere":                  "no heading #nowhere",
		"set admin.socket_name":                           "no option admin.socket_name",
		"set admin.url, and call holdfast status":         "",
		"holdfast broker add MACHINE, at the broker":      "",
		"see docs/operations.md#backup-and-restore there": "",
	} {
		if got := strings.Join(judge(t, tree, known, text), "; "); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	for line, want := range map[string]string{
		"keystore": "does nothing", "keystore show": "NAME is missing", "seal --nothing": "unknown flag", "grant add KEYSTORE": "--principal are missing", "token create NAME --role ROLE --key-store NAMES --operation IDS --network CIDRS --out FILE": "",
	} {
		if got := whole(programs(), "holdfast", line); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
