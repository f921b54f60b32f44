package daemon_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/volume"
	"holdfast/attest"
	"holdfast/attest/ec2"
	"holdfast/attest/ec2/ec2test"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// page asks for a page of the console, or posts a form, and follows.
func (r *running) page(path string, form url.Values) (int, string) {
	r.s.t.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	q, err := http.NewRequestWithContext(r.s.t.Context(), method, "https://"+r.Admin.String()+path, body)
	if err != nil {
		r.s.t.Fatal(err)
	}
	if form != nil {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	res, err := r.s.client().Do(q)
	if err != nil {
		r.s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.s.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestVolume: while the state volume is not open the appliance measures and is
// appraised, but nothing is released, and nobody comes in.
func TestVolume(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(t.TempDir(), "volume.json")
	s.cfg.State.Volume = file
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := bytes.Repeat([]byte{8}, 32)
	opened := fmt.Sprintf(`{"opened":true,"authorization":"release 1.2.0","identity":"%x"}`, id)
	measure := func(p *simulation.Platform) error { return p.TPM.MeasureFirst(tpm.StateVolume(id)) }
	for name, c := range map[string]struct{ text, code, reason string }{
		"not opened": {`{"opened":false,"code":"E_SEAL_PCRS","reason":"the machine is in no state that was authorized"}`, "E_SEAL_PCRS",
			"the state volume was not opened: the machine is in no state that was authorized"},
		"garbage": {`{"opened":true,"opened":true}`, "E_STATE_VOLUME", "it is not known whether the state volume was opened"},
		"missing": {"", "E_STATE_VOLUME", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.cfg.State.Dir = filepath.Join(t.TempDir(), "empty") // as the image has it then
			s.cfg.XKS.Certificate, s.cfg.XKS.Key = filepath.Join(s.cfg.State.Dir, "tls", "server.pem"), filepath.Join(s.cfg.State.Dir, "tls", "server-key.pem")
			s.cfg.Admin.URL = "https://127.0.0.1:9443" // by which the test calls it
			if write(c.text); c.text == "" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			calls, from := s.shim.AllCalls(), len(s.log.String())
			r := s.begin()
			s.logged(from, `msg=boot state=appraise .*code="" reason="matches release 1.2.0"`)
			s.logged(from, `msg=boot state=release .*code=`+c.code)
			s.logged(from, `msg=boot state=locked .*code=`+c.code)
			if b := r.status().Boot; b.State != progress.Locked || b.Code != c.code || !strings.Contains(b.Reason, c.reason) {
				t.Errorf("the boot is %+v", b)
			}
			if b := r.public(); b.Code != c.code || !strings.Contains(b.Reason, c.reason) {
				t.Errorf("everybody is told %+v", b)
			}
			if now := s.shim.AllCalls(); now != calls {
				t.Errorf("the HSM was called %d times", now-calls)
			}
			for _, path := range []string{"/", "/setup", "/signin", "/invitation/x"} {
				if status, text := r.page(path, nil); status != 503 || !strings.Contains(text, c.code) || !strings.Contains(text, c.reason) || !strings.Contains(text, `action="/attestation"`) {
					t.Errorf("%s: %d %s", path, status, text)
				}
			}
			if status, text := r.page("/setup", url.Values{"setup_code": {"x"}, "name": {"eve"}}); status != 503 || !strings.Contains(text, c.code) {
				t.Errorf("%d %s", status, text)
			}
			for route, body := range map[string]any{"invitations": operation.NewInvitation{Name: "eve", Role: identity.RoleAdministrator}, "seal": operation.SealRequest{PIN: s.pin}} {
				if err := r.do("POST", route, body, nil); err == nil || !strings.Contains(err.Error(), c.code) {
					t.Errorf("POST %s: %v", route, err)
				}
			}
			r.evidence([]byte("an auditor's own nonce"))
			if _, err := os.Stat(filepath.Join(s.cfg.State.Dir, "setup-code")); !errors.Is(err, os.ErrNotExist) || len(s.welcomed) != 0 {
				t.Errorf("there is a setup code: %v", err)
			}
			r.stop()
		})
	}

	s.t = t // wrong measurements are said to be wrong, and not the volume
	for _, c := range map[string]struct {
		text   string
		meddle func(*simulation.Platform) error
	}{
		"named and not measured": {opened, nil},
		"measured and not named": {`{"opened":false,"code":"E_VOLUME_OPEN","reason":"x"}`, measure},
	} {
		write(c.text)
		from := len(s.log.String())
		s.meddle = c.meddle
		r := s.begin()
		s.logged(from, `msg=boot state=locked .*code=E_TPM_VOLUME`)
		r.stop()
	}
	write(`{"opened":false,"code":"E_SEAL_PCRS","reason":"x"}`)
	s.meddle, s.asIs = nil, true
	otherKernel(s)
	from := len(s.log.String())
	s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_TPM_REFERENCE`)
}

// TestPINOfTheVolume: with a state volume, evidence names it, and the PIN opens with the
// key of the volume that it was sealed on, and no other.
func TestPINOfTheVolume(t *testing.T) {
	s := newSite(t)
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.cfg.State.Volume = filepath.Join(dir, "volume.json")
	id := bytes.Repeat([]byte{8}, 32)
	if err := (volume.Outcome{Opened: true, Authorization: "release 1.2.0", Identity: id}).Write(s.cfg.State.Volume); err != nil {
		t.Fatal(err)
	}
	s.meddle = func(p *simulation.Platform) error { return p.TPM.MeasureFirst(tpm.StateVolume(id)) }
	this, another := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	// begin starts with what the opener of a volume with that key hands on.
	begin := func(key []byte) (r *running, from int) {
		t.Helper()
		if key != nil {
			if err := (volume.Opened{PINKey: key}).HandOver(s.cfg.State.Volume, os.Getuid()); err != nil {
				t.Fatal(err)
			}
		}
		from = len(s.log.String())
		return s.begin(), from
	}
	s.noPIN = true
	r, from := begin(this)
	s.logged(from, `code=E_SEAL_MISSING`)
	if e, _ := r.evidence([]byte("an auditor's own nonce")); !bytes.Equal(e.TPM.StateVolume(), id) {
		t.Errorf("the evidence names the state volume %s", e.TPM.StateVolume())
	}
	r.ok("POST", "seal", operation.SealRequest{PIN: s.pin}, nil)
	s.logged(from, `msg=serving `)
	r.newKeyStore().OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	r.stop()
	sealed, err := os.ReadFile(s.cfg.SealedPIN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ParseBound(sealed); err != nil {
		t.Errorf("the PIN is not sealed to the volume: %v", err)
	}
	s.asIs, s.noPIN = true, false

	r, from = begin(this)
	s.logged(from, `msg=serving `)
	r.stop()

	calls := s.shim.AllCalls()
	refused := func(key []byte, code, reason string) {
		t.Helper()
		r, from = begin(key)
		s.logged(from, `msg=boot state=locked .*code=`+code+` .*`+reason)
	}
	refused(another, "E_SEAL_VOLUME", "was sealed on another state volume")
	r.stop()
	refused(nil, "E_STATE_VOLUME", "handed no key for the PIN on")
	r.stop()
	if err := os.Remove(s.cfg.SealedPIN()); err != nil { // and one that was sealed without a volume
		t.Fatal(err)
	}
	s.meddle = func(p *simulation.Platform) error {
		return errors.Join(p.TPM.MeasureFirst(tpm.StateVolume(id)), s.officer.Seal(p.TPM, s.cfg.SealedPIN(), s.pin))
	}
	refused(this, "E_SEAL_VOLUME", "is not sealed to this state volume")
	if now := s.shim.AllCalls(); now != calls {
		t.Errorf("the HSM was called %d times", now-calls)
	}
	r.ok("POST", "seal", operation.SealRequest{PIN: s.pin}, nil) // by a person who knows why
	r.stop()
	s.meddle = func(p *simulation.Platform) error { return p.TPM.MeasureFirst(tpm.StateVolume(id)) }
	r, from = begin(this)
	s.logged(from, `msg=serving `)
	r.stop()
}

// TestFirstCertificate: an appliance makes its own, with which it serves, and which
// the console replaces.
func TestFirstCertificate(t *testing.T) {
	s := newSite(t)
	tls := filepath.Join(s.cfg.State.Dir, "tls")
	s.cfg.XKS.Certificate, s.cfg.XKS.Key = filepath.Join(tls, "server.pem"), filepath.Join(tls, "server-key.pem")
	s.cfg.Admin.URL, s.cfg.XKS.URL = "https://127.0.0.1:9443", "https://xks.example.com"
	r := s.start()
	found := s.logged(0, `level=WARN msg="there was no certificate: one was made that signs itself; AWS KMS needs one of a public authority.*names=xks.example.com\S* expires=\S+ sha256=([0-9a-f]{64})`)
	var c operation.Certificate
	r.ok("GET", "certificate", nil, &c)
	if c.SHA256 != found[1] || c.Names[0] != "xks.example.com" || c.Issuer != c.Subject || time.Until(c.NotAfter) > 397*24*time.Hour {
		t.Errorf("%+v", c)
	}
	r.newKeyStore().OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	var request operation.SigningRequest
	r.ok("POST", "certificate/request", operation.CertificateRequest{Names: []string{"xks.example.com"}}, &request)
	if err := r.do("PUT", "certificate", operation.CertificateChain{Chain: c.Chain, OwnAuthority: true, OtherName: true}, nil); err != nil { // of the key in use
		t.Error(err)
	}
	var records json.RawMessage
	r.ok("GET", "audit/records?kind=admin", nil, &records)
	if !regexp.MustCompile(`"asked":\s*\{[^}]*"own_authority":\s*true`).Match(records) {
		t.Errorf("that the certificate was meant is not on record: %s", records)
	}
	r.stop()
	from := len(s.log.String())
	s.start().stop() // with the same
	if strings.Contains(s.log.String()[from:], "there was no certificate") {
		t.Error("another one was made")
	}
}

// TestNoModule: an image without a vendor's module boots to locked, and says what
// to do.
func TestNoModule(t *testing.T) {
	s := newSite(t)
	s.start().stop()
	s.asIs = true
	s.cfg.HSM.Module = "/opt/hsm/lib/libpkcs11.so"
	from := len(s.log.String())
	r := s.begin()
	s.logged(from, `msg=boot state=locked`)
	want := "there is no PKCS#11 module /opt/hsm/lib/libpkcs11.so in this image; build the image with your HSM vendor's module (docs/deploy-aws.md)"
	if b := r.status().Boot; b.State != progress.Locked || b.Code != string(fault.Measure) || b.Reason != want {
		t.Errorf("%+v", b)
	}
}

// metadataService is EC2's, with tokens required. Nil is for what there is not.
func metadataService(t *testing.T, userData, document func() string) string {
	t.Helper()
	return serveMetadata(t, map[string]func() string{"/latest/user-data": userData, "/latest/dynamic/instance-identity/document": document})
}

// serveMetadata is such a service that has those paths.
func serveMetadata(t *testing.T, has map[string]func() string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := has[r.URL.Path]
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			_, _ = io.WriteString(w, "a-token")
		case r.Header.Get("X-aws-ec2-metadata-token") != "a-token":
			t.Errorf("%s %s without a token", r.Method, r.URL)
			w.WriteHeader(http.StatusUnauthorized)
		case answer == nil:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = io.WriteString(w, answer())
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const document = `{"accountId":"123456789012","architecture":"x86_64","availabilityZone":"eu-central-1a","imageId":"ami-5fb8c835",
"instanceId":"i-1234567890abcdef0","instanceType":"m6a.large","region":"eu-central-1","version":"2017-09-30"}`

// TestInstance: who it is, is shown; and the hash in its user data admits the first
// administrator.
func TestInstance(t *testing.T) {
	const code = "a-code-that-somebody-else-has-made"
	sum := sha256.Sum256([]byte(code))
	s := newSite(t)
	s.cfg.Instance.Metadata = true
	s.metadata = metadataService(t, func() string { return `{"holdfast":1,"setup_code_sha256":"` + hex.EncodeToString(sum[:]) + `"}` }, func() string { return document })
	r := s.start()
	if code := <-s.welcomed; code != "" {
		t.Errorf("a code was made: %q", code)
	}
	s.logged(0, `msg="the instance, as its metadata service tells it" id=i-1234567890abcdef0`)
	want := instance.Identity{ID: "i-1234567890abcdef0", Type: "m6a.large", Image: "ami-5fb8c835", Region: "eu-central-1", Zone: "eu-central-1a", Account: "123456789012"}
	if got := r.status().Instance; got == nil || *got != want {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(s.cfg.State.Dir, "setup-code")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a code was written: %v", err)
	}
	if status, text := r.page("/setup", url.Values{"setup_code": {code + "x"}, "name": {"eve"}}); status != 401 {
		t.Errorf("the wrong code: %d %s", status, text)
	}
	if status, text := r.page("/setup", url.Values{"setup_code": {code}, "name": {"alice"}}); status != 200 || !strings.Contains(text, "Welcome, alice") {
		t.Errorf("the code: %d %s", status, text)
	}
	if strings.Contains(s.log.String(), code) {
		t.Error("the log has the code")
	}
}

// TestInstanceIdentity: under a policy that asks, evidence has what EC2 says of the instance,
// as its metadata service gives it; without, the boot waits for it; and under a policy that
// does not ask, nobody is told the account.
func TestInstanceIdentity(t *testing.T) {
	aws := ec2test.New()
	signed := base64.StdEncoding.EncodeToString(aws.Sign(ec2.Instance{ID: "i-00000000000000000", Type: "m6a.large", Image: "ami-5fb8c835", Region: "us-sim-1", Zone: "us-sim-1a", Account: "123456789012"}))
	lines := strings.Join(slices.Collect(func(yield func(string) bool) {
		for line := range slices.Chunk([]byte(signed), 64) {
			if !yield(string(line)) {
				return
			}
		}
	}), "\n")
	asks := func(p *attest.Policy) {
		p.Instance = &ec2.Policy{Accounts: []string{"123456789012"}, Images: []string{"ami-5fb8c835"}, Certificates: [][]byte{aws.Certificate}}
	}
	has := serveMetadata(t, map[string]func() string{"/latest/dynamic/instance-identity/rsa2048": func() string { return lines }})
	begin := func(t *testing.T, policy func(*attest.Policy), metadata string) (*site, *running) {
		s := newSite(t)
		s.cfg.Instance.Metadata, s.policy, s.metadata = true, policy, metadata
		return s, s.begin()
	}
	t.Run("asked", func(t *testing.T) {
		s, r := begin(t, asks, has)
		s.logged(0, `msg=boot state=serving`)
		e, _ := r.evidence([]byte("an auditor's own nonce"))
		if d, err := ec2.Parse(e.Instance); err != nil || d.Account != "123456789012" {
			t.Errorf("%+v, %v", d, err)
		}
	})
	t.Run("not asked", func(t *testing.T) {
		s, r := begin(t, nil, has)
		s.logged(0, `msg=boot state=serving`)
		if e, _ := r.evidence([]byte("an auditor's own nonce")); e.Instance != nil {
			t.Error("everybody is told the account, though no policy asks")
		}
	})
	t.Run("not there", func(t *testing.T) {
		s, r := begin(t, asks, metadataService(t, nil, nil))
		s.logged(0, `code=E_INSTANCE_MISSING`)
		if b := r.status().Boot; b.State != progress.Appraise || b.Code != string(fault.InstanceMissing) {
			t.Errorf("%+v", b)
		}
	})
}

// TestInstanceUnknown: whatever the metadata service does, the boot goes on, and a
// code is made.
func TestInstanceUnknown(t *testing.T) {
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hang.Close)
	nobody, _ := reserve(t)
	for name, c := range map[string]struct{ url, log string }{
		"hangs":   {hang.URL, `msg="user data are unknown"`},
		"nobody":  {"http://" + nobody, `msg="user data are unknown"`},
		"garbage": {metadataService(t, func() string { return "#!/bin/sh\necho hidden" }, func() string { return "\x00" }), `msg="user data are ignored"`},
		"none":    {metadataService(t, nil, nil), `msg="the instance is unknown"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.cfg.Instance.Metadata, s.metadata = true, c.url
			r := s.start()
			if code := <-s.welcomed; code == "" {
				t.Error("no code was made")
			}
			s.logged(0, c.log)
			s.logged(0, `msg="the instance is unknown"`)
			if i := r.status().Instance; i != nil {
				t.Errorf("%+v", i)
			}
			if strings.Contains(s.log.String(), "hidden") {
				t.Error("the log has the user data")
			}
		})
	}
}

// TestSetupFile: a file has the hash as well; one that cannot be used is as none.
func TestSetupFile(t *testing.T) {
	s := newSite(t)
	s.cfg.Admin.SetupCode = filepath.Join(t.TempDir(), "user-data.json")
	s.start().stop()
	s.logged(0, `msg="no hash of a setup code: the file admin.setup_code is ignored"`)
	if code := <-s.welcomed; code == "" {
		t.Error("no code was made")
	}
	if err := os.WriteFile(s.cfg.Admin.SetupCode, fmt.Appendf(nil, `{"holdfast":1,"setup_code_sha256":"%x"}`, sha256.Sum256([]byte("x"))), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start().stop()
	if code := <-s.welcomed; code != "" {
		t.Errorf("a code was made: %q", code)
	}
}

// TestServiceManager: systemd is told when it listens, what the boot does, that it
// lives, and that it stops.
func TestServiceManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	told := func(want string) {
		t.Helper()
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 4096); ; {
			n, err := l.Read(b)
			if err != nil {
				t.Fatalf("it is not told %q: %v", want, err)
			}
			if strings.Contains(string(b[:n]), want) {
				return
			}
		}
	}
	s := newSite(t)
	s.cfg.State.Volume = "/nowhere"
	r := s.begin()
	told("READY=1\nSTATUS=probe")
	told("STATUS=locked: E_STATE_VOLUME it is not known")
	told("WATCHDOG=1")
	r.cancel()
	told("STOPPING=1")
	r.stop()
	s.cfg.State.Volume = ""
	s.begin()
	told("STATUS=serving")
	told("WATCHDOG=1")
}
