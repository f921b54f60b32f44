package operation_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/web/operation"
)

// TestTableIsWhole: each operation that is defined is in the table, once, and says
// what must be said of it.
func TestTableIsWhole(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	defined := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		defined += len(regexp.MustCompile(`(?m)^\t\w+ += (define\((Operation\[|file)|defineList\(Listing\[|discards\()`).FindAll(text, -1))
	}
	if n := len(operation.Table()); n != defined || n < 80 {
		t.Errorf("the table has %d operations, and %d are defined", n, defined)
	}
	ids, routes := map[string]bool{}, map[string]bool{}
	for _, r := range operation.Table() {
		if ids[r.ID] || routes[r.Operation()] {
			t.Errorf("%s %s: it is there twice", r.ID, r.Operation())
		}
		ids[r.ID], routes[r.Operation()] = true, true
		if r.ID == "" || r.Summary == "" || r.Words == "" || r.Capability == "" || !strings.HasPrefix(r.Path, "/") {
			t.Errorf("%s %s: ID, words, summary, capability or path is missing", r.ID, r.Operation())
		}
		if !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}, r.Method) {
			t.Errorf("%s has the method %q", r.ID, r.Method)
		}
		known := []operation.Urgency{operation.Ordinary, operation.Urgent, operation.Exclusive, operation.Independent}
		if r.Mutates() && (!r.HasSubject() || !slices.Contains(known, r.Urgency)) {
			t.Errorf("%s: it does not say what it is about, or how urgent it is: subject %t, urgency %q", r.ID, r.HasSubject(), r.Urgency)
		}
		if !r.Mutates() && (r.HasSubject() || r.Urgency != "" || r.Guards().FourEyes && !r.Recorded || r.ReadOnly || r.WhileLocked) {
			t.Errorf("%s: it reads, and has what only changes have", r.ID)
		}
		if r.ReadOnly && r.Urgency != operation.Independent {
			t.Errorf("%s: it changes nothing, and waits for changes", r.ID)
		}
		if r.Guards().FourEyes && !r.Recorded && (!r.HasCheck() || !r.Changes()) {
			t.Errorf("%s: it can be filed for approval, and has no check, or changes nothing", r.ID)
		}
		if r.Guards().WithAny && (!r.Guards().FourEyes || r.Urgency != operation.Exclusive) {
			t.Errorf("%s: it cannot need approval, or others are performed while it changes the rule", r.ID)
		}
		if r.Can()&^operation.TakesAccess != 0 && !r.Guards().FourEyes == (r.Alone == "") || r.Can() == 0 && r.Alone != "" {
			t.Errorf("%s: it %s, can need a second person: %t, and is done alone because %q", r.ID, r.Can(), r.Guards().FourEyes, r.Alone)
		}
		if m := r.Many; m != nil && (!m.Guards().FourEyes || !r.Guards().FourEyes || m.Capability != r.Capability || m.Can()&^operation.TakesSecret&^r.Can() != 0) {
			t.Errorf("%s does many of %s, and asks for less", r.ID, m.ID)
		}
		if r.Effects.Can(operation.ShowsSecret | operation.TakesSecret) {
			t.Errorf("%s: its types say that it %s", r.ID, r.Effects)
		}
		answer := r.Answer()
		if stream := answer == reflect.TypeFor[operation.Stream](); stream != (r.BinaryAnswer != "") || r.Recorded && r.Mutates() {
			t.Errorf("%s: its answer is a stream: %t, of %q; recorded %t", r.ID, stream, r.BinaryAnswer, r.Recorded)
		}
		if answer.Kind() == reflect.Pointer {
			answer = answer.Elem()
		}
		if r.Changes() && answer.Kind() != reflect.Struct {
			t.Errorf("%s: its answer is no object, and cannot have an effect", r.ID)
		}
	}
}

// wordsOf are IDs that are plain words too, with the sources that mean something
// else by them.
var wordsOf = map[string]string{
	"web/console/download.go backup": "the name of a file",
	"web/public.go evidence":         "a line of the log",
}

// TestNamedByValue: no source outside of this package names an operation by a
// string. IDs of one word are looked for where operations are used.
func TestNamedByValue(t *testing.T) {
	root := filepath.Join("..", "..")
	ids := map[string]bool{}
	for _, r := range operation.Table() {
		ids[r.ID] = true
	}
	inTempl := regexp.MustCompile(`"(\w+)"|/do/(\w+)`)
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || name == filepath.Join("web", "operation")) {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		name = filepath.ToSlash(name)
		named := func(id string) {
			word := id == strings.ToLower(id)
			if ids[id] && (!word || strings.HasPrefix(name, "web/")) && wordsOf[name+" "+id] == "" {
				t.Errorf("%s names the operation %s by a string", name, id)
			}
		}
		switch {
		case strings.HasSuffix(name, ".templ"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			for _, m := range inTempl.FindAllStringSubmatch(string(text), -1) {
				if m[1] != strings.ToLower(m[1]) || m[2] != "" { // words are attributes of HTML
					named(m[1] + m[2])
				}
			}
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, "_templ.go"):
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			files++
			ast.Inspect(f, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if s, err := strconv.Unquote(l.Value); err == nil {
						named(strings.TrimPrefix(s, "/do/"))
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil || files < 200 {
		t.Fatalf("%d files were read: %v", files, err)
	}
}

// dependencies gives all packages that one is built of.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// TestNoDetour: the console has operations performed in this process by their
// values. It reaches neither the API's handler nor its client, and what reads forms
// knows no JSON.
func TestNoDetour(t *testing.T) {
	if all := dependencies(t, "holdfast/web/console"); slices.Contains(all, "holdfast/web") || !slices.Contains(all, "holdfast/web/operation") {
		t.Error("the console reaches the API's handler or client")
	}
	// What it has beside operations: how people come in and leave, which is recorded by events; and
	// what its frame shows of the appliance, and questions, each of which looks at who asks.
	beside := map[string][]string{
		"Identity": {"BeginEnrolPasskey", "BeginEnrolPassword", "BeginOIDC", "BeginPasskey", "Carry", "Closed", "FinishEnrolPasskey", "FinishEnrolPassword", "FinishOIDC", "FinishPasskey",
			"OIDCEnabled", "OpenCarried", "OpenInvitation", "PasskeysEnabled", "ProveSetupCode", "RedeemSetupCode", "Session", "SetupOpen", "SignInPassword", "SignOut", "URL", "UseUp"},
		"Performer": {"As", "Digest", "Event", "FirstAcceptance", "LookAtTokens", "Node", "RecoveryCode", "RoleByGroups", "Settle", "Standing"},
		"caller":    {"AuditActors", "DependentsOf", "Differences", "IdempotencyKey", "MayDecide", "NeedsApproval", "Reason", "Seeing", "WaitingApprovals"},
	}
	for _, wrong := range detours(t, beside) {
		t.Error(wrong)
	}
	for _, name := range []string{"actions.go", "form.go", "submit.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "console", name), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, "json") {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}

// detours are the members of what the console has at hand that it uses, and that are not among those
// that it may.
func detours(t *testing.T, beside map[string][]string) (wrong []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "console", "*.go"))
	if err != nil || len(files) < 40 {
		t.Fatal(len(files), err)
	}
	seen := map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			member, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of := member.X
			if call, ok := of.(*ast.CallExpr); ok {
				of = call.Fun
			}
			var name string
			switch x := of.(type) {
			case *ast.SelectorExpr:
				name = x.Sel.Name
			case *ast.Ident:
				name = x.Name
			}
			if may := beside[name]; may != nil && !slices.Contains(may, member.Sel.Name) {
				wrong = append(wrong, fmt.Sprintf("%s: %s.%s is no operation, and none of what the console may use beside them", set.Position(n.Pos()), name, member.Sel.Name))
			} else if may != nil {
				seen[name+"."+member.Sel.Name] = true
			}
			return true
		})
	}
	for name, may := range beside {
		for _, m := range may {
			if !seen[name+"."+m] {
				wrong = append(wrong, fmt.Sprintf("%s.%s is not used any more: take it out of the list", name, m))
			}
		}
	}
	return wrong
}

// TestTableIsLight: a program that calls operations elsewhere is built of nothing
// that performs them, and of nothing that knows a device.
func TestTableIsLight(t *testing.T) {
	heavy := []string{"holdfast/appliance/machine/boot", "holdfast/appliance/machine/volume", "holdfast/appliance/keyring", "holdfast/appliance/sqlite", "holdfast/appliance/config",
		"holdfast/appliance/audit/auditlog", "holdfast/attest/tpm/seal", "holdfast/attest/release", "holdfast/attest/device", "holdfast/hsm", "holdfast/web", "holdfast/xks",
		"modernc.org/sqlite", "github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11", "github.com/google/go-tpm/tpm2/transport/linuxtpm", "github.com/google/go-tpm/tpm2/transport/linuxudstpm"}
	for _, pkg := range dependencies(t, "holdfast/web/operation") {
		if slices.Contains(heavy, pkg) {
			t.Errorf("the table of operations is built of %s", pkg)
		}
	}
}

// TestSecretsAreNotWritten: no way to write a value of the type shows it.
func TestSecretsAreNotWritten(t *testing.T) {
	in := operation.NewKey{Material: operation.Secret("0123456789")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, v := range []any{in, in.Material, &in} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "0123456789") || strings.Contains(text, "30313233") || strings.Contains(text, "48 49 50") || strings.Contains(text, "0x30, 0x31") {
				t.Errorf("%s writes %s", verb, text)
			}
		}
	}
}

// TestWalkIsTrue: the walk of an administrator's operation in docs/architecture.md
// names files that exist, and symbols that they have.
func TestWalkIsTrue(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, walk, ok := strings.Cut(string(text), "## The life of an administrator's operation\n")
	if walk, _, _ = strings.Cut(walk, "\n## "); !ok || !strings.Contains(walk, "`createKey`") {
		t.Fatal("docs/architecture.md has no walk of createKey")
	}
	files := regexp.MustCompile("`([\\w/]+\\.go)`").FindAllStringSubmatch(walk, -1)
	for _, m := range files {
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(m[1]))); err != nil {
			t.Error(err)
		}
	}
	if len(files) < 15 {
		t.Errorf("the walk names only %d files", len(files))
	}
	for _, route := range operation.Table() {
		if route.ID == "createKey" && !strings.Contains(walk, "/do/"+operation.CreateKey.ID) {
			t.Error("the walk posts no form")
		}
	}
}

// TestWords: each operation and each variant of one has words of its own, by which people tell
// it from all others.
func TestWords(t *testing.T) {
	seen := map[string]string{}
	for _, r := range operation.Table() {
		for _, words := range r.AllWords() {
			if words == "" || words != strings.TrimSpace(words) || len(words) > 40 || strings.ContainsAny(words, ".;\"") || strings.ToUpper(words[:1]) != words[:1] {
				t.Errorf("%s: %q are no words for a button", r.ID, words)
			}
			if of, ok := seen[words]; ok && of != r.ID {
				t.Errorf("%s and %s are both called %q", of, r.ID, words)
			}
			seen[words] = r.ID
		}
	}
	for got, want := range map[string]string{
		operation.Block.WordsOf(operation.NewBlock{BlockTarget: appliance.BlockTarget{Everything: true}}): "Block everything",
		operation.Block.WordsOf(operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: "bank"}}): "Block key store",
		operation.Unblock.WordsOf(appliance.BlockTarget{KeyStore: "bank", KeyID: "k"}):                    "Unblock key",
		operation.CreateCredential.WordsOf(operation.NewCredential{AccessKeyID: "AKIA"}):                  "Import credential",
		operation.DrainNode.WordsOf(operation.Drain{}):                                                    "Resume node",
		operation.DisableKey.WordsOf(operation.KeyName{}):                                                 "Disable key",
	} {
		if got != want {
			t.Errorf("%q and not %q", got, want)
		}
	}
}
