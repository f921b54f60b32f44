package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/config"
)

// seed is the section as the design prints it.
const seed = `[aws_xks_config]
aws_xks_enable = true
aws_xks_region = "us-east-1"
aws_xks_service = "xks-kms"
aws_xks_sigv4_access_key_id = "AKIAIOSFODNN7EXAMPLE"
aws_xks_sigv4_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
`

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast.toml")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSeedLoadsAsPrinted(t *testing.T) {
	c, warnings, err := config.Load(write(t, seed, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	want := config.AWSXKS{Enable: true, Region: "us-east-1", Service: "xks-kms",
		AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	if c.AWSXKS == nil || *c.AWSXKS != want {
		t.Errorf("got %+v", c.AWSXKS)
	}
	if len(warnings) != 1 || warnings[0].Line != 6 || !strings.Contains(warnings[0].Message, "40 characters") {
		t.Errorf("want one warning of the 40 characters in line 6, got %v", warnings)
	}
	if strings.Contains(warnings.Error(), want.SecretAccessKey) {
		t.Error("the warning shows the secret")
	}
}

func TestSecretNeedsAMode(t *testing.T) {
	_, _, err := config.Load(write(t, seed, 0o644))
	if err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	if _, _, err := config.Load(write(t, "[log]\nlevel = \"info\"\n", 0o644)); err != nil {
		t.Errorf("a file without a secret: %v", err)
	}
}

func TestDefaultsAndValues(t *testing.T) {
	c, _, err := config.Parse("f", []byte("[xks]\nrequest_timeout = \"100ms\"\n[hsm]\nmodule=\"/m.so\"\ntoken_label=\"t\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.XKS.Address != config.DefaultXKSAddress || c.Admin.Socket != config.DefaultSocket || c.State.Dir != config.DefaultStateDir {
		t.Errorf("defaults: %+v", c)
	}
	if time.Duration(c.XKS.RequestTimeout) != 100*time.Millisecond {
		t.Errorf("request_timeout %v", c.XKS.RequestTimeout)
	}
	if err := c.Complete(); err == nil || err.Error() != "missing for serving: attestation.policy, attestation.policy_key, release.authorizations, release.seal_key, xks.certificate, xks.key" {
		t.Errorf("Complete: %v", err)
	}
}

// TestAttestationAndRelease: what goes together, and within which limits.
func TestAttestationAndRelease(t *testing.T) {
	good := []string{
		"[attestation]\npolicy = \"/p\"\npolicy_key = \"/k\"\nevery = \"1m\"\nlease = \"168h\"\n[release]\nauthorizations = \"/a\"\nseal_key = \"/s\"\n",
		"[release]\nmethod = \"broker\"\nbroker_url = \"https://hsm.example:8444\"\nbroker_pin = \"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"\nmachine = \"m\"\n",
	}
	for _, text := range good {
		if _, _, err := config.Parse("f", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"[attestation]\npolicy = \"p\"\n":                             "f:2: attestation.policy: \"p\" is not an absolute path",
		"[attestation]\nevery = \"1s\"\n":                             "f:2: attestation.every: 1s is not between",
		"[attestation]\nlease = \"200h\"\n":                           "f:2: attestation.lease: 200h0m0s is not between",
		"[release]\nmethod = \"file\"\n":                              "f:2: release.method: \"file\" is none of",
		"[release]\nmachine = \"m\"\n":                                "f:2: release.machine: it is for method",
		"[state]\nvolume = \"v.json\"\n":                              "f:2: state.volume: \"v.json\" is not an absolute path",
		"[admin]\nsetup_code = \"u.json\"\n":                          "f:2: admin.setup_code: \"u.json\" is not an absolute path",
		"[release]\nmethod = \"broker\"\nbroker_pin = \"sha256:x\"\n": "f:3: release.broker_pin: \"sha256:x\" is not of the form",
		"[release]\nmethod = \"broker\"\nbroker_pin = \"sha256/x\"\n": "f:3: release.broker_pin:",
		"[release]\nmethod = \"broker\"\nmachine = \"a b\"\n":         "f:3: release.machine: \"a b\" is not a machine's name",
		"[xks]\nclient_ca = \"/c\"\nclient_names = [\"\"]\n":          "f:3: xks.client_names: \"\" is not a common name",
		"[xks]\nurl = \"https://xks.example.com:8443\"\n":             "f:2: xks.url: \"https://xks.example.com:8443\" has a port, and AWS KMS calls port 443 alone",
		"[xks]\nurl = \"https://10.0.0.7\"\n":                         "f:2: xks.url: \"https://10.0.0.7\" has an IP address",
		"[xks]\nurl = \"https://my_xks.example.com\"\n":               "has characters that AWS KMS does not take",
		"[xks]\nurl = \"https://holdfast\"\n":                         "set xks.development = true",
		"[xks]\nurl = \"https://xks.example.com/bank\"\n":             "has a path, and AWS KMS takes none in the endpoint",
		"[xks]\ndevelopment = true\nurl = \"https://x/bank\"\n":       "f:3: xks.url: \"https://x/bank\" is not of the form https://HOST or https://HOST:PORT",
		"[release]\nmethod = \"broker\"\n":                            "release.broker_url is missing",
		"[release]\nmethod = \"broker\"\nbroker_url = \"http://x\"\n": "f:3: release.broker_url",
	} {
		if _, _, err := config.Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %s, got %v", text, want, err)
		}
	}
}

// TestDatabase: the URL alone is enough; what belongs to it is for it alone, and a
// password in it is not repeated.
func TestDatabase(t *testing.T) {
	const db = "[state]\ndatabase = \"postgres://u@h/n\"\n"
	const hsm = "[hsm]\nmodule = \"/m.so\"\ntoken_label = \"a\"\n"
	const socket = "[state]\ndatabase = \"postgres://u@/n?host=/run/postgresql\"\n"
	for _, text := range []string{
		db, socket, socket + "database_password_file = \"/p\"\n", db + "database_asynchronous = true\n", hsm + "no_installation_object = false\n" + db, hsm + "no_installation_object = true\n", "[state]\ndatabase_asynchronous = false\n",
		db + "database_password_file = \"/p\"\ndatabase_ca = \"/ca\"\ndatabase_certificate = \"/c\"\ndatabase_key = \"/k\"\n",
	} {
		if _, _, err := config.Parse("f", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	wrong := map[string]string{
		"[state]\ndatabase = \"postgres://u:s3cret@h/n\"\n":                           "f:2: state.database: it has a password",
		"[state]\ndatabase = \"postgres://u@h/n?password=s3cret\"\n":                  "f:2: state.database: it has a password",
		"[state]\ndatabase = \"postgres://u@h/n?sslmode=prefer\"\n":                   "f:2: state.database: it has an sslmode",
		"[state]\ndatabase = \"holdfast.db\"\n":                                       "f:2: state.database: it is not of the form",
		"[state]\ndatabase = 7\n":                                                     "f:2: state.database: ",
		"[state]\ndatabase_asynchronous = true\n":                                     "f:2: state.database_asynchronous: it is for state.database",
		db + "database_certificate = \"/c\"\n":                                        "f:1: state.database_certificate and state.database_key belong together",
		db + "database_key = \"/k\"\n":                                                "f:1: state.database_certificate and state.database_key belong together",
		db + "database_password = \"s3cret\"\n":                                       "f:3: unknown key state.database_password",
		"[hsm]\nno_installation_object = true\n" + db:                                 "f:2: hsm.no_installation_object: it cannot be true with state.database",
		"[hsm]\nno_installation_object = true\n" + socket:                             "f:2: hsm.no_installation_object: it cannot be true with state.database",
		db + "database_asynchronous = \"yes\"\n":                                      "f:3: state.database_asynchronous: ",
		"[state]\ndatabase = 7\ndatabase_ca = \"ca\"\ndatabase_asynchronous = true\n": "f:3: state.database_ca: \"ca\" is not an absolute path",
	}
	for _, key := range []string{"database_password_file", "database_ca", "database_certificate", "database_key"} {
		wrong[db+key+" = \"relative\"\n"] = "f:3: state." + key + ": \"relative\" is not an absolute path"
		wrong["[state]\n"+key+" = \"/x\"\n"] = "f:2: state." + key + ": it is for state.database, which is not set"
		if key != "database_password_file" {
			wrong[socket+key+" = \"/x\"\n"] = "f:3: state." + key + ": state.database is a Unix socket"
		}
	}
	for text, want := range wrong {
		_, _, err := config.Parse("f", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %s, got %v", text, want, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password is repeated: %v", err)
		}
	}
}

// TestMembers: more tokens, each selected by one name.
func TestMembers(t *testing.T) {
	const first = "[hsm]\nmodule = \"/m.so\"\ntoken_label = \"a\"\n"
	c, _, err := config.Parse("f", []byte(first+"[[hsm.members]]\ntoken_label = \"b\"\n[[hsm.members]]\nmodule = \"/n.so\"\ntoken_serial = \"7\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Member{{TokenLabel: "b"}, {Module: "/n.so", TokenSerial: "7"}}
	if !reflect.DeepEqual(c.HSM.Members, want) {
		t.Errorf("got %+v", c.HSM.Members)
	}
	for text, want := range map[string]string{
		"[[hsm.members]]\n": "each needs token_label or token_serial",
		"[[hsm.members]]\ntoken_label = \"b\"\ntoken_serial = \"7\"\n": "and not both",
		"[[hsm.members]]\ntoken_label = \"b\"\nmodule = \"n.so\"\n":    "is not an absolute path",
		"[[hsm.members]]\ntoken_label = \"b\"\npin = \"1\"\n":          "f:6: unknown key hsm.members.pin",
		"dialect = \"luna\"\n": "f:4: hsm.dialect: \"luna\" is none of standard, luna-fips, protectserver-fips, protectserver-7.0-fips, cloudhsm, key-wrap",
		"[[hsm.members]]\ntoken_label = \"b\"\ndialect = \"luna\"\n":     "f:6: hsm.members.dialect: \"luna\" is none of standard",
		"[[hsm.members]]\ntoken_label = \"b\"\nmax_sessions = -1\n":      "f:6: hsm.members.max_sessions: -1 is negative",
		"[[hsm.members]]\ntoken_label = \"b\"\ndialect = \"key-wrap\"\n": "f:4: hsm.members: 1 of 2 tokens have dialect \"key-wrap\", and what one token wraps the others must unwrap: set it for all of them or for none",
		"iv_from_token = true\n": "f:4: unknown key hsm.iv_from_token: set hsm.dialect = \"cloudhsm\" where it was true",
	} {
		if _, _, err := config.Parse("f", []byte(first+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %s, got %v", text, want, err)
		}
	}
}

// TestProcess: a unit has addresses, and a child none; a member has what it does not say from the first.
func TestProcess(t *testing.T) {
	const hsm, unit = "[hsm]\nmodule = \"/m.so\"\ntoken_label = \"a\"\n", "[hsm.process]\nunit = true\n"
	const member = "[[hsm.members]]\ntoken_label = \"b\"\n"
	c, _, err := config.Parse("f", []byte(hsm+unit+"addresses = [\"10.0.4.0/24\", \"10.0.5.7\", \"fd00::7\"]\nports = [1792]\nrequire_landlock = true\n"+
		member+"process = {addresses = []}\n"+member+"process = {ports = [1]}\n"+member))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"[10.0.4.0/24 10.0.5.7/32 fd00::7/128] [1792]", "[] [1792]", "[10.0.4.0/24 10.0.5.7/32 fd00::7/128] [1]", "[10.0.4.0/24 10.0.5.7/32 fd00::7/128] [1792]"} {
		p := c.HSM.Tokens()[i].Process
		if got := fmt.Sprint(p.Networks(), p.Ports); got != want || !p.Unit || !p.Landlock {
			t.Errorf("token %d has %s of %+v, not %s", i, got, p, want)
		}
	}
	for text, want := range map[string]string{
		unit: "hsm.process.addresses is missing: the IP addresses or networks of the HSM",
		"[hsm.process]\naddresses = [\"10.0.4.7\"]\n":                       "f:5: hsm.process.addresses: only a unit is kept from other addresses",
		member + "process = {addresses = [\"10.0.4.7\"]}\n":                 "hsm.members.process.addresses: only a unit",
		unit + "addresses = [\"hsm.example.com\"]\n":                        "f:6: hsm.process.addresses: \"hsm.example.com\" is neither an IP address nor a network",
		unit + "addresses = [\"10.0.4.7/24\"]\n":                            "the network of it is 10.0.4.0/24",
		unit + "addresses = [\"fe80::1%eth0\"]\n":                           "f:6: hsm.process.addresses: ",
		unit + "addresses = [\"10.0.4.7\"]\nenvironment = [\"A\"]\n":        "f:7: hsm.process.environment: a unit has the variables",
		"[hsm.process]\nsocket = \"/run/x\"\n":                              "f:5: unknown key hsm.process.socket: set hsm.process.unit = true",
		member + "process = {unit = true}\n":                                "hsm.members.process.addresses is missing",
		member + "process = {unit = true, addresses = []}\n[hsm.process]\n": "",
	} {
		if _, _, err := config.Parse("f", []byte(hsm+text)); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: want %s, got %v", text, want, err)
		}
	}
}

// TestTokens: each token has its own settings, and those of [hsm] where it says nothing.
func TestTokens(t *testing.T) {
	c, _, err := config.Parse("f", []byte(`[hsm]
module = "/m.so"
token_label = "a"
dialect = "luna-fips"
max_sessions = 4
[hsm.process]
read = ["/r"]
write = ["/w"]
ports = [1792]
require_landlock = true
[[hsm.members]]
token_label = "b"
[[hsm.members]]
module = "/n.so"
token_label = "c"
dialect = "standard"
max_sessions = 9
process = { ports = [2323], memory_mib = 256 }
[[hsm.members]]
token_label = "d"
process = { unit = true, addresses = [] }
`))
	if err != nil {
		t.Fatal(err)
	}
	all := config.Process{Read: []string{"/r"}, Write: []string{"/w"}, Ports: []int{1792}, Landlock: true}
	third := all
	third.Ports, third.MemoryMiB = []int{2323}, 256
	fourth := all
	fourth.Unit, fourth.Addresses = true, []string{}
	want := []config.Member{
		{Module: "/m.so", TokenLabel: "a", Dialect: "luna-fips", MaxSessions: 4, Process: all},
		{Module: "/m.so", TokenLabel: "b", Dialect: "luna-fips", MaxSessions: 4, Process: all},
		{Module: "/n.so", TokenLabel: "c", Dialect: "standard", MaxSessions: 9, Process: third},
		{Module: "/m.so", TokenLabel: "d", Dialect: "luna-fips", MaxSessions: 4, Process: fourth},
	}
	if got := c.HSM.Tokens(); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

// TestModuleInState: what the image does not have is not loaded, by whichever way
// the path leads there.
func TestModuleInState(t *testing.T) {
	state, image := t.TempDir(), t.TempDir()
	module, link := filepath.Join(state, "m.so"), filepath.Join(image, "m.so")
	if err := errors.Join(os.WriteFile(module, nil, 0o600), os.Symlink(module, link)); err != nil {
		t.Fatal(err)
	}
	const want = "a module on the state volume would not be measured with the image; build the image with it"
	good := fmt.Sprintf("[state]\ndir = %q\n[hsm]\ntoken_label = \"t\"\nmodule = %q\n", state, filepath.Join(image, "other.so"))
	if _, _, err := config.Parse("f", []byte(good)); err != nil {
		t.Error(err)
	}
	for text, line := range map[string]string{
		fmt.Sprintf("[state]\ndir = %q\n[hsm]\ntoken_label = \"t\"\nmodule = %q\n", state, module):             "f:5: hsm.module: ",
		fmt.Sprintf("[state]\ndir = %q\n[hsm]\ntoken_label = \"t\"\nmodule = %q\n", state, link):               "f:5: hsm.module: ",
		fmt.Sprintf("[state]\ndir = %q\n[hsm]\ntoken_label = \"t\"\nmodule = %q\n", state, state+"/x/../m.so"): "f:5: hsm.module: ",
		"[hsm]\ntoken_label = \"t\"\nmodule = \"/var/lib/holdfast/m.so\"\n":                                    "f:3: hsm.module: ",
		good + fmt.Sprintf("[[hsm.members]]\ntoken_label = \"u\"\nmodule = %q\n", module):                      "hsm.members.module: ",
	} {
		if _, _, err := config.Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), line) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %s, got %v", text, line, err)
		}
	}
	// A flag may have set it.
	c := config.Config{State: config.State{Dir: state}, HSM: config.HSM{Module: module, TokenLabel: "t"}, Attestation: config.Attestation{Policy: "/p", PolicyKey: "/k"},
		Release: config.Release{Method: config.Broker}, XKS: config.XKS{Certificate: "/c", Key: "/k"}}
	if err := c.Complete(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Complete: %v", err)
	}
}

// TestGroupsOfProvider: groups of an OpenID provider give roles that there are, and are measured.
func TestGroupsOfProvider(t *testing.T) {
	parse := func(groups string) (*config.Config, error) {
		c, _, err := config.Parse("f", []byte("[admin.oidc]\nissuer = \"https://id.test\"\nclient_id = \"c\"\n"+groups+"\n"))
		return c, err
	}
	c, err := parse(`groups = {"kms admins" = "administrator", a = "key-administrator", b = "auditor", c = "viewer"}`)
	if err != nil || c.Admin.OIDC.Groups["kms admins"] != "administrator" {
		t.Fatalf("%+v %v", c, err)
	}
	text, err := c.Effective()
	if err != nil || !strings.Contains(string(text), "kms admins") {
		t.Errorf("%s: %v", text, err)
	}
	for _, bad := range []string{`groups = {a = "root"}`, `groups = {a = ""}`, `groups = {"" = "viewer"}`, `groups = {a = ["viewer"]}`, `groups = ["a"]`, `groups = "a"`} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), "groups") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestEffective: what is measured tells everything, but no secret, and can be
// read as a configuration again.
func TestEffective(t *testing.T) {
	c, _, err := config.Parse("f", []byte(seed+"[hsm]\nmodule = \"/m.so\"\ntoken_label = \"t\"\nlease = \"90s\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Effective()
	if err != nil || strings.Contains(string(text), c.AWSXKS.SecretAccessKey) || c.AWSXKS.SecretAccessKey == "(secret)" {
		t.Fatalf("%s: %v", text, err)
	}
	again, _, err := config.Parse("g", []byte(strings.Replace(string(text), "(secret)", c.AWSXKS.SecretAccessKey, 1)))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if second, err := again.Effective(); err != nil || !bytes.Equal(second, text) {
		t.Errorf("%v, got %s\nwant %s", err, second, text)
	}
}

// TestAllProblemsAtOnce: each with its line.
func TestAllProblemsAtOnce(t *testing.T) {
	text := `[xks]
address = "nonsense"
max_connections = "many"
colour = "blue"
request_timeout = "fast"

[hsm]
module = 7

[paint]
shade = 1
`
	_, _, err := config.Parse("f", []byte(text))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	lines := map[int]bool{}
	for _, p := range problems {
		lines[p.Line] = true
	}
	for _, want := range []int{3, 4, 5, 8} {
		if !lines[want] {
			t.Errorf("no problem in line %d of\n%v", want, problems)
		}
	}
	if !strings.Contains(err.Error(), "f:4: unknown key xks.colour") || !strings.Contains(err.Error(), "paint") {
		t.Errorf("got\n%v", err)
	}

	// With the types right, the values are looked at, all of them.
	text = `[xks]
address = "nonsense"
regions = ["Mars"]
client_ca = "/ca.pem"
[hsm]
module = "relative.so"
[keys]
rotate_after = 4294967296
[log]
level = "loud"
[aws_xks_config]
aws_xks_enable = true
aws_xks_region = "us-east-1"
aws_xks_service = "xks-kms"
aws_xks_sigv4_access_key_id = "short"
aws_xks_sigv4_secret_access_key = "short"
`
	_, _, err = config.Parse("f", []byte(text))
	for _, want := range []string{"f:2: xks.address", "f:3: xks.regions", "f:4: xks.client_ca", "f:6: hsm.module", "f:5: hsm.token_label",
		"f:8: keys.rotate_after", "f:10: log.level", "f:15: ", "f:16: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in\n%v", want, err)
		}
	}
}

func TestBrokenFiles(t *testing.T) {
	for _, text := range []string{"[xks", "a = ", "[xks]\naddress = \":1\"\naddress = \":2\"\n", "\x00", "[xks]\n[xks]\n"} {
		_, _, err := config.Parse("f", []byte(text))
		var problems config.Problems
		if !errors.As(err, &problems) || len(problems) == 0 || problems[0].Line == 0 {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if _, _, err := config.Load(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file loads")
	}
	if _, _, err := config.Load(write(t, strings.Repeat("#", 2<<20), 0o600)); err == nil {
		t.Error("a file of 2 MiB loads")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(seed))
	f.Add([]byte("[hsm]\nmodule = \"/m\"\n[[x]]\n'a'.\"b\" = {c = 1}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, _, err := config.Parse("f", text)
		if (c == nil) != (err != nil) {
			t.Errorf("config %v with error %v", c, err)
		}
		if err != nil && err.Error() == "" {
			t.Error("an error that says nothing")
		}
	})
}

// TestEverythingAtOnce: what is unknown, of a wrong type, missing and out of
// range, each once and with its line.
func TestEverythingAtOnce(t *testing.T) {
	_, _, err := config.Parse("f", []byte(`[hsn]
module = "/x"
[xks.foo]
b = 2
[hsm]
module = 5
token_label = ""
[attestation]
policy = "rel"
[log]
level = "loud"
[keys]
max_unlocked = -1
`))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	want := []string{"1 unknown key hsn", "3 unknown key xks.foo", "5 hsm.token_label is missing", "6 hsm.module: ",
		"9 attestation.policy: ", "11 log.level: ", "13 keys.max_unlocked: "}
	if len(problems) != len(want) {
		t.Fatalf("got %v", err)
	}
	for i, p := range problems {
		if got := fmt.Sprintf("%d %s", p.Line, p.Message); !strings.HasPrefix(got, want[i]) {
			t.Errorf("got %q, want %q", got, want[i])
		}
	}
}

// TestFleet: what is about the other nodes is for a fleet alone, and within its bounds.
func TestFleet(t *testing.T) {
	const db = "[state]\ndatabase = \"postgres://u@h/n\"\n[fleet]\n"
	for _, text := range []string{db, db + "grace = \"10s\"\naddress = \"node.example:8443\"\n", db + "address = \"[2001:db8::1]:8443\"\n", "[fleet]\n"} {
		if _, _, err := config.Parse("f", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		db + "grace = \"9s\"\n":                   "f:4: fleet.grace: 9s is not between",
		db + "grace = \"11m\"\n":                  "f:4: fleet.grace: 11m0s is not between",
		db + "address = \":8443\"\n":              "f:4: fleet.address: \":8443\" is not HOST:PORT",
		db + "address = \"node\"\n":               "f:4: fleet.address: \"node\" is not HOST:PORT",
		db + "id = \"a\"\n":                       "f:4: unknown key fleet.id",
		"[fleet]\ngrace = \"60s\"\n":              "f:2: fleet.grace: it is for state.database",
		"[fleet]\naddress = \"node.example:1\"\n": "f:2: fleet.address: it is for state.database",
	} {
		if _, _, err := config.Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %s, got %v", text, want, err)
		}
	}
}
