package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/holdfastd"
	"holdfast/web/operation"
)

// files gives what calls name: files that exist, by what they are.
func callFiles(t *testing.T) named {
	t.Helper()
	dir := t.TempDir()
	names := named{"DIR": dir, "NEW": filepath.Join(dir, "new")}
	for name, content := range map[string]string{"MATERIAL": strings.Repeat("ab", 32), "CEDAR": "permit (principal, action, resource);", "PIN": "1234", "BACKUP": "a backup", "CHAIN": "a chain", "FILE": "id"} {
		names[name] = filepath.Join(dir, name)
		if err := os.WriteFile(names[name], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// named are paths by the words that stand for them in calls.
type named map[string]string

// again gives the files for another call, with another one that is not there yet.
func (n named) again() named {
	n["NEW"] = filepath.Join(n["DIR"], "new-"+strconv.FormatInt(newFiles.Add(1), 10))
	return n
}

var newFiles atomic.Int64

// asking are calls of each command that asks an appliance, by its path, which together
// perform all operations that commands perform. Words with a dollar are files.
var asking = map[string][]string{
	"status": {""}, "activity": {"--minutes 5"}, "boot steps": {""}, "hsm probe": {""}, "account": {""}, "openapi": {""},
	"keystore create": {"NAME --uri-path-prefix /p"}, "keystore list": {""}, "keystore show": {"NAME"}, "keystore health": {"NAME"},
	"keystore set-quota": {"NAME --requests-per-second 5"}, "keystore delete": {"NAME"}, "keystore discard": {"NAME --keys 2"},
	"key create": {"ks k"}, "key import": {"ks k --material-file $MATERIAL", "ks k --material-file $MATERIAL --new-version"}, "key load": {"ks $FILE", "ks $FILE --dry-run"}, "key list": {"ks"}, "key show": {"ks k"},
	"key enable": {"ks k"}, "key disable": {"ks k"}, "key rotate": {"ks k"}, "key delete": {"ks k"}, "key cancel-deletion": {"ks k"}, "key discard": {"ks k"},
	"credential create": {"ks"}, "credential list": {"ks"}, "credential show": {"ks c"}, "credential activate": {"ks c"}, "credential deactivate": {"ks c"}, "credential delete": {"ks c"}, "credential discard": {"ks c"},
	"grant add": {"ks --principal dynamodb.amazonaws.com --operations Encrypt", "ks --principal dynamodb.amazonaws.com --operations Encrypt --render"}, "grant load": {"ks $FILE"}, "grant list": {"ks"}, "grant show": {"ks g"}, "grant remove": {"ks g"}, "grant discard": {"ks g"},
	"grant test": {"ks k --principal p --operation Encrypt"}, "grant policy": {"ks", "ks --set $CEDAR", "ks --remove"},
	"block": {"ks --reason r", "--everything --reason r"}, "unblock": {"ks k", "--everything"}, "dependents": {"ks k"},
	"attest evidence": {""}, "attest report": {""}, "attest releases": {""}, "seal": {"--pin-file $PIN"}, "seal revoke": {"--below 3", "--below 3 --approvals"},
	"launch status": {""}, "launch install": {"$CHAIN"}, "policy status": {""}, "policy install": {"$CHAIN", "$CHAIN --authorizations $CHAIN --approvals $CHAIN"},
	"audit search": {"", "--kind admin"}, "audit tail": {"-n 5"}, "audit show": {"3"}, "audit export": {"--format csv"}, "audit proof": {"3"}, "audit checkpoint": {""}, "audit verification": {"", "--begin"},
	"backup": {"--out $NEW"}, "restore": {"$BACKUP", "$BACKUP --verify", "$BACKUP --drill --reason r"},
	"installation show": {""}, "installation takeover": {"--reason r"}, "installation begin": {"--reason r"},
	"user list": {""}, "user show": {"alice"}, "user invite": {"bob"}, "user set-role": {"alice --role auditor"}, "notify test": {""}, "user set-email": {"alice --email a@example.com", "alice --remove"}, "user set-oidc": {"alice --email a@example.com", "alice --remove"},
	"user disable": {"alice"}, "user enable": {"alice"}, "user unlock": {"alice"}, "user sign-out": {"alice"}, "user delete": {"alice"},
	"invitation list": {""}, "invitation show": {"i"}, "invitation revoke": {"i"}, "session list": {""}, "session show": {"s"}, "session end": {"s"},
	"fleet status": {""}, "fleet list": {""}, "fleet show": {"n"}, "fleet drain": {"n", "n --undo"}, "fleet remove": {"n"},
	"token create": {"robot2 --key-store * --operation * --network * --out $NEW"}, "token list": {""}, "token show": {"robot"}, "token revoke": {"robot"},
	"approval list": {""}, "approval show": {"r"}, "approval reject": {"r --reason why"}, "approval perform": {"r --out $NEW"},
	"setting show": {""}, "setting set": {"--four-eyes deleteKeyStore", "--no-four-eyes", "--no-four-eyes --approval-hours 24", "--approval-hours 24"}, "setting discard": {"four_eyes"},
	"clock confirm":  {"--time 2026-11-27T10:00:00Z --reason r"},
	"admission show": {""}, "admission confirm": {"--admission 00"}, "state verify": {""}, "state accept": {"--reason r"},
	"certificate show": {""}, "certificate request": {"--name h.example"}, "certificate install": {"$CHAIN", "$CHAIN --own-authority --other-name"}, "certificate restore": {""},
	"certificate share": {"", "--cert $CHAIN --key $CHAIN"}, "certificate unshare": {""},
}

// alone are calls of the commands that ask no appliance.
var alone = map[string]string{
	"version": "", "help": "", "man": "$NEW", "completion bash": "", "completion zsh": "", "completion fish": "", "completion powershell": "",
	"config check": "$CHAIN", "config show": "$CHAIN", "verify": "$CHAIN", "watch": "--config $CHAIN --once", "watch accept": "m --config $CHAIN --reason r", "audit verify": "$DIR --key $CHAIN", "audit check-proof": "$CHAIN --key $CHAIN",
	"check":      "https://127.0.0.1:1 --access-key-id A --secret-access-key-file $PIN --key k",
	"policy key": "$CHAIN", "policy new": "", "policy reference": "$CHAIN $CHAIN --name n --out $NEW", "policy predict": "$CHAIN",
	"launch new": "", "launch check": "$CHAIN", "launch sign": "$CHAIN --key $CHAIN --version 1 --out $NEW", "launch show": "$CHAIN",
	"pin give":       "https://127.0.0.1:1 --owner $CHAIN --launch $CHAIN --policy $CHAIN --policy-key $CHAIN",
	"policy approve": "$CHAIN --seal-key $CHAIN --publisher-key $CHAIN --launch $CHAIN --version 1 --out $NEW", "policy succeed": "$CHAIN --seal-key $CHAIN --out $NEW",
	"policy sign": "$CHAIN --key $CHAIN --out $NEW", "policy show": "$CHAIN --policy-key $CHAIN",
	"broker init": "--dir $DIR", "broker add": "m --pin-file $PIN --dir $DIR", "broker revoke": "m --dir $DIR", "broker resume": "--dir $DIR", "broker list": "--dir $DIR", "broker log": "--dir $DIR",
	"broker policy": "$CHAIN --policy-key $CHAIN --dir $DIR", "broker crl": "$CHAIN --dir $DIR", "broker admit": "m --request 1 --dir $DIR", "broker begin-log": "--reason x --dir $DIR", "broker tcb": "$CHAIN --dir $DIR",
	"policy tcb new": "", "policy tcb sign": "$CHAIN --key $CHAIN --out $NEW", "policy tcb show": "$CHAIN --policy-key $CHAIN",
}

// words are those of a call, with the files in their places.
func words(call string, files map[string]string) []string {
	list := strings.Fields(call)
	for i, word := range list {
		if name, ok := strings.CutPrefix(word, "$"); ok {
			list[i] = files[name]
		}
	}
	return list
}

// leaves are the commands that do something, by their paths without the program.
func leaves(root *cobra.Command) map[string]*cobra.Command {
	root.InitDefaultHelpCmd()
	all := map[string]*cobra.Command{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if !c.HasSubCommands() || c.Name() == "seal" || c.Name() == "watch" {
			all[strings.TrimPrefix(c.CommandPath(), root.Name()+" ")] = c
		}
	}
	walk(root)
	return all
}

// called is what a call in this process came to.
type calledResult struct {
	code           int
	stdout, stderr string
}

func callProgram(ctx context.Context, root *cobra.Command, args ...string) calledResult {
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(strings.NewReader(""))
	code := cli.Execute(ctx, root, args)
	return calledResult{code, stdout.String(), stderr.String()}
}

// goSpeak is what Go's libraries say, which no user should have to know.
var goSpeak = regexp.MustCompile(`strconv|invalid syntax|unexpected end of JSON|invalid character|\bEOF\b|context (deadline|canceled)|\bdial |\bread (tcp|unix)|x509:|tls:|asn1:|net/http|json:|jsontext|` +
	`malformed (HTTP|MIME)|transport connection|\*[a-z]+\.[A-Z]|map\[|<nil>|%!|goroutine|panic|exact got|accepts \d|arg\(s\)|flag\(s\)|invalid argument "|in the group \[|unexpected newline|encoding/`)

// plain fails unless a failure was told in one line without Go's words.
func plain(t *testing.T, what string, r calledResult) {
	t.Helper()
	if r.code == 0 {
		return
	}
	if found := goSpeak.FindString(r.stdout + r.stderr); found != "" {
		t.Errorf("%s: %q: %s%s", what, found, r.stdout, r.stderr)
	}
	if said := underWay.ReplaceAllString(r.stderr, ""); said != "" && (strings.Count(said, "\n") != 1 || len(said) > 1000) {
		t.Errorf("%s: want one line: %s", what, r.stderr)
	}
}

// underWay is a line that says how far work is that takes more than five seconds.
var underWay = regexp.MustCompile(`(?m)^(making|restoring|verifying|exporting) [a-z ]+: .*( so far| left|%\))\n`)

func TestEveryCommandHasACall(t *testing.T) {
	all := leaves(newRoot())
	for path, c := range all {
		_, asks := asking[path]
		if _, other := alone[path]; asks == other {
			t.Errorf("%s: give a call of it in asking or in alone", path)
		}
		if asks != (c.Flag("socket") != nil) {
			t.Errorf("%s asks the appliance: %v; has --socket: %v", path, asks, !asks)
		}
	}
	for path := range asking {
		if all[path] == nil {
			t.Errorf("there is no command %s", path)
		}
	}
}

// TestMissingAndSurplusArguments calls every command of both programs with too few and
// too many arguments: each that is missing is named as the Use line names it, and each
// that is too much as it was given.
func TestMissingAndSurplusArguments(t *testing.T) {
	for _, build := range []func() *cobra.Command{newRoot, holdfastd.New} {
		for path, c := range leaves(build()) {
			want := cli.ArgumentsOf(c)
			for n := range len(want.Required) {
				args := append(strings.Fields(path), slices.Repeat([]string{"x"}, n)...)
				r := callProgram(t.Context(), build(), args...)
				missing, _, _ := strings.Cut(r.stderr, "; usage: ")
				for _, name := range want.Required[n:] {
					if !strings.Contains(missing, name) {
						t.Errorf("%q: %s is missing and not named: %s", args, name, r.stderr)
					}
				}
				if r.code != 2 || !strings.Contains(r.stderr, "missing; usage: "+c.CommandPath()) {
					t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
				}
				plain(t, path, r)
			}
			c.Flags().VisitAll(func(f *pflag.Flag) {
				if f.Annotations[cobra.BashCompOneRequiredFlag] == nil {
					return
				}
				if r := callProgram(t.Context(), build(), strings.Fields(path)...); r.code != 2 || !strings.Contains(r.stderr, "--"+f.Name) {
					t.Errorf("%s: --%s is missing: %s", path, f.Name, r.stderr)
				}
			})
			if want.Repeated {
				continue
			}
			args := append(strings.Fields(path), slices.Repeat([]string{"surplus"}, len(want.Words())+1)...)
			r := callProgram(t.Context(), build(), args...)
			if r.code != 2 || !strings.Contains(r.stderr, `"surplus"`) {
				t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
			}
			plain(t, path, r)
			for i, name := range want.Words() {
				empty := slices.Repeat([]string{"x"}, len(want.Words()))
				empty[i] = ""
				if r := callProgram(t.Context(), build(), append(strings.Fields(path), empty...)...); r.code != 2 || !strings.Contains(r.stderr, name+" is empty") {
					t.Errorf("%s with an empty %s: exit code %d: %s", path, name, r.code, r.stderr)
				}
			}
		}
	}
}

// misspelt is a word with its third letter left out.
func misspelt(word string) string {
	if len(word) < 4 {
		return word + "x"
	}
	return word[:2] + word[3:]
}

// TestDidYouMean misspells each command, each flag and each value of a flag that takes
// few: the error names what was meant.
func TestDidYouMean(t *testing.T) {
	for _, build := range []func() *cobra.Command{newRoot, holdfastd.New} {
		var walk func(c *cobra.Command)
		walk = func(c *cobra.Command) {
			path := strings.Fields(c.CommandPath())[1:]
			names := map[string]bool{}
			for _, sub := range c.Commands() {
				names[sub.Name()] = true
			}
			for _, sub := range c.Commands() {
				walk(sub)
				wrong := misspelt(sub.Name())
				if !sub.IsAvailableCommand() || names[wrong] {
					continue
				}
				r := callProgram(t.Context(), build(), append(slices.Clone(path), wrong)...)
				if r.code != 2 || !strings.Contains(r.stderr, "did you mean") || r.stdout != "" {
					t.Errorf("%s %s: exit code %d: %s%s", c.CommandPath(), wrong, r.code, r.stdout, r.stderr)
				}
				plain(t, wrong, r)
			}
			c.Flags().VisitAll(func(f *pflag.Flag) {
				if wrong := misspelt(f.Name); c.Flag(wrong) == nil {
					r := callProgram(t.Context(), build(), append(slices.Clone(path), "--"+wrong)...)
					if r.code != 2 || !strings.Contains(r.stderr, `did you mean "--`) {
						t.Errorf("%s --%s: exit code %d: %s", c.CommandPath(), wrong, r.code, r.stderr)
					}
				}
				choice, few := f.Value.(cli.Choices)
				if !few {
					return
				}
				for _, value := range choice.Choices() {
					wrong := misspelt(value)
					r := callProgram(t.Context(), build(), append(slices.Clone(path), "--"+f.Name, wrong)...)
					if r.code != 2 || len(value) > 3 && !strings.Contains(r.stderr, `did you mean "`) || !strings.Contains(r.stderr, "--"+f.Name+` "`+wrong+`": use `) {
						t.Errorf("%s --%s %s: exit code %d: %s", c.CommandPath(), f.Name, wrong, r.code, r.stderr)
					}
				}
			})
		}
		walk(build())
	}
	for _, args := range [][]string{{"help", "kye"}, {"help", "key", "shwo"}, {"completion", "bsh"}} {
		if r := callProgram(t.Context(), newRoot(), args...); r.code != 2 || !strings.Contains(r.stderr, "did you mean") {
			t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
		}
	}
}

// TestWrongValuesOfFlags gives every flag of every command a wrong value, and none.
func TestWrongValuesOfFlags(t *testing.T) {
	n := 0
	for _, build := range []func() *cobra.Command{newRoot, holdfastd.New} {
		for path, c := range leaves(build()) {
			c.InitDefaultHelpFlag()
			c.Flags().VisitAll(func(f *pflag.Flag) {
				for _, value := range []string{"wrong", "-1", "", "99999999999999999999999", "1.5", "true,"} {
					// The last flag is unknown, so that nothing is done where the value is good.
					args := append(strings.Fields(path), "--"+f.Name+"="+value, "--nonsense")
					r := callProgram(t.Context(), build(), args...)
					plain(t, strings.Join(args, " "), r)
					if strings.Contains(r.stderr, "--"+f.Name+" ") {
						n++
					} else if f.Name != "help" && f.Name != "version" && !strings.Contains(r.stderr, "--nonsense") {
						t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
					}
				}
				if f.NoOptDefVal == "" {
					args := append(strings.Fields(path), "--"+f.Name)
					r := callProgram(t.Context(), build(), args...)
					if r.code != 2 || !strings.Contains(r.stderr, "--"+f.Name+" needs a value: ") {
						t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
					}
				}
			})
		}
	}
	if n < 100 {
		t.Errorf("only %d values were refused", n)
	}
}

// stub is a program that answers at a socket, and over TLS, in the place of an
// appliance.
type stub struct {
	socket, server, ca, token string

	mu    sync.Mutex
	calls []string
}

func (s *stub) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.calls
	s.calls = nil
	return seen
}

func newStub(t *testing.T, answer http.HandlerFunc) *stub {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stub{socket: filepath.Join(dir, "s"), ca: filepath.Join(dir, "ca.pem"), token: filepath.Join(dir, "token")}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.calls = append(s.calls, r.Method+" "+strings.TrimPrefix(r.URL.EscapedPath(), operation.Prefix))
		s.mu.Unlock()
		answer(w, r)
	})
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	local := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	local.Start()
	t.Cleanup(local.Close)
	remote := httptest.NewUnstartedServer(handler)
	remote.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	remote.StartTLS()
	t.Cleanup(remote.Close)
	s.server = remote.URL
	for file, content := range map[string][]byte{s.token: []byte("hf_" + strings.Repeat("A", 43)), s.ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: remote.Certificate().Raw})} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stub) there() []string {
	return []string{"--server", s.server, "--token-file", s.token, "--ca", s.ca}
}

// route finds the operation that a call performs.
func route(call string) *operation.Route {
	method, path, _ := strings.Cut(call, " ")
	have := strings.Split(path, "/")
	for _, r := range operation.Table() {
		want := strings.Split(r.Path, "/")
		same := r.Method == method && len(want) == len(have)
		for i := 0; same && i < len(want); i++ {
			same = want[i] == have[i] || strings.HasPrefix(want[i], "{")
		}
		if same {
			return r
		}
	}
	return nil
}

// willing answers as an appliance would that has all that it is asked for.
func willing(w http.ResponseWriter, r *http.Request) {
	o := route(r.Method + " " + strings.TrimPrefix(r.URL.EscapedPath(), operation.Prefix))
	switch {
	case o == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	case o.ID == "backup":
		w.Header().Set(operation.ReportHeader, "e30=")
	case o.ID == "listUsers":
		_, _ = io.WriteString(w, `{"items":[{"id":"u1","name":"alice"}]}`)
		return
	case o.ID == "listTokens":
		_, _ = io.WriteString(w, `{"items":[{"id":"t1","name":"robot"}]}`)
		return
	case o.ID == "auditRecord":
		_, _ = io.WriteString(w, `{"seq":3,"kind":"admin"}`)
		return
	case o.BinaryAnswer != "":
	}
	_, _ = io.WriteString(w, `{"items":[],"checkpoint":"c","result":{},"id":"x"}`)
}

// withoutCommand are the operations that have no command, and why.
var withoutCommand = map[string]string{
	"approve":             "a person approves who has signed in to the console; neither root nor the bearer of a token may",
	"ownSessions":         "of the account of a user, which neither root nor the bearer of a token has",
	"showOwnSession":      "of the account of a user",
	"showPasskey":         "of the account of a user",
	"signOutEverywhere":   "of the account of a user",
	"revokeOwnSession":    "of the account of a user",
	"provePassword":       "of the account of a user",
	"beginProvePasskey":   "a ceremony of a browser",
	"provePasskey":        "a ceremony of a browser",
	"beginPasskey":        "a ceremony of a browser",
	"addPasskey":          "a ceremony of a browser",
	"removePasskey":       "of the account of a user",
	"beginPassword":       "of the account of a user",
	"setPassword":         "of the account of a user",
	"newRecoveryCodes":    "of the account of a user",
	"confirmRecoveryUses": "of the account of a user",
}

// TestEveryOperationHasACommand calls every command that asks the appliance: together
// they perform every operation of the table, but for those of which it is said why not.
func TestEveryOperationHasACommand(t *testing.T) {
	s := newStub(t, willing)
	performed := map[string]string{}
	for path, calls := range asking {
		for _, call := range calls {
			args := append(strings.Fields(path), words(call, callFiles(t))...)
			r := callProgram(t.Context(), newRoot(), append(args, "--socket", s.socket)...)
			if r.code != 0 && r.stderr != "" {
				t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
			}
			for _, c := range s.seen() {
				o := route(c)
				if o == nil {
					t.Errorf("%q calls %s, which is no operation", args, c)
					continue
				}
				performed[o.ID] = path
			}
		}
	}
	for _, o := range operation.Table() {
		why, listed := withoutCommand[o.ID]
		if path, has := performed[o.ID]; has == listed {
			t.Errorf("the operation %s is performed by the command %q; listed as one without: %q", o.ID, path, why)
		}
	}
	for id := range withoutCommand {
		if !slices.ContainsFunc(operation.Table(), func(r *operation.Route) bool { return r.ID == id }) {
			t.Errorf("there is no operation %s", id)
		}
	}
}

// TestGlobalFlagsAreHonoured: a command that has the flags that name an appliance asks
// that appliance, by each of them; a command that asks none does not have them.
func TestGlobalFlagsAreHonoured(t *testing.T) {
	s := newStub(t, willing)
	nowhere := filepath.Join(t.TempDir(), "none")
	for path, calls := range asking {
		call := append(strings.Fields(path), words(calls[0], callFiles(t))...)
		for what, tt := range map[string]struct {
			env  string
			args []string
		}{
			"--socket":                {nowhere, []string{"--socket", s.socket}},
			"HOLDFAST_SOCKET":         {s.socket, nil},
			"--server":                {nowhere, s.there()},
			"--server over a socket":  {s.socket, append(s.there(), "--socket", nowhere)},
			"a flag before the words": {nowhere, nil},
		} {
			t.Setenv("HOLDFAST_SOCKET", tt.env)
			args := append(slices.Clone(call), tt.args...)
			if strings.HasPrefix(what, "a flag before") {
				args = append([]string{"--socket", s.socket}, call...)
			}
			for i, word := range args { // files to write are new ones
				if strings.HasSuffix(word, "/new") {
					args[i] = filepath.Join(t.TempDir(), "new")
				}
			}
			if r := callProgram(t.Context(), newRoot(), args...); len(s.seen()) == 0 {
				t.Errorf("%s: %s is not honoured: exit code %d: %s", path, what, r.code, r.stderr)
			}
		}
	}
	t.Setenv("HOLDFAST_SOCKET", s.socket)
	for path, call := range alone {
		args := append(strings.Fields(path), words(call, callFiles(t))...)
		if callProgram(t.Context(), newRoot(), args...); len(s.seen()) != 0 {
			t.Errorf("%s asks the appliance, and has no flag for which", path)
		}
		for _, name := range cli.ConnectionFlags() {
			if (path == "verify" || path == "pin give") && name == "ca" {
				continue // it says who may vouch for the certificate of an address
			}
			if leaves(newRoot())[path].Flag(name) != nil {
				t.Errorf("%s has --%s, and asks nobody", path, name)
			}
		}
	}
	for _, path := range []string{"audit search", "audit tail", "audit export", "audit proof 3"} {
		for _, name := range cli.ConnectionFlags() {
			args := append(strings.Fields(path), t.TempDir(), "--"+name, "x")
			if r := callProgram(t.Context(), newRoot(), args...); r.code != 2 || !strings.Contains(r.stderr, "not both") {
				t.Errorf("%q: exit code %d: %s", args, r.code, r.stderr)
			}
		}
	}
}

// hostile are answers that no appliance gives.
var hostile = map[string]http.HandlerFunc{
	"nothing":         func(http.ResponseWriter, *http.Request) {},
	"no JSON":         func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
	"half an object":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"name":"a`) },
	"null":            func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "null") },
	"a list of null":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[null]") },
	"a list of lists": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[[]]") },
	"a number":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "7") },
	"empty objects":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
	"lists of null": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"items":[null],"versions":[null],"grants":[null],"credentials":[null]}`)
	},
	"a list of nothing": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[{}]") },
	"wrong types": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"name":7,"id":{},"items":{},"pem":[],"checkpoint":1,"sessions":"x","boot":1,"serves":1,"allowed":"x","cedar":1,"four_eyes":1,"running":1,"key_store":1,"created":1,"subject":1,"verdict":1,"state":1,"role":1,"line":1}`)
	},
	"cut short": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"a`)
	},
	"a gateway's page": func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<h1>Bad gateway</h1>", http.StatusBadGateway)
	},
	"a redirect": func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
	},
	"pending of nothing": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
	"a terminal's commands": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"code":"conflict","message":"\u001b[2J one\ntwo"}`)
	},
	"the end": func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.Close()
		}
	},
	"no HTTP": func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
			_ = c.Close()
		}
	},
	"a bad header": func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nbad header\r\n\r\n{}")
			_ = c.Close()
		}
	},
	"never": func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then it is seen that the client is gone
		<-r.Context().Done()
	},
}

// TestHostileServers: whatever answers in the place of an appliance, every command says
// so in one line, and in plain words. With --json that line is one object.
func TestHostileServers(t *testing.T) {
	for name, answer := range hostile {
		t.Run(name, func(t *testing.T) {
			s, files := newStub(t, answer), callFiles(t)
			for path, calls := range asking {
				for _, where := range [][]string{{"--socket", s.socket}, append(s.there(), "--json")} {
					ctx, cancel := t.Context(), func() {}
					if name == "never" {
						ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
					}
					args := append(append(strings.Fields(path), words(calls[0], files.again())...), where...)
					r := callProgram(ctx, newRoot(), args...)
					cancel()
					checkFailure(t, strings.Join(args, " "), r, len(where) > 2)
				}
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		s, files := newStub(t, willing), callFiles(t)
		none, folder := filepath.Join(t.TempDir(), "none"), t.TempDir()
		for path, calls := range asking {
			for _, where := range [][]string{
				{"--socket", none}, {"--socket", s.token}, {"--socket", folder},
				{"--server", "https://127.0.0.1:1", "--token-file", s.token, "--json"},
				{"--server", s.server, "--token-file", s.token, "--json"}, // its certificate is not trusted
				{"--server", "https://" + strings.Repeat("x", 300), "--token-file", s.token, "--json"},
				{"--server", "nonsense://", "--token-file", s.token, "--json"}, {"--server", s.server, "--token-file", s.ca, "--json"},
				{"--server", s.server, "--token-file", s.token, "--ca", s.token, "--json"}, {"--server", s.server, "--token-file", s.token, "--ca", "none", "--json"},
				{"--server", s.server, "--token-file", folder, "--json"}, {"--server", s.server, "--json"},
			} {
				args := append(append(strings.Fields(path), words(calls[0], files.again())...), where...)
				r := callProgram(t.Context(), newRoot(), args...)
				if r.code == 0 {
					t.Errorf("%q ends well: %s", args, r.stdout)
				}
				checkFailure(t, strings.Join(args, " "), r, slices.Contains(where, "--json"))
			}
		}
	})
}

// checkFailure fails unless a call that failed said so as it should.
func checkFailure(t *testing.T, what string, r calledResult, asJSON bool) {
	t.Helper()
	plain(t, what, r)
	if strings.ContainsRune(r.stderr, '\x1b') {
		t.Errorf("%s: a terminal would obey %q", what, r.stderr)
	}
	if r.code == 0 || r.stderr == "" || !asJSON {
		return
	}
	var f cli.Failure
	d := json.NewDecoder(strings.NewReader(r.stderr))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil || !f.Code.Registered() || f.Message == "" || f.WhatToDo != f.Code.Entry().Do || f.ExitCode != r.code {
		t.Errorf("%s: exit code %d: %v: %s", what, r.code, err, r.stderr)
	}
}

// TestErrorsAsJSON: with --json every failure of every command is one object on
// standard error, and nothing on standard output.
func TestErrorsAsJSON(t *testing.T) {
	failed := func(what string, code int, want fault.Code, build func() *cobra.Command, args ...string) {
		t.Helper()
		r := callProgram(t.Context(), build(), append(args, "--json")...)
		if r.code != code || r.stdout != "" || r.stderr == "" || want != "" && !strings.Contains(r.stderr, `"code":"`+string(want)+`"`) {
			t.Errorf("%s: %q: exit code %d: %s%s", what, args, r.code, r.stdout, r.stderr)
		}
		checkFailure(t, what, r, true)
	}
	for _, build := range []func() *cobra.Command{newRoot, holdfastd.New} {
		for path, c := range leaves(build()) {
			args := strings.Fields(path)
			failed("an unknown flag", 2, fault.Invalid, build, append([]string{"--json"}, append(args, "--nonsense")...)...)
			if len(cli.ArgumentsOf(c).Required) > 0 {
				failed("nothing given", 2, fault.Invalid, build, args...)
			}
		}
		failed("an unknown command", 2, fault.Invalid, build, "nonsense")
	}
	for path, calls := range asking {
		for _, e := range []fault.Code{fault.NotFound, fault.Forbidden, fault.Invalid, fault.Locked, fault.Internal} {
			s := newStub(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(e.Entry().Status)
				_ = json.NewEncoder(w).Encode(map[string]string{"code": string(e), "message": "no", "reference": "abcdefghij"})
			})
			args := append(append(strings.Fields(path), words(calls[0], callFiles(t))...), "--socket", s.socket)
			failed("refused", e.Entry().Exit, e, newRoot, args...)
			if r := callProgram(t.Context(), newRoot(), append(args, "--json")...); !strings.Contains(r.stderr, `"reference":"abcdefghij"`) {
				t.Errorf("%q: there is no reference: %s", args, r.stderr)
			}
		}
	}
	for path, call := range alone {
		args := append(append(strings.Fields(path), words(call, callFiles(t))...), "--json")
		r := callProgram(t.Context(), newRoot(), args...)
		checkFailure(t, path, r, true)
		if r.code != 0 && r.stdout == "" && r.stderr == "" {
			t.Errorf("%q: exit code %d without a word", args, r.code)
		}
	}
	pending := newStub(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"abc","operation":"deleteKeyStore","expires_at":"2026-11-28T12:00:00Z"}`)
	})
	failed("it waits for approval", 1, fault.AwaitsApproval, newRoot, "keystore", "delete", "x", "--socket", pending.socket)
	if r := callProgram(t.Context(), newRoot(), "keystore", "delete", "x", "--socket", pending.socket, "--json"); !strings.Contains(r.stderr, `"request":{"id":"abc"`) {
		t.Errorf("the request that waits is not named: %s", r.stderr)
	}
}
