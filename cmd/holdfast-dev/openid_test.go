package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast/appliance/machine/certificate"
	"holdfast/web/console/browsertest"
)

// openID is a real OpenID provider, a program of its own.
type openID struct {
	t        *testing.T
	url      string
	certFile string
	http     *http.Client
}

// startOpenID builds and starts the provider.
func startOpenID(t *testing.T) *openID {
	t.Helper()
	dir := t.TempDir()
	o := &openID{t: t, certFile: filepath.Join(dir, "cert.pem")}
	c, err := certificate.MakeFirst(o.certFile, filepath.Join(dir, "key.pem"), []string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	o.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "provider"), ".")
	build.Dir = "../internal/consoletest/provider" // a module of its own
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the provider: %v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "provider"), o.certFile, filepath.Join(dir, "key.pem"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles, cmd.Stderr = []*os.File{listener}, os.Stderr
	err = errors.Join(cmd.Start(), listener.Close(), l.Close()) // the provider has it now
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o.url = "https://localhost:" + port
	return o
}

// set tells the provider of its client or a user.
func (o *openID) set(v url.Values) {
	o.t.Helper()
	res, err := o.http.PostForm(o.url+"/test", v)
	if err != nil {
		o.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		o.t.Fatalf("the provider answered %s", res.Status)
	}
}

// signIn goes to the provider and back.
func (o *openID) signIn(b *browsertest.Browser, next string) {
	o.t.Helper()
	b.Open("/signin?next=" + url.QueryEscape(next))
	b.Fill("Sign in with single sign-on")
	b.Follow("Go to the sign-in page")
	b.Fill("Login", "username", "test-user@localhost", "password", "verysecure")
}

// TestConsoleOpenID signs in by a real provider, in a real browser: the groups there decide about
// the role here, and where they give none the user is refused and signed out.
func TestConsoleOpenID(t *testing.T) {
	o := startOpenID(t)
	file := filepath.Join(t.TempDir(), "holdfast.toml")
	secret := filepath.Join(t.TempDir(), "secret")
	for name, text := range map[string]string{
		secret: "secret of the test\n",
		file: "[admin.oidc]\nissuer = \"" + o.url + "\"\nclient_id = \"console\"\nclient_secret_file = \"" + secret + "\"\n" +
			"groups = {\"kms-admins\" = \"administrator\", \"kms-auditors\" = \"auditor\"}\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SSL_CERT_FILE", o.certFile) // the authorities of the appliance's system
	p := start(t, t.TempDir(), "--config", file)
	p.alone = "holdfast-dev gives a fleet no configuration of the test's"
	o.set(url.Values{"redirect": {p.dev.ConsoleURL + "/signin/oidc"}})
	admin := setUp(t, p)
	invite(t, admin, "test-user", "viewer")
	admin.Open("/users")
	admin.Follow("test-user")
	admin.Fill("Set single sign-on", "email", "test-user@zitadel.ch")
	admin.Has("Single sign-on is set")

	user := admin.Another()
	user.Trust(o.url)
	o.set(url.Values{"user": {"id1"}, "groups": {"staff kms-auditors"}})
	o.signIn(user, "/audit")
	user.Has("Audit log", "test-user", "auditor", "set role by OpenID groups")
	user.Open("/users")
	user.Has("Your role does not allow")

	another := admin.Another()
	another.Trust(o.url)
	o.set(url.Values{"user": {"id1"}, "groups": {"kms-auditors kms-admins"}})
	o.signIn(another, "/users")
	another.Has("Users and tokens", "administrator")
	user.Open("/audit")
	user.Has("Sign in") // the role changed, and with it the sessions ended

	o.set(url.Values{"user": {"id1"}, "groups": {"staff"}})
	third := admin.Another()
	third.Trust(o.url)
	o.signIn(third, "/")
	third.Has("give you no role here", "Sign in")
	another.Open("/users")
	another.Has("Sign in")
	another.HasNot("Users and tokens")

	o.set(url.Values{"user": {"id1"}, "groups": {"kms-admins"}})
	o.signIn(third, "/account")
	third.Has("Account", "administrator", "single sign-on")
	p.stop()
}
