package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/attest"
	"holdfast/attest/snp"
	"holdfast/attest/watch"
)

// receiver takes what a webhook posts, and fails the test unless it is signed.
type receiver struct {
	*httptest.Server
	secret string
	posts  []post
}

type post struct {
	Type string      `json:"type"`
	Data watch.Alarm `json:"data"`
	id   string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	key := []byte(strings.Repeat("k", 32))
	r := &receiver{secret: "whsec_" + base64.StdEncoding.EncodeToString(key)}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		m := hmac.New(sha256.New, key)
		fmt.Fprintf(m, "%s.%s.%s", q.Header.Get("Webhook-Id"), q.Header.Get("Webhook-Timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)); err != nil || q.Header.Get("Webhook-Signature") != want {
			t.Errorf("it is not signed: %v %s", q.Header, body)
		}
		p := post{id: q.Header.Get("Webhook-Id")}
		if err := json.Unmarshal(body, &p); err != nil {
			t.Errorf("%v: %s", err, body)
		}
		r.posts = append(r.posts, p)
	}))
	t.Cleanup(r.Close)
	return r
}

// TestWatch watches an appliance through what happens to it: an update, a state that is put
// back, a relay in its place, an outage; and tells the webhook of each once.
func TestWatch(t *testing.T) {
	m, r := simulated(t), newReceiver(t)
	m.write("secret", []byte(r.secret+"\n"))
	m.write("receiver.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
	if err := os.Mkdir(filepath.Join(m.dir, "seen"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := func(address, policy, more string) string {
		return m.write("watch.toml", fmt.Appendf(nil, "state = \"seen\"\n%s\n%s\n[webhook]\nurl = %q\nsecret_file = \"secret\"\nca = \"receiver.pem\"\n[[machine]]\nname = \"eu-1\"\nurl = %q\n", policy, more, r.URL+"/hook", address))
	}
	const signed = "policy = \"policy.signed\"\npolicy_key = \"signer.pub\""
	look := func(file string, code, told int) watch.Look {
		t.Helper()
		c := m.call("watch", "--config", file, "--once")
		var l watch.Look
		if err := json.Unmarshal([]byte(c.stdout), &l); err != nil || c.code != code || len(r.posts) != told || strings.Count(c.stdout, "\n") != 1 {
			t.Fatalf("exit code %d, %d told, want %d and %d: %v: %s%s", c.code, len(r.posts), code, told, err, c.stdout, c.stderr)
		}
		if l.Machine != "eu-1" || l.NotTold != "" || c.stderr != "" {
			t.Errorf("%+v; %s", l, c.stderr)
		}
		return l
	}
	whats := func(l watch.Look) (list []string) {
		for _, c := range l.Changes {
			list = append(list, c.What)
		}
		return list
	}
	file := config(m.server.URL, signed, "")
	l := look(file, 0, 0)
	if s := l.Seen; !l.First || s.Reference != "release 1.2.0" || s.Software != "1.2.0" || !strings.HasPrefix(s.Instance, "i-") || s.TLSKey != hexDigest(m.server.Certificate().RawSubjectPublicKeyInfo) ||
		s.State.Number != 7 || len(s.TPMKey) != 64 || s.Volume == "" || len(s.Policy) != 64 || len(strings.Fields(s.Appraised)) != 2 {
		t.Fatalf("what was seen: %+v", s)
	}
	for _, name := range []string{"seen.json"} {
		if info, err := os.Stat(filepath.Join(m.dir, "seen", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	m.setState(9, 9)
	look(file, 0, 0)

	m.collector.Software = "1.3.0" // an update
	if l = look(file, 1, 1); !slices.Equal(whats(l), []string{"software"}) {
		t.Errorf("%+v", l)
	}
	look(file, 1, 1)
	if c := m.call("watch", "accept", "eu-1", "--config", file, "--reason", "the update of today", "--by", "alice", "--seen", "00"); c.code != 1 || !strings.Contains(c.stderr, "look at it before") {
		t.Errorf("exit code %d: %s", c.code, c.stderr)
	}
	if c := m.call("watch", "accept", "eu-1", "--config", file, "--reason", "the update of today", "--by", "alice", "--seen", l.Digest); c.code != 0 || !strings.Contains(c.stdout, "was 1.2.0 and is 1.3.0") {
		t.Errorf("exit code %d: %s%s", c.code, c.stdout, c.stderr)
	}
	look(file, 0, 2)

	m.setState(8, 8) // a state that was put back
	if l = look(file, 1, 3); !slices.Equal(whats(l), []string{"state"}) {
		t.Errorf("%+v", l)
	}
	m.setState(10, 10)
	look(file, 0, 4)

	l = look(config(relay(t, m.server, same).URL, signed, ""), 1, 5)
	if !slices.Equal(l.Checks, []string{"E_TLS_KEY"}) || l.Seen.Instance != "" {
		t.Errorf("%+v", l)
	}
	if c := m.call("watch", "accept", "eu-1", "--config", file, "--reason", "it must go on"); c.code != 1 || !strings.Contains(c.stderr, "E_TLS_KEY") {
		t.Errorf("a relay was accepted: exit code %d: %s", c.code, c.stderr)
	}
	look(config(m.server.URL, signed, ""), 0, 6)

	l = look(config("https://127.0.0.1:1", signed, ""), 3, 6) // not for long yet
	if goSpeak.MatchString(l.Error) || !strings.Contains(l.Error, "https://127.0.0.1:1") {
		t.Errorf("the reason: %q", l.Error)
	}
	if l = look(config("https://127.0.0.1:1", signed, `unreachable_after = "0s"`), 1, 7); !slices.Equal(whats(l), []string{watch.Unreachable}) {
		t.Errorf("%+v", l)
	}
	look(config(m.server.URL, signed, ""), 0, 8)

	m.forced("to collect the first evidence")
	if l = look(config(m.server.URL, `policy = "forced.json"`, ""), 1, 9); !slices.Contains(whats(l), "verdict") || !slices.Contains(whats(l), "appraised_under") {
		t.Errorf("%+v", l)
	}
	m.call("watch", "accept", "eu-1", "--config", file, "--reason", "no references yet")
	look(config(m.server.URL, `policy = "forced.json"`, ""), 3, 10) // what is incomplete is never a pass

	types, ids := []string{}, map[string]bool{}
	for _, p := range r.posts {
		types, ids[p.id] = append(types, p.Type), true
		if p.Data.Over != (p.Type == "watch.alarm_over") || p.Data.Machine != "eu-1" {
			t.Errorf("%+v", p)
		}
	}
	if len(ids) != len(r.posts) || types[0] != "watch.alarm" || types[1] != "watch.alarm_over" {
		t.Errorf("%d posts, %d IDs: %v", len(r.posts), len(ids), types)
	}
}

// TestWatchEndorsements: the watch judges by its own lists of revocations and its own floors,
// as they are at each look; a machine's own take the place of those of all.
func TestWatchEndorsements(t *testing.T) {
	m := simulated(t)
	if err := os.Mkdir(filepath.Join(m.dir, "seen"), 0o700); err != nil {
		t.Fatal(err)
	}
	list := func(name string, revokes bool) {
		t.Helper()
		der, err := m.platform.Revoke(time.Now().Add(-time.Hour), time.Now().Add(time.Hour), revokes)
		if err != nil {
			t.Fatal(err)
		}
		m.write(name, der)
	}
	list("good.crl", false)
	list("revokes.crl", true)
	recovery := func(level uint8) {
		t.Helper()
		file, err := attest.SignRecovery(&attest.Recovery{Format: attest.RecoveryFormat, Name: "a test", Version: 1,
			SNP: []snp.Floor{{Product: "Milan", From: time.Now().Add(-time.Hour), TCB: &snp.TCB{SNP: level}}}}, m.signer)
		if err != nil {
			t.Fatal(err)
		}
		m.write("tcb.signed", file)
	}
	recovery(29)
	config := func(all, own string) string {
		return m.write("watch.toml", fmt.Appendf(nil, "state = \"seen\"\npolicy = \"policy.signed\"\npolicy_key = \"signer.pub\"\n%s\n[[machine]]\nname = \"eu-1\"\nurl = %q\n%s\n", all, m.server.URL, own))
	}
	look := func(file string, code int, checks ...string) {
		t.Helper()
		c := m.call("watch", "--config", file, "--once")
		var l watch.Look
		if err := json.Unmarshal([]byte(c.stdout), &l); err != nil || c.code != code || !slices.Equal(l.Checks, checks) {
			t.Errorf("exit code %d, checks %v, want %d and %v: %v: %s%s", c.code, l.Checks, code, checks, err, c.stdout, c.stderr)
		}
	}
	look(config(`crl = ["good.crl"]`+"\ntcb = \"tcb.signed\"", ""), 0)
	look(config(`crl = ["good.crl", "revokes.crl"]`, ""), 1, "E_SNP_CRL")
	look(config(`crl = ["revokes.crl"]`, `crl = ["good.crl"]`), 0)
	recovery(30)
	look(config(`tcb = "tcb.signed"`, ""), 1, "E_SNP_TCB")
	for all, says := range map[string]string{`crl = ["absent"]`: "absent: no such file", `crl = ["watch.toml"]`: "crl ", `tcb = "watch.toml"`: "watch.toml"} {
		if c := m.call("watch", "--config", config(all, ""), "--once"); c.code != 2 || !strings.Contains(c.stderr, says) {
			t.Errorf("%s: exit code %d: %s", all, c.code, c.stderr)
		}
	}
	if c := m.call("watch", "--config", m.write("none.toml", fmt.Appendf(nil, "state = \"seen\"\ntcb = \"tcb.signed\"\n[[machine]]\nname = \"m\"\nurl = %q\n", m.server.URL)), "--once"); c.code != 2 || !strings.Contains(c.stderr, "tcb needs policy_key") {
		t.Errorf("without a policy: exit code %d: %s", c.code, c.stderr)
	}
}

// TestWatchHostileServers: whatever answers in the place of an appliance is one line, and no
// outcome but that nothing could be looked at.
func TestWatchHostileServers(t *testing.T) {
	for name, answer := range hostile {
		if name == "never" {
			continue // the bound of a request is thirty seconds; see TestVerifyHostileServers
		}
		t.Run(name, func(t *testing.T) {
			s, dir := newStub(t, answer), t.TempDir()
			file := filepath.Join(dir, "watch.toml")
			if err := os.WriteFile(file, fmt.Appendf(nil, "state = %q\n[[machine]]\nname = \"m\"\nurl = %q\n", dir, s.server), 0o600); err != nil {
				t.Fatal(err)
			}
			r := callProgram(t.Context(), newRoot(), "watch", "--config", file, "--once")
			var l watch.Look
			if err := json.Unmarshal([]byte(r.stdout), &l); err != nil || r.code != 3 || r.stderr != "" || l.Error == "" || l.Verdict != "" {
				t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
			}
			if goSpeak.MatchString(l.Error) || strings.ContainsAny(l.Error, "\n\x1b") {
				t.Errorf("it says %q", l.Error)
			}
		})
	}
}

// TestWatchConfig: what is wrong with the file is said in one line, with its place.
func TestWatchConfig(t *testing.T) {
	dir := t.TempDir()
	machine := "[[machine]]\nname = \"m\"\nurl = \"https://h:9443\"\n"
	for content, says := range map[string]string{
		"# nothing\n":                         "state is missing: name a folder that is only yours; name 1 to 1000 machines",
		"stat = 1\n":                          `watch.toml:1: there is no option "stat" here`,
		"state = 1\n":                         "watch.toml:1: ",
		"state = \"none\"\n":                  "name 1 to 1000 machines",
		"state = \n":                          "watch.toml:1: ",
		"every = \"soon\"\n":                  "watch.toml",
		"every = \"1s\"\n":                    "every: use 10s to 168h0m0s",
		"unreachable_after=\"-1s\"":           "unreachable_after: use 0s to 168h0m0s",
		"state = \".\"\n" + machine + machine: `the name "m" is there twice`,
		"state = \".\"\n[[machine]]\nname = \"a b\"\nurl = \"https://h\"\n":                             `machine 1: name "a b"`,
		"state = \".\"\n[[machine]]\nname = \"a\"\nurl = \"http://h\"\n":                                "is not the address of an appliance",
		"state = \".\"\n[webhook]\nurl = \"https://h\"\n" + machine:                                     "url and secret_file go together",
		"state = \".\"\n[webhook]\nurl = \"http://h\"\nsecret_file = \"watch.toml\"\n" + machine:        "secret_file",
		"state = \".\"\npolicy = \"absent\"\n" + machine:                                                "absent: no such file",
		"state = \"none\"\n" + machine:                                                                  "none: no such file or folder",
		"state = \"watch.toml\"\n" + machine:                                                            "is a file; name a folder",
		"state = \".\"\n[[machine]]\nname = \"m\"\nurl = \"https://h\"\nca = \"watch.toml\"\npin = 1\n": `there is no option "machine.pin" here`,
		"state = \".\"\nca = \"watch.toml\"\n" + machine:                                                "has no certificate in PEM",
	} {
		file := filepath.Join(dir, "watch.toml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"watch", "--once"}, {"watch", "--once", "--json"}} {
			r := callProgram(t.Context(), newRoot(), append(command, "--config", file)...)
			if r.code != 2 || r.stdout != "" || !strings.Contains(strings.ReplaceAll(r.stderr, `\"`, `"`), says) {
				t.Errorf("%q: exit code %d, want %q: %s%s", content, r.code, says, r.stdout, r.stderr)
			}
			checkFailure(t, content, r, len(command) > 2)
		}
	}
}
