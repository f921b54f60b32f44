package main

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/console"
	"holdfast/web/console/browsertest"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// consolePages are the pages of the console that can be opened, as TestConsolePages fills
// them, with the names of their pictures. That none is missing is held against the
// console's own list.
var consolePages = []struct{ name, path string }{
	{"overview", "/"},
	{"overview-day", "/?hours=24"},
	{"key-stores", "/keystores"},
	{"key-store", "/keystores/demo"},
	{"keys", "/keystores/demo/keys"},
	{"key", "/keystores/demo/keys/payroll-2026"},
	{"grants", "/keystores/demo/grants"},
	{"credentials", "/keystores/demo/credentials"},
	{"attestation", "/attestation/report?nonce=" + "00112233445566778899aabbccddeeff"},
	{"boots", "/attestation/history"},
	{"audit", "/audit"},
	{"audit-record", "/audit/10"},
	{"hsms", "/hsms"},
	{"fleet", "/fleet"},
	{"users", "/users"},
	{"approvals", "/approvals"},
	{"state", "/state?verify=1"},
	{"settings", "/settings"},
	{"account", "/account"},
	{"not-found", "/nothing"},
}

// fill makes something to show.
func fillConsole(t *testing.T, p *process) {
	t.Helper()
	both := appliance.Usage{Encrypt: true, Decrypt: true}
	for _, id := range []string{"payroll-2026", "ledger", "archive-2019", "cards", "customers.eu", "swift-out"} {
		p.do("POST", "keystores/demo/keys", operation.NewKey{ID: id, Usage: both, Custody: appliance.CustodyCached}, nil)
	}
	p.do("POST", "keystores/demo/keys", operation.NewKey{ID: "root-of-roots", Usage: both, Custody: appliance.CustodyHSM}, nil)
	p.do("POST", "keystores/demo/keys/ledger/disable", nil, nil)
	p.do("POST", "keystores/demo/keys/archive-2019/delete", operation.Deletion{Days: 30}, nil)
	p.do("POST", "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: "demo", KeyID: "swift-out"}, Reason: "suspicious use, ticket 4711"}, nil)
	p.do("POST", "keystores/demo/keys/payroll-2026/rotate", operation.Rotation{}, nil)
	p.do("POST", "keystores/demo/grants", operation.NewGrant{Principal: "arn:aws:iam::123456789012:role/payroll-*", Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}, KeyID: "payroll-2026",
		Conditions: appliance.Conditions{ViaServices: []string{"rds.eu-central-1.amazonaws.com"}}}, nil)
	p.do("POST", "tokens", operation.NewToken{Name: "terraform", Role: "key-administrator", Days: 90, Scope: *identity.Unlimited()}, nil)
	k := p.kms()
	for i := range 40 {
		id := []string{"payroll-2026", "cards", "customers.eu", "ledger"}[i%4]
		body := xkstest.EncryptBody(id).With("requestMetadata", xkstest.Metadata().With("kmsRequestId", fmt.Sprintf("request-%d", i)))
		res, err := k.HTTP.Do(k.Request("/keys/"+id+"/encrypt", body))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
}

// waiting has somebody ask for what needs a second person, of whom there are two.
func waiting(t *testing.T, p *process, first *browsertest.Browser) (second *browsertest.Browser) {
	t.Helper()
	root := web.NewClient(p.dev.AdminSocket)
	var link operation.CreatedInvitation
	if err := root.Do(t.Context(), "POST", "invitations", operation.NewInvitation{Name: "dora", Role: "administrator"}, &link); err != nil {
		t.Fatal(err)
	}
	second = enrol(t, first, "/invitation/"+link.Token, "dora", "administrator")
	ca, err := os.ReadFile(p.dev.CACert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	var token operation.CreatedToken
	if err := root.Do(t.Context(), "POST", "tokens", operation.NewToken{Name: "pipeline", Role: "key-administrator", Days: 30, Scope: *identity.Unlimited()}, &token); err != nil {
		t.Fatal(err)
	}
	if err := root.Do(t.Context(), "PUT", "settings", operation.Settings{FourEyes: []string{"scheduleKeyDeletion"}}, nil); err != nil {
		t.Fatal(err)
	}
	client, err := web.NewRemoteClient(p.dev.ConsoleURL, token.Secret, roots)
	if err != nil {
		t.Fatal(err)
	}
	client.Reason = "nothing is encrypted under it any more"
	var waits *operation.Pending
	if err := client.Do(t.Context(), "POST", "keystores/demo/keys/cards/delete", operation.Deletion{Days: 30}, nil); !errors.As(err, &waits) {
		t.Fatalf("it waits for nobody: %v", err)
	}
	return second
}

// TestConsolePages opens every page, at three widths, light and dark: each fits, is
// accessible, does nothing that its policy forbids, and can be walked through by
// keyboard. With SCREENSHOTS set to a folder it leaves pictures there, by width.
func TestConsolePages(t *testing.T) {
	p := startConsole(t, t.TempDir())
	fillConsole(t, p)
	b := p.browser()
	b.Authenticator()
	shots := os.Getenv("SCREENSHOTS")
	seen := map[string]bool{}
	look := func(name string) {
		t.Helper()
		path, _, _ := strings.Cut(b.Path(), "?")
		seen[path] = true
		for _, dark := range []bool{false, true} {
			b.Dark(dark)
			for _, width := range []int64{1440, 768, 375} {
				b.Width(width)
				b.Fits()
				if shots != "" {
					b.Shot(filepath.Join(shots, fmt.Sprint(width), name+map[bool]string{false: "-light", true: "-dark"}[dark]+".png"))
				}
			}
			b.Accessible()
		}
		b.Width(1280)
		b.Dark(false)
		byKeyboard(t, b)
	}
	b.Open("/setup")
	look("setup")
	b.Fill("Continue", "setup_code", p.dev.SetupCode, "name", "alice")
	look("invitation")
	b.Fill("Make a passkey", "name", "laptop")
	dora := waiting(t, p, b)
	for _, page := range consolePages {
		b.Open(page.path)
		if page.name != "not-found" {
			b.HasNot("That did not work", "Not found")
		}
		look(page.name)
	}
	b.Open("/users")
	b.Follow("alice")
	look("user")

	// What answers a form, and is no page to open.
	for _, form := range []struct {
		name, at, button string
		fields           []string
	}{
		{"refused", "/keystores/demo/keys", "Create key", []string{"id", "not an id"}},
		{"grant-in-cedar", "/keystores/demo/grants", "Preview grant", []string{"principal", "arn:aws:iam::123456789012:role/app", "via_services", "s3.eu-central-1.amazonaws.com"}},
		{"before-an-outage", "/keystores/demo/keys/payroll-2026", "Disable key", nil},
		{"before-a-removal", "/keystores/demo/grants", "Remove grant", nil},
		{"decision", "/keystores/demo/keys/payroll-2026", "Test request", []string{"ask_principal", "arn:aws:iam::123456789012:role/payroll-batch"}},
		{"new-credential", "/keystores/demo/credentials", "Create credential", nil},
		{"new-invitation", "/users", "Create invitation", []string{"name", "bob", "role", "auditor"}},
		{"new-token", "/users", "Create API token", []string{"name", "backup", "key_stores=demo", "on", "networks", "10.20.0.0/16", "operations=backup", "on"}},
		{"signing-request", "/settings", "Request certificate", nil},
		{"new-password", "/account", "Set up password", nil},
		{"new-recovery-codes", "/account", "Create recovery codes", nil},
	} {
		b.Open(form.at)
		b.Fill(form.button, form.fields...)
		if form.name != "refused" {
			b.HasNot("That did not work", "Not found")
		}
		look(form.name)
		switch form.name {
		case "refused":
			if focus, title := b.Value(`document.activeElement.name || ""`), b.Value("document.title"); focus != "id" || !strings.HasPrefix(title, "Error: ") {
				t.Errorf("the form was refused: the focus is on %q, the title is %q", focus, title)
			}
		case "before-an-outage": // also of a thing with a name of 200 characters
			b.Value(`(() => { for (const e of document.querySelectorAll("label[for=confirm] code, .object strong")) e.textContent = "n".repeat(200); return ""; })()`)
			for _, width := range []int64{1280, 375, 320} {
				b.Width(width)
				b.Fits()
			}
			b.Width(1280)
		case "new-credential":
			b.Open(b.Path())
			b.Has("make another")
		case "new-password": // so that there are recovery codes to make
			b.Fill("Set password", "password", password, "code", code(t, shown(t, b, "#totp-secret")))
		case "new-invitation":
			link := shown(t, b, "pre[data-secret]")
			alice := b
			b = alice.Another()
			b.Open(link[strings.Index(link, "/invitation/"):])
			b.Fill("Set password and sign in", "password", password, "code", code(t, shown(t, b, "#totp-secret")))
			look("recovery-codes")
			b = alice
		}
	}
	openApproval(b, "Schedule key deletion")
	look("approval")
	b.Fill("Approve", "reason", "the team has agreed")
	look("approved")
	// A secret is shown to the one who asked, when another person has approved.
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), "PUT", "settings", operation.Settings{FourEyes: []string{"createToken"}}, nil); err != nil {
		t.Fatal(err)
	}
	b.Open("/users")
	b.Fill("Create API token", "name", "nightly", "key_stores=*", "on", "networks", "*", "operations=*", "on", "why", "a job of the night")
	b.Has("waits for the approval")
	openApproval(dora, "Create API token")
	dora.Fill("Approve", "reason", "it is known")
	dora.Has("nobody else sees it")
	openApproval(b, "Create API token")
	b.Fill("Perform approved operation")
	shown(t, b, "pre[data-secret]")
	look("performed")
	// Of two people who change the same policies, the second sees both texts, and decides.
	b.Open("/keystores/demo/grants")
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), "POST", "keystores/demo/policy", operation.NewPolicy{Cedar: "// of the first"}, nil); err != nil {
		t.Fatal(err)
	}
	b.Fill("Set Cedar policies", "cedar", "// of the second")
	b.Has("− // of the first", "+ // of the second", "Drop what I typed")
	look("conflict")
	b.Fill("Set Cedar policies: apply what I typed")
	// A form that is sent when the session has ended is there after the sign-in.
	b.Open("/keystores/demo/grants")
	b.Value(`(() => { const x = new XMLHttpRequest(); x.open("POST", "/signout", false); x.send(); return ""; })()`)
	b.Fill("Set Cedar policies", "cedar", "// typed in a session that has ended")
	b.Fill("Sign in with a passkey")
	b.Has("Your session had ended")
	if text := b.Value(`document.querySelector("textarea[name=cedar]").value`); text != "// typed in a session that has ended" {
		t.Errorf("the form has %q", text)
	}
	b.Open("/prove?back=/account")
	b.Has("Prove that it is you")
	look("prove")
	b.Fill("Go on", "password", "not the password", "code", "000000")
	b.Has("did not prove who you are")
	look("prove-refused")
	b.Open("/account")
	b.Go(`document.getElementById("sign-out").click()`)
	look("sign-in")
	seen["/signin/oidc/begin"] = true // needs a provider; it is the frame of the pages before signing in, with a link
	for _, pattern := range console.Pages() {
		path := regexp.MustCompile("^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(pattern), "[^/]+") + "$")
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), path.MatchString) {
			t.Errorf("nobody looked at %s", pattern)
		}
	}
	p.stop()
}

// byKeyboard presses Tab through the whole page: everything that can be pressed or
// typed into is reached, and shows that it is.
func byKeyboard(t *testing.T, b *browsertest.Browser) {
	t.Helper()
	missed := b.Tab()
	if missed != "" {
		t.Errorf("%s: the keyboard does not reach, or does not show: %s", b.Path(), missed)
	}
}

// TestLockedConsole: a machine that is not what it should be has a console all the
// same. It says why it is locked, and lets nobody in: its TPM does not give the key by
// which users are known.
func TestLockedConsole(t *testing.T) {
	const why = "a locked machine is in no fleet"
	dir := t.TempDir()
	p := start(t, dir)
	p.alone = why
	b := setUp(t, p)
	b.Open("/account")
	b.Fill("Set up password")
	b.Fill("Set password", "password", password, "code", code(t, shown(t, b, "#totp-secret")))
	b.Fill("Create recovery codes")
	recovery := recoveryCode.FindString(b.Text())
	p.stop()

	locked := startLocked(t, dir)
	locked.alone = why
	b = locked.browser()
	b.Open("/")
	b.Has("Sign in", "Locked", "E_TPM_REFERENCE", "Start the right image")
	b.Go(`[...document.links].find((a) => a.textContent === "About E_TPM_REFERENCE").click()`)
	b.Has("E_TPM_REFERENCE")
	b.Open("/")
	b.Fill("Sign in with the password", "name", "alice", "password", password, "code", recovery)
	// The TPM gives this machine's key, by which users are known, to no other kernel.
	b.Has("the key by which this machine authenticates users is not there yet", "E_TPM_REFERENCE")
	b.Open("/boot")
	b.Has("E_TPM_REFERENCE")
	b.Open("/attestation/evidence?nonce=" + strings.Repeat("cd", 16))
	b.Has("Sign in")
	if res, err := locked.kms().HTTP.Get(strings.Replace(locked.dev.ConsoleURL, "localhost", "127.0.0.1", 1) + "/readyz"); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz: %v %v", res, err)
	}
}

// startLocked boots a kernel that nobody has authorized.
func startLocked(t *testing.T, dir string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(t, "--dir", dir, "--tamper")}
	pipe, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(os.Interrupt)
		_ = p.cmd.Wait()
	})
	p.out = bufio.NewReader(pipe)
	for !strings.HasSuffix(p.printed, "Ctrl-C stops.\n") {
		line, err := p.out.ReadString('\n')
		p.printed += line
		if err != nil {
			t.Fatalf("it ended: %s%s", p.printed, p.stderr.String())
		}
	}
	_, rest, _ := strings.Cut(p.printed, "console ")
	p.dev.ConsoleURL, _, _ = strings.Cut(strings.TrimSpace(rest), "\n")
	p.dev.CACert = filepath.Join(dir, "tls", "ca.pem")
	return p
}
