package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/officer"
	"holdfast/cmd/internal/version"
	"holdfast/hsm/softhsm"
)

// platform is the simulated one: a folder with a machine, a token and its PIN, a
// certificate, and the officers' keys.
type platform struct {
	dir     string // absolute
	common  string // what the nodes of a fleet have in common; dir if there is one machine
	module  string
	officer *officer.Officer
	machine *simulation.Platform // nil while it is off
}

// preparePlatform makes what is missing in the folder, and leaves what is there.
func preparePlatform(dir string) (*platform, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p := &platform{dir: dir, common: dir}
	if p.module, err = softhsm.Find(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := p.preparePIN(); err != nil {
		return nil, err
	}
	if p.officer, err = officer.New(p.path("officer")); err != nil {
		return nil, err
	}
	return p, p.prepareCertificate()
}

// node gives the machine of a node of the fleet whose platform this is: with a folder and
// officers of its own, since what it measures is its own.
func (p *platform) node(n int) (*platform, error) {
	m := *p
	m.dir = p.path(nodeName(n))
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	var err error
	m.officer, err = officer.New(m.path("officer"))
	return &m, err
}

// makePIN writes a random PIN. It comes before the token, so that no token is
// left whose PIN is not known.
func (p *platform) makePIN() error {
	raw := make([]byte, 15)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	defer clear(raw)
	return os.WriteFile(p.shared("pin"), []byte(base32.StdEncoding.EncodeToString(raw)+"\n"), 0o600)
}

func (p *platform) pin() ([]byte, error) {
	pin, err := os.ReadFile(p.shared("pin"))
	pin = bytes.TrimSpace(pin)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(pin) == 0) {
		return nil, fmt.Errorf("%s is missing or empty, but there is a token: the state folder %s is broken; delete it to start over", p.shared("pin"), p.common)
	}
	return pin, err
}

// configure points the configuration at the platform.
func (p *platform) configure(c *config.Config, o options) {
	c.State.Dir = p.path("state")
	for i, t := range c.HSM.Tokens() {
		t.Process.Write = append(slices.Clone(t.Process.Write), p.shared("token"))
		if i == 0 {
			c.HSM.Process = t.Process
		} else {
			c.HSM.Members[i-1].Process = t.Process
		}
	}
	c.Release.Method = o.release
	p.officer.Configure(c)
	c.XKS.Address, c.Admin.Address = o.xksAddr, o.adminAddr
	c.XKS.Development = true // localhost, with a port
	c.XKS.Certificate, c.XKS.Key = p.shared("tls", "server.pem"), p.shared("tls", "server-key.pem")
	c.Admin.Socket = p.path("admin.sock")
}

// image is what the machine boots.
func image(tamper bool) []swtpm.Component {
	kernel := "the kernel of holdfast-dev"
	if tamper {
		kernel = "another kernel"
	}
	return []swtpm.Component{
		{Name: ".osrel", Content: []byte("ID=holdfast-dev\n")},
		{Name: ".cmdline", Content: []byte("root=/dev/mapper/root ro")},
		{Name: ".linux", Content: []byte(kernel)},
	}
}

// start boots the machine, and a broker beside it if that is asked for. What the
// machine runs is signed by the officers, who give the PIN as well. But they do
// not sign what was tampered with. stop ends all.
func (p *platform) start(c *config.Config, o options, log *slog.Logger) (stop func(), err error) {
	if p.machine, err = simulation.Boot(p.path("tpm"), nil, image(o.tamper)...); err != nil {
		return nil, fmt.Errorf("simulated machine %s: %w", p.path("tpm"), err)
	}
	powerOff := func() { _ = p.machine.Close() } // nothing is lost with it
	defer func() {
		if err != nil {
			powerOff()
		}
	}()
	if o.release != config.Broker {
		return powerOff, p.authorize(c, o.tamper)
	}
	b, err := p.newBroker(o.brokerAddr, c, log)
	if err != nil {
		return nil, err
	}
	if err := p.authorize(c, o.tamper); err != nil {
		return nil, errors.Join(err, b.listener.Close())
	}
	stopBroker, err := b.start()
	if err != nil {
		return nil, errors.Join(err, b.listener.Close())
	}
	return func() {
		stopBroker()
		powerOff()
	}, nil
}

func (p *platform) authorize(c *config.Config, tamper bool) error {
	if !tamper {
		measured, err := parts.OfThisProcess(c)
		if err != nil {
			return err
		}
		policy := p.machine.Policy()
		pcrs, err := officer.Predict(p.machine.TPM, policy.TPM, measured)
		if err != nil {
			return err
		}
		if err := p.officer.Authorize(policy, "holdfast-dev "+version.Version, pcrs); err != nil {
			return err
		}
	}
	if c.Release.Method == config.Broker {
		return nil
	}
	pin, err := p.pin()
	if err != nil {
		return err
	}
	defer clear(pin)
	return p.officer.Seal(p.machine.TPM, c.SealedPIN(), pin)
}

func (p *platform) caFile() string { return p.shared("tls", "ca.pem") }

// prepareCertificate makes a CA and a server certificate for localhost.
func (p *platform) prepareCertificate() error {
	if _, err := os.Stat(p.caFile()); err == nil {
		return nil // written last
	}
	if err := os.MkdirAll(p.shared("tls"), 0o700); err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Holdfast development CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{
		{"server-key.pem", "PRIVATE KEY", keyDER, 0o600},
		{"server.pem", "CERTIFICATE", leafDER, 0o644},
		{"ca.pem", "CERTIFICATE", caDER, 0o644},
	} {
		if err := os.WriteFile(p.shared("tls", f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return err
		}
	}
	return nil
}
