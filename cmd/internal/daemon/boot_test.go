package daemon_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/release"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/officer"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// status asks over the socket, as holdfast status does.
func (r *running) status() (s operation.Status) {
	r.s.t.Helper()
	r.ok("GET", "status", nil, &s)
	return s
}

// evidence asks on the administrators' listener as a stranger, who looks which
// TLS key it has.
func (r *running) evidence(nonce []byte) (*attest.Evidence, []byte) {
	r.s.t.Helper()
	return r.evidenceBy(r.s.client(), nonce)
}

func (r *running) evidenceBy(client *http.Client, nonce []byte) (*attest.Evidence, []byte) {
	r.s.t.Helper()
	res, err := client.Get("https://" + r.Admin.String() + "/attestation?nonce=" + hex.EncodeToString(nonce))
	if err != nil {
		r.s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		r.s.t.Fatalf("%s %s: %v", res.Status, text, err)
	}
	e, err := attest.Parse(text)
	if err != nil {
		r.s.t.Fatal(err)
	}
	return e, res.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo
}

// TestSealedRelease: the PIN comes back at each boot of the same machine, and
// evidence from the running appliance tells which release it is.
func TestSealedRelease(t *testing.T) {
	s := newSite(t)
	var k *xkstest.KMS
	for i := range 2 {
		r := s.start()
		status := r.status()
		if a := status.Boot.Attestation; a == nil || a.Reference != "matches release 1.2.0" || status.Boot.State != progress.Serving {
			t.Errorf("the status is %+v", status.Boot)
		}
		nonce := []byte("an auditor's own nonce")
		e, key := r.evidence(nonce)
		policy, err := os.ReadFile(s.cfg.Attestation.Policy)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := attest.OpenPolicy(policy, s.policyKey())
		if err != nil {
			t.Fatal(err)
		}
		verdict := attest.Verify(e, &signed.Policy, attest.Expectation{At: time.Now(), Nonce: nonce, TLSKey: key, PolicyDigest: signed.Digest, Roots: s.roots})
		if err := verdict.Err(); err != nil {
			t.Error(err)
		}
		if i == 0 {
			k = r.newKeyStore()
			r.newKey("k", appliance.CustodyCached, "")
		} else {
			k = r.kms(k.AccessKeyID, k.SecretAccessKey)
		}
		k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
		r.stop()
		s.asIs = true // the second start has nothing new signed or sealed
	}
}

func (s *site) policyKey() ed25519.PublicKey {
	s.t.Helper()
	_, key, err := s.officer.Policy()
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// TestSealMissing: an appliance to which no PIN was given waits for one, and
// goes on when it comes.
func TestSealMissing(t *testing.T) {
	s := newSite(t)
	s.start().stop()
	if err := os.Remove(s.cfg.SealedPIN()); err != nil {
		t.Fatal(err)
	}
	s.asIs = true
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `code=E_SEAL_MISSING reason="no PIN is sealed on this machine yet; give it with holdfast seal"`)
	if b := r.status().Boot; b.State != progress.Release || b.Code != string(fault.SealMissing) {
		t.Errorf("the boot is %s %s", b.State, b.Code)
	}
	r.ok("POST", "seal", operation.SealRequest{PIN: s.pin}, nil)
	s.logged(before, `msg=serving `)
	r.probes("/readyz", 200)
	if log := s.log.String(); strings.Contains(log, string(s.pin)) {
		t.Error("the log has the PIN")
	}
}

// TestReleaseRefused: whatever is wrong, the appliance says so to everybody in
// his own way, and does not call the HSM once.
func TestReleaseRefused(t *testing.T) {
	lenient := func(s *site) { s.withoutReferences() } // so that it is the TPM that refuses
	for name, c := range map[string]struct {
		code   string
		wrong  func(s *site)
		reason string // as a stranger to the code can read it
	}{
		"another kernel":             {"E_TPM_REFERENCE", otherKernel, "the PCRs match none of 1 references; nearest is \"release 1.2.0\""},
		"another kernel, to the TPM": {"E_SEAL_PCRS", both(lenient, otherKernel), "the machine is in no state that was authorized; nearest is \"release 1.2.0\", but for PCR 4"},
		"another configuration": {"E_SEAL_PCRS", both(lenient, func(s *site) { s.cfg.Keys.MaxUnlocked = 7 }),
			"nearest is \"release 1.2.0\", but for PCR 14"},
		"measured before": {string(fault.MeasuredTwice), func(s *site) {
			s.meddle = func(p *simulation.Platform) error { return p.TPM.Extend(tpm.ApplicationPCR, []byte("x")) }
		}, "restart the machine"},
		"capped before": {string(fault.MeasuredTwice), func(s *site) {
			s.meddle = func(p *simulation.Platform) error { _, err := p.TPM.Cap(); return err }
		}, "restart the machine"},
		"policy revoked": {string(fault.PolicyVersion), func(s *site) {
			s.meddle = func(p *simulation.Platform) error { return revokeAll(p) }
		}, "this machine's TPM has revoked all below"},
		"authorization revoked": {"E_SEAL_REVOKED", func(s *site) {
			s.withoutReferences()
			s.sign(func(p *attest.Policy) { p.Version = 1 << 40 })
			s.meddle = func(p *simulation.Platform) error { return revokeAll(p) }
		}, "are revoked; install a newer signed policy"},
		"older policy": {string(fault.PolicyVersion), func(s *site) {
			before, err := os.ReadFile(s.cfg.Attestation.Policy)
			if err != nil {
				t.Fatal(err)
			}
			s.cfg.Keys.MaxUnlocked, s.asIs = 7, false // the next release, of version 2
			s.start().stop()
			s.asIs = true
			if err := os.WriteFile(s.cfg.Attestation.Policy, before, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "version 1 is older than version 2, which was in force before"},
		"another TPM": {"E_SEAL_TPM", both(lenient, func(s *site) { s.newMachine() }), "sealed by another"},
		"damaged PIN": {"E_SEAL_TPM", func(s *site) {
			blob, err := readBlob(s.cfg.SealedPIN())
			if err != nil {
				t.Fatal(err)
			}
			blob.Private[len(blob.Private)-1] ^= 1
			text, err := blob.Encode()
			if err := errors.Join(err, os.WriteFile(s.cfg.SealedPIN(), text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
		"no sealed PIN at all": {"E_SEAL_FILE", func(s *site) {
			if err := os.WriteFile(s.cfg.SealedPIN(), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "cannot be used"},
		"authorized by others": {"E_SEAL_SIGNATURE", func(s *site) {
			others, err := officer.New(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			pcrs := map[int]tpm.Hex{4: make([]byte, 48)}
			policy := attest.DefaultPolicy()
			policy.Unproven = "a test of the authorizations"
			policy.TPM.RequiredPCRs = []int{4}
			if err := others.Authorize(policy, "release 1.2.0", pcrs); err != nil {
				t.Fatal(err)
			}
			var files config.Config
			others.Configure(&files)
			replaceFile(t, s.cfg.Release.Authorizations, files.Release.Authorizations)
		}, "is not signed by the key that the secret is sealed to"},
		"policy by others": {string(fault.PolicyFile), func(s *site) {
			others, err := officer.New(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var files config.Config
			others.Configure(&files)
			replaceFile(t, s.cfg.Attestation.PolicyKey, files.Attestation.PolicyKey)
		}, "policy: the signature does not verify"},
		"no SEV-SNP": {string(fault.Platform), func(s *site) {
			s.collector = func(c *attest.Collector) { c.Report = nil }
		}, "EC2: CpuOptions AmdSevSnp=enabled"},
		"roots of the manufacturers": {"E_SNP_CHAIN,E_NITRO_ROOT", func(s *site) { s.distrust = true }, "root"},
		"module changed": {"E_TPM_REFERENCE", func(s *site) {
			text, err := os.ReadFile(s.cfg.HSM.Module)
			if err != nil {
				t.Fatal(err)
			}
			// The path is part of the configuration: the file is changed in its place.
			replaceContent(t, s.cfg.HSM.Module, append(slices.Clone(text), 0))
			t.Cleanup(func() { replaceContent(t, s.cfg.HSM.Module, text) })
		}, "PCR 14"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			r := s.start()
			k := r.newKeyStore()
			r.newKey("k", appliance.CustodyCached, "")
			k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
			r.stop()
			s.asIs = true
			s.t = t
			c.wrong(s)
			calls, from := s.shim.AllCalls(), len(s.log.String())

			r = s.begin()
			s.logged(from, `msg=boot state=locked`)
			status := r.status()
			if status.Boot.State != progress.Locked || !status.Locked || status.Boot.Code != c.code {
				t.Fatalf("the status is %s %s: %s", status.Boot.State, status.Boot.Code, status.Boot.Reason)
			}
			if !strings.Contains(status.Boot.Reason, c.reason) || strings.Contains(status.Boot.Reason, "\n") {
				t.Errorf("the reason is %q, want one line with %q", status.Boot.Reason, c.reason)
			}
			if !strings.Contains(s.log.String()[from:], "code="+c.code) && !strings.Contains(s.log.String()[from:], `code="`+c.code) {
				t.Errorf("the log does not name %s", c.code)
			}

			r.probes("/healthz", 200)
			r.probes("/readyz", 503)
			k = r.kms(k.AccessKeyID, k.SecretAccessKey)
			for path, body := range map[string]xkstest.Body{"/health": {"requestMetadata": xkstest.Metadata()}, "/keys/k/encrypt": xkstest.EncryptBody("x")} {
				if a := k.Call(path, body); a.Status != 500 || a.ErrorName() != "InternalException" || !strings.Contains(a.Text, c.code) {
					t.Errorf("XKS answers %d %s", a.Status, a.Text)
				}
			}
			if public := r.public(); public.State != progress.Locked || public.Code != c.code {
				t.Errorf("everybody is told %+v", public)
			}
			// Evidence is there all the same.
			if e, _ := r.evidence([]byte("an auditor's own nonce")); e.Report == nil && name != "no SEV-SNP" {
				t.Error("the evidence has no SEV-SNP report")
			}
			if now := s.shim.AllCalls(); now != calls {
				t.Errorf("the HSM was called %d times", now-calls)
			}
			r.stop()
		})
	}
}

// public asks as a stranger on the administrators' listener.
func (r *running) public() (b web.PublicBoot) {
	r.s.t.Helper()
	res, err := r.s.client().Get("https://" + r.Admin.String() + "/boot")
	if err != nil {
		r.s.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&b); err != nil {
		r.s.t.Fatal(err)
	}
	return b
}

func both(f, g func(*site)) func(*site) {
	return func(s *site) {
		f(s)
		g(s)
	}
}

func otherKernel(s *site) {
	s.components = []swtpm.Component{{Name: ".linux", Content: []byte("another kernel")}}
}

// withoutReferences signs the policy's next version, without its reference values.
func (s *site) withoutReferences() {
	s.t.Helper()
	s.sign(func(p *attest.Policy) {
		p.Version++
		p.TPM.References, p.Unproven = nil, "a test, in which the TPM refuses and not the policy"
	})
}

// sign signs the policy with a change, by a key of its own.
func (s *site) sign(change func(*attest.Policy)) {
	s.t.Helper()
	text, err := os.ReadFile(s.cfg.Attestation.Policy)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.ownKey == nil {
		s.ownKey = s.policyKey()
	}
	signed, err := attest.OpenPolicy(text, s.ownKey)
	if err != nil {
		s.t.Fatal(err)
	}
	change(&signed.Policy)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ownKey = public
	envelope, err1 := attest.SignPolicy(&signed.Policy, private)
	der, err2 := x509.MarshalPKIXPublicKey(public)
	if err := errors.Join(err1, err2); err != nil {
		s.t.Fatal(err)
	}
	replaceContent(s.t, s.cfg.Attestation.Policy, envelope)
	replaceContent(s.t, s.cfg.Attestation.PolicyKey, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// revokeAll has the TPM refuse what was signed so far.
func revokeAll(p *simulation.Platform) error {
	now, err := seal.Counter(p.TPM)
	if err != nil {
		return err
	}
	return seal.Revoke(p.TPM, now+10)
}

func readBlob(file string) (*seal.Blob, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return seal.ParseBlob(text)
}

func replaceContent(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o700); err != nil {
		t.Fatal(err)
	}
}

func replaceFile(t *testing.T, file, by string) {
	t.Helper()
	content, err := os.ReadFile(by)
	if err != nil {
		t.Fatal(err)
	}
	replaceContent(t, file, content)
}

// reserve gives an address at which nobody listens until listen is called. The port
// stays bound, so that no other process can get it meanwhile.
func reserve(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "reserved")
	t.Cleanup(func() { _ = socket.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port), func() net.Listener {
		t.Helper()
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = socket.Close() // the listener has a copy
		return l
	}
}

// TestBrokerRelease: a broker that is away is waited for; one that refuses is
// believed.
func TestBrokerRelease(t *testing.T) {
	s := newSite(t)
	address, listen := reserve(t)
	certificate := newCertificate(t)
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	vault, err := release.OpenVault(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Release = config.Release{Method: config.Broker, BrokerURL: "https://" + address, BrokerPin: release.Pin(leaf), Machine: "m1", SealedPIN: filepath.Join(t.TempDir(), "unused")}
	r := s.begin()
	s.logged(0, `state=release code=E_BROKER_UNREACHABLE`)
	if b := r.status().Boot; b.State != progress.Release || b.Code != string(fault.BrokerUnreachable) {
		t.Errorf("the boot is %s %s", b.State, b.Code)
	}
	policy, key, err := s.officer.Policy()
	if err := errors.Join(err, vault.SetPolicy(policy, key), vault.Add("m1", s.pin), vault.Admit("m1", release.Admission{First: true})); err != nil {
		t.Fatal(err)
	}
	broker := release.NewBroker(release.BrokerOptions{Vault: vault, Roots: s.roots, Rate: 1000}).Server(*certificate)
	l := listen()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = broker.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = broker.Close()
		<-ended
	})
	s.logged(0, `msg=serving `)
	r.newKeyStore().OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	if err := r.do("POST", "seal", operation.SealRequest{PIN: []byte("x")}, nil); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("sealing where a broker releases: %v", err)
	}
	var told progress.Releases
	if err := r.do("GET", "attestation/releases", nil, &told); err != nil || len(told.Records) < 3 || told.Records[0].Result != release.Released || told.Records[0].Remote == "" || !strings.HasPrefix(told.LogKey, "-----BEGIN PUBLIC KEY") {
		t.Errorf("the broker's records: %+v, %v", told, err)
	}
	r.stop()

	if err := vault.Stop("m1"); err != nil {
		t.Fatal(err)
	}
	calls, from := s.shim.AllCalls(), len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_BROKER_STOPPED`)
	told = progress.Releases{}
	if err := r.do("GET", "attestation/releases", nil, &told); err != nil || len(told.Records) < 4 || told.Records[0].Code != "E_BROKER_STOPPED" || told.Records[1].Result != release.Revoked {
		t.Errorf("the broker's records, while locked: %+v, %v", told, err)
	}
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.do("GET", "attestation/releases", nil, &told); fault.CodeOf(err) != fault.BrokerUnreachable {
		t.Errorf("the broker is away: %v", err)
	}
	if now := s.shim.AllCalls(); now != calls {
		t.Errorf("the HSM was called %d times", now-calls)
	}
	if strings.Contains(s.log.String(), string(s.pin)) {
		t.Error("the log has the PIN")
	}
}

// TestDegradedAndLocked: the boot follows the HSM, and says so.
func TestDegradedAndLocked(t *testing.T) {
	s := newSite(t)
	s.cfg.HSM.Lease = config.Duration(16 * time.Second) // longer than a busy machine stands still
	r := s.start()
	k := r.newKeyStore()
	r.newKey("k", appliance.CustodyCached, "")
	from := len(s.log.String())
	s.shim.Cut()
	s.logged(from, `msg=boot state=degraded .*code=E_HSM_AWAY`)
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	s.logged(from, `msg=boot state=locked .*code=E_HSM_LEASE`)
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
	s.shim.Restore()
	s.logged(from, `msg=boot state=serving`)
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
}
