package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/launch"
	"holdfast/attest"
	"holdfast/attest/release"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// ownedMachine is a simulated machine that waits for the PIN of its owner. What it does with
// it is the appliance's (cmd/internal/daemon).
type ownedMachine struct {
	*simulatedMachine
	owner ed25519.PrivateKey
	seal  *ecdsa.PrivateKey
	taker *release.Taker
	// pin and approvals are what it was given; err is what it answers instead.
	pin, approvals []byte
	err            error
	// launch and key are the files of the launch file, and of the owner's private key.
	launch, key string
}

// owned starts one.
func owned(t *testing.T) *ownedMachine {
	t.Helper()
	m := &ownedMachine{simulatedMachine: simulated(t), taker: release.NewTaker()}
	var err error
	if m.seal, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	m.launch, m.key, m.owner = m.launchFile("launch.toml", "owner")
	text := readLaunchOf(t, m.launch)
	digest := sha256.Sum256(text)
	der, err := x509.MarshalPKIXPublicKey(m.owner.Public())
	if err != nil {
		t.Fatal(err)
	}
	owner := sha256.Sum256(der)
	if err := m.collector.MeasureLaunch(digest[:], owner[:]); err != nil {
		t.Fatal(err)
	}
	m.simulatedMachine.pinned = m
	return m
}

func readLaunchOf(t *testing.T, path string) []byte {
	t.Helper()
	text, _, err := readLaunch(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// launchFile writes a launch file of a new owner, and the owner's private key.
func (m *ownedMachine) launchFile(name, keyName string) (file, keyFile string, key ed25519.PrivateKey) {
	m.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	public := func(key any) string {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			m.t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.write(name, []byte(launch.Template(public(key.Public()), public(&m.seal.PublicKey)))),
		m.write(keyName, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), key
}

func (m *ownedMachine) challenge(ctx context.Context, nonce []byte) ([]byte, error) {
	if m.err != nil {
		return nil, m.err
	}
	c, err := m.taker.Challenge(ctx, time.Now(), nonce, func(ctx context.Context, nonce, key []byte) (*attest.Evidence, error) {
		return m.collector.Collect(ctx, nonce, m.server.Certificate().RawSubjectPublicKeyInfo, key)
	})
	if err != nil {
		return nil, err
	}
	return c.Encode()
}

func (m *ownedMachine) give(given []byte) (err error) {
	m.pin, m.approvals, err = m.taker.Take(time.Now(), given, m.owner.Public().(ed25519.PublicKey))
	return err
}

// TestPINGive: a machine that passes gets the PIN; one that does not pass in one thing that
// matters gets nothing, and is told nothing.
func TestPINGive(t *testing.T) {
	m := owned(t)
	pin := m.write("pin", []byte("the PIN\n"))
	give := func(address string, more ...string) calledResult {
		args := m.judged("pin", "give", address, "--owner", m.key, "--launch", m.launch, "--pin-file", pin)
		return m.call(append(args, more...)...)
	}
	r := give(m.server.URL, "--json")
	if r.code != 0 || string(m.pin) != "the PIN" || m.approvals != nil || r.stderr != "" || strings.Contains(r.stdout, "the PIN") {
		t.Fatalf("exit code %d, the machine has %q: %s%s", r.code, m.pin, r.stdout, r.stderr)
	}

	policy, _, err := readPolicy(m.policy, m.simulatedMachine.key)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(readLaunchOf(t, m.launch))
	approve := func(key *ecdsa.PrivateKey) []byte {
		t.Helper()
		all, err := seal.ApproveRelease(key, []seal.Authorization{{Name: "release 1.2.0", Bank: policy.TPM.Bank, PCRs: map[int]tpm.Hex(policy.TPM.References[0].PCRs), Version: 1}}, digest[:], 1)
		if err != nil {
			t.Fatal(err)
		}
		text, err := seal.EncodeAuthorizations(all)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	approvals := approve(m.seal)
	if r := give(m.server.URL, "--approvals", m.write("approvals.json", approvals)); r.code != 0 || !bytes.Equal(m.approvals, approvals) || !strings.Contains(r.stderr, "passes: it meets the policy") {
		t.Errorf("with approvals: exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}

	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherLaunch, otherKey, _ := m.launchFile("other.toml", "other")
	for name, tt := range map[string]struct {
		address string
		more    []string
		says    string
	}{
		"another launch file":       {m.server.URL, []string{"--launch", otherLaunch, "--owner", otherKey}, "E_LAUNCH_DIGEST"},
		"another owner's key":       {m.server.URL, []string{"--owner", otherKey}, "give the private key of that one"},
		"another's approvals":       {m.server.URL, []string{"--approvals", m.write("theirs.json", approve(other))}, "E_SEAL_SIGNATURE"},
		"another machine's address": {relay(t, m.server, same).URL, nil, "E_TLS_KEY"},
		"a machine that is away":    {"https://127.0.0.1:1", nil, "nothing listens there"},
		"a PIN for all to read":     {m.server.URL, []string{"--pin-file", m.policy + ".none"}, "no such file"},
		"an empty value":            {m.server.URL, []string{"--approvals", ""}, "--approvals has no value"},
	} {
		m.pin = nil
		if r := give(tt.address, tt.more...); r.code == 0 || m.pin != nil || !strings.Contains(r.stderr, tt.says) {
			t.Errorf("%s: exit code %d, the machine has %q: %s", name, r.code, m.pin, r.stderr)
		}
	}
	for code, err := range map[fault.Code]error{
		fault.PINServes: fault.Errorf(fault.PINServes, "it has its PIN"),
		fault.PINCapped: fault.Errorf(fault.PINCapped, "it is capped"),
	} {
		m.pin, m.err = nil, err
		if r := give(m.server.URL); r.code != 1 || m.pin != nil || !strings.Contains(r.stderr, string(code)) {
			t.Errorf("%s: exit code %d: %s", code, r.code, r.stderr)
		}
	}
	m.err = nil

	// Capped: no secret is for it, whatever it says of itself.
	if err := m.collector.Cap(); err != nil {
		t.Fatal(err)
	}
	if r := give(m.server.URL); r.code == 0 || m.pin != nil || !strings.Contains(r.stderr, "gets no PIN: ") {
		t.Errorf("capped: exit code %d, the machine has %q: %s", r.code, m.pin, r.stderr)
	}
}

// TestPINGiveToAnother: a machine of another release, and one whose evidence lacks what the
// policy asks for, get nothing.
func TestPINGiveToAnother(t *testing.T) {
	m := owned(t)
	pin := m.write("pin", []byte("the PIN\n"))
	digest := sha256.Sum256([]byte("an evil program"))
	if err := m.collector.Measure("evil", digest[:]); err != nil {
		t.Fatal(err)
	}
	give := func() calledResult {
		return m.call(m.judged("pin", "give", m.server.URL, "--owner", m.key, "--launch", m.launch, "--pin-file", pin)...)
	}
	if r := give(); r.code != 1 || m.pin != nil || !strings.Contains(r.stderr, "E_TPM_REFERENCE") {
		t.Errorf("another release: exit code %d, the machine has %q: %s", r.code, m.pin, r.stderr)
	}
	m.collector.Report = nil
	if r := give(); r.code != 1 || m.pin != nil || !strings.Contains(r.stderr, "E_REQUIRED") {
		t.Errorf("without a report: exit code %d, the machine has %q: %s", r.code, m.pin, r.stderr)
	}
	if r := m.call("pin", "give", m.server.URL, "--owner", m.key, "--launch", m.launch, "--pin-file", pin, "--policy", filepath.Join(m.dir, "policy.signed")); r.code != 2 || !strings.Contains(r.stderr, "--policy-key") {
		t.Errorf("a policy of anybody's: exit code %d: %s", r.code, r.stderr)
	}
}
