package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/attest"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/cli"
	"holdfast/web"
	"holdfast/web/webtest"
)

// machine is an appliance's answers for everybody, with the evidence of a simulated machine
// behind them, under a policy that somebody has signed.
type simulatedMachine struct {
	webtest.Boot
	t         *testing.T
	platform  *simulation.Platform
	collector *attest.Collector
	server    *httptest.Server
	dir       string
	// policy and key are the files of the signed policy and its key; ca has the certificate.
	policy, key, ca string

	// pinned, if given, takes a PIN of its owner.
	pinned interface {
		challenge(ctx context.Context, nonce []byte) ([]byte, error)
		give(given []byte) error
	}

	mu    sync.Mutex
	state attest.State
	// signer signs the policy.
	signer ed25519.PrivateKey
}

// PINChallenge implements operation.Boot.
func (m *simulatedMachine) PINChallenge(ctx context.Context, nonce []byte) ([]byte, error) {
	if m.pinned == nil {
		return m.Boot.PINChallenge(ctx, nonce)
	}
	return m.pinned.challenge(ctx, nonce)
}

// GivePIN implements operation.Boot.
func (m *simulatedMachine) GivePIN(ctx context.Context, given []byte) error {
	if m.pinned == nil {
		return m.Boot.GivePIN(ctx, given)
	}
	return m.pinned.give(given)
}

// Evidence implements operation.Boot.
func (m *simulatedMachine) Evidence(ctx context.Context, nonce []byte) (*attest.Evidence, error) {
	return m.collector.Collect(ctx, nonce, m.server.Certificate().RawSubjectPublicKeyInfo, nil)
}

// setState has the evidence name this head of the state.
func (m *simulatedMachine) setState(number uint64, digest byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = attest.State{Sequence: number, Digest: bytes.Repeat([]byte{digest}, sha256.Size), At: time.Now().UTC().Truncate(time.Millisecond)}
}

// simulated starts one.
func simulated(t *testing.T) *simulatedMachine {
	t.Helper()
	p, err := simulation.Boot(filepath.Join(t.TempDir(), "tpm"), nil, swtpm.Component{Name: ".linux", Content: []byte("a kernel")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	m := &simulatedMachine{t: t, platform: p, collector: p.Collector(), dir: t.TempDir()}
	m.collector.Software = "1.2.0"
	m.collector.PolicyDigest = bytes.Repeat([]byte{1}, sha256.Size)
	m.collector.State = func(context.Context) *attest.State {
		m.mu.Lock()
		defer m.mu.Unlock()
		state := m.state
		return &state
	}
	m.setState(7, 7)
	digest := sha256.Sum256([]byte("a program"))
	if err := m.collector.Measure("program", digest[:]); err != nil {
		t.Fatal(err)
	}
	m.server = m.listen()
	m.ca = m.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.server.Certificate().Raw}))
	m.sign()
	return m
}

// listen answers as the appliance does, with a certificate of its own.
func (m *simulatedMachine) listen() *httptest.Server {
	m.t.Helper()
	s := httptest.NewUnstartedServer(web.NewHandler(web.Public{Boot: m, Metrics: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}))
	certificate, _ := appliancetest.Certificate(m.t, "127.0.0.1")
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	s.StartTLS()
	m.t.Cleanup(s.Close)
	return s
}

// sign makes the policy that the machine passes, and signs it.
func (m *simulatedMachine) sign() {
	m.t.Helper()
	policy := m.platform.Policy()
	e, err := m.Evidence(m.t.Context(), bytes.Repeat([]byte{2}, 32))
	if err != nil {
		m.t.Fatal(err)
	}
	reference, err := tpm.NewReference("release 1.2.0", e.TPM, policy.TPM)
	if err != nil {
		m.t.Fatal(err)
	}
	policy.TPM.References = []tpm.Reference{reference}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	m.signer = private
	signed, err := attest.SignPolicy(&policy, private)
	if err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		m.t.Fatal(err)
	}
	m.policy = m.write("policy.signed", signed)
	m.key = m.write("signer.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// forced writes a policy without references, which nobody has signed and these words force.
func (m *simulatedMachine) forced(words string) string {
	m.t.Helper()
	policy := m.platform.Policy()
	policy.Unproven = words
	text, err := json.Marshal(policy)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.write("forced.json", text)
}

// write writes a file and gives its path.
func (m *simulatedMachine) write(name string, content []byte) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// call calls the program, as one that trusts the simulated hardware.
func (m *simulatedMachine) call(args ...string) calledResult {
	m.t.Helper()
	root := newRootOf(&admin{Admin: cli.Admin{Elsewhere: true}, roots: m.platform.Roots()})
	return callProgram(m.t.Context(), root, args...)
}

// judged are a call with the policy.
func (m *simulatedMachine) judged(args ...string) []string {
	return append(args, "--policy", m.policy, "--policy-key", m.key)
}
