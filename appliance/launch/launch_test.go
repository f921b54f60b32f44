package launch_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/config"
	"holdfast/appliance/launch"
	"holdfast/attest/owner"
)

func publicPEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func authority(t testing.TB, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	c.Subject.CommonName = name
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

var ownerKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))

// head is the beginning of a launch file that is good with an HSM behind it: 3 lines and
// the keys.
func head(t testing.TB) string {
	t.Helper()
	// The same one each time: what a fuzzer keeps must stay good.
	seal, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("format = %q\n[owner]\npolicy_key = \"\"\"\n%s\"\"\"\nseal_key = \"\"\"\n%s\"\"\"\n", launch.Format, publicPEM(t, ownerKey.Public()), publicPEM(t, &seal.PublicKey))
}

const hsm = "[hsm]\nmodule = \"libpkcs11.so\"\ntoken_label = \"ours\"\n"

// TestSettings: each option of the configuration is for launch files or is refused with a
// reason, and there is no other.
func TestSettings(t *testing.T) {
	var want, got []string
	for _, s := range config.Settings() {
		want = append(want, s.Name)
	}
	for _, s := range launch.Settings() {
		got = append(got, s.Key)
		switch {
		case s.Refused != "" && (s.Meaning != "" || s.Example != "" || s.Certificates):
			t.Errorf("%s is refused, and may be set", s.Key)
		case s.Refused != "" && !strings.Contains(s.Refused, "; "):
			t.Errorf("%s is refused, and nothing says what to do", s.Key)
		case s.Refused == "" && (s.Meaning == "" || s.Example == "" && !s.Certificates):
			t.Errorf("%s may be set, and nothing says what it is or how", s.Key)
		case s.Refused == "" && (strings.Contains(s.Key, "secret") || strings.Contains(s.Key, "password") || strings.HasSuffix(s.Key, "_file")):
			t.Errorf("%s may be set, and is by its name a secret or a file", s.Key)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table has\n%q\nand the configuration\n%q", got, want)
	}
}

// TestEachRefused: each option that a launch file may not set is refused in every way in
// which TOML can write it, with its reason.
func TestEachRefused(t *testing.T) {
	values := map[string]string{}
	for _, s := range config.Settings() {
		values[s.Name] = "7"
		switch {
		case s.List:
			values[s.Name] = "[]"
		case s.Text:
			values[s.Name] = `"1h"`
		}
	}
	for key := range values {
		if strings.HasSuffix(key, ".required") || strings.HasSuffix(key, "_asynchronous") || strings.HasSuffix(key, ".require_landlock") || strings.HasSuffix(key, ".process.unit") || key == "instance.metadata" || key == "xks.development" || strings.HasSuffix(key, "xks_enable") {
			values[key] = "true"
		}
	}
	for _, s := range launch.Settings() {
		if s.Refused == "" {
			continue
		}
		dot := strings.LastIndexByte(s.Key, '.')
		table, name := s.Key[:dot], s.Key[dot+1:]
		before, outer, after := "", "", head(t)+hsm // where the key stands with all its tables
		if of, ok := strings.CutPrefix(table, "hsm.members."); ok {
			before, outer, after = head(t)+hsm+"[[hsm.members]]\ntoken_label = \"b\"\n", "hsm.members.", ""
			table = of
		}
		key := strings.TrimPrefix(s.Key, outer)
		for _, text := range []string{
			head(t) + hsm + strings.TrimPrefix(before, head(t)+hsm) + "[" + outer + table + "]\n" + name + " = " + values[s.Key] + "\n",
			before + key + " = " + values[s.Key] + "\n" + after,
			before + table + " = {" + name + " = " + values[s.Key] + "}\n" + after,
			before + `"` + strings.ReplaceAll(key, ".", `"."`) + `" = ` + values[s.Key] + "\n" + after,
		} {
			_, err := launch.Parse("f", []byte(text))
			if err == nil || !strings.Contains(err.Error(), s.Key+": "+s.Refused) {
				t.Errorf("%s: %v\n%s", s.Key, err, text)
			}
		}
	}
}

// TestTemplate: what "new" prints is good once it has keys, also with each of its
// examples in force.
func TestTemplate(t *testing.T) {
	seal, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := launch.Template(publicPEM(t, ownerKey.Public()), publicPEM(t, &seal.PublicKey))
	if _, err := launch.Parse("f", []byte(text)); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if len(text) > owner.MaxFile {
		t.Errorf("it has %d bytes", len(text))
	}
	ca := authority(t, "An authority")
	lines := strings.Split(text, "\n")
	for _, s := range launch.Settings() {
		if s.Refused != "" {
			continue
		}
		name := s.Key[strings.LastIndexByte(s.Key, '.')+1:]
		if !strings.Contains(text, s.Meaning) || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimPrefix(l, "# "), name+" = ") }) {
			t.Errorf("%s is not in the template", s.Key)
		}
	}
	all := head(t)
	table := ""
	for _, s := range launch.Settings() {
		dot := strings.LastIndexByte(s.Key, '.')
		if s.Refused != "" || strings.HasSuffix(s.Key, "token_serial") {
			continue
		}
		if of := s.Key[:dot]; of != table {
			table = of
			if of == "hsm.members" {
				of = "[" + of + "]"
			}
			all += "[" + of + "]\n"
		}
		if s.Certificates {
			s.Example = "\"\"\"\n" + ca + "\"\"\""
		}
		all += s.Key[dot+1:] + " = " + s.Example + "\n"
	}
	f, err := launch.Parse("f", []byte(all))
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	sentences := strings.Join(f.Sentences(), "\n")
	for _, s := range launch.Settings() {
		if s.Refused == "" && !strings.HasSuffix(s.Key, "token_serial") && !strings.Contains(sentences, s.Key+" ") && !strings.HasPrefix(s.Key, "hsm.members.") {
			t.Errorf("%s is set, and no sentence says so:\n%s", s.Key, sentences)
		}
	}
	for _, want := range []string{"hsm.module is libpkcs11.so. ", "hsm.members 1 is the token holdfast-b of libpkcs11.so, dialect standard, at most 16 sessions, TCP ports [1792], 1024 MiB.", "hsm.process.ports is ", "xks.client_ca has the certificate of CN=An authority. "} {
		if !strings.Contains(sentences, want) {
			t.Errorf("no %q in\n%s", want, sentences)
		}
	}
}

// TestAllMistakesAtOnce: each with its line and what to do.
func TestAllMistakesAtOnce(t *testing.T) {
	text := `format = "holdfast-launch/v2"
colour = "blue"
[owner]
policy_key = "owner.pub"
pin = "1234"
[hsm]
module = "/usr/lib/other.so"
lease = "48h"
[[hsm.members]]
module = "../../tmp/x.so"
[state]
dir = "/tmp"
[xks]
regions = ["Mars"]
client_ca = "/etc/ca.pem"
url = "http://x"
[admin.oidc]
issuer = "http://id.example"
client_secret_file = "/s"
[release]
broker_url = "https://b.example"
[notify.smtp]
host = "mail.example.com"
user = "u"
`
	_, err := launch.Parse("f", []byte(text))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`f:1: format: it is "holdfast-launch/v2", and this program reads "holdfast-launch/v1"`, "f:2: unknown key colour", "f:4: owner.policy_key: it is not one public key in PEM; put what is in the file .pub",
		"f:5: unknown key owner.pin", "f:3: owner.seal_key: it is missing", `f:7: hsm.module: "/usr/lib/other.so" is not the name of a file`, "f:6: hsm.token_label: it is missing", "f:8: hsm.lease: 48h0m0s is not between",
		`hsm.members.module: "../../tmp/x.so" is not the name`, "hsm.members: each needs token_label", "f:12: state.dir: it belongs to the image", `f:14: xks.regions: "Mars"`, "f:15: xks.client_ca: it is no certificate in PEM",
		`f:16: xks.url: "http://x" is not of the form`, `f:18: admin.oidc.issuer: "http://id.example"`, "f:19: admin.oidc.client_secret_file: it needs a secret", "admin.oidc.client_id is missing", "f:21: release.broker_url: it is for method",
		"f:24: notify.smtp.user: it needs a secret", "notify.smtp.from is missing",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

// TestNothingElse: what is not a launch file at all.
func TestNothingElse(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := head(t) + hsm
	if _, err := launch.Parse("f", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":               "f: format: it is \"\"",
		good + "[hsm]\n": "f:",
		good + "\x00":    "f:",
		good + strings.Repeat("#\n", owner.MaxFile):                                                                            "a launch file may have 12288",
		strings.Replace(good, "PUBLIC KEY", "PRIVATE KEY", 1):                                                                  "f:4: a private key stands here",
		good + "[xks]\nclient_names = [\"a\"]\nclient_ca = \"\"\"\n" + publicPEM(t, ownerKey.Public()) + "\"\"\"\n":            `it has a block "PUBLIC KEY"`,
		good + "[xks]\nclient_names = [\"a\"]\nclient_ca = \"\"\"\n" + strings.Repeat(authority(t, "a"), 9) + "\"\"\"\n":       "more than 8 certificates",
		strings.Replace(good, "seal_key = \"\"\"\n", "seal_key = \"\"\"\n"+publicPEM(t, &key.PublicKey), 1):                    "it is not one public key in PEM",
		head(t)[:strings.Index(head(t), "seal_key")] + "seal_key = \"\"\"\n" + publicPEM(t, &key.PublicKey) + "\"\"\"\n" + hsm: "owner.seal_key: it is not a key of ECDSA on P-256",
	} {
		if _, err := launch.Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}

// image is the configuration of an image that asks for a launch file.
func image(t *testing.T) *config.Config {
	t.Helper()
	c, _, err := config.Parse("image", []byte("[launch]\nrequired = true\ndir = \"/plain/launch\"\nmodules = \"/usr/lib/holdfast/pkcs11\"\n[log]\nlevel = \"warn\"\n[state]\ndir = \"/data\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestApply: what the file sets is in force, the rest is the image's; each has its source.
func TestApply(t *testing.T) {
	ca := authority(t, "An authority")
	text := head(t) + hsm + "lease = \"5m\"\n[[hsm.members]]\ntoken_serial = \"7\"\n[[hsm.members]]\nmodule = \"other.so\"\ntoken_label = \"b\"\n" +
		"[xks]\nclient_names = [\"a\"]\nclient_ca = \"\"\"\n" + ca + "\"\"\"\n[admin]\noidc = {issuer = \"https://id.example\", client_id = \"c\", groups = {a = \"viewer\"}}\n[keys]\nrotate_after = 0\n"
	f, err := launch.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keep := func(file string, content []byte) (string, error) {
		path := filepath.Join(dir, file)
		return path, os.WriteFile(path, content, 0o600)
	}
	of := image(t)
	before, err := of.Effective()
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Apply("the launch file", of, keep)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := of.Effective(); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the image's configuration has changed: %v", err)
	}
	const modules = "/usr/lib/holdfast/pkcs11/"
	if c.HSM.Module != modules+"libpkcs11.so" || c.HSM.TokenLabel != "ours" || !reflect.DeepEqual(c.HSM.Members, []config.Member{{TokenSerial: "7"}, {Module: modules + "other.so", TokenLabel: "b"}}) {
		t.Errorf("%+v", c.HSM)
	}
	if got, err := os.ReadFile(c.XKS.ClientCA); err != nil || string(got) != ca {
		t.Errorf("%s: %v", c.XKS.ClientCA, err)
	}
	source := map[string]string{}
	for _, o := range c.Options() {
		source[o.Name] = o.Source
	}
	for key, want := range map[string]string{"hsm.module": config.FromLaunch, "hsm.lease": config.FromLaunch, "hsm.members": config.FromLaunch, "xks.client_ca": config.FromLaunch, "admin.oidc.issuer": config.FromLaunch,
		"admin.oidc.groups": config.FromLaunch, "keys.rotate_after": config.FromLaunch, "log.level": config.FromFile, "state.dir": config.FromFile, "xks.address": config.FromDefault, "launch.required": config.FromFile} {
		if source[key] != want {
			t.Errorf("%s is from %q, not %q", key, source[key], want)
		}
	}
	if c.State.Dir != "/data" || c.Log.Level != "warn" || !c.Launch.Required {
		t.Errorf("%+v", c)
	}
	// A second time: nothing of the first has stuck.
	if again, err := f.Apply("the launch file", of, keep); err != nil || again.HSM.Module != c.HSM.Module || !reflect.DeepEqual(again.HSM.Members[1], c.HSM.Members[1]) {
		t.Errorf("%+v %v", again, err)
	}
}

// TestApplyReplacesTheToken: a file that selects a token selects all of them.
func TestApplyReplacesTheToken(t *testing.T) {
	of := image(t)
	of.HSM = config.HSM{Module: "/image.so", TokenLabel: "image's", Lease: config.Duration(time.Minute), Members: []config.Member{{TokenLabel: "image's too"}}}
	f, err := launch.Parse("f", []byte(head(t)+"[hsm]\nmodule = \"m.so\"\ntoken_serial = \"1\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Apply("the launch file", of, nil)
	if err != nil || c.HSM.TokenLabel != "" || c.HSM.TokenSerial != "1" || len(c.HSM.Members) != 0 || c.HSM.Lease != config.Duration(time.Minute) {
		t.Errorf("%+v %v", c.HSM, err)
	}
}

// TestProcessOfModules: a launch file names the ports of its HSMs and the memory of their modules, and
// what files a module sees stays the image's, for each member.
func TestProcessOfModules(t *testing.T) {
	of := image(t)
	ofImage := config.Process{Read: []string{"/etc/vendor"}, Write: []string{"/run/vendor"}, Ports: []int{1792}, Environment: []string{"VENDOR"}, MemoryMiB: 512, Landlock: true}
	of.HSM.Process = ofImage
	parse := func(text string) (*config.Config, error) {
		f, err := launch.Parse("f", []byte(head(t)+text))
		if err != nil {
			return nil, err
		}
		return f.Apply("the launch file", of, nil)
	}
	c, err := parse(hsm + "dialect = \"luna-fips\"\nprocess = {ports = [2000, 2001]}\n[[hsm.members]]\ntoken_label = \"b\"\n" +
		"[[hsm.members]]\ntoken_label = \"c\"\ndialect = \"standard\"\nmax_sessions = 3\n[hsm.members.process]\nports = [3000]\nmemory_mib = 2048\n")
	if err != nil {
		t.Fatal(err)
	}
	first, third := ofImage, ofImage
	first.Ports = []int{2000, 2001}
	third.Ports, third.MemoryMiB = []int{3000}, 2048
	for i, want := range []config.Member{{TokenLabel: "ours", Dialect: "luna-fips", Process: first}, {TokenLabel: "b", Dialect: "luna-fips", Process: first}, {TokenLabel: "c", Dialect: "standard", MaxSessions: 3, Process: third}} {
		want.Module = c.HSM.Module
		if got := c.HSM.Tokens()[i]; !reflect.DeepEqual(got, want) {
			t.Errorf("token %d is\n%+v, want\n%+v", i, got, want)
		}
	}
	for text, want := range map[string]string{
		hsm + "[hsm.process]\nports = []\n":                                             "f:18: hsm.process.ports: it is empty, which would open all TCP ports to the module; name those of the HSM",
		hsm + "[[hsm.members]]\ntoken_label = \"b\"\nprocess = {ports = []}\n":          "hsm.members.process.ports: it is empty",
		hsm + "[hsm.process]\nports = [0]\n":                                            "0 is no TCP port",
		hsm + "[hsm.process]\nmemory_mib = 1\n":                                         "1 is too little for a module",
		hsm + "[[hsm.members]]\ntoken_label = \"b\"\nprocess = {write = [\"/data\"]}\n": "hsm.members.process.write: it belongs to the image",
		hsm + "[[hsm.members]]\ntoken_label = \"b\"\nprocess = {unit = false}\n":        "hsm.members.process.unit: it belongs to the image",
		hsm + "[[hsm.members]]\ntoken_label = \"b\"\ndialect = \"luna\"\n":              "hsm.members.dialect: \"luna\" is none of",
		hsm + "process = {ports = [1], require_landlock = false}\n":                     "hsm.process.require_landlock: it belongs to the image",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	// The units of the image stay, with the addresses that the launch file names, or those of the image.
	of.HSM.Process = config.Process{Unit: true, Addresses: []string{"10.0.0.0/8"}, Landlock: true}
	for text, want := range map[string]string{
		"process = {ports = [1]}\n":                                                      "10.0.0.0/8",
		"process = {addresses = [\"10.0.4.7\"]}\n":                                       "10.0.4.7/32",
		"process = {addresses = []}\n":                                                   "",
		"[[hsm.members]]\ntoken_label = \"b\"\nprocess = {addresses = [\"10.0.5.7\"]}\n": "10.0.5.7/32",
	} {
		c, err := parse(hsm + text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		last := c.HSM.Tokens()[len(c.HSM.Tokens())-1].Process
		if got := strings.Trim(fmt.Sprint(last.Networks()), "[]"); got != want || !last.Unit || !last.Landlock {
			t.Errorf("%s: %+v, not %s", text, last, want)
		}
	}
}

// TestTake: the file must name the owner who has signed it.
func TestTake(t *testing.T) {
	text := []byte(head(t) + hsm)
	for _, c := range []struct {
		key  ed25519.PrivateKey
		want error
	}{{ownerKey, nil}, {ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize)), launch.ErrOwner}} {
		envelope, err := owner.Sign(text, 1, c.key, nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := owner.Open(text, envelope)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := launch.Take("f", l); !errors.Is(err, c.want) {
			t.Errorf("got %v, not %v", err, c.want)
		}
	}
}

// seeds are what stands behind the head of launch files that are good, one for each option.
func seeds(t testing.TB) (list []string) {
	for _, s := range launch.Settings() {
		section, name, _ := strings.Cut(s.Key, ".")
		if s.Refused != "" || s.Example == "" || section == "hsm" || strings.Contains(name, ".") {
			continue
		}
		list = append(list, fmt.Sprintf("%s[%s]\n%s = %s\n", hsm, section, name, s.Example))
	}
	return append(list, hsm, strings.Replace(hsm, "token_label", "token_serial", 1), hsm+"[[hsm.members]]\ntoken_label = \"b\"\nmodule = \"b.so\"\n",
		hsm+"[admin]\noidc = {issuer = \"https://id.example\", client_id = \"c\"}\n")
}

// FuzzParse: any bytes end, and what is read can be put over an image or says why not. Most of
// a launch file are keys, and a change in one ends the reading; so the bytes are read behind
// a good head as well.
func FuzzParse(f *testing.F) {
	good, read := head(f), 0
	f.Add([]byte(good + hsm))
	f.Add([]byte(launch.Template("", "")))
	all := seeds(f)
	for _, s := range all {
		f.Add([]byte(s))
		if _, err := launch.Parse("f", []byte(good+s)); err == nil {
			read++
		}
	}
	if read < len(all)/2 {
		f.Fatalf("%d of %d seeds can be read", read, len(all))
	}
	of, _, err := config.Parse("image", []byte("[launch]\nrequired = true\ndir = \"/plain/launch\"\nmodules = \"/modules\"\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, head := range []string{"", good} {
			file, err := launch.Parse("f", append([]byte(head), text...))
			if err != nil {
				continue
			}
			c, err := file.Apply("f", of, func(string, []byte) (string, error) { return "/kept", nil })
			if err == nil && (!strings.HasPrefix(c.HSM.Module, "/modules/") || strings.Contains(c.HSM.Module, "..") || c.State != of.State) {
				t.Fatalf("%+v", c)
			}
		}
	})
}
