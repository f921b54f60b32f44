//go:build image

package boottest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/attest"
	"holdfast/attest/tpm"
	"holdfast/xks/xkstest"
)

// images is the folder with the images: 1 and 2, a release and the next, and keys.
var images = flag.String("images", "", "folder that packer/boottest/build has made")

// pin is that of the token which the test image makes.
const pin = "12345678"

func image(release string) string { return filepath.Join(*images, release, "holdfast.raw") }

func TestMain(m *testing.M) {
	flag.Parse()
	if _, err := os.Stat(image("1")); err != nil {
		panic("-images: " + err.Error() + "; make image-test builds them")
	}
	os.Exit(m.Run())
}

// TestBoot goes through the life of an appliance: the first boot makes the state
// volume and is given the PIN; the second opens both by itself and serves; its
// measurements were predicted, and its evidence verifies elsewhere; an update keeps
// the state; when the older release is revoked, that one gets nothing.
func TestBoot(t *testing.T) {
	t.Parallel()
	m := newMachine(t)

	b := m.start(image("1"))
	b.until("the release of the PIN", func(s state) bool { return s.Code == "E_SEAL_MISSING" || s.State == "locked" })
	t.Logf("first boot: waits for the PIN %.1f s after it was switched on", time.Since(b.started).Seconds())
	code := b.says(regexp.MustCompile(`(?m)([A-Z2-7]{6}(?:-[A-Z2-7]{6}){3})\s`))[1]
	admin := b.enrol(code)
	admin.holdfast("yes\n", "admission", "confirm") // whom the first unlock seals
	admin.holdfast(pin, "seal")
	b.serves()
	admin.holdfast("", "keystore", "create", "bank", "--uri-path-prefix", "/bank")
	admin.holdfast("", "key", "create", "bank", "payroll")
	admin.holdfast("", "grant", "add", "bank", "--principal", "*", "--operations", "Encrypt,Decrypt,GetAttributes")
	file := m.path("kms.json")
	admin.holdfast("", "credential", "create", "bank", "--kms-json", file)
	kms := b.kms(file)
	sealed := kms.OK("/keys/payroll/encrypt", xkstest.EncryptBody("thirteen bytes"))
	b.off()

	b = m.start(image("1"))
	b.serves()
	t.Logf("second boot: serves %.1f s after it was switched on", time.Since(b.started).Seconds())
	b.decrypts(file, sealed, "thirteen bytes")
	volume := b.evidence("1")
	b.confined()
	b.off()

	t.Run("update", func(t *testing.T) {
		m.t = t
		b = m.start(image("2"))
		b.serves()
		b.decrypts(file, sealed, "thirteen bytes")
		if after := b.evidence("2"); !bytes.Equal(after, volume) {
			t.Errorf("the state volume is %s, and was %s before the update", after, volume)
		}
		admin := admin.at(b)
		admin.holdfast("", "seal", "revoke", "--below", "2")
		b.off()
	})
	t.Run("an older image after its policy was revoked", func(t *testing.T) {
		m.t = t
		b := m.start(image("1"))
		b.locked("E_POLICY_VERSION", "revoked")
		b.says(regexp.MustCompile(`state volume: not open: E_SEAL_REVOKED`))
		b.off()
	})
	t.Run("the newer image goes on", func(t *testing.T) {
		m.t = t
		b := m.start(image("2"))
		b.serves()
		b.decrypts(file, sealed, "thirteen bytes")
		b.off()
	})
	t.Run("the state volume at another TPM", func(t *testing.T) {
		m.t = t
		m.newTPM()
		b := m.start(image("2"))
		b.locked("E_SEAL_TPM", "state volume")
		b.nobodySignsIn()
		b.off()
	})
}

// TestTampering: what is not as it was signed does not boot, or gets neither the
// state volume nor the PIN.
func TestTampering(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	b := m.start(image("1"))
	b.until("the release of the PIN", func(s state) bool { return s.Code == "E_SEAL_MISSING" })
	b.off()

	for _, tt := range []struct {
		name   string
		change func(m *machine, disk string)
		want   func(b *boot)
	}{
		{"one byte of the command line", func(m *machine, disk string) {
			uki := extract(m.t, disk)
			replace(m.t, uki, " quiet ", " quieT ")
			inject(m.t, disk, uki, "::/EFI/BOOT/BOOTX64.EFI")
		}, (*boot).refused},
		{"one byte of the command line, signed by the owner of the firmware's keys", func(m *machine, disk string) {
			uki := extract(m.t, disk)
			replace(m.t, uki, " quiet ", " quieT ")
			inject(m.t, disk, resign(m.t, uki), "::/EFI/BOOT/BOOTX64.EFI")
		}, func(b *boot) {
			b.locked("E_TPM_REFERENCE", "PCR")
			b.says(regexp.MustCompile(`state volume: not open: E_SEAL_PCRS`))
			b.nobodySignsIn()
		}},
		{"another root hash", func(m *machine, disk string) { // and the root to it
			copyFile(m.t, image("2"), disk)
			for _, name := range []string{"policy.signed", "authorizations.json"} {
				inject(m.t, disk, filepath.Join(*images, "1", name), "::/holdfast/"+name)
			}
		}, func(b *boot) {
			b.locked("E_TPM_REFERENCE", "PCR")
			b.says(regexp.MustCompile(`state volume: not open: E_SEAL_PCRS`))
		}},
		{"a corrupt root block", func(m *machine, disk string) {
			flip(m.t, disk, 41<<20+96) // the superblock of the root file system
		}, func(b *boot) { b.stops(regexp.MustCompile(`verity.*corrupt`)) }},
		{"a credential dropped on the ESP", func(m *machine, disk string) {
			credential := filepath.Join(m.t.TempDir(), "x.cred")
			if err := os.WriteFile(credential, []byte("root:toor"), 0o600); err != nil {
				m.t.Fatal(err)
			}
			command(m.t, "mmd", "-i", disk+"@@1M", "::/EFI/BOOT/BOOTX64.EFI.extra.d")
			inject(m.t, disk, credential, "::/EFI/BOOT/BOOTX64.EFI.extra.d/passwd.hashed-password.root.cred")
		}, func(b *boot) {
			b.locked("E_TPM_REFERENCE", "PCR 12")
			b.says(regexp.MustCompile(`state volume: not open: E_SEAL_PCRS.*PCR 12`))
		}},
		{"a command line from the host, by SMBIOS", func(m *machine, _ string) {
			m.more = []string{"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.import_credentials=yes"}
		}, func(b *boot) {
			b.locked("E_TPM_REFERENCE", "PCR 12")
			b.says(regexp.MustCompile(`state volume: not open: E_SEAL_PCRS.*PCR 12`))
		}},
		{"an unsigned kernel image", func(m *machine, disk string) {
			uki := extract(m.t, disk)
			command(m.t, "sbattach", "--remove", uki)
			inject(m.t, disk, uki, "::/EFI/BOOT/BOOTX64.EFI")
		}, (*boot).refused},
		{"nothing, for comparison", func(*machine, string) {}, func(b *boot) {
			b.until("the release of the PIN", func(s state) bool { return s.Code == "E_SEAL_MISSING" })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := m.twin(t)
			disk := m.path("tampered.raw")
			copyFile(t, image("1"), disk)
			tt.change(m, disk)
			b := m.start(disk)
			tt.want(b)
			b.off()
		})
	}
}

// extract gives a copy of the disk's kernel image.
func extract(t *testing.T, disk string) string {
	t.Helper()
	uki := filepath.Join(t.TempDir(), "uki.efi")
	command(t, "mcopy", "-i", disk+"@@1M", "::/EFI/BOOT/BOOTX64.EFI", uki)
	return uki
}

// inject puts a file on the disk's EFI system partition.
func inject(t *testing.T, disk, file, to string) {
	t.Helper()
	command(t, "mcopy", "-o", "-i", disk+"@@1M", file, to)
}

// resign has the owner of the firmware's keys sign the kernel image.
func resign(t *testing.T, uki string) string {
	t.Helper()
	key := filepath.Join(*images, "keys", "db")
	command(t, "sbattach", "--remove", uki)
	command(t, "sbsign", "--key", key+".key", "--cert", key+".crt", "--output", uki+".signed", uki)
	return uki + ".signed"
}

// replace changes the only place where the text stands.
func replace(t *testing.T, file, from, to string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte(from)); n != 1 || len(from) != len(to) {
		t.Fatalf("%q stands %d times in %s", from, n, file)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip changes one bit at the offset.
func flip(t *testing.T, file string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var one [1]byte
	if _, err := f.ReadAt(one[:], offset); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one[:], offset); err != nil {
		t.Fatal(err)
	}
}

// administrator has an API token of an appliance, and calls it by the command line.
type administrator struct {
	b         *boot
	tokenFile string
}

func (a administrator) at(b *boot) administrator { return administrator{b, a.tokenFile} }

// holdfast runs a command against the appliance, whose certificate is pinned.
func (a administrator) holdfast(input string, args ...string) string {
	t := a.b.t
	t.Helper()
	ca := a.b.path("certificate.pem")
	writePEM(t, ca, a.b.certificate())
	all := append([]string{"--server", "https://localhost:" + a.b.admin, "--token-file", a.tokenFile, "--ca", ca}, args...)
	cmd := exec.Command(filepath.Join(*images, "1", "holdfast"), all...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// certificate is what the administrators' listener shows.
func (b *boot) certificate() *x509.Certificate {
	b.t.Helper()
	c, err := tls.Dial("tcp", "127.0.0.1:"+b.admin, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // to learn the certificate
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func writePEM(t *testing.T, file string, c *x509.Certificate) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	totpSecret  = regexp.MustCompile(`id="totp-secret">([A-Z2-7]+)<`)
	enrolAction = regexp.MustCompile(`action="(/invitation/[^"]+/password)"`)
	formVersion = regexp.MustCompile(`name="version" value="([^"]+)"`)
	apiToken    = regexp.MustCompile(`hf_[A-Za-z0-9_-]{43}`)
)

// enrol makes the first administrator by the setup code, and an API token, through
// the console's forms.
func (b *boot) enrol(code string) administrator {
	t := b.t
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: time.Minute, Transport: b.http.Transport}
	site := "https://localhost:" + b.admin
	page := func(res *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	post := func(path string, form url.Values) string {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, site+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Origin", site)
		return page(browser.Do(q))
	}
	find := func(what *regexp.Regexp, in string) string {
		t.Helper()
		found := what.FindStringSubmatch(in)
		if found == nil {
			t.Fatalf("no %s on the page: %s", what, in)
		}
		return html.UnescapeString(found[len(found)-1])
	}
	enrolment := post("/setup", url.Values{"setup_code": {code}, "name": {"alice"}})
	now, err := totp.GenerateCode(find(totpSecret, enrolment), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	post(find(enrolAction, enrolment), url.Values{"password": {"correct horse battery staple"}, "code": {now}})
	users := page(browser.Get(site + "/users"))
	made := post("/do/createToken", url.Values{"version": {find(formVersion, users)}, "name": {"boottest"}, "role": {"administrator"}, "days": {"1"},
		"key_stores": {"", "*"}, "operations": {"", "*"}, "networks": {"*"}})
	a := administrator{b, b.path("token")}
	if err := os.WriteFile(a.tokenFile, []byte(find(apiToken, made)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// nobodySignsIn: without its state the console knows nobody, and says so.
func (b *boot) nobodySignsIn() {
	b.t.Helper()
	res, err := b.http.Get("https://127.0.0.1:" + b.admin + "/signin")
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "Nobody can sign in") {
		b.t.Errorf("sign-in: %s %v %s", res.Status, err, text)
	}
}

// kms is AWS KMS with the credential in the file.
func (b *boot) kms(file string) *xkstest.KMS {
	b.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	var c struct {
		Credential struct {
			AccessKeyID        string `json:"AccessKeyId"`
			RawSecretAccessKey string `json:"RawSecretAccessKey"`
		} `json:"XksProxyAuthenticationCredential"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		b.t.Fatal(err)
	}
	return &xkstest.KMS{T: b.t, HTTP: b.http, URL: "https://127.0.0.1:" + b.xks + "/bank", Service: "kms-xks-proxy", Region: "us-east-2",
		AccessKeyID: c.Credential.AccessKeyID, SecretAccessKey: c.Credential.RawSecretAccessKey}
}

func (b *boot) decrypts(file string, sealed xkstest.Body, want string) {
	b.t.Helper()
	answer := b.kms(file).OK("/keys/payroll/decrypt", xkstest.DecryptBody(sealed))
	if got := answer.Bytes(b.t, "plaintext"); string(got) != want {
		b.t.Errorf("decrypted to %q", got)
	}
}

// evidence is downloaded and verified by the release's policy; its PCRs, in both
// banks, are the predicted ones. It gives the state volume's identity, which alone is in
// PCR 8.
func (b *boot) evidence(release string) (volume tpm.Hex) {
	t := b.t
	t.Helper()
	nonce := hex.EncodeToString([]byte("a nonce of the boot test, 32 byt"))
	text, err := b.get("https://127.0.0.1:" + b.admin + "/attestation?nonce=" + nonce)
	if err != nil {
		t.Fatal(err)
	}
	file, certificate := b.path("evidence.json"), b.path("appliance.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	writePEM(t, certificate, b.certificate())
	// Incomplete: the policy is forced, as the TPM is software.
	out := ends(t, 3, filepath.Join(*images, release, "holdfast"), "verify", file, "--policy", filepath.Join(*images, release, "policy.signed"),
		"--policy-key", filepath.Join(*images, "keys", "policy.pub"), "--nonce", nonce, "--tls-cert", certificate)
	for _, check := range []string{"E_TPM_REFERENCE", "E_TPM_LOG", "E_TPM_QUOTE", "E_TPM_VOLUME"} {
		if !regexp.MustCompile(`(?m)^\s*pass.*` + check).MatchString(out) {
			t.Errorf("%s did not pass:\n%s", check, out)
		}
	}
	e, err := attest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	predicted, err := os.ReadFile(filepath.Join(*images, release, "pcrs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ PCRs tpm.PCRs }
	if err := json.Unmarshal(predicted, &p); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, bank := range []string{"sha256", "sha384"} {
		got := e.TPM.ReferenceValues(bank)
		for _, pcr := range []int{4, 7, 11, 12, 13, tpm.ApplicationPCR} {
			if want := p.PCRs[bank][pcr]; len(want) == 0 || !bytes.Equal(got[pcr], want) {
				t.Errorf("PCR %d in %s is %s; predicted was %s", pcr, bank, got[pcr], want)
			} else {
				compared++
			}
		}
	}
	t.Logf("release %s: %d PCR values are as predicted", release, compared)
	if volume = e.TPM.StateVolume(); volume == nil {
		t.Error("the evidence names no state volume")
	}
	b.says(regexp.MustCompile(`PCR 8 has its identity ` + volume.String()))
	return volume
}

// confined: what the process may and may not, as a program in the test image
// tells it from /proc.
func (b *boot) confined() {
	b.t.Helper()
	b.says(regexp.MustCompile(`confinement: done`))
	b.says(regexp.MustCompile(`confinement: module finished`))
	const denied, refused, dropped, hidden = `Permission denied`, `Operation not permitted`, `Connection timed out`, `No such file or directory`
	for name, want := range map[string]string{
		"Uid": `900\s+900\s+900\s+900`, "CapEff": `0000000000000000`, "CapBnd": `0000000000000000`, "NoNewPrivs": `1`, "Seccomp": `2`,
		"Max core file size": `0\s+0\s+bytes`, "VmLck": `[1-9][0-9]* kB`, "VmSwap": `0 kB`, "swaps": `none`, "core_pattern": `""`, "sysrq": `0`, "modules_disabled": `1`, "shells": `none`,
		"module own tokens": `done`, "module own address": `Connection refused`,
		"module address of the console": denied, "module another port of its address": denied,
		"module another address": dropped, "module an address elsewhere": dropped, "module datagram to another address": refused, "module datagram elsewhere": refused, "module metadata": denied,
		"module raw socket": refused, "module packet socket": `Address family not supported by protocol`,
		"module state folder": denied, "module database": denied, "module configuration": denied, "module policies": denied, "module TPM": hidden, "module event log": denied,
		"module appliance's credential": hidden, "module another member's credential": hidden, "module another member's folder": denied, "module settings of all members": denied,
		"module write to the root": `Read-only file system`, "module write to /run": denied,
		"module socket of another process": denied, "module socket of root's service": denied, "module socket of administrators": denied, "module socket of systemd": denied,
		"module user namespace": refused, "module mount namespace": refused, "module mount": refused,
		"module ptrace of the parent": refused, "module ptrace of any process": refused, "module memory of any process": refused, "module signal to any process": refused, "module root's user": refused,
		"unit holdfast-module@1-[ab].service memory": `1073741824 tasks 256`, "unit Uid": `6[1-5][0-9]{3}`, "unit CapBnd": `0000000000000000`, "unit Seccomp": `2`,
		"lsm": `(?:\S+,)?landlock(?:,\S+)?`, // for what confines itself, as a PKCS#11 module's process does
	} {
		b.says(regexp.MustCompile(`(?m)confinement: ` + name + `:?\s+` + want + `\s*$`))
	}
	// A process that crashes, and one that does not run any more, are replaced, and it is said why.
	b.says(regexp.MustCompile(`the token is lost and is opened anew.*(?:signal SIGSEGV|SIGSEGV: segmentation violation)`))
	b.says(regexp.MustCompile(`sent stopped \(signal\): <nil>`))
	b.says(regexp.MustCompile(`(?s)sent stopped.*the token is open again`))
}

// TestPlainLaunch: the image as it is sold, on a machine without SEV-SNP, which is
// how a first launch may be: it opens its state, serves nothing, and says what to
// change.
func TestPlainLaunch(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	copyFile(t, filepath.Join(*images, "sold", "OVMF_VARS.fd"), m.path("vars.fd"))
	b := m.start(image("sold"))
	b.locked("E_PLATFORM", "launch it with SEV-SNP (EC2: CpuOptions AmdSevSnp=enabled, on M6a, C6a or R6a)")
	b.says(regexp.MustCompile(`state volume: open, by the authorization`))
	res, err := b.http.Get("https://127.0.0.1:" + b.xks + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready? %s", res.Status)
	}
	b.off()
}
