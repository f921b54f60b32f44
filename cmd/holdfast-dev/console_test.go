package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/consoletest"
	"holdfast/cmd/internal/kmsload"
	"holdfast/web"
	"holdfast/web/console/browsertest"
	"holdfast/xks/xkstest"
)

// browser opens a browser for the console: of the appliance, or of all nodes.
func (p *process) browser() *browsertest.Browser {
	p.t.Helper()
	if p.console == nil {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(p.dev.ConsoleURL, "https://"))
		if err != nil {
			p.t.Fatal(err)
		}
		nodes := []string{net.JoinHostPort("127.0.0.1", port)}
		if p.alone != "" {
			p.console = consoletest.Alone(p.t, p.dev.ConsoleURL, nodes[0], p.alone)
			return p.console.Browser()
		}
		if at := administrators.FindAllStringSubmatch(p.printed, -1); at != nil {
			nodes = nil
			for _, m := range at {
				nodes = append(nodes, m[1])
			}
		}
		p.console = consoletest.New(p.t, p.dev.ConsoleURL, nodes...)
	}
	return p.console.Browser()
}

// machine gives the folder of the machine whose evidence a page shows: in a fleet, of the
// node that it names.
func (p *process) machine(b *browsertest.Browser) string {
	p.t.Helper()
	link, err := url.Parse(b.Value(`document.querySelector("#evidence").href`))
	if err != nil {
		p.t.Fatal(err)
	}
	id := link.Query().Get("node")
	if consoletest.Nodes(p.t) == 1 {
		if id != "" {
			p.t.Errorf("the appliance is alone, and the evidence is of node %s", id)
		}
		return p.state
	}
	b.Has(id)
	for n := 1; n <= consoletest.Nodes(p.t); n++ {
		dir := filepath.Join(p.state, nodeName(n))
		var status appliance.FleetStatus
		if err := web.NewClient(filepath.Join(dir, "admin.sock")).Do(p.t.Context(), http.MethodGet, "fleet", nil, &status); err != nil {
			p.t.Fatal(err)
		}
		if status.Node == id {
			return dir
		}
	}
	p.t.Fatalf("the page names no node of the fleet: %q", id)
	return ""
}

// verifiedByAll waits until a page, whichever node it is of, says that the log of each verifies.
func (p *process) verifiedByAll(b *browsertest.Browser) {
	p.t.Helper()
	n := consoletest.Nodes(p.t)
	for page := 0; n > 1 && page < n; {
		if found := strings.Count(strings.ToLower(b.Text()), "the log verifies: node"); found == n {
			page++
		} else if !strings.Contains(b.Text(), "is being verified") {
			p.t.Fatalf("%d logs are verified, and there are %d: %s", found, n, b.Text())
		}
		b.Open("/audit")
	}
}

// administrators is where the nodes of a fleet listen for them, as it is printed.
var administrators = regexp.MustCompile(`(?m)^node \d .* administrators' port (\S+);`)

// startConsole starts what a test looks at in a browser: an appliance, or a fleet.
func startConsole(t *testing.T, dir string) *process {
	t.Helper()
	n := consoletest.Nodes(t)
	if n == 1 {
		return start(t, dir)
	}
	return startIn(t, filepath.Join(dir, fleetFolder), dir, "--nodes", strconv.Itoa(n))
}

// shown is what follows a label on a page.
func shown(t *testing.T, b *browsertest.Browser, selector string) string {
	t.Helper()
	return strings.TrimSpace(b.Value(`document.querySelector(` + "`" + selector + "`" + `)?.textContent || ""`))
}

const password = "correct horse battery staple"

var recoveryCode = regexp.MustCompile(`[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}`)

// requests is how many the overview has of the last hours.
func requests(t *testing.T, b *browsertest.Browser) (n int) {
	t.Helper()
	m := regexp.MustCompile(`(?i)requests, last minute\s+[\d\pZ]+\s+(\d[\d\pZ]*) in 3 h`).FindStringSubmatch(b.Text())
	if m == nil {
		t.Fatalf("the overview does not say how many requests there were: %s", b.Text())
	}
	n, _ = strconv.Atoi(strings.Map(func(r rune) rune { // digits, in groups
		if unicode.IsDigit(r) {
			return r
		}
		return -1
	}, m[1]))
	return n
}

// code is what an authenticator app shows now.
func code(t *testing.T, secret string) string {
	t.Helper()
	return codeAt(t, secret, time.Now())
}

func codeAt(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	c, err := totp.GenerateCode(secret, at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// setUp enrols the first administrator, by a passkey.
func setUp(t *testing.T, p *process) *browsertest.Browser {
	t.Helper()
	b := p.browser()
	b.Authenticator()
	b.Open("/")
	b.Has("Set up the console")
	b.Fill("Continue", "setup_code", "AAAAAA-AAAAAA-AAAAAA-AAAAAA", "name", "alice")
	b.Has("did not prove who you are")
	b.Fill("Continue", "setup_code", p.dev.SetupCode, "name", "alice")
	b.Has("Welcome, alice", "administrator")
	b.Fill("Make a passkey", "name", "laptop")
	b.Has("Account", "laptop")
	return b
}

// TestConsole goes from the setup code to everything that administrators do, in a
// real browser against the real appliance.
func TestConsole(t *testing.T) {
	p := startConsole(t, t.TempDir())
	b := setUp(t, p)
	if _, err := os.Stat(filepath.Join(filepath.Dir(p.dev.AdminSocket), "state", "setup-code")); err == nil {
		t.Error("the setup code is still there, and there is an administrator")
	}

	// Key store, credential with its file, key, grant.
	b.Open("/keystores")
	b.Fill("Create key store", "name", "bank", "uri_path_prefix", "/bank")
	b.Has("bank", "/bank/kms/xks/v1", "no active SigV4 credential")
	b.Open("/keystores/bank/credentials")
	b.Fill("Create credential")
	b.Has("The secret is shown this once")
	name, file := b.Download("#kms-json")
	var kms kmsFile
	if err := json.Unmarshal(file, &kms); err != nil || kms.URIPath != "/bank/kms/xks/v1" || !appliance.ValidSecretAccessKey(kms.Credential.RawSecretAccessKey) {
		t.Fatalf("%s: %v: %s", name, err, file)
	}
	b.Open("/keystores/bank/keys")
	b.Fill("Create key", "id", "not an id")
	b.Has("use 1 to 128 letters")
	b.Fill("Create key", "id", "payroll")
	b.Has("payroll", "Enabled", "generated")
	client := &xkstest.KMS{T: t, URL: p.dev.XKSURL + "/bank", Service: kmsload.Service, Region: kmsload.Region,
		AccessKeyID: kms.Credential.AccessKeyID, SecretAccessKey: kms.Credential.RawSecretAccessKey, HTTP: p.kms().HTTP}
	encryptBy := func(client *xkstest.KMS, request string) int {
		t.Helper()
		body := xkstest.EncryptBody("payroll").With("requestMetadata", xkstest.Metadata().With("kmsRequestId", request))
		res, err := client.HTTP.Do(client.Request("/keys/payroll/encrypt", body))
		if err != nil {
			t.Fatal(err)
		}
		return client.Read(res).Status
	}
	encrypt := func(request string) int {
		t.Helper()
		return encryptBy(client, request)
	}
	if status := encrypt("before-the-grant"); status != http.StatusForbidden {
		t.Errorf("without a grant: %d", status)
	}
	b.Open("/keystores/bank/grants")
	b.Fill("Preview grant", "principal", "arn:aws:iam::123456789012:*")
	b.Has("permit (", "123456789012")
	b.Follow("Back")
	b.Fill("Create grant", "principal", "*")
	b.Has("The grant was created")
	b.Fill("Set Cedar policies", "cedar", "permit (principal, action, resouce);")
	b.Has("line 1")
	b.Fill("Set Cedar policies", "cedar", `forbid (principal, action == Action::"Decrypt", resource);`)
	b.Has("What relies on it", "active credentials")
	b.Confirm()
	b.Has("The Cedar policies are set")
	b.Fill("Test request", "ask_key", "payroll", "ask_principal", "arn:aws:iam::123456789012:role/app", "ask_operation", "Decrypt")
	b.Has("It would be denied", "policy:")
	if status := encrypt("by-the-browser-test"); status != http.StatusOK {
		t.Errorf("with a grant: %d", status)
	}

	// The request is in the audit log, with a proof, and on the overview.
	b.Open("/audit?kms_request_id=by-the-browser-test")
	b.Has("Encrypt", "Allowed", "payroll")
	b.Go(`document.querySelector("tbody td.num a").click()`)
	b.Has("by-the-browser-test", "Proof (JSON)", "Took")
	b.Open("/audit?kms_request_id=before-the-grant")
	b.Has("Denied", "AccessDeniedException")
	b.Open("/")
	b.Has("Serving", "Connect AWS KMS")
	b.HasNot("is blocked")
	before := requests(t, b)
	if status := encrypt("for-the-overview"); status != http.StatusOK {
		t.Errorf("with a grant: %d", status)
	}
	b.Open("/")
	if after := requests(t, b); before < 2 || after != before+1 {
		t.Errorf("the overview counts %d requests, and %d after one more", before, after)
	}

	// The log as a file, and verified as a whole.
	b.Open("/audit?kms_request_id=by-the-browser-test")
	if name, file := b.Download(`a[href^="/download/audit.csv"]`); !strings.HasSuffix(name, ".csv") || strings.Count(string(file), "\n") != 2 || !strings.Contains(string(file), "by-the-browser-test") {
		t.Errorf("%s: %s", name, file)
	}
	b.Open("/audit")
	b.Fill("Verify audit log")
	b.Until("The log verifies")
	p.verifiedByAll(b)
	b.Open("/hsms")
	b.Fill("Test HSMs")
	b.Has("holdfast-dev", "Active")

	// The credential is changed for another, which KMS is told of.
	b.Open("/keystores/bank/credentials")
	b.Fill("Create credential")
	_, file = b.Download("#kms-json")
	var next kmsFile
	if err := json.Unmarshal(file, &next); err != nil || next.Credential == kms.Credential {
		t.Fatalf("%v: %s", err, file)
	}
	b.Open("/keystores/bank/credentials")
	b.Has("AccessKeyId="+next.Credential.AccessKeyID+",", "signed last: never")
	newer := *client
	newer.AccessKeyID, newer.SecretAccessKey = next.Credential.AccessKeyID, next.Credential.RawSecretAccessKey
	if status := encryptBy(&newer, "by-the-new-credential"); status != http.StatusOK {
		t.Errorf("by the new credential: %d", status)
	}
	b.Open("/keystores/bank/credentials")
	b.UntilGone("signed last: never")           // another node may have taken the request
	b.Has("the old one has not for 15 minutes") // it has: it is not offered to go yet
	b.Fill("Deactivate credential " + kms.Credential.AccessKeyID)
	if consoletest.Nodes(t) > 1 {
		b.Until("KMS used it last") // another node may have taken those requests, too
	}
	b.Has("What relies on it", "KMS used it last", "other active credentials")
	b.Confirm()
	b.Has("is deactivated")
	if status := encrypt("by-the-old-credential"); status != http.StatusUnauthorized {
		t.Errorf("by the old credential: %d", status)
	}
	client = &newer
	b.Fill("Delete credential")
	b.Confirm()
	b.Has("The credential is deleted")
	b.HasNot(kms.Credential.AccessKeyID)

	// The life of a key.
	b.Open("/keystores/bank/keys/payroll")
	b.Has("Life of the key", "Create key")
	b.Fill("Rotate key")
	b.Has("a new version encrypts", "2 current")
	b.Fill("Schedule key deletion", "days", "7")
	b.Has("key payroll", "KMS used it last", "Who used it", "Requests answered: ", "Versions, which decrypt: 2")
	b.Fill("Schedule key deletion", "confirm", "payrol")
	b.Has("to confirm; you typed")
	if focus := b.Value(`document.activeElement.name`); focus != "confirm" {
		t.Errorf("the focus is on %q", focus)
	}
	b.Confirm()
	b.Has("Pending deletion", "will be destroyed")
	if status := encrypt("while-pending"); status != http.StatusBadRequest {
		t.Errorf("pending deletion: %d", status)
	}
	b.Fill("Cancel key deletion")
	b.Has("Disabled")
	b.Fill("Enable key")
	b.Fill("Block key", "reason", "an audit <script>alert(1)</script>")
	b.Confirm()
	b.Has("Blocked", "<script>alert(1)</script>")
	if status := encrypt("while-blocked"); status != http.StatusBadRequest {
		t.Errorf("blocked: %d", status)
	}
	b.Fill("Unblock key")
	b.Confirm()
	if status := encrypt("unblocked"); status != http.StatusOK {
		t.Errorf("unblocked: %d", status)
	}

	// Evidence that verifies elsewhere.
	b.Open("/attestation/report?nonce=" + strings.Repeat("ab", 16))
	b.Has("Attestation report", "Pass", "Firmware event log", "EV_")
	if !regexp.MustCompile(`(?i)checks failed\s+0\s`).MatchString(b.Text()) {
		t.Errorf("the appliance's own check fails: %s", b.Text())
	}
	if paper := b.Printed(); strings.Contains(paper, "Key stores") || strings.Contains(paper, "Make evidence") || !strings.Contains(paper, "evidence · nonce") || !strings.Contains(paper, "EV_SEPARATOR") {
		t.Errorf("on paper the report is: %s", paper)
	}
	machine := p.machine(b)
	_, evidence := b.Download("#evidence")
	checkEvidence(t, machine, filepath.Join(p.state, "tls", "server.pem"), evidence)

	// Password and authenticator app beside the passkey; signing in by each.
	b.Open("/account")
	b.Fill("Set up password")
	secret := shown(t, b, "#totp-secret")
	b.Fill("Set password", "password", "alice", "code", code(t, secret))
	b.Has("use 12 to 256 characters")
	b.Open("/account")
	b.Fill("Set up password")
	b.Fill("Set password", "password", password, "code", code(t, secret))
	b.Has("Password and authenticator app are set")
	b.Fill("Create recovery codes")
	codes := recoveryCode.FindAllString(b.Text(), -1)
	if len(codes) != 10 {
		t.Fatalf("%d recovery codes: %s", len(codes), b.Text())
	}
	b.Open("/account")
	b.Go(`document.getElementById("sign-out").click()`)
	b.Has("Sign in")
	b.Fill("Sign in with a passkey")
	b.Has("Overview")

	other := b.Another()
	other.Open("/signin")
	other.Fill("Sign in with the password", "name", "alice", "password", password, "code", "000000")
	other.Has("did not prove who you are")
	other.Fill("Sign in with the password", "name", "alice", "password", password, "code", codes[0])
	other.Has("Overview")
	third := b.Another()
	third.Open("/signin") // with what the app shows next: each code is good once
	third.Fill("Sign in with the password", "name", "alice", "password", password, "code", codeAt(t, secret, time.Now().Add(30*time.Second)))
	third.Has("Overview")
	other.Open("/account")
	other.Fill("Sign out everywhere")
	third.Open("/keystores")
	third.Has("Sign in")
	third.HasNot("bank")
	b.Open("/keystores")
	b.Has("Sign in")
	b.HasNot("bank")
	b.Fill("Sign in with a passkey")
	b.Has("bank") // where it wanted to go

	testRoles(t, b)
	testFourEyes(t, b)
	p.stop()
}

// kmsFile is what the KMS console takes.
type kmsFile struct {
	URIPath    string `json:"XksProxyUriPath"`
	Credential struct {
		AccessKeyID        string `json:"AccessKeyId"`
		RawSecretAccessKey string `json:"RawSecretAccessKey"`
	} `json:"XksProxyAuthenticationCredential"`
}

// checkEvidence has the verifier look at evidence of a simulated machine, under the
// policy that its officers have signed. Nothing is wrong with it but who signed for
// the hardware: holdfast knows no roots but the manufacturers'. What the TPM signed
// it accepts.
func checkEvidence(t *testing.T, dir, certificate string, evidence []byte) {
	t.Helper()
	out := t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(out, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := filepath.Join(out, "holdfast")
	if text, err := exec.Command("go", "build", "-o", program, "../holdfast").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	verify := func(args ...string) (failed, notRun []string, code int) {
		t.Helper()
		cmd := exec.Command(program, append([]string{"verify", "--json"}, args...)...)
		text, _ := cmd.Output() // the exit code says more
		var v appraisal.Verdict
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for _, c := range v.Checks {
			if c.Result == appraisal.NotRun || c.Result == appraisal.Missing {
				notRun = append(notRun, c.Code)
			}
		}
		return v.Failed(), notRun, cmd.ProcessState.ExitCode()
	}
	nonce := strings.Repeat("ab", 16)
	policy, key := filepath.Join(dir, "officer", "policy.json"), filepath.Join(dir, "officer", "policy-key.pub")
	whole := []string{file("evidence.json", evidence), "--policy", policy, "--policy-key", key, "--tls-cert", certificate, "--nonce"}
	failed, notRun, code := verify(append(whole, nonce)...)
	if code != 1 || !slices.Equal(failed, []string{"E_SNP_CHAIN", "E_NITRO_ROOT"}) {
		t.Errorf("exit code %d, failed: %v; want the two roots alone", code, failed)
	}
	// Whoever reads a file does not ask which policy the machine has; it has no launch file;
	// no list of revocations is in the file; the policy names no values of the others.
	if !slices.Equal(notRun, []string{"E_POLICY", "E_LAUNCH_DIGEST", "E_OWNER", "E_SNP_CRL", "E_SNP_CHIP", "E_SNP_MEASUREMENT", "E_SNP_HOST_DATA", "E_SNP_UNKNOWN", "E_NITRO_INSTANCE"}) {
		t.Errorf("not run: %v", notRun)
	}
	if failed, _, code = verify(append(whole, strings.Repeat("cd", 16))...); code != 1 || !slices.Contains(failed, "E_NONCE") {
		t.Errorf("for another nonce: exit code %d, failed: %v", code, failed)
	}

	e, err := attest.Parse(evidence)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(public)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	known, err := attest.OpenPolicy(signed, parsed.(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	ofTPM := known.Policy
	ofTPM.Require, ofTPM.Unproven = []attest.Technology{attest.TPM}, "a test of what the TPM signed"
	// Single documents do not say what Holdfast itself has measured: this is about
	// firmware and kernel.
	ofTPM.TPM.RequiredPCRs = slices.DeleteFunc(ofTPM.TPM.RequiredPCRs, func(n int) bool { return n == tpm.ApplicationPCR })
	for _, reference := range ofTPM.TPM.References {
		delete(reference.PCRs, tpm.ApplicationPCR)
	}
	text, err1 := json.Marshal(ofTPM)
	pcrs, err2 := json.Marshal(e.TPM.PCRs)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if failed, notRun, code := verify("--policy", file("tpm.json", text), "--tpm-quote", file("quote", e.TPM.Quote), "--tpm-signature", file("signature", e.TPM.Signature),
		"--ak", file("ak", e.TPM.AK), "--pcrs", file("pcrs", pcrs), "--event-log", file("log", e.TPM.EventLog)); code != 3 || failed != nil || slices.Contains(notRun, "E_TPM_REFERENCE") {
		t.Errorf("what the TPM signed: exit code %d, failed: %v", code, failed)
	}
}

// invite has somebody enrol by password in a window of their own.
func invite(t *testing.T, admin *browsertest.Browser, name, role string) *browsertest.Browser {
	t.Helper()
	admin.Open("/users")
	admin.Fill("Create invitation", "name", name, "role", role)
	link := shown(t, admin, "pre[data-secret]")
	return enrol(t, admin, link[strings.Index(link, "/invitation/"):], name, role)
}

// enrol makes a user by the link of an invitation, in a browser of their own.
func enrol(t *testing.T, other *browsertest.Browser, link, name, role string) *browsertest.Browser {
	t.Helper()
	b := other.Another()
	b.Open(link)
	b.Has("Welcome, "+name, role)
	b.Fill("Set password and sign in", "password", password+" of somebody", "code", code(t, shown(t, b, "#totp-secret")))
	b.Has("Recovery codes")
	b.Follow("I have kept them")
	return b
}

// testRoles: each role sees what it may, and is refused the rest.
func testRoles(t *testing.T, admin *browsertest.Browser) {
	for _, tt := range []struct {
		role           string
		sees, sees403  []string
		shows, without string // on the page of keys
	}{
		{"viewer", []string{"/", "/keystores", "/hsms", "/attestation/report", "/settings", "/approvals"}, []string{"/audit", "/users"}, "payroll", "Create key"},
		{"auditor", []string{"/", "/audit", "/attestation/report"}, []string{"/users"}, "payroll", "Create key"},
		{"key-administrator", []string{"/", "/audit"}, []string{"/users"}, "Create key", "nothing of the kind"},
	} {
		b := invite(t, admin, "a-"+tt.role, tt.role)
		for _, path := range tt.sees {
			b.Open(path)
			b.HasNot("Your role does not allow")
		}
		for _, path := range tt.sees403 {
			b.Open(path)
			b.Has("Your role does not allow")
		}
		b.Open("/keystores/bank/keys")
		b.Has(tt.shows)
		b.HasNot(tt.without)
	}
}

// openApproval opens the page of the newest request for an operation.
func openApproval(b *browsertest.Browser, words string) {
	b.Open("/approvals")
	b.Follow(words)
}

// testFourEyes: a chosen operation waits until somebody else approves it.
func testFourEyes(t *testing.T, admin *browsertest.Browser) {
	carol := invite(t, admin, "carol", "key-administrator")
	admin.Open("/settings")
	admin.Fill("Change settings", "four_eyes=removeGrant", "on")
	admin.Has("two administrators") // alice is the only one
	dora := invite(t, admin, "dora", "administrator")
	admin.Open("/settings")
	admin.Fill("Change settings", "four_eyes=removeGrant", "on", "four_eyes=createInvitation", "on")
	admin.Has("The settings are changed")
	carol.Open("/keystores/bank/grants")
	carol.Fill("Remove grant")
	carol.Confirm("why", "nobody uses it")
	carol.Has("waits for the approval", "Waits", "nobody uses it")
	openApproval(carol, "Remove grant")
	carol.Has("Take back", "You cannot approve this")
	openApproval(admin, "Remove grant")
	admin.Has("carol", "nobody uses it", "What changes", "principal", "removed")
	admin.Fill("Approve", "reason", "asked the team")
	admin.Has("Approved and done")
	admin.Open("/keystores/bank/grants")
	admin.Has("There is no grant")
	admin.Open("/audit?kind=admin")
	admin.Has("approved by alice", "Ask for approval: Remove grant")

	// The link of an invitation is shown to the one who asked, and to nobody else.
	dora.Open("/users")
	dora.Fill("Create invitation", "name", "eve", "role", "viewer", "why", "she joins the team")
	dora.Has("waits for the approval")
	openApproval(admin, "Create invitation")
	admin.Fill("Approve", "reason", "she does")
	admin.Has("dora does it now", "nobody else sees it")
	admin.HasNot("/invitation/")
	openApproval(admin, "Create invitation")
	admin.Has("Approved, not done yet")
	admin.HasNot("Perform approved operation")
	openApproval(dora, "Create invitation")
	dora.Fill("Perform approved operation")
	if link := shown(t, dora, "pre[data-secret]"); !strings.Contains(link, "/invitation/") {
		t.Errorf("dora is shown %q", link)
	}
	dora.Open("/approvals")
	dora.Has("Approved, done")
}
