package daemon_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/attest"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/consoletest"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/officer"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

func TestMain(m *testing.M) { hsmtest.Main(m) }

// Tests do not run in parallel: there is one shim, and one umask, which the
// daemon changes for a moment while it makes its socket.

// site is all that a daemon needs, and the token behind its shim.
type site struct {
	renewAfter time.Duration // see [daemon.Options]
	t          *testing.T
	cfg        config.Config
	pin        []byte
	shim       *hsmtest.Shim
	log        appliancetest.Log // of all daemons of the site
	// machine is the folder of the TPM's state, components what the machine boots.
	machine    string
	components []swtpm.Component
	officer    *officer.Officer
	// asIs has nothing signed or sealed before a start; meddle comes before it.
	asIs   bool
	meddle func(*simulation.Platform) error
	// policy changes the policy that is signed.
	policy func(*attest.Policy)
	// unnamed says that launch files set no xks.url, which certificates would have to be for.
	unnamed bool
	// noPIN has what the machine runs authorized, and no PIN sealed to it.
	noPIN bool
	// samePIN leaves the sealed PIN as it is, whatever is authorized.
	samePIN bool
	// owner, if given, owns the machine.
	owner *machineOwner
	// launch is what its launch file sets.
	launch config.HSM
	// collector changes what the machine has; distrust has its roots unknown.
	collector func(*attest.Collector)
	distrust  bool
	// roots are the machine's; ownKey signs the policy, if the officer's does not.
	roots  *attest.Roots
	ownKey ed25519.PublicKey
	// metadata is the URL of the instance metadata service; welcomed gets the setup
	// codes, empty if there is a hash.
	metadata string
	// now is the daemon's clock; the machine's if nil.
	now      func() time.Time
	welcomed chan string
	// token is what the nodes of a fleet share; alone is why there is none, though the test
	// may have one.
	token hsm.Config
	alone string
}

// platform is the simulated machine, as the site wants it.
type platform struct {
	*simulation.Platform
	s *site
}

func (p platform) Collector() *attest.Collector {
	c := p.Platform.Collector()
	if p.s.collector != nil {
		p.s.collector(c)
	}
	return c
}

func (p platform) Roots() *attest.Roots {
	if p.s.distrust {
		return nil
	}
	return p.Platform.Roots()
}

func newSite(t *testing.T) *site {
	t.Helper()
	token, shim := hsmtest.NewBehindShim(t)
	return newSiteWith(t, token, shim)
}

// newSiteWith makes a site with that token.
func newSiteWith(t *testing.T, token hsm.Config, shim *hsmtest.Shim) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, pin: token.PIN, shim: shim, welcomed: make(chan string, 100)}
	s.cfg = config.Config{
		State:   config.State{Dir: filepath.Join(dir, "state")},
		HSM:     config.HSM{Module: token.Module, TokenLabel: token.TokenLabel},
		Release: config.Release{SealedPIN: filepath.Join(dir, "pin.sealed")},
		XKS: config.XKS{Address: "127.0.0.1:0", Certificate: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server-key.pem"),
			RequestTimeout: config.Duration(20 * time.Second)}, // the race detector and a busy machine are slow
		Admin: config.Admin{Socket: filepath.Join(dir, "s"), Address: "127.0.0.1:0"},
	}
	c := newCertificate(t)
	s.writeCertificate(c)
	s.writeKey(c)
	s.components = []swtpm.Component{{Name: ".linux", Content: []byte("a kernel")}}
	s.newMachine()
	var err error
	if s.officer, err = officer.New(filepath.Join(dir, "officer")); err != nil {
		t.Fatal(err)
	}
	s.officer.Configure(&s.cfg)
	return s
}

// newMachine gives the site another machine.
func (s *site) newMachine() {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-machine-") // a socket's path must be short
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.machine = dir
}

// powerOn boots the machine. Unless asIs, what it runs is authorized, and the
// PIN sealed to it.
func (s *site) powerOn(cfg *config.Config) (*simulation.Platform, error) {
	p, err := simulation.Boot(s.machine, nil, s.components...)
	if err != nil {
		return nil, err
	}
	if s.roots = p.Roots(); s.meddle != nil {
		if err := s.meddle(p); err != nil {
			return p, err
		}
	}
	if s.asIs {
		return p, nil
	}
	measured, err := parts.OfThisProcess(cfg)
	if err != nil {
		return p, err
	}
	policy := p.Policy()
	if s.policy != nil {
		s.policy(&policy)
	}
	pcrs, err := officer.Predict(p.TPM, policy.TPM, measured)
	if err != nil {
		return p, err
	}
	if err := s.officer.Authorize(policy, "release 1.2.0", pcrs); err != nil || s.samePIN {
		return p, errors.Join(err, s.owner.approve(s))
	}
	_ = os.Remove(cfg.SealedPIN()) // the PIN may be another
	if s.noPIN {
		return p, s.owner.approve(s)
	}
	return p, errors.Join(s.owner.approve(s), s.officer.SealOwned(p.TPM, s.owner.public(), cfg.SealedPIN(), s.pin))
}

func newCertificate(t *testing.T) *tls.Certificate {
	c, _ := appliancetest.Certificate(t, "127.0.0.1")
	return c
}

func (s *site) writeCertificate(c *tls.Certificate) {
	s.t.Helper()
	s.replace(s.cfg.XKS.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

func (s *site) writeKey(c *tls.Certificate) {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	s.replace(s.cfg.XKS.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// replace replaces a file as those do who renew certificates.
func (s *site) replace(path string, content []byte) {
	s.t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a daemon until ctx ends or it cannot start.
func (s *site) run(ctx context.Context) error {
	cfg := s.cfg
	machine, err := s.powerOn(&cfg)
	if machine != nil {
		defer machine.Close()
	}
	if err != nil {
		return err
	}
	return daemon.Run(ctx, daemon.Options{
		Config:     &cfg,
		Log:        slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Platform:   platform{machine, s},
		Modules:    func(int, config.Member) hsm.Launcher { return hsmtest.Launcher() },
		RenewAfter: s.renewAfter,
		Metadata:   s.metadata,
		Now:        s.now,
		Setup:      func(code, _, _ string) { s.welcomed <- code },
	})
}

// refused starts a daemon that must not start, for a reason in one line.
func (s *site) refused(want string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	err := s.run(ctx)
	message := ""
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		message = refused.Message // what the command line shows
	} else if err != nil {
		message = err.Error()
	}
	if strings.Contains(message, "\n") || !strings.Contains(message, want) {
		s.t.Errorf("got %q, want one line with %q", message, want)
	}
}

// running is a daemon.
type running struct {
	daemon.Addresses
	s      *site
	cancel func()
	ended  chan struct{}
	// console is what browsers look at; nil before there is one.
	console *consoletest.Console
}

// begin starts a daemon and waits until it listens.
func (s *site) begin() *running {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{s: s, cancel: cancel, ended: make(chan struct{})}
	before := len(s.log.String())
	go func() {
		if err := s.run(ctx); err != nil {
			s.t.Errorf("the daemon ended with %v", err)
		}
		close(r.ended)
	}()
	s.t.Cleanup(r.stop)
	found := s.logged(before, `listening.* xks=(\S+) admin=(\S+) socket=(\S+)`)
	r.Socket = found[3]
	for i, a := range []*net.Addr{&r.XKS, &r.Admin} {
		address, err := net.ResolveTCPAddr("tcp", found[i+1])
		if err != nil {
			s.t.Fatal(err)
		}
		*a = address
	}
	return r
}

// start starts a daemon and waits until it serves.
func (s *site) start() *running {
	s.t.Helper()
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `msg=serving `)
	return r
}

// startBeside starts a daemon with an empty database beside the traces of an
// installation, and has it begin another one.
func (s *site) startBeside() *running {
	s.t.Helper()
	before := len(s.log.String())
	r := s.begin()
	s.logged(before, `state=locked .*code=E_STATE_MISSING`)
	r.ok("POST", "installation/begin", operation.Decision{Reason: "the test begins another"}, nil)
	s.logged(before, `msg=serving `)
	return r
}

// stop ends the daemon, and waits for it.
func (r *running) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	<-r.ended
}

// eventually waits until f gives no error.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// logged waits for a line in the log from the offset on.
func (s *site) logged(from int, pattern string) (found []string) {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(s.t, func() error {
		if s.t.Failed() {
			s.t.FailNow() // it ended, and nothing more will be logged
		}
		log := s.log.String()[from:]
		if found = re.FindStringSubmatch(log); found == nil {
			return fmt.Errorf("the log has no %s:\n%s", pattern, log)
		}
		return nil
	})
	return found
}

// do calls the admin API.
func (r *running) do(method, route string, body, result any) error {
	return web.NewClient(r.Socket).Do(r.s.t.Context(), method, route, body, result)
}

func (r *running) ok(method, route string, body, result any) {
	r.s.t.Helper()
	if err := r.do(method, route, body, result); err != nil {
		r.s.t.Fatalf("%s %s: %v", method, route, err)
	}
}

// client trusts the certificate that is in the file now.
func (s *site) client() *http.Client {
	s.t.Helper()
	text, err := os.ReadFile(s.cfg.XKS.Certificate)
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: time.Minute, Transport: transport}
}

// newKeyStore makes a key store without a URI path prefix, with a credential
// and a grant of everything, and gives a KMS for it.
func (r *running) newKeyStore() *xkstest.KMS {
	r.s.t.Helper()
	r.ok("POST", "keystores", operation.NewKeyStore{Name: "p"}, nil)
	var c operation.CreatedCredential
	r.ok("POST", "keystores/p/credentials", operation.NewCredential{}, &c)
	r.ok("POST", "keystores/p/grants", operation.NewGrant{Principal: "*", Operations: []appliance.Operation{"Encrypt", "Decrypt", "GetAttributes"}}, nil)
	return r.kms(c.AccessKeyID, c.SecretAccessKey)
}

func (r *running) kms(id, secret string) *xkstest.KMS {
	return &xkstest.KMS{T: r.s.t, HTTP: r.s.client(), URL: "https://" + r.XKS.String(), AccessKeyID: id, SecretAccessKey: secret,
		Service: "kms-xks-proxy", Region: "us-east-1"}
}

func (r *running) newKey(id string, custody appliance.Custody, material string) {
	r.s.t.Helper()
	k := operation.NewKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}
	if material != "" {
		k.Material = []byte(material)
	}
	r.ok("POST", "keystores/p/keys", k, nil)
}

// probe asks both listeners for a path; the answers must have the status.
func (r *running) probe(path string, want int) error {
	c := r.s.client()
	for _, address := range []net.Addr{r.XKS, r.Admin} {
		res, err := c.Get("https://" + address.String() + path)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			return fmt.Errorf("%s%s: %s, want %d", address, path, res.Status, want)
		}
	}
	return nil
}

func (r *running) probes(path string, want int) {
	r.s.t.Helper()
	if err := r.probe(path, want); err != nil {
		r.s.t.Error(err)
	}
}

// TestWrongPIN is tried once and never again, lest the token lock.
func TestWrongPIN(t *testing.T) {
	s := newSite(t)
	r := s.start()
	k := r.newKeyStore()
	r.probes("/readyz", 200)
	r.stop()

	right := s.pin
	s.pin = []byte("not-the-pin")
	before := s.shim.Calls("C_Login")
	r = s.begin()
	s.logged(0, `level=ERROR msg=boot state=locked .*code=E_HSM_PIN reason="the HSM refuses the PIN; it is not tried again.*CKR_PIN_INCORRECT`)
	r.probes("/healthz", 200)
	r.probes("/readyz", 503)
	k = r.kms(k.AccessKeyID, k.SecretAccessKey)
	k.Fails("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 500, "InternalException")
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
	var status appliance.Status
	if r.ok("GET", "status", nil, &status); !status.Locked {
		t.Errorf("the status is %+v", status)
	}
	if err := r.do("POST", "keystores", operation.NewKeyStore{Name: "q", URIPathPrefix: "/q"}, nil); fault.CodeOf(err) != fault.Locked {
		t.Errorf("a key store while locked: %v", err)
	}
	r.stop()
	if n := s.shim.Calls("C_Login") - before; n != 1 {
		t.Errorf("the PIN was tried %d times", n)
	}
	if strings.Contains(s.log.String(), string(s.pin)) {
		t.Error("the log has the wrong PIN")
	}

	s.pin = right
	r = s.start()
	r.kms(k.AccessKeyID, k.SecretAccessKey).OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
}

// TestTokenAway at the start: it is waited for.
func TestTokenAway(t *testing.T) {
	s := newSite(t)
	s.shim.Cut()
	r := s.begin()
	s.logged(0, `level=ERROR msg="locked: a state of the boot failed and is tried again" state=unlock code=E_HSM_TOKEN`)
	r.probes("/readyz", 503)
	s.shim.Restore()
	s.logged(0, `msg=serving `)
	r.probes("/readyz", 200)
	r.newKeyStore().OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	r.stop()

	// Neither does a token that is away hold up the end.
	s.shim.Cut()
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `is tried again" state=unlock`)
	r.stop()
}

// TestOneClearLine says why a daemon cannot start; afterwards it can.
func TestOneClearLine(t *testing.T) {
	s := newSite(t)
	sound := s.cfg
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()

	for want, change := range map[string]func(c *config.Config){
		"XKS address " + address + ": another program listens there; stop it, or choose another address with --xks-addr":     func(c *config.Config) { c.XKS.Address = address },
		"admin address " + address + ": another program listens there; stop it, or choose another address with --admin-addr": func(c *config.Config) { c.Admin.Address = address },
		"XKS address 127.0.0.1:99999": func(c *config.Config) { c.XKS.Address = "127.0.0.1:99999" },
		"admin socket " + sound.XKS.Certificate + ": there is a file that is no socket": func(c *config.Config) { c.Admin.Socket = sound.XKS.Certificate },
		"server certificate: stat /nowhere":                                             func(c *config.Config) { c.XKS.Certificate = "/nowhere" },
		"server certificate " + sound.XKS.Key:                                           func(c *config.Config) { c.XKS.Certificate = sound.XKS.Key },
		"xks.client_ca: open /nowhere":                                                  func(c *config.Config) { c.XKS.ClientCA = "/nowhere" },
		"xks.client_ca: " + sound.XKS.Key + " has no PEM":                               func(c *config.Config) { c.XKS.ClientCA = sound.XKS.Key },
		"database /dev/null/state":                                                      func(c *config.Config) { c.State.Dir = "/dev/null/state" },
	} {
		s.cfg = sound
		change(&s.cfg)
		s.refused(want)
	}
	if text, err := os.ReadFile(sound.XKS.Certificate); err != nil || len(text) == 0 {
		t.Errorf("a file in the place of the socket was harmed: %v", err)
	}

	s.cfg = sound
	r := s.start()
	s.newMachine()
	s.cfg.Admin.Socket += "2"
	s.refused(`holdfast.db: another process (` + fmt.Sprint(os.Getpid()) + `) has it open`)
	s.cfg = sound
	s.cfg.State.Dir += "2"
	s.refused("admin socket " + sound.Admin.Socket + ": another appliance listens there")
	r.probes("/readyz", 200)
	r.ok("GET", "status", nil, nil)
	if info, err := os.Stat(sound.Admin.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	r.stop()

	s.cfg = sound
	db, err := sql.Open("sqlite", filepath.Join(sound.State.Dir, "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s.refused("holdfast.db: a newer Holdfast made it (schema 9999, this binary knows ")
}

// TestStop answers the requests under way.
func TestStop(t *testing.T) {
	s := newSite(t)
	r := s.start()
	k := r.newKeyStore()
	r.newKey("k", appliance.CustodyHSM, "")
	before := s.shim.Calls("C_Encrypt")
	s.shim.Hang("C_Encrypt")
	request := k.Request("/keys/k/encrypt", xkstest.EncryptBody("x"))
	answered := make(chan error, 1)
	go func() {
		res, err := k.HTTP.Do(request)
		if err == nil {
			if _, err = io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusOK {
				err = errors.New(res.Status)
			}
			_ = res.Body.Close()
		}
		answered <- err
	}()
	eventually(t, func() error {
		if s.shim.Calls("C_Encrypt") == before {
			return errors.New("the request does not reach the token")
		}
		return nil
	})
	r.cancel()
	s.logged(0, `msg="shutting down"`)
	s.shim.Release()
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	r.stop()
	if _, err := os.Stat(r.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestCertificateReload: both listeners present a renewed certificate without
// a restart, and the one before while the files do not fit together.
func TestCertificateReload(t *testing.T) {
	s := newSite(t)
	r := s.start()
	presented := func(address net.Addr) []byte {
		t.Helper()
		c, err := tls.Dial("tcp", address.String(), &tls.Config{InsecureSkipVerify: true}) // which it is, is the question
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Raw
	}
	first := presented(r.XKS)
	renewed := newCertificate(t)
	s.writeCertificate(renewed)
	eventually(t, func() error {
		for _, a := range []net.Addr{r.XKS, r.Admin} {
			if !bytes.Equal(presented(a), first) {
				t.Fatal("a certificate is presented whose key is not there")
			}
		}
		if !strings.Contains(s.log.String(), "cannot be read anew; the one before is kept") {
			return errors.New("the log does not say that the files do not fit together")
		}
		return nil
	})
	s.writeKey(renewed)
	eventually(t, func() error {
		for _, a := range []net.Addr{r.XKS, r.Admin} {
			if !bytes.Equal(presented(a), renewed.Certificate[0]) {
				return fmt.Errorf("%s still presents the old certificate", a)
			}
		}
		return nil
	})
	r.probes("/readyz", 200) // with the new one
}

// TestNoSecretLeaves: whatever happens, neither the log nor the state has a
// secret in it.
func TestNoSecretLeaves(t *testing.T) {
	s := newSite(t)
	s.cfg.Log.Requests = config.RequestsAll
	r := s.start()
	k := r.newKeyStore()
	const (
		plaintext = "Account 4711 owes 12,000,000 to nobody"
		aad       = "the context of account 4711"
		imported  = "ImportedSecretImportedSecretImportedSecret/+="
	)
	materials := []string{"first material of a cached key..", "material of a key in the token..", "second material of a cached key."}
	r.newKey("cached", appliance.CustodyCached, materials[0])
	r.newKey("in-token", appliance.CustodyHSM, materials[1])
	r.ok("POST", "keystores/p/keys/cached/rotate", operation.Rotation{Material: []byte(materials[2])}, nil)
	credential := operation.NewCredential{AccessKeyID: "IMPORTEDIMPORTEDIMPORTED", SecretAccessKey: imported}
	r.ok("POST", "keystores/p/credentials", credential, nil)
	body := xkstest.EncryptBody(plaintext).With("additionalAuthenticatedData", []byte(aad))
	for _, key := range []string{"cached", "in-token"} {
		sealed := k.OK("/keys/"+key+"/encrypt", body)
		again := xkstest.DecryptBody(sealed).With("additionalAuthenticatedData", []byte(aad))
		if got := k.OK("/keys/"+key+"/decrypt", again).Bytes(t, "plaintext"); string(got) != plaintext {
			t.Fatalf("decrypted %q", got)
		}
		k.Fails("/keys/"+key+"/decrypt", again.With("authenticationTag", make([]byte, 16)), 400, "InvalidCiphertextException")
	}

	// Errors, with a secret at hand each time.
	k.Fails("/keys/nobody/encrypt", body, 404, "KeyNotFoundException")
	k.Fails("/keys/cached/encrypt", body.With("plaintext", plaintext), 400, "ValidationException")
	k.Fails("/keys/cached/encrypt", body.With("plaintext", []string{plaintext}), 400, "ValidationException")
	k.Fails("/keys/cached/encrypt", plaintext, 400, "ValidationException")
	k.Fails("/keys/cached/decrypt", body, 400, "ValidationException")
	s.shim.Fail("C_EncryptInit", pkcs11.CKR_GENERAL_ERROR, 1)
	k.Fails("/keys/in-token/encrypt", body, 500, "InternalException")
	stranger := r.kms(k.AccessKeyID, imported)
	stranger.Fails("/keys/cached/encrypt", body, 401, "AuthenticationFailedException")
	unsigned := k.Request("/keys/cached/encrypt", body)
	unsigned.Header.Set("Authorization", "Bearer "+k.SecretAccessKey)
	if a := k.Do(unsigned); a.Status != 401 {
		t.Errorf("unsigned: %d %s", a.Status, a.Text)
	}
	for route, body := range map[string]any{
		"keystores/p/credentials":        credential, // exists
		"keystores/p/keys":               map[string]any{"id": "x", "custody": "cached", "material": []byte(materials[0]), "secret": imported},
		"keystores/p/keys/cached":        operation.Rotation{Material: []byte(materials[0])}, // no such route
		"keystores/p/keys/nobody/enable": credential,
	} {
		if err := r.do("POST", route, body, nil); err == nil {
			t.Errorf("POST %s succeeds", route)
		}
	}
	// One who takes the port for that of HTTP.
	if c, err := net.Dial("tcp", r.XKS.String()); err != nil {
		t.Error(err)
	} else {
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nX-Secret: %s\r\n\r\n%s", imported, plaintext)
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}

	secrets := map[string][]byte{"secret access key": []byte(k.SecretAccessKey), "imported secret access key": []byte(imported),
		"PIN": s.pin, "plaintext": []byte(plaintext), "additional authenticated data": []byte(aad)}
	for i, m := range materials {
		secrets[fmt.Sprint("key material ", i)] = []byte(m)
	}
	raw, err := base64.StdEncoding.DecodeString(k.SecretAccessKey)
	if err != nil {
		t.Fatal(err)
	}
	secrets["secret access key, decoded"] = raw

	look := func(when string) {
		t.Helper()
		files := map[string][]byte{"the log": []byte(s.log.String())}
		err := filepath.WalkDir(s.cfg.State.Dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			files[path], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if database := files[filepath.Join(s.cfg.State.Dir, "holdfast.db")]; len(database) == 0 {
			t.Fatalf("there is no database among %d files", len(files))
		}
		for name, secret := range secrets {
			for form, text := range forms(secret) {
				for path, content := range files {
					if bytes.Contains(content, text) {
						t.Errorf("%s: %s has the %s (%s)", when, path, name, form)
					}
				}
			}
		}
	}
	look("while it serves")
	r.stop()
	look("afterwards")

	// That the log is looked at is shown by what it must have.
	for _, want := range []string{k.AccessKeyID, "InternalException", "CKR_GENERAL_ERROR", "keystores/{keystore}/credentials"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// forms are the ways in which a secret may have been written. Inside of longer
// Base64 it has one of three forms, without the characters at its edges.
func forms(secret []byte) map[string][]byte {
	quoted, _ := json.Marshal(string(secret)) // a string always encodes
	f := map[string][]byte{
		"raw":         secret,
		"quoted":      bytes.Trim(quoted, `"`),
		"hexadecimal": []byte(hex.EncodeToString(secret)),
		"HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString(secret))),
		"Go bytes":    bytes.Trim(fmt.Append(nil, secret), "[]"),
	}
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		text = text[[]int{0, 2, 3}[shift] : len(text)-1]
		f[fmt.Sprint("Base64 ", shift)] = []byte(text)
		f[fmt.Sprint("URL Base64 ", shift)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	return f
}
