// Package sitetest is for tests of the programs: it makes all that holdfastd serve
// needs, and runs the programs there, which must be on the path (testscript.Main).
package sitetest

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

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/config"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/officer"
	"holdfast/hsm/softhsm"
	"holdfast/xks/xkstest"
)

// Site is a folder with all that holdfastd serve needs: a machine with a TPM, a
// token, a certificate, a configuration, and officers.
type Site struct {
	Dir                         string
	Config, Socket, CA, SoftHSM string
	Officer                     *officer.Officer
	// components are what the machine boots. It is authorized, and the PIN sealed
	// to it, unless byHand.
	Components []swtpm.Component
	ByHand     bool
}

// SoftHSM2 reads its configuration from the environment, of which there is one.
var makingToken sync.Mutex

const (
	TokenLabel = "test"
	PIN        = "4711-and-more"
)

// Options are what differs between sites. Each of the lists has lines of a section of the
// configuration.
type Options struct {
	XKS, State, Fleet []string
	// Token is the site whose token this one uses as well; it makes one of its own if nil.
	Token *Site
	// Module is the PKCS#11 module; SoftHSM2's if empty.
	Module string
}

// New makes a site; xks are lines for that section of the configuration.
func New(t testing.TB, dir string, xks ...string) *Site {
	t.Helper()
	return NewWith(t, dir, Options{XKS: xks})
}

// NewWith makes a site.
func NewWith(t testing.TB, dir string, o Options) *Site {
	t.Helper()
	module, err := softhsm.Find()
	if err != nil {
		if os.Getenv("HOLDFAST_TEST_PACKAGES") != "" { // make test has installed them
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s := &Site{Dir: dir, Config: filepath.Join(dir, "holdfast.toml"), Socket: filepath.Join(dir, "admin.sock"),
		CA: filepath.Join(dir, "server.pem"), SoftHSM: filepath.Join(dir, "token", "softhsm2.conf")}
	if o.Token != nil {
		s.SoftHSM = o.Token.SoftHSM
	} else if err := makeToken(module, filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	if o.Module != "" {
		module = o.Module
	}
	s.Components = []swtpm.Component{{Name: ".linux", Content: []byte("a kernel")}}
	if s.Officer, err = officer.New(filepath.Join(dir, "officer")); err != nil {
		t.Fatal(err)
	}
	var files config.Config
	s.Officer.Configure(&files)
	s.Write(t, "pin", PIN+"\n")
	certificate, _ := appliancetest.Certificate(t, "127.0.0.1")
	s.WritePair(t, "server", certificate)
	other, _ := appliancetest.Certificate(t, "127.0.0.1")
	s.WritePair(t, "other", other)
	s.Write(t, "holdfast.toml", s.configuration(module, &files, o))
	return s
}

func makeToken(module, dir string) error {
	makingToken.Lock()
	defer makingToken.Unlock()
	return errors.Join(softhsm.Prepare(dir), softhsm.Use(dir), softhsm.Create(module, TokenLabel, []byte("so-"+PIN), []byte(PIN)))
}

// configuration gives that of the site.
func (s *Site) configuration(module string, files *config.Config, o Options) string {
	return fmt.Sprintf(`[state]
dir = %q
%s[hsm]
module = %q
token_label = %q
[hsm.process]
write = %s
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
%s`, filepath.Join(s.Dir, "state"), lines(o.State), module, TokenLabel, s.writable(module, o), files.Attestation.Policy, files.Attestation.PolicyKey, s.TPM(), s.EventLog(),
		files.Release.Authorizations, files.Release.SealKey, s.SealedPIN(), s.Socket, s.CA, filepath.Join(s.Dir, "server-key.pem"), lines(o.XKS)+section("fleet", o.Fleet))
}

// writable is the list of what the module changes: the tokens; and of a shim, what it is controlled by.
func (s *Site) writable(module string, o Options) string {
	list := fmt.Sprintf("[%q", filepath.Dir(s.SoftHSM))
	if o.Module != "" {
		list += fmt.Sprintf(", %q", filepath.Dir(module))
	}
	return list + "]"
}

// section gives one, unless it would be empty.
func section(name string, list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "[" + name + "]\n" + lines(list)
}

func lines(list []string) (text string) {
	for _, line := range list {
		text += line + "\n"
	}
	return text
}

func (s *Site) TPM() string       { return filepath.Join(s.Dir, "tpm", swtpm.SocketName) }
func (s *Site) EventLog() string  { return filepath.Join(s.Dir, "tpm", swtpm.EventLog) }
func (s *Site) SealedPIN() string { return filepath.Join(s.Dir, "pin.sealed") }

// PowerOn boots the machine.
func (s *Site) PowerOn() (*swtpm.Process, error) {
	dir := filepath.Join(s.Dir, "tpm")
	if s.ByHand {
		return swtpm.PowerOn(dir, s.Components...)
	}
	return s.Officer.PowerOn(dir, s.SealedPIN(), []byte(PIN), s.Components...)
}

// Write writes a file that only its owner may read, and gives its path.
func (s *Site) Write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// WritePair writes NAME.pem and NAME-key.pem.
func (s *Site) WritePair(t testing.TB, name string, c *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	s.Write(t, name+"-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// GoRace has no process wait a second before it ends, as the race detector's
// default is.
const GoRace = "atexit_sleep_ms=0"

// Command makes a call of a program at the site.
func (s *Site) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.SoftHSM, "HOLDFAST_SOCKET="+s.Socket, "GORACE="+GoRace)
	return cmd
}

// Run calls holdfast, which must succeed, and gives its stdout.
func (s *Site) Run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := s.Command(ctx, "holdfast", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Server is a holdfastd that serves.
type Server struct {
	Site       *Site
	Cmd        *exec.Cmd
	Log        *Watcher
	Ended      chan struct{} // closed when the process has ended
	Err        error         // how it ended; read it after that
	XKS, Admin string        // addresses
}

// Start starts the server and waits until it serves. When the test ends it must
// end cleanly, if it has not ended before; a data race would show here.
func (s *Site) Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	return s.Begin(t, ServingLine, flags...)
}

// Begin boots the machine, starts the server and waits until its log has a line
// that tells its addresses.
func (s *Site) Begin(t testing.TB, line *regexp.Regexp, flags ...string) *Server {
	t.Helper()
	machine, err := s.PowerOn()
	if err != nil {
		t.Fatal(err)
	}
	p, found := s.Launch(t, line, machine.Stop, append([]string{"serve", "--config", s.Config}, flags...)...)
	p.XKS, p.Admin = found[1], found[2]
	return p
}

// Launch starts a server and waits until its log has the line, of which it gives
// the groups; ended is called when it has ended.
func (s *Site) Launch(t testing.TB, line *regexp.Regexp, ended func(), args ...string) (*Server, []string) {
	t.Helper()
	p := &Server{Site: s, Log: &Watcher{line: line, found: make(chan []string, 1)}, Ended: make(chan struct{})}
	p.Cmd = s.Command(context.Background(), "holdfastd", args...)
	p.Cmd.Stdout, p.Cmd.Stderr = p.Log, p.Log // lines about requests, and all others
	if err := p.Cmd.Start(); err != nil {
		ended()
		t.Fatal(err)
	}
	go func() {
		p.Err = p.Cmd.Wait()
		ended()
		close(p.Ended)
	}()
	t.Cleanup(func() {
		select {
		case <-p.Ended:
			return
		default:
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
			_ = p.Cmd.Process.Kill()
			<-p.Ended
		}
	})
	select {
	case found := <-p.Log.found:
		return p, found
	case <-p.Ended:
		t.Fatalf("it does not serve: %v\n%s", p.Err, p.Log)
	case <-time.After(time.Minute):
		t.Fatalf("it does not serve\n%s", p.Log)
	}
	panic("unreachable") // Fatalf ends the test
}

// Stop stops the server as a service manager does, which must be clean.
func (p *Server) Stop() error {
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Ended:
	case <-time.After(time.Minute):
		return fmt.Errorf("it does not end\n%s", p.Log)
	}
	if p.Err != nil {
		return fmt.Errorf("it did not end cleanly: %w\n%s", p.Err, p.Log)
	}
	return nil
}

// KMS calls as KMS, without a URI path prefix and a credential yet.
func (p *Server) KMS(t testing.TB) *xkstest.KMS {
	t.Helper()
	ca, err := os.ReadFile(p.Site.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &xkstest.KMS{T: t, URL: "https://" + p.XKS, HTTP: &http.Client{Timeout: time.Minute, Transport: transport}, Region: "us-east-1"}
}

var (
	ServingLine   = regexp.MustCompile(`(?m)msg=serving .*xks=(\S+) admin=(\S+) `)
	ListeningLine = regexp.MustCompile(`(?m)msg="listening.*xks=(\S+) admin=(\S+) `)
)

// Watcher keeps the log of a server and says when it has a line.
type Watcher struct {
	line *regexp.Regexp

	mu    sync.Mutex
	buf   bytes.Buffer
	told  bool
	found chan []string
}

func (w *Watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if w.told {
		return len(p), nil
	}
	if found := w.line.FindStringSubmatch(w.buf.String()); found != nil {
		w.told = true
		w.found <- found
	}
	return len(p), nil
}

// Len is how many bytes there are.
func (w *Watcher) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Len()
}

// From gives what there is after the first n bytes.
func (w *Watcher) From(n int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.buf.Bytes()[n:])
}

func (w *Watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
