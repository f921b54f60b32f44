package release_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/release"
	"holdfast/attest/simulation"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
)

const pin = "the PIN of the HSM 4711"

// site is a broker with a vault, and a machine that asks it.
type site struct {
	dir      string
	vault    *release.Vault
	platform *simulation.Platform
	client   *release.FromBroker
	key      ed25519.PrivateKey
	log      bytes.Buffer
	logMu    sync.Mutex
	wire     *recorder
	now      func() time.Time
	cert     tls.Certificate
	measured tpm.Measurement
	tpmDir   string // of the machine
	rate     int    // of requests by one address in a minute
	// reference is what the machine has booted and measured.
	reference tpm.Reference
	// ofAccount has the machine show what EC2 says of it, as a policy of its own asks.
	ofAccount bool
}

func (s *site) Write(p []byte) (int, error) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.Write(p)
}

func (s *site) logged() string {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.String()
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: filepath.Join(t.TempDir(), "vault"), cert: certificate(t), now: time.Now, tpmDir: t.TempDir(), rate: 1e6}
	var err error
	if s.platform, err = simulation.Boot(s.tpmDir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.platform.Close() })
	s.measured = tpm.Measurement{PCR: tpm.ApplicationPCR, Name: "program", Digest: make([]byte, 32)}
	if err := s.platform.TPM.Measure(s.measured); err != nil {
		t.Fatal(err)
	}
	if s.vault, err = release.OpenVault(s.dir, ""); err != nil {
		t.Fatal(err)
	}
	e, err := s.collector().Collect(t.Context(), make([]byte, 32), []byte("a TLS key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.reference, err = tpm.NewReference("release 1", e.TPM, s.policy().TPM); err != nil {
		t.Fatal(err)
	}
	if _, s.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.setPolicy(t, func(*attest.Policy) {})
	if err := errors.Join(s.vault.Add("hsm-1", []byte(pin)), s.vault.Admit("hsm-1", release.Admission{First: true})); err != nil {
		t.Fatal(err)
	}
	s.serve(t)
	return s
}

// policy is one that the machine meets, and that proves its code.
func (s *site) policy() attest.Policy {
	p := s.platform.Policy()
	p.TPM.References = []tpm.Reference{s.reference}
	return p
}

func (s *site) collector() *attest.Collector {
	c := s.platform.Collector()
	c.Measurements = []tpm.Measurement{s.measured}
	if s.ofAccount {
		c.SetPolicy(&attest.SignedPolicy{Policy: attest.Policy{Instance: s.platform.OfAccount()}}) // which has it ask EC2
	}
	return c
}

func (s *site) setPolicy(t *testing.T, change func(*attest.Policy)) {
	t.Helper()
	p := s.policy()
	change(&p)
	file, err := attest.SignPolicy(&p, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.vault.SetPolicy(file, s.key.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
}

// decisions are the records of releases and refusals.
func (s *site) decisions(t *testing.T) (list []release.Record) {
	t.Helper()
	if err := s.vault.Log(func(r release.Record) error {
		if r.Result == release.Released || r.Result == release.Refused {
			list = append(list, r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// reopen opens the vault as another process does, and serves it.
func (s *site) reopen(t *testing.T) {
	t.Helper()
	var err error
	if s.vault, err = release.FindVault(s.dir, ""); err != nil {
		t.Fatal(err)
	}
	s.serve(t)
}

// serve starts a broker over the vault, as after a restart.
func (s *site) serve(t *testing.T) {
	t.Helper()
	b := release.NewBroker(release.BrokerOptions{Vault: s.vault, Log: slog.New(slog.NewTextHandler(s, nil)),
		Now: func() time.Time { return s.now() }, Roots: s.platform.Roots(), Rate: s.rate})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wire := &recorder{Listener: l}
	s.wire = wire
	server := b.Server(s.cert)
	go func() { _ = server.ServeTLS(wire, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	s.client = &release.FromBroker{URL: "https://" + l.Addr().String(), Pin: release.Pin(s.cert.Leaf), Machine: "hsm-1", Collect: s.collector().Collect}
}

// recorder keeps what goes over the wire.
type recorder struct {
	net.Listener
	mu  sync.Mutex
	all bytes.Buffer
}

func (r *recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	return &recorded{c, r}, err
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

type recorded struct {
	net.Conn
	r *recorder
}

func (c *recorded) note(p []byte) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.all.Write(p)
}

func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note(p[:n])
	return n, err
}

func (c *recorded) Write(p []byte) (int, error) {
	c.note(p)
	return c.Conn.Write(p)
}

func (s *site) releases(t *testing.T) {
	t.Helper()
	got, _, err := s.client.Release(context.Background())
	if err != nil || string(got) != pin {
		t.Fatalf("got %q, %v", got, err)
	}
}

// refuses wants a refusal whose code has each of the codes.
func (s *site) refuses(t *testing.T, codes ...string) {
	t.Helper()
	got, _, err := s.client.Release(context.Background())
	var r *fault.Fault
	if err == nil || got != nil || !errors.As(err, &r) {
		t.Errorf("got %q, %v; want a refusal with %v", got, err, codes)
		return
	}
	for _, c := range codes {
		if !strings.Contains(r.Codes(), c) {
			t.Errorf("refused with %s: %v; want %s", r.Codes(), err, c)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the reason has several lines: %q", err)
	}
}

// TestBroker releases to good evidence, also after its restart, and the PIN is
// nowhere in clear.
func TestBroker(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	s.releases(t)
	seen := s.wire.text()
	s.serve(t) // with another memory
	s.releases(t)
	for where, text := range map[string]string{"on the wire": seen + s.wire.text(), "in the log": s.logged()} {
		if strings.Contains(text, pin) || len(text) < 100 {
			t.Errorf("the PIN is %s, or nothing is", where)
		}
	}
	if err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(pin)) {
			t.Errorf("the PIN is in %s", path)
		}
		if info, _ := d.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	records := s.decisions(t)
	if len(records) != 3 || records[0].Result != release.Released || records[0].Machine != "hsm-1" || records[0].PolicyVersion != 1 || len(records[0].EvidenceDigest) != 64 {
		t.Errorf("the log has %+v", records)
	}
}

// TestBrokerRefuses each bad kind of evidence, with its code, and logs it.
func TestBrokerRefuses(t *testing.T) {
	s := newSite(t)
	collect := s.client.Collect
	change := func(f func(e *attest.Evidence)) {
		s.client.Collect = func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
			e, err := collect(ctx, nonce, tlsKey, releaseKey)
			if err == nil {
				f(e)
			}
			return e, err
		}
	}
	if err := os.Rename(filepath.Join(s.dir, "policy.json"), filepath.Join(s.dir, "away")); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, "E_BROKER_POLICY")
	if err := os.Rename(filepath.Join(s.dir, "away"), filepath.Join(s.dir, "policy.json")); err != nil {
		t.Fatal(err)
	}
	var replayed *attest.Evidence
	change(func(e *attest.Evidence) { copied := *e; replayed = &copied })
	s.releases(t)
	change(func(e *attest.Evidence) { *e = *replayed })
	s.refuses(t, "E_BROKER_NONCE") // used up, and another connection's
	change(func(e *attest.Evidence) { e.Nonce = bytes.Repeat([]byte{1}, 32) })
	s.refuses(t, "E_BROKER_NONCE")
	change(func(e *attest.Evidence) { e.TLSKey = []byte("another") })
	s.refuses(t, "E_TLS_KEY", "E_SNP_REPORT_DATA")
	change(func(e *attest.Evidence) { e.ReleaseKey = nil })
	s.refuses(t, "E_SNP_REPORT_DATA", "E_TPM_NONCE", "E_NITRO_USER_DATA")
	change(func(e *attest.Evidence) { e.Report.Signed[0x90] ^= 1 })
	s.refuses(t, "E_SNP_SIGNATURE")
	change(func(e *attest.Evidence) { e.Nitro = nil })
	s.refuses(t, "E_REQUIRED")
	s.client.Collect = func(ctx context.Context, nonce, tlsKey, _ []byte) (*attest.Evidence, error) {
		return collect(ctx, nonce, tlsKey, nil) // good, but asks for nothing
	}
	s.refuses(t, "E_BROKER_KEY")
	s.client.Collect = collect

	refusesMachines(t, s)
	refusesPolicies(t, s)

	refused := 0
	if err := s.vault.Log(func(r release.Record) error {
		if r.Result == release.Refused {
			refused++
			if r.Code == "" || r.Reason == "" {
				t.Errorf("a refusal without a reason: %+v", r)
			}
		}
		return nil
	}); err != nil || refused < 10 {
		t.Errorf("%d refusals are in the log, %v", refused, err)
	}
	if strings.Contains(s.logged(), pin) {
		t.Error("the PIN is in the log")
	}
}

// refusesMachines: those that it does not know, and those that were stopped.
func refusesMachines(t *testing.T, s *site) {
	t.Helper()
	s.client.Machine = "nobody"
	s.refuses(t, "E_BROKER_MACHINE")
	s.client.Machine = "../identity"
	s.refuses(t, "E_BROKER_MACHINE")
	s.client.Machine = "hsm-1"

	if err := s.vault.Stop("hsm-1"); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, "E_BROKER_STOPPED")
	if err := s.vault.Add("hsm-1", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	s.releases(t)
	if err := s.vault.Stop(""); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, "E_BROKER_STOPPED")
	if err := s.vault.Resume(); err != nil {
		t.Fatal(err)
	}
	s.releases(t)
}

// refusesPolicies: a policy of which the machine falls short acts at once; an older
// one does not come back.
func refusesPolicies(t *testing.T, s *site) {
	t.Helper()
	s.setPolicy(t, func(p *attest.Policy) { p.Version = 2; snp.PolicyOf(p.Reports).CSPIDs = []string{"CN=another"} })
	s.refuses(t, "E_SNP_CSP_ID")
	old := s.policy()
	file, err := attest.SignPolicy(&old, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.vault.SetPolicy(file, s.key.Public().(ed25519.PublicKey)); err == nil || !strings.Contains(err.Error(), "older") {
		t.Errorf("an older policy is taken: %v", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old.Version = 9
	if file, err = attest.SignPolicy(&old, private); err != nil {
		t.Fatal(err)
	}
	if err := s.vault.SetPolicy(file, public); err == nil {
		t.Error("a policy of another signer is taken")
	}
}

// TestTime: a nonce is good for a minute.
func TestTime(t *testing.T) {
	s := newSite(t)
	collect := s.client.Collect
	var mu sync.Mutex
	late := time.Duration(0)
	s.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(late) }
	s.client.Collect = func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
		mu.Lock()
		late = 61 * time.Second
		mu.Unlock()
		return collect(ctx, nonce, tlsKey, releaseKey)
	}
	s.refuses(t, "E_BROKER_NONCE")
}

// TestPins: a broker that is not the pinned one gets no evidence, and one that
// is away may come back.
func TestPins(t *testing.T) {
	s := newSite(t)
	pinned := s.client.Pin
	s.client.Pin = release.Pin(certificate(t).Leaf)
	asked := false
	collect := s.client.Collect
	s.client.Collect = func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
		asked = true
		return collect(ctx, nonce, tlsKey, releaseKey)
	}
	_, _, err := s.client.Release(context.Background())
	if err == nil || asked || fault.CodeOf(err) != fault.BrokerPIN || fault.ClassOf(err) == fault.TryAgain {
		t.Errorf("%v, evidence was made: %v", err, asked)
	}
	s.client.Pin = pinned
	s.client.URL = "https://127.0.0.1:1"
	_, _, err = s.client.Release(context.Background())
	if fault.CodeOf(err) != fault.BrokerUnreachable || fault.ClassOf(err) != fault.TryAgain {
		t.Errorf("%v: %s", err, fault.ClassOf(err))
	}
	if !release.ValidPin(pinned) || release.ValidPin("sha256/x") || release.ValidPin("") {
		t.Error("pins are judged wrongly")
	}
	// Without a client certificate there is no key for evidence to name.
	c, err := tls.Dial("tcp", s.wire.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if err == nil {
		t.Error("a client without a certificate is heard")
	}
}

// TestVault refuses what it must not keep, and an identity that others may read.
func TestVault(t *testing.T) {
	dir := t.TempDir()
	v, err := release.OpenVault(dir, filepath.Join(dir, "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "../x", "a b", strings.Repeat("x", 65), ".x"} {
		if err := v.Add(name, []byte(pin)); err == nil {
			t.Errorf("the machine %q is taken", name)
		}
		if err := v.Stop("no-such-machine"); err == nil {
			t.Error("a machine that is not there is stopped")
		}
	}
	if err := v.Add("a", nil); err == nil {
		t.Error("an empty credential is taken")
	}
	if err := v.Add("a", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	if m, err := v.Machines(); err != nil || len(m) != 1 || m[0].Name != "a" || m[0].Stopped {
		t.Errorf("machines: %v, %v", m, err)
	}
	if _, err := v.Policy(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a policy: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "elsewhere"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := release.OpenVault(dir, filepath.Join(dir, "elsewhere")); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an identity that others may read: %v", err)
	}
}

// TestVaultsAreNotMadeTwice: what would replace an identity is refused, since
// the credentials are lost without it.
func TestVaultsAreNotMadeTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	if _, err := release.FindVault(dir, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a vault that is not there: %v", err)
	}
	if _, err := release.CreateVault(dir, filepath.Join(dir, "no-folder", "identity")); err == nil {
		t.Error("an identity is made where it cannot be")
	}
	v, err := release.CreateVault(dir, "") // the attempt before left nothing in its way
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.CreateVault(dir, filepath.Join(t.TempDir(), "another")); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a vault is made twice: %v", err)
	}
	if _, err := release.CreateVault(t.TempDir(), filepath.Join(dir, "identity")); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("an identity is made twice: %v", err)
	}
	if err := v.Add("a", []byte(pin)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "identity")); err != nil {
		t.Fatal(err)
	}
	if _, err := release.OpenVault(dir, ""); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a vault that has lost its identity: %v", err)
	}
	// Stopping works without it.
	if v, err = release.FindVault(dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Stop("a"), v.Stop("")); err != nil {
		t.Error(err)
	}
	if all, err := v.Stopped(); err != nil || !all {
		t.Errorf("stopped: %v, %v", all, err)
	}
}

// TestLogOutlivesStrangers: neither what a stranger sends nor half a line of a
// crash keeps the log from being read.
func TestLogOutlivesStrangers(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	file, err := os.OpenFile(filepath.Join(s.dir, "releases.jsonl"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("{\"number\":5,\"prev\":\"20") // without an end, as of a crash
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate(t)}}}}
	defer client.CloseIdleConnections()
	evidence := base64.StdEncoding.EncodeToString([]byte(`{"` + strings.Repeat("ü<", 1<<16) + `":1}`))
	res, err := client.Post(s.client.URL+"/v1/release", "application/json", strings.NewReader(`{"machine":"hsm-1","evidence":"`+evidence+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); res.StatusCode != http.StatusBadRequest {
		t.Errorf("the stranger gets %s", res.Status)
	}
	s.releases(t)
	var results []string
	for _, r := range s.decisions(t) {
		results = append(results, r.Result)
	}
	if got := strings.Join(results, " "); got != "released refused released" {
		t.Errorf("the log has %s", got)
	}
}
