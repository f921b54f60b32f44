package release_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/ec2"
	"holdfast/attest/ec2/ec2test"
	"holdfast/attest/nitro/nitrotest"
	"holdfast/attest/release"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
)

// copyOf copies the broker's folder, as a thief or a backup does.
func (s *site) copyOf(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return to
}

// another starts another instance of the same image, with a state volume of its own.
func (s *site) another(t *testing.T, module string) (*simulation.Platform, *attest.Collector) {
	t.Helper()
	p, err := simulation.Boot(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	p.ModuleID = module
	if err := p.TPM.Measure(s.measured); err != nil {
		t.Fatal(err)
	}
	c := p.Collector()
	c.Measurements = []tpm.Measurement{s.measured}
	return p, c
}

// withVolume has the machine open a state volume.
func (s *site) withVolume(t *testing.T, digest byte) {
	t.Helper()
	volume := tpm.StateVolume(bytes.Repeat([]byte{digest}, 32))
	if err := s.platform.TPM.Measure(volume); err != nil {
		t.Fatal(err)
	}
	c := s.collector()
	c.Measurements = append(c.Measurements, volume)
	s.client.Collect = c.Collect
}

// restart is another start of the machine, with its TPM.
func (s *site) restart(t *testing.T) {
	t.Helper()
	if err := s.platform.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := simulation.Boot(s.tpmDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	s.platform = p
	if err := p.TPM.Measure(s.measured); err != nil {
		t.Fatal(err)
	}
	s.serve(t) // with the roots of this start
}

func (s *site) write(t *testing.T, name string, change func(string) string) {
	t.Helper()
	file := filepath.Join(s.dir, name)
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(change(string(text))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) sign(t *testing.T, change func(*attest.Policy)) []byte {
	t.Helper()
	p := s.policy()
	change(&p)
	file, err := attest.SignPolicy(&p, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// attacks are ways to the PIN that must not lead there, each with its code. Each begins with
// a machine that was admitted and has had its PIN.
var attacks = map[string]struct {
	code   fault.Code
	attack func(t *testing.T, s *site)
}{
	"a stolen folder without the identity": {fault.BrokerInternal, func(t *testing.T, s *site) {
		dir := s.copyOf(t)
		if err := os.Remove(filepath.Join(dir, "identity")); err != nil {
			t.Fatal(err)
		}
		s.restart(t)
		s.dir = dir
		s.reopen(t)
	}},
	"a stolen folder at another broker": {fault.BrokerPIN, func(t *testing.T, s *site) {
		pinned := s.client.Pin
		s.dir = s.copyOf(t)
		s.cert = certificate(t) // the TLS key was not in the folder
		s.reopen(t)
		s.client.Pin = pinned
	}},
	"a recorded release, shown again": {fault.BrokerNonce, func(t *testing.T, s *site) {
		s.restart(t)
		var recorded *attest.Evidence
		collect := s.collector().Collect
		s.client.Collect = func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
			e, err := collect(ctx, nonce, tlsKey, releaseKey)
			recorded = e
			return e, err
		}
		s.releases(t)
		s.client.Collect = func(context.Context, []byte, []byte, []byte) (*attest.Evidence, error) { return recorded, nil }
	}},
	"a relayed challenge": {fault.EvidenceTLSKey, func(t *testing.T, s *site) {
		s.restart(t)
		collect := s.collector().Collect // the machine answers somebody else, over its own connection
		s.client.Collect = func(ctx context.Context, nonce, _, releaseKey []byte) (*attest.Evidence, error) {
			return collect(ctx, nonce, certificate(t).Leaf.RawSubjectPublicKeyInfo, releaseKey)
		}
	}},
	"a second start of the program": {fault.TPMMeasurements, func(t *testing.T, s *site) {
		if err := s.platform.TPM.Measure(s.measured); err != nil {
			t.Fatal(err)
		}
	}},
	"a capped machine": {fault.BrokerCapped, func(t *testing.T, s *site) {
		m, err := s.platform.TPM.Cap()
		if err != nil {
			t.Fatal(err)
		}
		c := s.collector()
		c.Measurements = append(c.Measurements, m)
		s.client.Collect = c.Collect
	}},
	"a planted volume": {fault.BrokerVolume, func(t *testing.T, s *site) {
		s.withVolume(t, 1)
		s.releases(t)
		s.restart(t)
		s.withVolume(t, 2)
	}},
	"the volume taken out": {fault.BrokerVolume, func(t *testing.T, s *site) {
		s.withVolume(t, 1)
		s.releases(t)
		s.restart(t)
	}},
	"another instance of the same image": {fault.BrokerInstance, func(t *testing.T, s *site) {
		p, c := s.another(t, "i-0123456789abcdef0-tpm0123456789abcdef0")
		s.platform = p
		s.serve(t)
		s.client.Collect = c.Collect
	}},
	"another TPM in the same instance": {fault.BrokerInstance, func(t *testing.T, s *site) {
		p, c := s.another(t, "")
		s.platform = p
		s.serve(t)
		s.client.Collect = c.Collect
	}},
	"a machine that nobody admitted": {fault.BrokerInstance, func(t *testing.T, s *site) {
		if err := s.vault.Add("hsm-2", []byte(pin)); err != nil {
			t.Fatal(err)
		}
		s.client.Machine = "hsm-2"
	}},
	"the first was another": {fault.BrokerInstance, func(t *testing.T, s *site) {
		if err := s.vault.Admit("hsm-1", release.Admission{Identity: release.Identity{Instance: "i-0123456789abcdef0"}}); err != nil {
			t.Fatal(err)
		}
	}},
	"a machine of another account": {fault.InstanceAccount, func(t *testing.T, s *site) {
		s.platform.Instance.Account = "000000000001"
		s.asksEC2(t, nil)
	}},
	"a machine in another Region": {fault.InstanceRegion, func(t *testing.T, s *site) {
		s.asksEC2(t, func(p *ec2.Policy) { p.Regions = []string{"eu-west-1"} })
	}},
	"a machine of another image": {fault.InstanceImage, func(t *testing.T, s *site) {
		s.asksEC2(t, func(p *ec2.Policy) { p.Images = []string{"ami-0123456789abcdef0"} })
	}},
	"a machine of another owner": {fault.InstanceOwner, func(t *testing.T, s *site) {
		s.asksEC2(t, func(p *ec2.Policy) { p.Owners = []string{strings.Repeat("0f", 32)} })
	}},
	"the identity of another instance": {fault.InstanceOther, func(t *testing.T, s *site) {
		s.platform.Instance.ID = "i-0123456789abcdef0"
		s.asksEC2(t, nil)
	}},
	"an identity that a stranger has signed": {fault.InstanceSignature, func(t *testing.T, s *site) {
		s.asksEC2(t, func(p *ec2.Policy) { p.Certificates = [][]byte{ec2test.New().Certificate} })
	}},
	"no identity": {fault.InstanceMissing, func(t *testing.T, s *site) {
		s.asksEC2(t, nil)
		c := s.collector()
		c.Instance = nil
		s.client.Collect = c.Collect
	}},
	"an older policy in the folder": {fault.BrokerPolicyVersion, func(t *testing.T, s *site) {
		old, err := os.ReadFile(filepath.Join(s.dir, "policy.json"))
		if err != nil {
			t.Fatal(err)
		}
		s.setPolicy(t, func(p *attest.Policy) { p.Version = 2 })
		s.write(t, "policy.json", func(string) string { return string(old) })
	}},
	"another policy of the same version in the folder": {fault.BrokerPolicyVersion, func(t *testing.T, s *site) {
		s.write(t, "policy.json", func(string) string { return string(s.sign(t, func(p *attest.Policy) { p.Name = "another" })) })
	}},
	"a newer policy in the folder that nobody installed": {fault.BrokerPolicyVersion, func(t *testing.T, s *site) {
		s.write(t, "policy.json", func(string) string { return string(s.sign(t, func(p *attest.Policy) { p.Version = 9 })) })
	}},
	"the policy and the key of a stranger": {fault.BrokerPolicyVersion, func(t *testing.T, s *site) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.key = private
		s.write(t, "policy.json", func(string) string { return string(s.sign(t, func(p *attest.Policy) { p.Version = 9 })) })
		s.write(t, "policy-key", func(string) string { return string(public) })
	}},
	"a machine that was revoked": {fault.BrokerStopped, func(t *testing.T, s *site) {
		if err := s.vault.Stop("hsm-1"); err != nil {
			t.Fatal(err)
		}
	}},
	"a machine that was revoked, and its mark removed": {fault.BrokerStopped, func(t *testing.T, s *site) {
		err := s.vault.Stop("hsm-1")
		if err := errors.Join(err, os.Remove(filepath.Join(s.dir, "credentials", "hsm-1.stopped"))); err != nil {
			t.Fatal(err)
		}
	}},
	"everything stopped, and the mark removed": {fault.BrokerStopped, func(t *testing.T, s *site) {
		err := s.vault.Stop("")
		if err := errors.Join(err, os.Remove(filepath.Join(s.dir, "all.stopped"))); err != nil {
			t.Fatal(err)
		}
	}},
	"the log cut": {fault.BrokerLog, func(t *testing.T, s *site) {
		s.write(t, "releases.jsonl", func(text string) string {
			lines := strings.SplitAfter(text, "\n")
			return strings.Join(lines[:len(lines)-2], "")
		})
	}},
	"the log emptied": {fault.BrokerLog, func(t *testing.T, s *site) { s.write(t, "releases.jsonl", func(string) string { return "" }) }},
	"a record changed": {fault.BrokerLog, func(t *testing.T, s *site) {
		s.write(t, "releases.jsonl", func(text string) string {
			return strings.Replace(text, `"result":"released"`, `"result":"refusedx"`, 1)
		})
	}},
	"a record changed, seen by another process": {fault.BrokerLog, func(t *testing.T, s *site) {
		s.write(t, "releases.jsonl", func(text string) string { return strings.Replace(text, `"remote":"127`, `"remote":"128`, 1) })
		s.reopen(t)
	}},
	"a forged record": {fault.BrokerLog, func(t *testing.T, s *site) {
		s.write(t, "releases.jsonl", func(text string) string {
			lines := strings.SplitAfter(text, "\n")
			return text + lines[len(lines)-2]
		})
	}},
	"the head taken away": {fault.BrokerLog, func(t *testing.T, s *site) {
		if err := os.Remove(filepath.Join(s.dir, "log-head")); err != nil {
			t.Fatal(err)
		}
	}},
	"the head changed": {fault.BrokerLog, func(t *testing.T, s *site) {
		s.write(t, "log-head", func(text string) string { return strings.Replace(text, `"version":1`, `"version":0`, 1) })
	}},
	"log, head and key taken away": {fault.BrokerLog, func(t *testing.T, s *site) {
		for _, name := range []string{"log-key", "log-head", "releases.jsonl"} {
			if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}},
	"log and head put back": {fault.BrokerLog, func(t *testing.T, s *site) {
		before := s.copyOf(t)
		if err := s.vault.Stop("hsm-1"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"log-head", "releases.jsonl"} {
			text, err := os.ReadFile(filepath.Join(before, name))
			if err != nil {
				t.Fatal(err)
			}
			s.write(t, name, func(string) string { return string(text) })
		}
		if err := os.Remove(filepath.Join(s.dir, "credentials", "hsm-1.stopped")); err != nil {
			t.Fatal(err)
		}
	}},
}

// TestAttacks: no attack gets the PIN, each refusal has its code, which the documents know.
func TestAttacks(t *testing.T) {
	codes, err := os.ReadFile("../../docs/codes.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.releases(t)
			a.attack(t, s)
			got, _, err := s.client.Release(t.Context())
			f, refused := errors.AsType[*fault.Fault](err)
			switch {
			case a.code == fault.BrokerInternal && got == nil && refused:
				// The broker failed: it tells the machine no more than that.
			case got != nil || !refused || !strings.Contains(f.Codes(), string(a.code)):
				t.Errorf("got %q, %v; want %s", got, err, a.code)
			}
			if !bytes.Contains(codes, []byte("`"+string(a.code)+"`")) {
				t.Errorf("docs/codes.md does not have %s", a.code)
			}
			if strings.Contains(s.wire.text()+s.logged(), pin) {
				t.Error("the PIN is on the wire or in the log")
			}
		})
	}
}

// TestRunbook: what to do about each code of a broker is in the documents for operators.
func TestRunbook(t *testing.T) {
	for _, file := range []string{"../../docs/operations.md", "../../docs/broker.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rows := regexp.MustCompile("(?m)^\\| .*`E_BROKER_.*$").FindAllString(string(text), -1)
		for _, e := range fault.All() {
			if strings.HasPrefix(string(e.Code), "E_BROKER_") && !slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(row, "`"+string(e.Code)+"`") }) {
				t.Errorf("%s does not say what to do about %s", file, e.Code)
			}
		}
	}
}

// TestSecondBoot: another start of the machine that was admitted gets the PIN.
func TestSecondBoot(t *testing.T) {
	s := newSite(t)
	s.withVolume(t, 1)
	s.releases(t)
	s.restart(t)
	s.withVolume(t, 1)
	s.releases(t)
}

// TestAdmitted: a machine that was refused is admitted by a person, by the number of its
// record, and the one before it is refused from then on; all of it is on record.
func TestAdmitted(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	former := s.platform
	p, c := s.another(t, "i-0123456789abcdef0-tpm0123456789abcdef0")
	s.platform = p
	s.serve(t)
	s.client.Collect = c.Collect
	_, _, err := s.client.Release(t.Context())
	found := regexp.MustCompile(`holdfast broker admit hsm-1 --request ([0-9]+)`).FindStringSubmatch(fault.ReasonOf(err))
	if found == nil {
		t.Fatalf("it does not say how to admit it: %v", err)
	}
	s.vault.Person = "ann"
	var number uint64
	if err := json.Unmarshal([]byte(found[1]), &number); err != nil {
		t.Fatal(err)
	}
	if _, err := s.vault.AdmitRequest("hsm-2", number); err == nil {
		t.Error("it is admitted under another name")
	}
	id, err := s.vault.AdmitRequest("hsm-1", number)
	if err != nil || id.Instance != "i-0123456789abcdef0" || len(id.AK) != 64 {
		t.Fatalf("admitted is %+v, %v", id, err)
	}
	s.releases(t)
	s.platform = former
	s.serve(t)
	s.client.Collect = s.collector().Collect
	s.refuses(t, "E_BROKER_INSTANCE")

	var first, admitted bool
	if err := s.vault.Log(func(r release.Record) error {
		first = first || r.Result == release.Released && r.Admission != nil && r.Admission.AK != ""
		admitted = admitted || r.Result == release.Admitted && r.By == "ann" && r.Admission.Identity == id && time.Since(r.Time) < time.Hour
		return nil
	}); err != nil || !first || !admitted {
		t.Errorf("on record are the first: %v, the person's: %v; %v", first, admitted, err)
	}
}

// TestAdmittedByPolicy: an instance that the policy names needs no other word, and what it
// shows is noted, so that another one that the policy names does not get the same PIN.
func TestAdmittedByPolicy(t *testing.T) {
	s := newSite(t)
	s.platform.ModuleID = "i-0123456789abcdef0-tpm0123456789abcdef0"
	s.setPolicy(t, func(p *attest.Policy) {
		p.Version, p.Nitro.Instances = 2, []string{"i-0123456789abcdef0", "i-0123456789abcdef1"}
	})
	if err := s.vault.Add("hsm-2", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	s.client.Machine = "hsm-2"
	s.releases(t)
	p, c := s.another(t, "i-0123456789abcdef1-tpm0123456789abcdef0")
	s.platform = p
	s.serve(t)
	s.client.Machine, s.client.Collect = "hsm-2", c.Collect
	s.refuses(t, "E_BROKER_INSTANCE")
	machines, err := s.vault.Machines()
	if err != nil || machines[1].Admission == nil || machines[1].Admission.Instance != "i-0123456789abcdef0" {
		t.Errorf("machines: %+v, %v", machines, err)
	}
}

// asksEC2 has the policy ask for the machine's identity.
func (s *site) asksEC2(t *testing.T, change func(*ec2.Policy)) {
	t.Helper()
	s.setPolicy(t, func(p *attest.Policy) {
		p.Version, p.Instance = 2, s.platform.OfAccount()
		if change != nil {
			change(p.Instance)
		}
	})
	s.ofAccount = true
	s.client.Collect = s.collector().Collect
}

// TestAdmittedByRule: a new machine that meets the policy's rule is admitted under a name that
// nobody was admitted under, the record says by what, and the next one is not; without the
// rule a person must admit it, however well it meets the policy.
func TestAdmittedByRule(t *testing.T) {
	for admit, code := range map[bool]string{true: "", false: "E_BROKER_INSTANCE"} {
		s := newSite(t)
		s.platform.ModuleID = "i-0123456789abcdef0-tpm0123456789abcdef0"
		s.asksEC2(t, func(p *ec2.Policy) { p.Admit = admit })
		if err := s.vault.Add("hsm-2", []byte(pin)); err != nil {
			t.Fatal(err)
		}
		s.client.Machine = "hsm-2"
		if code != "" {
			s.refuses(t, code)
			continue
		}
		s.releases(t)
		all := s.decisions(t)
		r := all[len(all)-1]
		want := ec2.Instance{ID: "i-0123456789abcdef0", Type: "m6a.large", Image: simulation.Image, Region: nitrotest.Region, Zone: nitrotest.Region + "a", Account: simulation.Account}
		if r.Instance == nil || *r.Instance != want || r.Admission == nil || r.Admission.Instance != want.ID || !strings.Contains(r.Reason, "by the policy's rule: account "+want.Account) {
			t.Errorf("on record is %+v, %+v", r, r.Instance)
		}
		s.releases(t)
		if all = s.decisions(t); all[len(all)-1].Reason != "" {
			t.Errorf("admitted again: %+v", all[len(all)-1])
		}
		p, c := s.another(t, "i-0123456789abcdef1-tpm0123456789abcdef0")
		c.SetPolicy(&attest.SignedPolicy{Policy: attest.Policy{Instance: p.OfAccount()}})
		s.platform = p
		s.serve(t)
		s.client.Machine, s.client.Collect = "hsm-2", c.Collect
		s.refuses(t, "E_BROKER_INSTANCE")
	}
}

// TestStrangersKeepNobodyOut: one host that asks for nonces without end locks nobody out; it
// is told when it may ask again.
func TestStrangersKeepNobodyOut(t *testing.T) {
	s := newSite(t)
	ask := func(from string, n int) (answered, busy int) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t)}}}}
		defer client.CloseIdleConnections()
		for range n {
			res, err := client.Post(s.client.URL+"/v1/nonce", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			switch {
			case res.StatusCode == http.StatusOK:
				answered++
			case res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") != "":
				busy++
			default:
				t.Fatalf("%s: %s, Retry-After %q", from, res.Status, res.Header.Get("Retry-After"))
			}
		}
		return answered, busy
	}
	began := time.Now()
	s.rate, s.now = 1100, func() time.Time { return began }
	s.serve(t)
	if answered, busy := ask("127.0.0.2", 1200); answered != 1100 || busy != 100 {
		t.Errorf("the stranger got %d nonces, and was refused %d times", answered, busy)
	}
	for _, from := range []string{"127.0.0.3", "127.0.0.4", "127.1.2.3"} {
		if answered, _ := ask(from, 3); answered != 3 {
			t.Errorf("%s got %d nonces", from, answered)
		}
	}
	s.releases(t)
}

// TestTwoBrokers: two processes, and many calls in each, keep one chain.
func TestTwoBrokers(t *testing.T) {
	s := newSite(t)
	other, err := release.FindVault(s.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	for i := range 8 {
		v := []*release.Vault{s.vault, other}[i%2]
		go func() {
			var err error
			for range 5 {
				err = errors.Join(err, v.Stop(""), v.Resume())
			}
			failed <- err
		}()
	}
	for range 8 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	s.releases(t)
	report := s.verified(t)
	if want := 1 + 1 + 2 + 80 + 1; report.Records != want {
		t.Errorf("%d records, want %d", report.Records, want)
	}
}

// TestTwoPolicies: of two policies of one version that are installed at once one is in force.
func TestTwoPolicies(t *testing.T) {
	s := newSite(t)
	other, err := release.FindVault(s.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error)
	for i := range 8 {
		file := s.sign(t, func(p *attest.Policy) { p.Version, p.Name = 2, strings.Repeat("x", i+1) })
		v := []*release.Vault{s.vault, other}[i%2]
		go func() { taken <- v.SetPolicy(file, s.key.Public().(ed25519.PublicKey)) }()
	}
	installed := 0
	for range 8 {
		switch err := <-taken; {
		case err == nil:
			installed++
		case !strings.Contains(err.Error(), "another one of version 2"):
			t.Error(err)
		}
	}
	if installed != 1 {
		t.Errorf("%d were installed", installed)
	}
	s.releases(t)
}

func (s *site) verified(t *testing.T) *release.LogReport {
	t.Helper()
	report, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (s *site) verify(t *testing.T) (*release.LogReport, error) {
	t.Helper()
	log, err := os.ReadFile(s.vault.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	headText, err := os.ReadFile(s.vault.LogHeadFile())
	if err != nil {
		t.Fatal(err)
	}
	return release.VerifyLog(bytes.NewReader(log), headText, publicKey(t, s.vault.LogKeyFile()))
}

func publicKey(t testing.TB, file string) ed25519.PublicKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is not in PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(ed25519.PublicKey)
}
