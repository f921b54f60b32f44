package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/holdfastd"
	"holdfast/cmd/internal/sitetest"
)

// completions are what a shell gets for the last of the words, which may be empty. It
// fails if anything is said besides: the shell would print it into the line.
func completions(t *testing.T, s *sitetest.Site, env []string, words ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "holdfast", append([]string{cobra.ShellCompNoDescRequestCmd}, words...)...)
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, stderr.String())
	}
	if said := stderr.String(); !strings.HasPrefix(said, "Completion ended with directive: ") || strings.Count(said, "\n") != 1 {
		t.Errorf("%q: it says %s", words, said)
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	return lines[:len(lines)-1] // the last is the directive
}

// TestCompletionAsks: what the running appliance has is completed; nothing where it
// cannot be asked.
func TestCompletionAsks(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	server := s.Start(t)
	s.Run(t, "keystore", "create", "demo", "--uri-path-prefix", "/demo")
	s.Run(t, "keystore", "create", "other", "--uri-path-prefix", "/other")
	for _, id := range []string{"ledger", "payroll", "payroll-2"} {
		s.Run(t, "key", "create", "demo", id)
	}
	var grant struct{ ID string }
	var credential struct {
		ID string `json:"access_key_id"`
	}
	for into, call := range map[any][]string{
		&grant:      {"grant", "add", "demo", "--principal", "*", "--operations", "Encrypt", "--json"},
		&credential: {"credential", "create", "demo", "--json"},
	} {
		if err := json.Unmarshal([]byte(s.Run(t, call...)), into); err != nil {
			t.Fatal(err)
		}
	}
	token := filepath.Join(s.Dir, "robot.token")
	s.Run(t, "token", "create", "robot", "--role", "key-administrator", "--key-store", "*", "--operation", "*", "--network", "*", "--out", token)

	all := []string{"ledger", "payroll", "payroll-2"}
	stores := []string{"demo", "other"}
	remote := []string{"HOLDFAST_SOCKET=" + filepath.Join(s.Dir, "none.sock")}
	for _, c := range []struct {
		words []string
		want  []string
	}{
		{[]string{"key", "show", ""}, stores},
		{[]string{"key", "show", "d"}, []string{"demo"}},
		{[]string{"key", "show", "demo", ""}, all},
		{[]string{"key", "show", "demo", "p"}, all[1:]},
		{[]string{"key", "show", "demo", "payroll"}, all[1:]},
		{[]string{"key", "show", "demo", "x"}, nil},
		{[]string{"key", "show", "other", ""}, nil},
		{[]string{"key", "show", "nobody", ""}, nil},
		{[]string{"key", "show", "demo", "ledger", ""}, nil},
		{[]string{"key", "rotate", "demo", "l"}, []string{"ledger"}},
		{[]string{"key", "create", "o"}, []string{"other"}},
		{[]string{"key", "create", "demo", ""}, nil}, // the name of what is new
		{[]string{"key", "import", "--material-file", "f", "demo", ""}, nil},
		{[]string{"key", "import", "--material-file", "f", "--new-version", "demo", "l"}, []string{"ledger"}},
		{[]string{"key", "list", "demo", "--after", "p"}, nil}, // a cursor, which nobody types
		{[]string{"key", "list", "demo", "--prefix", "p"}, all[1:]},
		{[]string{"keystore", "delete", ""}, stores},
		{[]string{"keystore", "create", ""}, nil},
		{[]string{"grant", "remove", "demo", ""}, []string{grant.ID}},
		{[]string{"grant", "add", "demo", "--key", ""}, all},
		{[]string{"grant", "test", "demo", "pay"}, all[1:]},
		{[]string{"credential", "delete", "demo", ""}, []string{credential.ID}},
		{[]string{"credential", "deactivate", "demo", ""}, []string{credential.ID}},
		{[]string{"block", "--reason", "r", ""}, stores},
		{[]string{"block", "--reason", "r", "demo", "l"}, []string{"ledger"}},
		{[]string{"audit", "search", "--key-store", ""}, stores},
		{[]string{"audit", "search", "--key-store", "demo", "--key-id", "l"}, []string{"ledger"}},
		{[]string{"audit", "search", "--key-id", ""}, nil},
		{[]string{"token", "revoke", ""}, []string{"robot"}},
		{[]string{"user", "disable", ""}, nil},
	} {
		if got := completions(t, s, nil, c.words...); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.words, got, c.want)
		}
		if got := completions(t, s, remote, c.words...); len(got) > 0 {
			t.Errorf("%q, where there is no appliance: got %q", c.words, got)
		}
	}

	// From elsewhere, and where the flags or the role do not do.
	there := []string{"--server", "https://" + server.Admin, "--token-file", token, "--ca", s.CA}
	if got := completions(t, s, remote, slices.Concat(there, []string{"key", "show", "demo", "l"})...); !slices.Equal(got, []string{"ledger"}) {
		t.Errorf("with --server: got %q", got)
	}
	for _, words := range [][]string{
		slices.Concat(there, []string{"token", "revoke", ""}),
		{"--server", "https://" + server.Admin, "key", "show", "demo", ""},
		{"--socket", "none.sock", "key", "show", "demo", ""},
	} {
		if got := completions(t, s, remote, words...); len(got) > 0 {
			t.Errorf("%q: got %q", words, got)
		}
	}
	if got := completions(t, s, append(remote, "HOLDFAST_SERVER=https://"+server.Admin), "key", "show", ""); len(got) > 0 {
		t.Errorf("with a server and no token: got %q", got)
	}
}

// TestCompletionValuesAreTaken: what completion offers for a flag is what the
// appliance takes, each value of it.
func TestCompletionValuesAreTaken(t *testing.T) {
	t.Parallel()
	s := sitetest.New(t, t.TempDir())
	s.Start(t)
	s.Run(t, "keystore", "create", "demo", "--uri-path-prefix", "/demo")
	s.Run(t, "key", "create", "demo", "first")
	material := s.Write(t, "material", strings.Repeat("ab", 32))
	n := 0
	fresh := func(prefix string) string {
		n++
		return prefix + string(rune('a'+n/26)) + string(rune('a'+n%26))
	}
	for _, c := range []struct {
		flag string
		call func() []string
		want int
	}{
		{"--usage", func() []string { return []string{"key", "create", "demo", fresh("k")} }, 3},
		{"--custody", func() []string { return []string{"key", "create", "demo", fresh("k")} }, 2},
		{"--aad-framing", func() []string { return []string{"key", "import", "demo", fresh("k"), "--material-file", material} }, 3},
		{"--standing", func() []string { return []string{"key", "list", "demo"} }, 10},
		{"--operations", func() []string { return []string{"grant", "add", "demo", "--principal", "*"} }, 3},
		{"--role", func() []string { return []string{"user", "invite", fresh("u")} }, 4},
		{"--role", func() []string {
			return []string{"token", "create", fresh("t"), "--key-store", "*", "--operation", "*", "--network", "*", "--out", filepath.Join(s.Dir, fresh("token"))}
		}, 4},
		{"--kind", func() []string { return []string{"audit", "search"} }, 6},
		{"--result", func() []string { return []string{"audit", "search", filepath.Join(s.Dir, "state", "audit")} }, 3},
		{"--format", func() []string { return []string{"audit", "export", filepath.Join(s.Dir, "state", "audit")} }, 2},
	} {
		offered := completions(t, s, nil, append(c.call(), c.flag, "")...)
		if len(offered) != c.want {
			t.Errorf("%q %s: %d values: %q", c.call(), c.flag, len(offered), offered)
		}
		for _, value := range offered {
			s.Run(t, append(c.call(), c.flag, value)...)
		}
	}
	if got, want := completions(t, s, nil, "grant", "add", "demo", "--operations", "Encrypt,"), []string{"Encrypt,Decrypt", "Encrypt,GetAttributes"}; !slices.Equal(got, want) {
		t.Errorf("a list: got %q, want %q", got, want)
	}
	if got := completions(t, s, nil, "key", "create", "demo", "k", "--usage", "encrypt,"); !slices.Equal(got, []string{"encrypt,decrypt"}) {
		t.Errorf("a list of usages: got %q", got)
	}
	if got := completions(t, s, nil, "grant", "test", "demo", "first", "--operation", "D"); !slices.Equal(got, []string{"Decrypt"}) {
		t.Errorf("an operation: got %q", got)
	}
}

// files are the words of Use lines that stand for a file or a folder.
var files = []string{"FILE", "DIR", "POLICY", "RELEASE", "NEXT", "RECOVERY", "EVIDENCE", "IMAGE"}

// TestEveryArgumentIsCompleted: each argument of each command has values, or is a
// file; and so has each flag that takes a text.
func TestEveryArgumentIsCompleted(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		for _, word := range strings.Fields(c.Use)[1:] {
			word = strings.Trim(word, "[]{}.")
			if word != strings.ToUpper(word) || word == "" || word == "|" || strings.HasPrefix(word, "-") || word == "<" {
				continue // a flag, or what is no argument
			}
			if before, _, _ := strings.Cut(c.Use, " "+word); strings.Contains(before, "-") {
				break // values of flags
			}
			if arguments[word] == nil && !slices.Contains(files, word) {
				t.Errorf("%s: a shell takes %s for a file", c.CommandPath(), word)
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			path := strings.TrimPrefix(c.CommandPath(), "holdfast ")
			_, few := f.Value.(cli.Choices)
			value := few || flagValues[f.Name] != nil || flagValues[path+" --"+f.Name] != nil || slices.Contains(texts, f.Name)
			file := strings.Contains(strings.ToLower(f.Usage), "file") || strings.Contains(f.Usage, "PEM") || strings.Contains(f.Usage, "folder") ||
				slices.Contains([]string{"socket", "policy", "seal-key", "nitro-document", "snp-report", "vek", "crl", "tcb", "tpm-quote", "tpm-signature", "ak", "pcrs", "event-log", "checkpoint"}, f.Name)
			if strings.HasPrefix(f.Value.Type(), "string") && value == file {
				t.Errorf("%s --%s: is it a file, or one of some values? see flagValues and texts", c.CommandPath(), f.Name)
			}
		})
	}
	walk(newRoot())
}

// TestCompletionOfHoldfastd: the program that runs on machines completes its commands.
func TestCompletionOfHoldfastd(t *testing.T) {
	root := holdfastd.New()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs([]string{cobra.ShellCompNoDescRequestCmd, "broker", ""})
	if err := root.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(out.String(), "serve\n") {
		t.Errorf("%v: %s", err, out.String())
	}
}
