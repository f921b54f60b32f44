package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance/config"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/officer"
	"holdfast/hsm/softhsm"
	"holdfast/xks/xkstest"
)

// site is a folder with all that holdfast serve needs: a machine with a TPM, a
// token, a certificate, a configuration, and officers.
type site struct {
	dir                         string
	config, socket, ca, softHSM string
	officer                     *officer.Officer
	// components are what the machine boots. It is authorized, and the PIN sealed
	// to it, unless byHand.
	components []swtpm.Component
	byHand     bool
}

// SoftHSM2 reads its configuration from the environment, of which there is one.
var makingToken sync.Mutex

const (
	tokenLabel = "test"
	pin        = "4711-and-more"
)

// newSite makes a site; xks are lines for that section of the configuration.
func newSite(t testing.TB, dir string, xks ...string) *site {
	t.Helper()
	module, err := softhsm.Find()
	if err != nil {
		t.Skip(err)
	}
	s := &site{dir: dir, config: filepath.Join(dir, "holdfast.toml"), socket: filepath.Join(dir, "admin.sock"),
		ca: filepath.Join(dir, "server.pem"), softHSM: filepath.Join(dir, "token", "softhsm2.conf")}
	makingToken.Lock()
	err = errors.Join(softhsm.Prepare(filepath.Join(dir, "token")), softhsm.Use(filepath.Join(dir, "token")),
		softhsm.Create(module, tokenLabel, []byte("so-"+pin), []byte(pin)))
	makingToken.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.components = []swtpm.Component{{Name: ".linux", Content: []byte("a kernel")}}
	if s.officer, err = officer.New(filepath.Join(dir, "officer")); err != nil {
		t.Fatal(err)
	}
	var files config.Config
	s.officer.Configure(&files)
	s.write(t, "pin", pin+"\n")
	certificate, _ := xkstest.Certificate(t, "127.0.0.1")
	s.writePair(t, "server", certificate)
	other, _ := xkstest.Certificate(t, "127.0.0.1")
	s.writePair(t, "other", other)
	text := fmt.Sprintf(`[state]
dir = %q
[hsm]
module = %q
token_label = %q
[attestation]
policy = %q
policy_key = %q
tpm = %q
event_log = %q
[release]
authorizations = %q
seal_key = %q
sealed_pin = %q
[admin]
socket = %q
address = "127.0.0.1:0"
[xks]
address = "127.0.0.1:0"
certificate = %q
key = %q
request_timeout = "20s" # the race detector and a busy machine are slow
`, filepath.Join(dir, "state"), module, tokenLabel, files.Attestation.Policy, files.Attestation.PolicyKey, s.tpm(), s.eventLog(),
		files.Release.Authorizations, files.Release.SealKey, s.sealedPIN(), s.socket, s.ca, filepath.Join(dir, "server-key.pem"))
	for _, line := range xks {
		text += line + "\n"
	}
	s.write(t, "holdfast.toml", text)
	return s
}

func (s *site) tpm() string       { return filepath.Join(s.dir, "tpm", swtpm.SocketName) }
func (s *site) eventLog() string  { return filepath.Join(s.dir, "tpm", swtpm.EventLog) }
func (s *site) sealedPIN() string { return filepath.Join(s.dir, "pin.sealed") }

// powerOn boots the machine.
func (s *site) powerOn() (*swtpm.Process, error) {
	dir := filepath.Join(s.dir, "tpm")
	if s.byHand {
		return swtpm.PowerOn(dir, s.components...)
	}
	return s.officer.PowerOn(dir, s.sealedPIN(), []byte(pin), s.components...)
}

// write writes a file that only its owner may read, and gives its path.
func (s *site) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writePair writes NAME.pem and NAME-key.pem.
func (s *site) writePair(t testing.TB, name string, c *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	s.write(t, name+"-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// gorace has no process wait a second before it ends, as the race detector's
// default is.
const gorace = "atexit_sleep_ms=0"

// command makes a call of holdfast at the site.
func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "holdfast", args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.softHSM, "HOLDFAST_SOCKET="+s.socket, "GORACE="+gorace)
	return cmd
}

// run calls holdfast, which must succeed, and gives its stdout.
func (s *site) run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// server is a holdfast that serves.
type server struct {
	site       *site
	cmd        *exec.Cmd
	log        *watcher
	ended      chan struct{} // closed when the process has ended
	err        error         // how it ended; read it after that
	xks, admin string        // addresses
}

// start starts the server and waits until it serves. When the test ends it must
// end cleanly, if it has not ended before; a data race would show here.
func (s *site) start(t testing.TB, flags ...string) *server {
	t.Helper()
	return s.begin(t, servingLine, flags...)
}

// begin boots the machine, starts the server and waits until its log has a line
// that tells its addresses.
func (s *site) begin(t testing.TB, line *regexp.Regexp, flags ...string) *server {
	t.Helper()
	machine, err := s.powerOn()
	if err != nil {
		t.Fatal(err)
	}
	p, found := s.launch(t, line, machine.Stop, append([]string{"serve", "--config", s.config}, flags...)...)
	p.xks, p.admin = found[1], found[2]
	return p
}

// launch starts a server and waits until its log has the line, of which it gives
// the groups; ended is called when it has ended.
func (s *site) launch(t testing.TB, line *regexp.Regexp, ended func(), args ...string) (*server, []string) {
	t.Helper()
	p := &server{site: s, log: &watcher{line: line, found: make(chan []string, 1)}, ended: make(chan struct{})}
	p.cmd = s.command(context.Background(), args...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		ended()
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		ended()
		close(p.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-p.ended:
			return
		default:
		}
		if err := p.stop(); err != nil {
			t.Error(err)
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	})
	select {
	case found := <-p.log.found:
		return p, found
	case <-p.ended:
		t.Fatalf("it does not serve: %v\n%s", p.err, p.log)
	case <-time.After(time.Minute):
		t.Fatalf("it does not serve\n%s", p.log)
	}
	panic("unreachable") // Fatalf ends the test
}

// stop stops the server as a service manager does, which must be clean.
func (p *server) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		return fmt.Errorf("it does not end\n%s", p.log)
	}
	if p.err != nil {
		return fmt.Errorf("it did not end cleanly: %w\n%s", p.err, p.log)
	}
	return nil
}

// kms calls as KMS, without a URI path prefix and a credential yet.
func (p *server) kms(t testing.TB) *xkstest.KMS {
	t.Helper()
	ca, err := os.ReadFile(p.site.ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &xkstest.KMS{T: t, URL: "https://" + p.xks, HTTP: &http.Client{Timeout: time.Minute, Transport: transport}, Region: "us-east-1"}
}

var (
	servingLine   = regexp.MustCompile(`(?m)msg=serving .*xks=(\S+) admin=(\S+) `)
	listeningLine = regexp.MustCompile(`(?m)msg="listening.*xks=(\S+) admin=(\S+) `)
)

// watcher keeps the log of a server and says when it has a line.
type watcher struct {
	line *regexp.Regexp

	mu    sync.Mutex
	buf   bytes.Buffer
	told  bool
	found chan []string
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if found := w.line.FindStringSubmatch(w.buf.String()); found != nil && !w.told {
		w.told = true
		w.found <- found
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
