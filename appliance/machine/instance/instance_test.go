package instance_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/machine/instance"
	"holdfast/attest/ec2/ec2test"
)

// document is the example of the EC2 User Guide.
const document = `{
    "devpayProductCodes" : null,
    "marketplaceProductCodes" : [ "1abc2defghijklm3nopqrs4tu" ],
    "availabilityZone" : "us-west-2b",
    "privateIp" : "10.158.112.84",
    "version" : "2017-09-30",
    "instanceId" : "i-1234567890abcdef0",
    "billingProducts" : null,
    "instanceType" : "t2.micro",
    "accountId" : "123456789012",
    "imageId" : "ami-5fb8c835",
    "pendingTime" : "2016-11-19T16:32:11Z",
    "architecture" : "x86_64",
    "kernelId" : null,
    "ramdiskId" : null,
    "region" : "us-west-2"
}`

var identity = instance.Identity{ID: "i-1234567890abcdef0", Type: "t2.micro", Image: "ami-5fb8c835", Region: "us-west-2", Zone: "us-west-2b", Account: "123456789012"}

// service is one that answers as EC2's does with IMDSv2 required; answer is what
// comes after the token was found good.
func service(t *testing.T, answer http.HandlerFunc) *instance.Metadata {
	t.Helper()
	const token = "AQAEANLQjYm1N-lvv0dOWG8mXvY0CqcGrr9YDDVkYb5u4bk2oPzj0Q=="
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); len(body) > 0 || r.URL.RawQuery != "" {
			t.Errorf("it is sent %q", body)
		}
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" || r.Header.Get("X-Forwarded-For") != "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, token)
		case r.Method != http.MethodGet || r.Header.Get("X-aws-ec2-metadata-token") != token:
			t.Errorf("%s %s without a token", r.Method, r.URL.Path)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return instance.NewMetadata(s.URL)
}

func TestMetadata(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // which nobody asks
	m := service(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/user-data":
			_, _ = io.WriteString(w, "whatever")
		case "/latest/dynamic/instance-identity/document":
			_, _ = io.WriteString(w, document)
		default:
			t.Errorf("it is asked for %s", r.URL.Path)
		}
	})
	if text, err := m.UserData(t.Context()); err != nil || string(text) != "whatever" {
		t.Errorf("%q %v", text, err)
	}
	if got, err := m.Identity(t.Context()); err != nil || *got != identity {
		t.Errorf("%+v %v", got, err)
	}
	none := service(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	if _, err := none.UserData(t.Context()); !errors.Is(err, instance.ErrNone) {
		t.Errorf("no user data: %v", err)
	}
}

// TestSigned: the signed identity is Base64 in lines; it is asked for once an hour.
func TestSigned(t *testing.T) {
	der := ec2test.New().Sign(identity)
	text, asked := "", 0
	m := service(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; r.URL.Path != "/latest/dynamic/instance-identity/rsa2048" {
			t.Errorf("it is asked for %s", r.URL.Path)
		}
		if text == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, text)
	})
	if _, err := m.Signed(t.Context()); !errors.Is(err, instance.ErrNone) {
		t.Errorf("there is none: %v", err)
	}
	text = "<html>"
	if _, err := m.Signed(t.Context()); err == nil {
		t.Error("what is not Base64 is taken")
	}
	text = base64.StdEncoding.EncodeToString([]byte("anything"))
	if _, err := m.Signed(t.Context()); err == nil {
		t.Error("what is no signed identity is taken")
	}
	whole := base64.StdEncoding.EncodeToString(der)
	text = whole[:64] + "\n" + whole[64:] + "\n"
	if got, err := m.Signed(t.Context()); err != nil || !bytes.Equal(got, der) {
		t.Errorf("%x, %v", got, err)
	}
	get := m.SignedIdentity(slog.New(slog.DiscardHandler))
	before := asked
	for range 3 {
		if got := get(t.Context()); !bytes.Equal(got, der) {
			t.Errorf("%x", got)
		}
	}
	if asked != before+1 {
		t.Errorf("it was asked %d times", asked-before)
	}
}

// TestMetadataRefused: nothing that answers otherwise is believed, or waited for.
func TestMetadataRefused(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	much := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 16<<10+1)) }
	redirect := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"hangs":      {hang, "Timeout"},
		"too much":   {much, "more than 16384 bytes"},
		"redirects":  {redirect, "HTTP status 302"},
		"garbage":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x00<html>") }, "instance identity: "},
		"refuses":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "HTTP status 403"},
		"no IMDS v2": {nil, "HTTP status 405"},
	} {
		t.Run(name, func(t *testing.T) {
			m := service(t, c.answer)
			if c.answer == nil { // as a service that knows no tokens
				old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet {
						t.Error("it is asked without a token")
					}
					w.WriteHeader(http.StatusMethodNotAllowed)
				}))
				defer old.Close()
				m = instance.NewMetadata(old.URL)
			}
			if got, err := m.Identity(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
	for name, answer := range map[string]http.HandlerFunc{"hangs": hang, "too much": much, "redirects": redirect,
		"garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a token\r\nX-Evil: 1") },
		"nothing": func(http.ResponseWriter, *http.Request) {}} {
		t.Run("token "+name, func(t *testing.T) {
			s := httptest.NewServer(answer)
			defer s.Close()
			if text, err := instance.NewMetadata(s.URL).UserData(t.Context()); err == nil || !strings.Contains(err.Error(), "instance metadata: token: ") {
				t.Errorf("%q %v", text, err)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := instance.NewMetadata("http://" + l.Addr().String()).UserData(t.Context()); err == nil {
		t.Error("nobody is there, and answers")
	}
}

const digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc" (FIPS 180-4)

func TestParseSetup(t *testing.T) {
	got, err := instance.ParseSetup([]byte(`{"holdfast":1,"setup_code_sha256":"` + digest + `"}` + "\n"))
	if err != nil || got != sha256.Sum256([]byte("abc")) {
		t.Errorf("%x %v", got, err)
	}
	for _, text := range []string{
		"", "#!/bin/sh\necho secret\n", "#cloud-config\n", "null", "{}", `{"holdfast":1}`, `{"setup_code_sha256":"` + digest + `"}`,
		`{"holdfast":2,"setup_code_sha256":"` + digest + `"}`, `{"holdfast":1,"setup_code_sha256":"` + strings.ToUpper(digest) + `"}`,
		`{"holdfast":1,"setup_code_sha256":"` + digest[1:] + `"}`, `{"holdfast":1,"setup_code_sha256":"` + digest + `","secret":1}`,
		`{"holdfast":1,"holdfast":1,"setup_code_sha256":"` + digest + `"}`, `{"holdfast":1,"setup_code_sha256":"` + digest + `"}x`,
		`{"holdfast":1,"setup_code_sha256":"` + digest + `"}` + strings.Repeat(" ", 4096),
	} {
		if _, err := instance.ParseSetup([]byte(text)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.100s: %v", text, err)
		}
	}
	file := filepath.Join(t.TempDir(), "user-data.json")
	if _, err := instance.ReadSetup(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for text, ok := range map[string]bool{`{"holdfast":1,"setup_code_sha256":"` + digest + `"}`: true, strings.Repeat(" ", 10000): false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := instance.ReadSetup(file); (err == nil) != ok {
			t.Errorf("%.80s: %v", text, err)
		}
	}
}

func FuzzParseSetup(f *testing.F) {
	f.Add([]byte(`{"holdfast":1,"setup_code_sha256":"` + digest + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := instance.ParseSetup(text); err == nil && !strings.Contains(string(text), hex.EncodeToString(d[:])) && !strings.Contains(string(text), `\u`) {
			t.Errorf("%q: %x", text, d)
		}
	})
}
