package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/console/browsertest"
	"holdfast/web/operation"
)

// The longest names that the domain takes.
var (
	longStore     = "s" + strings.Repeat("y", 63)
	longKey       = "k" + strings.Repeat("x", 127)
	longUser      = "u" + strings.Repeat("z", 63)
	longPrincipal = "arn:aws:iam::123456789012:role/" + strings.Repeat("department/", 12) + strings.Repeat("w", 64)
	longReason    = strings.Repeat("because", 36)
)

// screens are how people look at a page: the width and height in CSS pixels, and the
// colours. 1440 pixels at 200 % are 720; 1280 by 1024 at 400 % are 320 by 256 (WCAG 2.2,
// 1.4.10).
var screens = []struct {
	name          string
	width, height int64
	media         browsertest.Media
}{
	{"1440 pixels", 1440, 900, browsertest.Media{}},
	{"768 pixels, dark", 768, 1024, browsertest.Media{Dark: true}},
	{"200 %, forced colors", 720, 450, browsertest.Media{Forced: true}},
	{"375 pixels", 375, 812, browsertest.Media{}},
	{"400 %, dark, forced colors", 320, 256, browsertest.Media{Dark: true, Forced: true}},
}

// fillLong makes one of each thing, with the longest name that it may have.
func fillLong(t *testing.T, p *process) {
	t.Helper()
	store := "keystores/" + longStore
	both := appliance.Usage{Encrypt: true, Decrypt: true}
	p.do("POST", "keystores", operation.NewKeyStore{Name: longStore, URIPathPrefix: "/" + strings.Repeat("p", 60)}, nil)
	for i := range 3 {
		p.do("POST", store+"/keys", operation.NewKey{ID: longKey[:len(longKey)-1] + fmt.Sprint(i), Usage: both, Custody: appliance.CustodyCached}, nil)
		p.do("POST", store+"/credentials", operation.NewCredential{}, nil)
	}
	p.do("POST", store+"/keys", operation.NewKey{ID: longKey, Usage: both, Custody: appliance.CustodyHSM}, nil)
	p.do("POST", store+"/grants", operation.NewGrant{Principal: longPrincipal, KeyID: longKey, Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes},
		Conditions: appliance.Conditions{ViaServices: []string{"dynamodb.eu-central-1.amazonaws.com"}, KMSKeyARNs: []string{"arn:aws:kms:eu-central-1:123456789012:key/" + strings.Repeat("1234abcd-", 20)}}}, nil)
	p.do("POST", "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: longStore, KeyID: longKey}, Reason: longReason}, nil)
	p.do("POST", "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: longStore}, Reason: longReason}, nil)
	p.do("POST", "tokens", operation.NewToken{Name: longUser, Role: "key-administrator", Scope: *identity.Unlimited(), Days: 90}, nil)
	p.do("POST", "invitations", operation.NewInvitation{Name: "v" + longUser[1:], Role: "administrator"}, nil)
	p.do("POST", store+"/keys/"+longKey+"/delete", operation.Deletion{Days: 30}, nil)
}

// TestConsoleScreens looks at every page with the longest names, small, magnified, dark and
// in forced colors: nothing is wider than the screen, whatever can be pressed is in it and
// not under something else, and has the size of a finger's tip.
func TestConsoleScreens(t *testing.T) {
	p := startConsole(t, t.TempDir())
	fillConsole(t, p)
	fillLong(t, p)
	b := p.browser()
	b.Authenticator()
	shots, n := os.Getenv("SCREENSHOTS"), 0
	look := func() {
		t.Helper()
		n++
		for _, s := range screens {
			b.Screen(s.width, s.height)
			b.Media(s.media)
			if shots != "" {
				b.Shot(filepath.Join(shots, "long", fmt.Sprintf("%02d-%d.png", n, s.width)))
			}
			for _, problem := range b.Reach() {
				t.Errorf("%s at %s: %s", b.Path(), s.name, problem)
			}
			if s.width == 375 {
				b.Accessible()
			}
		}
	}
	b.Open("/setup")
	look()
	b.Fill("Continue", "setup_code", p.dev.SetupCode, "name", longUser)
	look()
	b.Fill("Make a passkey", "name", strings.Repeat("n", 64))
	waiting(t, p, b)
	for _, page := range consolePages {
		b.Open(page.path)
		look()
		if long := lengthened(page.path); long != page.path {
			b.Open(long)
			b.HasNot("Not found")
			look()
		}
	}
	b.Open("/audit?key=" + url.QueryEscape(longKey))
	look()
	b.Open("/users")
	b.Follow(longUser)
	look()
	b.Open("/keystores/" + longStore + "/keys")
	b.Fill(operation.CreateKey.Words, "id", strings.Repeat("not an id", 60)) // a long error
	look()
	b.Screen(1280, 900)
	b.Media(browsertest.Media{})
	keys(t, b)
	b.Open("/account")
	b.Go(`document.getElementById("sign-out").click()`)
	look()
	p.stop()
}

// keys presses keys: a menu and a dialog close by Esc and give the focus back; keys that act
// alone do nothing while somebody types, and can be switched off (WCAG 2.2, 2.1.4).
func keys(t *testing.T, b *browsertest.Browser) {
	t.Helper()
	is := func(what, script, want string) {
		t.Helper()
		if got := b.Value(script); got != want {
			t.Errorf("%s: %q, and not %q", what, got, want)
		}
	}
	const open = `String(document.getElementById("keys").open)`
	const focus = `document.activeElement.outerHTML.slice(0, 8)`
	b.Open("/audit")
	b.Value(`(document.querySelector(".menu summary").focus(), "")`)
	b.Key("Enter")
	is("the menu opens", `String(document.querySelector(".menu").open)`, "true")
	b.Key("Tab")
	b.Key("Escape")
	is("Esc closes the menu", `String(document.querySelector(".menu").open)`, "false")
	is("and gives the focus back", focus, "<summary")
	b.Key("?")
	is("? opens the help", open, "true")
	b.Key("Escape")
	is("Esc closes it", open, "false")
	is("and gives the focus back", focus, "<summary")
	b.Key("/")
	is("/ goes to the filter", `(document.activeElement.value = "", document.activeElement.tagName)`, "INPUT")
	b.Key("?")
	is("? is typed", open+` + document.activeElement.value`, "false?")
	b.Key("g")
	b.Key("s")
	is("g and s are typed", `document.activeElement.value + location.pathname`, "?gs/audit")
	b.Open("/account")
	b.Fill("Switch shortcuts off")
	b.Has("Keys that act alone are off")
	b.Open("/audit")
	for _, key := range []string{"?", "/", "g", "s"} {
		b.Key(key)
	}
	is("switched off, they do nothing", open+` + document.activeElement.tagName + location.pathname`, "falseBODY/audit")
	b.Open("/account")
	b.Fill("Switch shortcuts on")
	b.Key("?")
	is("switched on, they do", open, "true")
}

// lengthened gives the same page of what has the longest name.
func lengthened(path string) string {
	path = strings.Replace(path, "/keystores/demo", "/keystores/"+longStore, 1)
	return strings.Replace(path, "/keys/payroll-2026", "/keys/"+longKey, 1)
}
