package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/cmd/internal/sitetest"
	"holdfast/xks/conformance"
)

// checked is a key store of a server with all that check may be told.
type checked struct {
	*sitetest.Site
	server *sitetest.Server
	args   []string // of check
}

const allowed = "arn:aws:iam::123456789012:user/Alice"

// newChecked starts a server with a key of each kind; id and secret are the
// credential.
func newChecked(t *testing.T, custody string, xks ...string) *checked {
	t.Helper()
	s := sitetest.New(t, t.TempDir(), xks...)
	c := &checked{Site: s, server: s.Start(t)}
	s.Run(t, "keystore", "create", "payments", "--uri-path-prefix", "/p")
	var made struct {
		ID     string `json:"access_key_id"`
		Secret string `json:"secret_access_key"`
	}
	if err := json.Unmarshal([]byte(s.Run(t, "credential", "create", "payments", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "grant", "add", "payments", "--principal", allowed, "--operations", "Encrypt,Decrypt,GetAttributes")
	for id, usage := range map[string]string{"both": "encrypt,decrypt", "encrypt-only": "encrypt", "decrypt-only": "decrypt", "neither": "none", "disabled": "encrypt,decrypt"} {
		s.Run(t, "key", "create", "payments", id, "--usage", usage, "--custody", custody)
	}
	s.Run(t, "key", "disable", "payments", "disabled")
	c.args = []string{"https://" + c.server.XKS + "/p", "--access-key-id", made.ID,
		"--secret-access-key-file", s.Write(t, "secret", made.Secret+"\n"), "--key", "both",
		"--encrypt-only-key", "encrypt-only", "--decrypt-only-key", "decrypt-only", "--no-usage-key", "neither", "--disabled-key", "disabled",
		"--principal", allowed, "--denied-principal", "arn:aws:iam::123456789012:user/Mallory", "--cacert", s.CA,
		"--duration", "1s", "--rate", "50", "--timeout", "20s"}
	return c
}

// check runs holdfast check and gives its output and exit code.
func (c *checked) check(t *testing.T, more ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := c.Command(ctx, "holdfast", append(append([]string{"check"}, c.args...), more...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// json runs holdfast check --json, whose exit code must fit its report.
func (c *checked) json(t *testing.T, more ...string) conformance.Report {
	t.Helper()
	stdout, stderr, code := c.check(t, append(more, "--json")...)
	var r conformance.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	if want := min(r.Summary.Fail, 1); code != want {
		t.Errorf("%d rules failed and it ended with %d", r.Summary.Fail, code)
	}
	return r
}

// timed are the rules about time, which a busy machine may break.
var timed = regexp.MustCompile(`^(latency|load)/`)

// passes: no rule fails and none is left out, but for those of TLS that need a
// host name or client certificates.
func passes(t *testing.T, r conformance.Report) {
	t.Helper()
	if len(r.Results) < 150 {
		t.Errorf("only %d results", len(r.Results))
	}
	for _, result := range r.Results {
		left := result.Outcome == conformance.NotRun && !strings.HasPrefix(result.ID, "tls/")
		if left || (result.Outcome == conformance.Fail && !timed.MatchString(result.ID)) {
			t.Errorf("%s: %s: %s", result.ID, result.Outcome, result.Detail)
		}
	}
}

func TestCheckTable(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := newChecked(t, "cached").check(t)
	failed := 0
	for _, found := range regexp.MustCompile(`(?m)^FAIL +(\S+) .*`).FindAllStringSubmatch(stdout, -1) {
		failed++
		if !timed.MatchString(found[1]) {
			t.Error(found[0])
		}
	}
	if code != min(failed, 1) {
		t.Errorf("%d rules failed and it ended with %d", failed, code)
	}
	for _, want := range []string{`(?m)^pass +sigv4/`, `(?m)^pass +usage/none `, `(?m)^pass +grants/denied `, `(?m)^OPERATION +REQUESTS`, fmt.Sprintf(`\n[0-9]+ passed, %d failed, `, failed)} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("the table has no %s:\n%s", want, stdout)
		}
	}
	// The progress: a line for each group of rules.
	for _, want := range []string{`(?m)^tls: [0-9]+ passed.*, certificate-name not run`, `(?m)^usage: [0-9]+ passed$`, `(?m)^load: .*[0-9]`} {
		if !regexp.MustCompile(want).MatchString(stderr) {
			t.Errorf("the progress has no %s:\n%s", want, stderr)
		}
	}
	if regexp.MustCompile(`(?m)^usage: `).MatchString(stdout) {
		t.Errorf("progress on stdout:\n%s", stdout)
	}
}

func TestCheckTokenCustody(t *testing.T) {
	t.Parallel()
	passes(t, newChecked(t, "hsm").json(t))
}

// TestCheckFails against a server that refuses the credential, and with keys
// that are not what they are said to be.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	c := newChecked(t, "cached")
	secret := c.Write(t, "wrong-secret", strings.Repeat("A", 43))
	if r := c.json(t, "--secret-access-key-file", secret); r.Summary.Fail == 0 {
		t.Errorf("nothing fails with a wrong secret: %+v", r.Summary)
	}
	r := c.json(t, "--no-usage-key", "both", "--disabled-key", "both", "--rate", "0")
	failed := map[string]bool{}
	for _, result := range r.Results {
		failed[result.ID] = result.Outcome == conformance.Fail
	}
	if !failed["usage/none"] || !failed["state/disabled"] {
		t.Errorf("a key that is enabled passes for another: %+v", r.Summary)
	}
	// What cannot be checked at all is said in one line.
	for _, tt := range []struct {
		code int
		want string
		args []string
	}{
		{1, "cannot connect to the proxy", []string{"--cacert", newClientPair(t, c.Site, "stranger", "stranger", nil).file}},
		{1, "no PEM certificate", []string{"--cacert", secret}},
		{1, "others than its owner may read it", []string{"--secret-access-key-file", "/etc/passwd"}},
		{1, "--cert", []string{"--cert", secret, "--cert-key", secret}},
	} {
		stdout, stderr, code := c.check(t, tt.args...)
		if code != tt.code || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "holdfast: ") || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: %d %q %q, want %s", tt.args, code, stdout, stderr, tt.want)
		}
	}
	c.args[0] = "http://" + c.server.XKS
	if stdout, stderr, code := c.check(t); code != 2 || stdout != "" || !strings.Contains(stderr, "the URL must be https://") {
		t.Errorf("a URL of http: %d %q %q", code, stdout, stderr)
	}
	if err := c.server.Stop(); err != nil {
		t.Fatal(err)
	}
	c.args[0] = "https://" + c.server.XKS
	if stdout, stderr, code := c.check(t); code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "cannot connect to the proxy") {
		t.Errorf("a server that is gone: %d %q %q", code, stdout, stderr)
	}
}

// TestMTLS: with client certificates demanded, only those with the right
// common name from the right CA get through.
func TestMTLS(t *testing.T) {
	t.Parallel()
	const name = "cks.kms.us-east-1.amazonaws.com"
	certificates := &sitetest.Site{Dir: t.TempDir()}
	right := newClientPair(t, certificates, "right", name, nil)
	c := newChecked(t, "cached", fmt.Sprintf("client_ca = %q", right.file), fmt.Sprintf("client_names = [%q]", name))

	passes(t, c.json(t, "--cert", right.file, "--cert-key", right.keyFile))
	if r := c.json(t, "--rate", "0"); r.Summary.Fail == 0 {
		t.Errorf("without a certificate: %+v", r.Summary)
	}

	reaches := func(p *clientPair) bool {
		pair, err := tls.LoadX509KeyPair(p.file, p.keyFile)
		if err != nil {
			t.Fatal(err)
		}
		k := c.server.KMS(t)
		k.HTTP.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
		res, err := k.HTTP.Get(k.URL + "/healthz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	if !reaches(right) {
		t.Error("the right certificate does not get through")
	}
	if reaches(newClientPair(t, certificates, "another-ca", name, nil)) {
		t.Error("a certificate of another CA gets through")
	}
	if reaches(newClientPair(t, certificates, "another-name", "cks.kms.eu-west-1.amazonaws.com", right)) {
		t.Error("another common name gets through")
	}
}

// clientPair is a client certificate in two files, which may issue others.
type clientPair struct {
	file, keyFile string
	certificate   *x509.Certificate
	key           *ecdsa.PrivateKey
}

// newClientPair makes a client certificate; without an issuer it signs itself.
func newClientPair(t *testing.T, s *sitetest.Site, name, commonName string, issuer *clientPair) *clientPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: issuer == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	p := &clientPair{file: filepath.Join(s.Dir, name+".pem"), keyFile: filepath.Join(s.Dir, name+"-key.pem"), key: key}
	if p.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.WritePair(t, name, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	return p
}
