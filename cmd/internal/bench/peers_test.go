package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
)

// second is a real Holdfast that runs already, and what a file of --credentials says of it.
type second struct {
	site *site
	*server
	keys []string
}

func startSecond(t *testing.T) *second {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("SOFTHSM2_CONF", "") // it is set, and put back after the test
	s, err := newSite(t.TempDir(), away)
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{site: s, program: holdfastd(t), place: "second", root: s.dir, name: "second", module: s.module}
	h, err := in.startReady(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	if err := in.provision(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	keys, err := in.createKeys(t.Context(), appliance.CustodyCached, 2)
	if err != nil {
		t.Fatal(err)
	}
	return &second{s, h, keys}
}

// table gives a table of the file of --credentials.
func (s *second) table(name string, more ...string) string {
	keys, _ := json.Marshal(s.keys)
	return fmt.Sprintf("[%s]\naccess_key_id = %q\nsecret_access_key = %q\nkeys = %s\n%s\n", name, s.credential.AccessKeyID, s.credential.SecretAccessKey, keys,
		strings.Join(more, "\n"))
}

// chunking stands before the proxy and cuts its answers into chunks.
func (s *second) chunking(t *testing.T) string {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: s.addr})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:     &http.Transport{TLSClientConfig: s.trust.Clone()},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			r.ContentLength = -1
			r.Header.Del("Content-Length")
			return nil
		},
	}
	certificate, err := tls.LoadX509KeyPair(s.site.certificateFile(), s.site.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(proxy)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.URL
}

func writePrivate(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAgainst measures another Holdfast by its URL, and a proxy that chunks its answers.
func TestAgainst(t *testing.T) {
	s := startSecond(t)
	ca := fmt.Sprintf("ca = %q", s.site.certificateFile())
	file := writePrivate(t, s.table("real", ca, fmt.Sprintf("pid = %d", s.pid))+s.table("chunked", ca))
	out := filepath.Join(t.TempDir(), "bench.json")
	o, err := parse([]string{"--quick", "--holdfastd", holdfastd(t), "--out", out, "--connections", "1,4", "--rate", "50", "--only", "against",
		"--against", "real=https://" + s.addr + keyStorePrefix + ",chunked=" + s.chunking(t) + keyStorePrefix + appliance.XKSPath + "/", "--credentials", file})
	if err != nil {
		t.Fatal(err)
	}
	var table, progress bytes.Buffer
	if err := run(t.Context(), o, &table, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range r.Series {
		names = append(names, m.Name)
		if len(m.Closed) != 2 || m.Open == nil || slices.ContainsFunc(m.Closed, func(c Closed) bool { return c.Requests == 0 }) {
			t.Errorf("%s is not whole: %+v", m.Name, m)
		}
		if known := m.Server != "chunked"; known != (m.Open.CPU > 0) {
			t.Errorf("%s: %f µs of CPU", m.Name, m.Open.CPU)
		}
	}
	if want := []string{"bare handler", "Encrypt, real", "Decrypt, real", "Encrypt, chunked", "Decrypt, chunked"}; !slices.Equal(names, want) {
		t.Errorf("series %q instead of %q", names, want)
	}
	if secret := s.credential.SecretAccessKey; strings.Contains(table.String()+progress.String()+string(text), secret) {
		t.Error("the secret is in what is written")
	}
	t.Run("errors", func(t *testing.T) { s.testErrors(t, ca) })
}

// testErrors: each error says on one line what to do.
func (s *second) testErrors(t *testing.T, ca string) {
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	certificate, err := tls.LoadX509KeyPair(s.site.certificateFile(), s.site.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	serve := func(h http.HandlerFunc, auth tls.ClientAuthType) string {
		other := httptest.NewUnstartedServer(h)
		other.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that are refused are what is tested
		other.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: auth}
		other.StartTLS()
		t.Cleanup(other.Close)
		return other.URL
	}
	hello := serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, tls.NoClientCert)
	page := serve(http.NotFound, tls.NoClientCert)
	busy := serve(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"errorName":"ThrottlingException","errorMessage":"later"}`)
	}, tls.NoClientCert)
	mutual := serve(http.NotFound, tls.RequireAnyClientCert)
	free, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	real, good := "https://"+s.addr+keyStorePrefix, s.table("p", ca)
	for _, c := range []struct{ name, url, table, want string }{
		{"wrong secret", real, strings.Replace(good, s.credential.SecretAccessKey, "x"+s.credential.SecretAccessKey[1:], 1), "it answered 401 AuthenticationFailedException"},
		{"wrong ID", real, strings.Replace(good, s.credential.AccessKeyID, "AKIAIOSFODNN7EXAMPLE", 1), "access_key_id, secret_access_key or region in [p]"},
		{"no such key", real, strings.Replace(good, s.keys[1], "other", 1), `it has no key "other"; name external keys`},
		{"principal", real, s.table("p", ca, `principal = "arn:aws:iam::123456789012:user/Eve"`), "allow the principal arn:aws:iam::123456789012:user/Eve"},
		{"prefix", "https://" + s.addr + "/other", good, "URI path prefix"},
		{"CA", real, s.table("p"), "is not trusted for 127.0.0.1"},
		{"not there", "https://" + free, good, "nobody listens at " + free},
		{"no TLS", "https" + strings.TrimPrefix(plain.URL, "http"), good, "does not speak TLS"},
		{"other service", page, good, "it answered 404 and not as an XKS proxy does"},
		{"other answer", hello, good, "so it is not an XKS proxy"},
		{"busy", busy, good, `it answered 503 ThrottlingException "later"`},
		{"client certificate", mutual, good, "name one as certificate and certificate_key in [p]"},
		{"process", real, s.table("p", ca, "pid = 4194305"), "give as pid its process"},
	} {
		peers, err := parsePeers("p="+c.url, writePrivate(t, c.table))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, err = peers[0].try(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "p: ") {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if peers, err := parsePeers("p="+real, writePrivate(t, good)); err != nil {
		t.Error(err)
	} else if _, err := peers[0].try(ctx); err == nil {
		t.Error("tried after the run has ended")
	}
}

// TestParsePeersRefuses what is not whole, on one line and with what to do.
func TestParsePeersRefuses(t *testing.T) {
	const good = "[a]\naccess_key_id = \"x\"\nsecret_access_key = \"y\"\nkeys = [\"k\"]\n"
	for _, c := range []struct{ against, text, want string }{
		{"", good, "--against NAME=URL, which is missing"},
		{"bin/holdfastd", good, "--beside PROGRAM"},
		{"a=http://h", good, "https://HOST"},
		{"a=https://", good, "https://HOST"},
		{"a=https://me:secret@h", good, "https://HOST"},
		{"a=https://h?x=y", good, "https://HOST"},
		{"a b=https://h", good, "letters, digits"},
		{"a=https://h,a=https://i", good, "given twice"},
		{"a=https://h,b=https://i", good, "has no table [b]"},
		{"a=https://h", "", "has no table [a]"},
		{"a=https://h", "[a]\nkeys = [\"k\"]\n", "access_key_id"},
		{"a=https://h", strings.Replace(good, `["k"]`, "[]", 1), "keys must be given"},
		{"a=https://h", good + "pdi = 1\n", "line 5: a.pdi is not known"},
		{"a=https://h", good + "ca = \"none.pem\"\n", "none.pem"},
		{"a=https://h", good + "certificate = \"c.pem\"\n", "both or not at all"},
		{"a=https://h", "[a", "credentials.toml"},
	} {
		_, err := parsePeers(c.against, writePrivate(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "me:secret") {
			t.Errorf("%q with %q: %v; want %q", c.against, c.text, err, c.want)
		}
	}
	if _, err := parsePeers("a=https://h", ""); err == nil || !strings.Contains(err.Error(), "--credentials FILE") {
		t.Error(err)
	}
	open := writePrivate(t, good)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := parsePeers("a=https://h", open); err == nil || !strings.Contains(err.Error(), "others than its owner") {
		t.Errorf("a file for everybody: %v", err)
	}
	peers, err := parsePeers("a=https://h/demo/kms/xks/v1,", writePrivate(t, good))
	if err == nil {
		t.Errorf("a comma too many: %+v", peers)
	}
}

// TestPeerRequest is what KMS would send: the host without its usual port, and the prefix once.
func TestPeerRequest(t *testing.T) {
	peers, err := parsePeers("a=https://xks.example.com/demo/kms/xks/v1", writePrivate(t, "[a]\naccess_key_id = \"x\"\nsecret_access_key = \"y\"\nkeys = [\"k\"]\nregion = \"eu-west-1\"\nkms_key_arn = \"arn:k\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := peers[0].server()
	if s.addr != "xks.example.com:443" {
		t.Errorf("it is called at %s", s.addr)
	}
	text, err := s.bytes("k", appliance.OpEncrypt, s.encryptBody())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"POST /demo/kms/xks/v1/keys/k/encrypt HTTP/1.1\r\nHost: xks.example.com\r\n", "/eu-west-1/kms-xks-proxy/aws4_request", "\r\nContent-Type: application/json\r\n",
		`"kmsKeyArn":"arn:k"`, `"kmsOperation":"Encrypt"`, principal} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
}
