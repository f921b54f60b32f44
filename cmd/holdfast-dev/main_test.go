package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/consoletest"
	"holdfast/cmd/internal/kmsload"
	"holdfast/hsm/module"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// TestMain lets the test's binary be holdfast-dev.
func TestMain(m *testing.M) {
	// The process of a PKCS#11 module has none of its parent's variables but those it needs.
	if os.Getenv("HOLDFAST_DEV_TEST") == "run" || len(os.Args) > 1 && os.Args[1] == module.Argument {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe, append([]string{"--xks-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "HOLDFAST_DEV_TEST=run")
	return cmd
}

// process is a holdfast-dev that serves.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
	// printed is what it printed up to the line "Serving".
	printed string
	dev     devFile
	state   string               // the folder of its state, or of what nodes have in common
	alone   string               // why its browser has one appliance also where others have fleets; empty if not
	console *consoletest.Console // nil until a browser was opened
}

func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return startIn(t, dir, dir, args...)
}

// startIn is start where the file for other programs is in another folder.
func startIn(t *testing.T, devDir, dir string, args ...string) *process {
	t.Helper()
	p := &process{t: t, state: devDir, cmd: command(t, append([]string{"--dir", dir}, args...)...)}
	p.cmd.Stderr = &p.stderr
	pipe, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	p.out = bufio.NewReader(pipe)
	for !strings.HasSuffix(p.printed, "Serving. Ctrl-C stops.\n") {
		line, err := p.out.ReadString('\n')
		p.printed += line
		if err != nil {
			_ = p.cmd.Wait()
			t.Fatalf("it ended before it served: %s%s", p.printed, p.stderr.String())
		}
	}
	text, err := os.ReadFile(filepath.Join(devDir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &p.dev); err != nil {
		t.Fatal(err)
	}
	return p
}

// stop presses Ctrl-C.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	rest, _ := io.ReadAll(p.out)
	if err := p.cmd.Wait(); err != nil || string(rest) != "stopped\n" {
		p.t.Fatalf("it did not stop cleanly: %v: %s%s", err, rest, p.stderr.String())
	}
}

func (p *process) kms() *xkstest.KMS {
	p.t.Helper()
	ca, err := os.ReadFile(p.dev.CACert)
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &xkstest.KMS{T: p.t, URL: p.dev.XKSURL + p.dev.URIPathPrefix, Service: kmsload.Service, Region: kmsload.Region,
		AccessKeyID: p.dev.AccessKeyID, SecretAccessKey: p.dev.SecretAccessKey,
		HTTP: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}}
}

// do calls the admin API at the socket, as root on the machine may.
func (p *process) do(method, path string, in, out any) {
	p.t.Helper()
	if err := web.NewClient(p.dev.AdminSocket).Do(p.t.Context(), method, path, in, out); err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// TestTwoStarts: the tour works, the printed curl line works when pasted, and
// the second start finds everything as it was.
func TestTwoStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	p := start(t, dir)
	if p.dev.PID != p.cmd.Process.Pid || p.dev.URIPathPrefix != "/demo" || p.dev.KeyID != "demo-key" {
		t.Errorf("dev.json: %+v", p.dev)
	}
	for _, step := range []string{"GetHealthStatus", "GetKeyMetadata", "Encrypt with CDIV", "Decrypt"} {
		if !regexp.MustCompile(`(?m)^  ` + step + ` +[0-9.]+ ms`).MatchString(p.printed) {
			t.Errorf("the tour lacks %s:\n%s", step, p.printed)
		}
	}
	for _, want := range []string{p.dev.XKSURL + "/demo/kms/xks/v1", p.dev.AdminSocket, dir} {
		if !strings.Contains(p.printed, want) {
			t.Errorf("%s is not printed", want)
		}
	}
	paste(t, p.printed)

	sealed := p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("from before"))
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodPost, web.Path("keystores", "demo", "keys"),
		operation.NewKey{ID: "mine", Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyHSM}, nil); err != nil {
		t.Fatal(err)
	}
	p.stop()
	for _, gone := range []string{"dev.json", "admin.sock"} {
		if _, err := os.Stat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("%s is still there after the end", gone)
		}
	}

	first := p.dev
	p = start(t, dir)
	if p.dev.AccessKeyID != first.AccessKeyID || p.dev.SecretAccessKey != first.SecretAccessKey {
		t.Error("the second start has another credential")
	}
	k := p.kms()
	if got := k.OK("/keys/demo-key/decrypt", xkstest.DecryptBody(sealed)).Bytes(t, "plaintext"); string(got) != "from before" {
		t.Errorf("decrypted %q", got)
	}
	k.OK("/keys/mine/encrypt", xkstest.EncryptBody("x"))
	var grants operation.List[*appliance.Grant]
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodGet, web.Path("keystores", "demo", "grants"), nil, &grants); err != nil || len(grants.Items) != 1 {
		t.Errorf("grants: %v, %v", grants, err)
	}
	p.stop()
}

// TestRemovedStaysRemoved: what somebody has removed from the demonstration, or
// disabled, is as they left it at the next start, which serves all the same.
func TestRemovedStaysRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	p := start(t, dir)
	client := web.NewClient(p.dev.AdminSocket)
	var grants operation.List[*appliance.Grant]
	if err := client.Do(t.Context(), http.MethodGet, "keystores/demo/grants", nil, &grants); err != nil || len(grants.Items) != 1 {
		t.Fatal(err, grants)
	}
	for _, path := range []string{"keystores/demo/credentials/" + p.dev.AccessKeyID, "keystores/demo/grants/" + grants.Items[0].ID} {
		if err := client.Do(t.Context(), http.MethodDelete, path, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	p.stop()
	p = start(t, dir)
	if !strings.Contains(p.printed, "What was removed stays removed") {
		t.Errorf("it says:\n%s", p.printed)
	}
	p.kms().Fails("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 401, "AuthenticationFailedException")
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodGet, "keystores/demo/grants", nil, &grants); err != nil || len(grants.Items) != 0 {
		t.Errorf("%v %v", err, grants)
	}
	p.stop()
}

// paste runs the curl line as a shell would.
func paste(t *testing.T, printed string) {
	t.Helper()
	i, j := strings.Index(printed, "\ncurl "), strings.Index(printed, "\n\nServing.")
	if i < 0 || j < i {
		t.Fatalf("no curl line:\n%s", printed)
	}
	var answer struct{ Ciphertext []byte }
	out, err := exec.Command("sh", "-c", printed[i+1:j]+" -sS").Output()
	if err != nil || json.Unmarshal(out, &answer) != nil || len(answer.Ciphertext) != len("Hello World!") {
		t.Errorf("the curl line answered %s: %v", out, err)
	}
}

// bootTook finds how long the boot took altogether, as it is printed.
var bootTook = regexp.MustCompile(`(?m)^  altogether +([0-9.]+) ms$`)

// TestBootIsTold: each state with its time.
func TestBootIsTold(t *testing.T) {
	for _, by := range []string{"sealed", "broker"} {
		p := start(t, t.TempDir(), "--release", by, "--broker-addr", "127.0.0.1:0")
		for _, state := range []string{"probe", "measure", "collect", "appraise", "release", "unlock"} {
			if !regexp.MustCompile(`(?m)^  ` + state + ` +[0-9.]+ ms   `).MatchString(p.printed) {
				t.Errorf("%s: %s is not told:\n%s", by, state, p.printed)
			}
		}
		if !bootTook.MatchString(p.printed) || !strings.Contains(p.printed, "matches holdfast-dev ") {
			t.Errorf("%s: the boot is not told:\n%s", by, p.printed)
		}
		p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x"))
		p.stop()
	}
}

// TestReleasesInTurn: the same folder serves whoever releases the PIN.
func TestReleasesInTurn(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	sealed := p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x"))
	p.stop()
	for _, by := range []string{"broker", "sealed"} {
		p = start(t, dir, "--release", by, "--broker-addr", "127.0.0.1:0")
		p.kms().OK("/keys/demo-key/decrypt", xkstest.DecryptBody(sealed))
		p.stop()
	}
}

// TestTampered: a kernel that nobody has authorized leaves the appliance locked,
// and a stranger to the code is told why.
func TestTampered(t *testing.T) {
	dir := t.TempDir()
	start(t, dir).stop()
	cmd := command(t, "--dir", dir, "--tamper")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	printed, lines := "", bufio.NewReader(out)
	for !strings.HasSuffix(printed, "Ctrl-C stops.\n") {
		line, err := lines.ReadString('\n')
		if printed += line; err != nil {
			t.Fatalf("it ended: %s", printed)
		}
	}
	for _, want := range []string{"appraise", "FAILED E_TPM_REFERENCE", "Locked: E_TPM_REFERENCE", "nearest is \"holdfast-dev ", "PCR 4"} {
		if !strings.Contains(printed, want) {
			t.Errorf("%s is not printed:\n%s", want, printed)
		}
	}
	var s operation.Status
	if err := web.NewClient(filepath.Join(dir, "admin.sock")).Do(t.Context(), http.MethodGet, "status", nil, &s); err != nil || s.Boot.Code != "E_TPM_REFERENCE" || !s.Locked {
		t.Errorf("the status is %+v: %v", s, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(lines); string(rest) != "stopped\n" {
		t.Errorf("it printed %q", rest)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	start(t, dir).stop() // the right kernel serves as before
}

// TestNothingSecretInTheFolder but in the PIN's file and, while it serves, in
// dev.json.
func TestNothingSecretInTheFolder(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	const plaintext = "Account 4711 owes 12,000,000"
	k := p.kms()
	for _, key := range []string{"demo-key", "no-such-key"} {
		k.Call("/keys/"+key+"/encrypt", xkstest.EncryptBody(plaintext).With("additionalAuthenticatedData", []byte("context of the account")))
	}
	secret := k.SecretAccessKey
	k.SecretAccessKey = strings.Repeat("A", 43)
	k.Call("/keys/demo-key/encrypt", xkstest.EncryptBody(plaintext))
	pin, err := os.ReadFile(filepath.Join(dir, "pin"))
	if err != nil {
		t.Fatal(err)
	}
	rawSecret, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{
		"secret access key": []byte(secret), "secret access key, decoded": rawSecret, "PIN": bytes.TrimSpace(pin),
		"plaintext": []byte(plaintext), "plaintext in Base64": []byte(base64.StdEncoding.EncodeToString([]byte(plaintext))),
	}
	files := 0
	look := func() {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || entry.Name() == "pin" || entry.Name() == "dev.json" {
				return err
			}
			content, err := os.ReadFile(path)
			files++
			for name, s := range secrets {
				if bytes.Contains(content, s) {
					t.Errorf("the %s is in %s", name, path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	look()
	p.stop()
	look()
	if files < 8 {
		t.Errorf("only %d files were looked at", files)
	}
}

// TestSeedConfiguration serves the section [aws_xks_config] as it is written
// elsewhere, at no URI path prefix.
func TestSeedConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "seed.toml")
	const section = `[aws_xks_config]
aws_xks_enable = true
aws_xks_region = "us-east-1"
aws_xks_service = "xks-kms"
aws_xks_sigv4_access_key_id = "AKIAIOSFODNN7EXAMPLE"
aws_xks_sigv4_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
`
	if err := os.WriteFile(file, []byte(section), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, filepath.Join(dir, "dev"), "--config", file)
	k := p.kms()
	k.URL, k.AccessKeyID, k.SecretAccessKey = p.dev.XKSURL, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	for _, service := range []string{"xks-kms", "kms-xks-proxy"} {
		k.Service = service
		k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	}
	p.stop()
}

// TestOneClearLine is what is printed when it cannot start.
func TestOneClearLine(t *testing.T) {
	refused := func(t *testing.T, want string, args ...string) {
		t.Helper()
		cmd := command(t, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); err == nil || code < 1 || code > 2 {
			t.Errorf("it ended with %v", err)
		}
		if got := stderr.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "holdfast-dev: ") || !strings.Contains(got, want) {
			t.Errorf("it printed %q, want one line with %q", got, want)
		}
	}
	t.Run("taken port", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for _, flag := range []string{"--xks-addr", "--admin-addr"} {
			refused(t, "choose another address with "+flag, "--dir", t.TempDir(), flag, l.Addr().String())
		}
	})
	t.Run("state folder in use", func(t *testing.T) {
		dir := t.TempDir()
		p := start(t, dir)
		refused(t, dir, "--dir", dir)
		p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x")) // unharmed
		p.stop()
	})
	t.Run("state folder is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, file, "--dir", file)
	})
	t.Run("argument", func(t *testing.T) { refused(t, `unexpected argument "extra"`, "extra") })

	sound := t.TempDir()
	start(t, sound).stop()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"no database file":  write("state/holdfast.db", "this is not a database, though it is as long as a header of one would have to be to be read"),
		"cut database":      cut("state/holdfast.db"),
		"empty PIN":         write("pin", ""),
		"another TPM":       remove("tpm"),
		"no sealed PIN":     write("state/pin.sealed", "{}"),
		"PIN gone":          remove("pin"),
		"token gone":        remove("token/tokens"),
		"token is no token": damageToken,
		"no certificate":    write("tls/server.pem", "no certificate"),
		"key gone":          remove("tls/server-key.pem"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			if err := os.CopyFS(dir, os.DirFS(sound)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			damage(t, dir)
			refused(t, dir, "--dir", dir)
		})
	}
}

func write(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func cut(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Truncate(filepath.Join(dir, name), 8192); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// damageToken cuts every file of the token to nothing.
func damageToken(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "token/tokens/*/*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no token: %v", err)
	}
	for _, f := range files {
		if err := os.Truncate(f, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSideBySide: two of them, each with its folder and ports.
func TestSideBySide(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	sealed := a.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x"))
	b.kms().Fails("/keys/demo-key/decrypt", xkstest.DecryptBody(sealed), 400, "InvalidCiphertextException")
	a.stop()
	b.stop()
}

// TestKilled: what a killed one leaves behind does not hold up the next.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	sealed := p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x"))
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	p = start(t, dir)
	p.kms().OK("/keys/demo-key/decrypt", xkstest.DecryptBody(sealed))
	p.stop()
}
