package release_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/ec2"
	"holdfast/attest/nitro/nitrotest"
	"holdfast/attest/release"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

// otherCodePasses are the policies of the matrix under which a machine with other code
// than the reference's gets a PIN, each with why that is right. Any other is a mistake.
var otherCodePasses = map[string]string{
	// A person has written that the policy does not prove the code, and the words stand in
	// the record of the release; then what the references say of the code may be left out.
	"forced: .tpm.references missing": "no code is named, as the words say",
	"forced: .tpm.references = []":    "no code is named, as the words say",
}

// TestPolicyFields sets each member of the policy's type to missing, null, zero, empty,
// wide and huge, and asks a real broker for the PIN, on genuine hardware with another
// kernel than the reference's. Members that the type gets later are in by themselves.
func TestPolicyFields(t *testing.T) {
	s := newSite(t)
	s.rate, s.ofAccount = 1e6, true
	s.serve(t)
	good, err := simulation.Boot(t.TempDir(), nil, swtpm.Component{Name: ".linux", Content: []byte("the known kernel")})
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	if err := good.TPM.Measure(s.measured); err != nil {
		t.Fatal(err)
	}
	c := good.Collector()
	c.Measurements = []tpm.Measurement{s.measured}
	e, err := c.Collect(t.Context(), make([]byte, 32), []byte("a TLS key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.reference, err = tpm.NewReference("release 1", e.TPM, s.policy().TPM); err != nil {
		t.Fatal(err)
	}
	own, err := s.collector().Collect(t.Context(), make([]byte, 32), []byte("a TLS key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	passed, opened := map[string]bool{}, 0
	for _, words := range []string{"", "a test of a policy that is forced"} {
		p := s.policy()
		p.Unproven, p.Instance = words, asks(s)
		for i, c := range variants(t, p) {
			if words != "" {
				c.name = "forced: " + c.name
			}
			if i%oneIn != 0 && otherCodePasses[c.name] == "" {
				continue
			}
			takes, gives := s.tries(t, c.text, own.TPM)
			if takes {
				opened++
			}
			if passed[c.name] = gives; gives && otherCodePasses[c.name] == "" {
				t.Errorf("%s: a machine with other code gets a PIN", c.name)
			}
		}
	}
	for name, why := range otherCodePasses {
		if !passed[name] {
			t.Errorf("%s: nothing passes that should, as %s", name, why)
		}
	}
	if len(passed) < 1000/oneIn || opened < 20/oneIn {
		t.Errorf("%d policies were tried, of which %d can be used", len(passed), opened)
	}
	t.Logf("%d policies, of which %d can be used", len(passed), opened)
}

// asks is a section of a policy with all that it can have, which the site's machine meets.
func asks(s *site) *ec2.Policy {
	p := s.platform.OfAccount()
	p.Regions, p.Images, p.Admit = []string{nitrotest.Region}, []string{simulation.Image}, true
	return p
}

// otherAccountPasses are the policies under which a machine with the right code in another
// account, of another image, gets a PIN.
var otherAccountPasses = map[string]string{".instance missing": "then the policy does not ask"}

// TestInstanceFields sets each member of the section "instance" to what [TestPolicyFields]
// sets members to, and has a machine ask that is of another account than the policy names.
func TestInstanceFields(t *testing.T) {
	s := newSite(t)
	s.rate, s.ofAccount = 1e6, true
	s.serve(t)
	p := s.policy()
	p.Instance = asks(s)
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if signed, gives := s.releasesUnder(t, text); signed == nil || !gives {
		t.Fatal("the machine that the policy means gets no PIN")
	}
	s.platform.Instance.Account, s.platform.Instance.Image = "000000000001", "ami-00000000000000001"
	tried := 0
	for _, c := range variants(t, p) {
		if !strings.HasPrefix(c.name, ".instance") {
			continue
		}
		tried++
		if _, gives := s.releasesUnder(t, c.text); gives != (otherAccountPasses[c.name] != "") {
			t.Errorf("%s: a machine of another account gets a PIN: %v", c.name, gives)
		}
	}
	if tried < 60 {
		t.Errorf("%d policies were tried", tried)
	}
}

// tries has the broker use the policy, by its command and by its file, and has the machine
// ask for the PIN; and has the policy's authorizations be signed, and looks whether the
// machine's TPM would open under one. It says whether the policy is taken, and whether
// the machine gets anything.
func (s *site) tries(t *testing.T, text []byte, own *tpm.Evidence) (takes, gives bool) {
	t.Helper()
	signed, gives := s.releasesUnder(t, text)
	if signed == nil {
		return false, gives
	}
	if len(signed.TPM.References) > 0 && signed.Unproven == "" {
		all, err := seal.AuthorizeReferences(sealer, signed.TPM, signed.Version)
		if err != nil {
			return true, gives
		}
		for _, a := range all {
			gives = gives || opens(a, own)
		}
	}
	return true, gives
}

// releasesUnder has the broker use the policy, by its command and by its file, and has the
// machine ask for the PIN. It gives the policy if it is taken, and whether the PIN is given.
func (s *site) releasesUnder(t *testing.T, text []byte) (signed *attest.SignedPolicy, gives bool) {
	t.Helper()
	file, public := formerly{s.key}.envelope(t, text), s.key.Public().(ed25519.PublicKey)
	s.begins(t, nil, nil) // each policy is the first
	set := s.vault.SetPolicy(file, public)
	if set != nil {
		s.begins(t, file, public) // as a former release has installed it
	}
	signed, err := attest.OpenPolicy(file, public)
	if err != nil {
		if got, _, err := s.client.Release(t.Context()); err == nil || got != nil || set == nil || fault.CodeOf(err) == fault.BrokerBusy {
			t.Errorf("a policy that cannot be used releases the PIN: %v\n%s", set, text)
		}
		return nil, false
	}
	got, _, err := s.client.Release(t.Context())
	if gives = err == nil || got != nil; fault.CodeOf(err) == fault.BrokerBusy {
		t.Fatal(err) // which says nothing about the policy
	}
	return signed, gives
}

// begins has the folder be one of a former release with that policy, of which a signed log
// is begun; without a policy if it cannot be read.
func (s *site) begins(t *testing.T, file []byte, public ed25519.PublicKey) {
	t.Helper()
	for _, name := range []string{"log-head", "releases.jsonl", "policy.json", "policy-key"} {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if file != nil {
		err := os.WriteFile(filepath.Join(s.dir, "policy.json"), file, 0o600)
		if err := errors.Join(err, os.WriteFile(filepath.Join(s.dir, "policy-key"), public, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	begin := release.Beginning{By: "a test", Reason: "another policy", First: true, Now: time.Now()}
	if _, err := s.vault.BeginLog(begin); err != nil && file == nil {
		t.Fatal(err)
	}
}

var sealer = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

// opens says whether a TPM with the evidence's PCRs is in the state of the authorization.
func opens(a seal.Authorization, own *tpm.Evidence) bool {
	values := own.Bank(a.Bank)
	for n, want := range a.PCRs {
		if n != tpm.ApplicationPCR && !bytes.Equal(values[n], want) {
			return false
		}
	}
	return true
}

// variant is the text of a policy with one member changed.
type variant struct {
	name string
	text []byte
}

// variants are all that the type of the policy, and of its sections, has.
func variants(t *testing.T, p attest.Policy) (all []variant) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	whole := func() {
		tree = nil
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&tree); err != nil {
			t.Fatal(err)
		}
	}
	whole()
	var places []place
	walk(&places, reflect.TypeFor[attest.Policy](), tree, nil)
	for section, of := range p.Reports {
		walk(&places, reflect.TypeOf(of), tree[section], []string{section})
	}
	for _, at := range places {
		for _, change := range changes(at.of) {
			whole()
			if !put(tree, at.path, change) {
				continue // an item that is missing is another array
			}
			changed, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			name := "." + strings.Join(at.path, ".") + " missing"
			if change != missing {
				value, _ := json.Marshal(change)
				name = fmt.Sprintf(".%s = %.40s", strings.Join(at.path, "."), value)
			}
			all = append(all, variant{name, changed})
		}
	}
	return all
}

// place is a member, an item or a value of the policy.
type place struct {
	path []string
	of   reflect.Type
}

// walk finds all places: the members of the type, whether or not the tree has them, and
// what the tree has in lists and by name.
func walk(places *[]place, of reflect.Type, tree any, path []string) {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if len(path) > 0 {
		*places = append(*places, place{path, of})
	}
	within := func(name string, of reflect.Type, tree any) { walk(places, of, tree, append(slices.Clone(path), name)) }
	switch of.Kind() {
	case reflect.Struct:
		members, _ := tree.(map[string]any)
		for f := range of.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				within(name, f.Type, members[name])
			}
		}
	case reflect.Map:
		members, _ := tree.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			within(name, of.Elem(), members[name])
		}
	case reflect.Slice:
		items, _ := tree.([]any)
		for i, item := range items {
			within(strconv.Itoa(i), of.Elem(), item)
		}
	}
}

type absent struct{}

var missing any = absent{}

// changes are what a member of that type is set to.
func changes(of reflect.Type) []any {
	all := []any{missing, nil, "", 0, false, []any{}, map[string]any{}} // of the right kind or not
	number := func(text string) json.Number { return json.Number(text) }
	switch of.Kind() {
	case reflect.Bool:
		all = append(all, true)
	case reflect.String:
		all = append(all, "*", " ", strings.Repeat("x", 300), "sha256")
	case reflect.Slice:
		var many []any
		for n := range 16 {
			many = append(many, n)
		}
		all = append(all, many, []any{0}, []any{nil}, []any{""}, []any{"*"}, []any{map[string]any{}}, []any{"tpm"}, []any{"sev-snp"}, []any{"nitrotpm"},
			"", strings.Repeat("0", 96), strings.Repeat("f", 96))
	case reflect.Map:
		all = append(all, map[string]any{"": nil}, map[string]any{"*": map[string]any{}}, map[string]any{"14": strings.Repeat("0", 96)}, map[string]any{"00": strings.Repeat("0", 96)})
	case reflect.Struct:
		all = append(all, map[string]any{"": 0})
	case reflect.Int, reflect.Uint8, reflect.Uint32, reflect.Uint64, reflect.Int64:
		all = append(all, 1, number("-1"), number("0.5"), 255, 256, 86400, number("9007199254740991"), number("9007199254740993"), number("1e400"))
	}
	return all
}

// put changes what is at the path. Nothing can be missing from within a list.
func put(tree any, path []string, value any) bool {
	for _, name := range path[:len(path)-1] {
		switch in := tree.(type) {
		case map[string]any:
			tree = in[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil {
				return false
			}
			tree = in[i]
		default:
			return false
		}
	}
	last := path[len(path)-1]
	switch in := tree.(type) {
	case map[string]any:
		if value == missing {
			delete(in, last)
			return true
		}
		in[last] = value
		return true
	case []any:
		i, err := strconv.Atoi(last)
		if err != nil || value == missing {
			return false
		}
		in[i] = value
		return true
	}
	return false
}
