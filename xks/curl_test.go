package xks_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/xks/xkstest"
)

// curlClient gives an HTTP client that has curl send each request and sign it,
// in place of the signature that it came with. Of other clients' SigV4, curl's
// is one that was not written against the AWS SDK.
func curlClient(t *testing.T, b *xkstest.Bed, k *xkstest.KMS, version int) *http.Client {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("these tests need curl 7.75 or newer, for its --aws-sigv4: apt-get install curl")
	}
	dir := t.TempDir()
	c := &curl{
		args: []string{"-sS", "--config", "-", "--cacert", filepath.Join(dir, "ca.pem"), "--http" + map[int]string{1: "1.1", 2: "2"}[version],
			"--aws-sigv4", "aws:amz:" + k.Region + ":" + k.Service, "-o", filepath.Join(dir, "answer"), "-w", "%{http_code} %{http_version}"},
		user: k.AccessKeyID + ":" + k.SecretAccessKey, body: filepath.Join(dir, "body"), answer: filepath.Join(dir, "answer"),
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), pemOf(b.Certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: c}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// curl is an [http.RoundTripper] for one request at a time.
type curl struct {
	args               []string
	user, body, answer string
}

func (c *curl) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.body, body, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("curl", append(c.args, "-H", "Content-Type: "+r.Header.Get("Content-Type"), "--data-binary", "@"+c.body, r.URL.String())...)
	cmd.Stdin = strings.NewReader("user = " + c.user) // not in the arguments, which others can see
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("curl: %w: %s", err, stderr.String())
	}
	answer, err := os.ReadFile(c.answer)
	if err != nil {
		return nil, err
	}
	res := &http.Response{Request: r, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(answer))}
	var version string
	if _, err := fmt.Sscan(string(out), &res.StatusCode, &version); err != nil {
		return nil, fmt.Errorf("curl printed %q: %w", out, err)
	}
	res.Proto = "HTTP/" + version
	if version == "2" {
		res.Proto = "HTTP/2.0"
	}
	return res, nil
}
