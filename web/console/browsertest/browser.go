// Package browsertest drives a real browser, Debian's chromium, in tests of the
// console. It notes whatever a page does that it should not: requests to another
// origin, violations of the content security policy, errors of scripts.
package browsertest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience bounds each step: nothing waits for a fixed time.
const patience = time.Minute

// Browser is a window with cookies of its own.
type Browser struct {
	t      testing.TB
	ctx    context.Context
	origin string
	// Downloads is the folder that files are saved in.
	Downloads string

	mu       sync.Mutex
	problems []string
	saved    map[string]string // by GUID: the suggested names
	done     chan string
	trusted  []string // other origins that pages may lead to
	// Expected has problems that a test means to cause; those containing one are no
	// problems.
	Expected []string
}

// Start starts a browser for a server at the origin, "https://localhost:PORT",
// with the certificate. What it asks the origin for goes to the address, host:port; to the
// origin's own if that is empty. It fails if there is no chromium.
func Start(t testing.TB, origin, address string, certificate *x509.Certificate) *Browser {
	t.Helper()
	names := "MAP localhost 127.0.0.1"
	if address != "" {
		names = "MAP " + strings.TrimPrefix(origin, "https://") + " " + address + "," + names
	}
	spki := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(spki[:])),
		chromedp.Flag("host-resolver-rules", names),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return prepare(t, ctx, origin)
}

// Another gives a window of the same browser without the cookies of this one.
func (b *Browser) Another() *Browser {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	b.t.Cleanup(cancel)
	return prepare(b.t, ctx, b.origin)
}

func prepare(t testing.TB, ctx context.Context, origin string) *Browser {
	t.Helper()
	b := &Browser{t: t, ctx: ctx, origin: origin, Downloads: t.TempDir(), saved: map[string]string{}, done: make(chan string, 16)}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v; install Debian's package chromium", err)
	}
	events := true
	call(b, network.Enable, network.EnableParams{})
	call(b, cdplog.Enable, cdp.Empty{})
	call(b, cdpruntime.Enable, cdp.Empty{})
	_, err := chromedp.CallBrowser(ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{Behavior: browser.SetDownloadBehaviorBehaviorAllowAndName,
		DownloadPath: b.Downloads, EventsEnabled: &events, BrowserContextID: chromedp.FromContext(ctx).BrowserContextID})
	if err := errors.Join(err, chromedp.Listen(ctx, b.watch), chromedp.ListenBrowser(ctx, b.watch)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.check)
	return b
}

// call calls a command of the browser's protocol.
func call[P, R any](b *Browser, c cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	r, err := chromedp.Call(ctx, c, params)
	if err != nil {
		b.t.Fatalf("%s: %v", c.Method, err)
	}
	return r
}

// value runs an action that gives something.
func value[T any](b *Browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v; the page %s says: %s", what, err, b.Path(), b.Text())
	}
	return v
}

// watch notes what a page does that it should not.
func (b *Browser) watch(event any) {
	problem := ""
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Scheme+"://"+u.Host != b.origin && !b.trusts(u.Scheme+"://"+u.Host) && u.Scheme != "data" && u.Scheme != "about" {
			problem = "a request to another origin: " + e.Request.URL
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError && e.Entry.Source != cdplog.EntrySourceNetwork {
			problem = "the browser says: " + e.Entry.Text
		}
	case *cdpruntime.EventExceptionThrown:
		problem = "a script failed: " + e.ExceptionDetails.Text
	case *browser.EventDownloadWillBegin:
		b.mu.Lock()
		b.saved[e.GUID] = e.SuggestedFilename
		b.mu.Unlock()
	case *browser.EventDownloadProgress:
		if e.State == browser.DownloadProgressStateCompleted {
			b.done <- e.GUID
		}
	case *page.EventJavascriptDialogOpening:
		problem = "a page opened a dialog: " + e.Message
	}
	if problem == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.Expected {
		if strings.Contains(problem, x) {
			return
		}
	}
	b.problems = append(b.problems, problem)
}

// Trust has pages lead to another origin, whatever certificate it has: that of an OpenID provider.
func (b *Browser) Trust(origin string) {
	b.t.Helper()
	b.mu.Lock()
	b.trusted = append(b.trusted, origin)
	b.mu.Unlock()
	call(b, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true})
}

func (b *Browser) trusts(origin string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.trusted, origin)
}

func (b *Browser) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		b.t.Error(p)
	}
}

// do runs an action, and fails the test if it does.
func (b *Browser) do(what string, action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	value(b, what, action)
}

// Open opens a path of the server.
func (b *Browser) Open(path string) {
	b.t.Helper()
	b.do("open "+path, chromedp.Navigate(b.origin+path))
}

// Path is where the browser is.
func (b *Browser) Path() string {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	at, _ := chromedp.Run(ctx, chromedp.Location()) // a page that is going has none
	return strings.TrimPrefix(at, b.origin)
}

// Text is what the page shows.
func (b *Browser) Text() string {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`)) // as above
	return text
}

// Has fails the test unless the page shows each of the texts.
func (b *Browser) Has(texts ...string) {
	b.t.Helper()
	shown := b.Text()
	for _, want := range texts {
		if !strings.Contains(strings.ToLower(shown), strings.ToLower(want)) {
			b.t.Fatalf("%s does not show %q: %s", b.Path(), want, shown)
		}
	}
}

// Until loads the page again until it shows the text. A page that goes on by itself is waited for
// with Comes.
func (b *Browser) Until(text string) {
	b.t.Helper()
	b.until(text, true)
}

// UntilGone loads the page again until it does not show the text any more.
func (b *Browser) UntilGone(text string) {
	b.t.Helper()
	b.until(text, false)
}

func (b *Browser) until(text string, want bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for strings.Contains(strings.ToLower(b.Text()), strings.ToLower(text)) != want {
		if ctx.Err() != nil {
			b.t.Fatalf("%s shows %q: never %v: %s", b.Path(), text, want, b.Text())
		}
		b.Open(b.Path())
	}
}

// Comes waits until the window shows the text, through whatever pages the console leads to by
// itself. Nothing is loaded by the test: that would break off what the page has just sent.
func (b *Browser) Comes(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		// While one page goes and the other comes, there is none to ask.
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf(`document.readyState === "complete" && document.body.innerText.toLowerCase().includes(%s)`, quoted(strings.ToLower(text)))))
		if err == nil && there {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			b.t.Fatalf("%s never comes to show %q: %s", b.Path(), text, b.Text())
		}
	}
}

// Learns waits until the open page shows just the text at the selector, by itself: nobody loads it
// again.
func (b *Browser) Learns(selector, text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	last := ""
	for {
		shown, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf(`(document.querySelector(%q)?.textContent || "").trim()`, selector)))
		if shown == text {
			return
		}
		if err == nil { // a page that is going has none
			last = shown
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			b.t.Fatalf("%s never learns %q; it shows %q: %s", b.Path(), text, last, b.Text())
		}
	}
}

// HasNot fails the test if the page shows one of the texts.
func (b *Browser) HasNot(texts ...string) {
	b.t.Helper()
	shown := b.Text()
	for _, not := range texts {
		if strings.Contains(strings.ToLower(shown), strings.ToLower(not)) {
			b.t.Fatalf("%s shows %q: %s", b.Path(), not, shown)
		}
	}
}

// Fill types into fields of the form whose button has the text, opening what folds
// the form away; then it presses the button and waits for the next page. Fields
// come in pairs of name and value; of a select, the value; of a checkbox, the name
// with "=" and the value, and "on" or "off".
func (b *Browser) Fill(button string, fields ...string) {
	b.t.Helper()
	script := fmt.Sprintf(fillScript, quoted(button), quoted(fields))
	if problem := value(b, "fill in the form "+button, chromedp.Evaluate[string](script)); problem != "" {
		b.t.Fatalf("%s: the form %q: %s; the page says: %s", b.Path(), button, problem, b.Text())
	}
	b.Press()
}

// Confirm types the name that the page before an outage asks for, and more fields of its form; then
// it goes on.
func (b *Browser) Confirm(fields ...string) {
	b.t.Helper()
	const form = `document.querySelector('form[action^="/confirm/"]')`
	button := b.Value(`(() => { const f = ` + form + `; return f ? f.querySelector("button:not([type=button])").textContent.trim() : ""; })()`)
	if button == "" {
		b.t.Fatalf("%s: no name is asked for; the page says: %s", b.Path(), b.Text())
	}
	name := b.Value(form + `.querySelector("label[for=confirm] code").textContent`)
	b.Fill(button, append(fields, "confirm", name)...)
}

// fillScript finds the form, and marks its button for Press.
const fillScript = `(() => {
	const want = %s, fields = %s || [];
	const words = (e) => e.textContent.replace(/\s+/g, " ").trim();
	const all = [...document.querySelectorAll("form button")].filter((b) => !b.closest("form").hidden && (words(b) === want || b.querySelector(".hidden") && words(b).startsWith(want + " ")));
	const button = all.find((b) => fields.every((f, i) => i %% 2 || b.closest("form").elements[f.split("=")[0]])) || all[0];
	if (!button) return "there is no such button";
	const form = button.closest("form");
	for (let e = form; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
	for (let i = 0; i < fields.length; i += 2) {
		const [name, value] = fields[i].split("=");
		if (value !== undefined) {
			const box = [...form.querySelectorAll("input[type=checkbox]")].find((x) => x.name === name && x.value === value);
			if (!box) return "there is no box " + fields[i];
			box.checked = fields[i + 1] === "on";
			continue;
		}
		const field = form.elements[name];
		if (!field) return "there is no field " + name;
		field.value = fields[i + 1];
	}
	if (!button.formNoValidate && !form.reportValidity()) return "it is not valid";
	document.querySelectorAll("[data-press]").forEach((e) => e.removeAttribute("data-press"));
	button.setAttribute("data-press", "");
	return "";
})()`

// Key presses a key: a character, or Enter, Escape or Tab.
func (b *Browser) Key(name string) {
	b.t.Helper()
	keys := map[string]string{"Enter": kb.Enter, "Escape": kb.Escape, "Tab": kb.Tab}
	b.do("key "+name, chromedp.KeyEvent(cmp.Or(keys[name], name)))
}

// Press presses what was marked, and waits for the next page.
func (b *Browser) Press() {
	b.t.Helper()
	b.next("press the button", chromedp.Click(chromedp.CSS("[data-press]")))
}

// Follow presses a link by its text, and waits for the next page.
func (b *Browser) Follow(link string) {
	b.t.Helper()
	b.next("follow the link "+link, chromedp.Click(chromedp.Search(fmt.Sprintf(`//a[normalize-space(.)=%s]`, quoted(link)))))
}

// next does something that leads to another page. The one before is marked, so
// that it is known to be gone.
func (b *Browser) next(what string, action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	value(b, what, chromedp.Evaluate[bool](`window.before = true`))
	if err := chromedp.Do(b.ctx, action); err != nil && !strings.Contains(err.Error(), "navigated") {
		b.t.Fatalf("%s: %v; %s says: %s", what, err, b.Path(), b.Text())
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		// While one page goes and the other comes, there is none to ask.
		if there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`window.before === undefined && document.readyState === "complete"`)); err == nil && there {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			b.t.Fatalf("%s: no other page came; %s says: %s", what, b.Path(), b.Text())
		}
	}
}

// Authenticator gives the browser a passkey device that says yes.
func (b *Browser) Authenticator() {
	b.t.Helper()
	call(b, webauthn.Enable, webauthn.EnableParams{})
	call(b, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true}})
}

// Download presses the element and gives name and content of the file.
func (b *Browser) Download(selector string) (name string, content []byte) {
	b.t.Helper()
	b.do("download by "+selector, chromedp.Click(chromedp.CSS(selector)))
	select {
	case id := <-b.done:
		b.mu.Lock()
		name = b.saved[id]
		b.mu.Unlock()
		content, err := os.ReadFile(filepath.Join(b.Downloads, id))
		if err != nil {
			b.t.Fatal(err)
		}
		return name, content
	case <-time.After(patience):
		b.t.Fatalf("nothing was downloaded by %s; the page says: %s", selector, b.Text())
	}
	return "", nil
}

// Value gives the text that a script comes to.
func (b *Browser) Value(script string) string {
	b.t.Helper()
	return value(b, script, chromedp.Evaluate[string](script))
}

// Width sets the width of the screen, in CSS pixels; Dark the theme of the system.
func (b *Browser) Width(px int64) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: px, Height: 900, DeviceScaleFactor: 1, Mobile: px < 600})
}

// Screen sets the size of the screen, in CSS pixels.
func (b *Browser) Screen(width, height int64) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
}

// Media is what the system is set to: dark colours, or few that are its own (forced
// colors).
type Media struct{ Dark, Forced bool }

// Media sets it.
func (b *Browser) Media(m Media) {
	b.t.Helper()
	scheme, forced := "light", "none"
	if m.Dark {
		scheme = "dark"
	}
	if m.Forced {
		forced = "active"
	}
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "forced-colors", Value: forced}}})
}

// Reach opens whatever is folded away, and says what nobody reaches on a screen of this
// size: what is wider than it, what can be pressed and is out of it, under something else,
// or smaller than 24 pixels (WCAG 2.2: 1.4.10, 2.4.11, 2.5.8), and what forced colors hide.
func (b *Browser) Reach() []string {
	b.t.Helper()
	return value(b, "reach", chromedp.Evaluate[[]string](reachScript))
}

const reachScript = `(() => {
	const root = document.scrollingElement, problems = [];
	const name = (e) => e.outerHTML.replace(/\s+/g, " ").slice(0, 140);
	const say = (what, e) => problems.push(what + ": " + name(e));
	const wide = (when) => {
		if (root.scrollWidth <= root.clientWidth) return;
		const e = [...document.querySelectorAll("body *")].filter((x) => x.getBoundingClientRect().right > root.clientWidth + 1 && !x.closest(".scroll, pre, svg")).pop();
		problems.push(when + ": " + root.scrollWidth + " of " + root.clientWidth + " pixels wide: " + (e ? name(e) : ""));
	};
	const pressed = "a[href], button, input:not([type=hidden]), select, textarea, summary";
	const look = (within) => {
		for (const e of within.querySelectorAll(pressed)) {
			if (!e.checkVisibility({visibilityProperty: true}) || e.disabled) continue;
			e.focus();
			const r = e.getBoundingClientRect();
			if (r.width === 0 || e.classList.contains("skip")) continue;
			const x = Math.min(Math.max(r.left + Math.min(r.width / 2, 40), 0), innerWidth - 1), y = r.top + Math.min(r.height / 2, 10);
			if (r.left < -1 || r.right > root.clientWidth + 1) say("out of the screen, from " + Math.round(r.left) + " to " + Math.round(r.right) + " of " + root.clientWidth, e);
			else if (y < 0 || y > innerHeight) say("focus does not bring it onto the screen", e);
			else {
				// A link of several lines has its first where its box need not have.
				const line = e.getClientRects()[0];
				const at = document.elementFromPoint(line.left + Math.min(line.width / 2, 40), line.top + Math.min(line.height / 2, 10));
				if (at && at !== e && !e.contains(at) && !at.contains(e) && !(e.labels && [...e.labels].some((l) => l.contains(at)))) say("under " + name(at), e);
			}
			const inText = e.tagName === "A" && getComputedStyle(e).display === "inline";
			const box = e.type === "checkbox" || e.type === "radio" ? (e.closest("label") || e).getBoundingClientRect() : r;
			if (!inText && (box.width < 24 || box.height < 24)) say("smaller than 24 pixels (" + Math.round(box.width) + " by " + Math.round(box.height) + ")", e);
		}
	};
	wide("at first");
	const folded = [...document.querySelectorAll("main details:not([open])")];
	for (const d of folded) d.open = true;
	wide("opened");
	look(document.querySelector("main"));
	for (const d of folded) d.open = false;
	for (const d of document.querySelectorAll("header details, .frame > nav details")) {
		if (!d.checkVisibility()) continue;
		d.open = true;
		wide("menu");
		look(d);
		d.open = false;
	}
	if (matchMedia("(forced-colors: active)").matches) {
		const paper = getComputedStyle(document.body).backgroundColor;
		for (const e of document.querySelectorAll(".badge, .alert, .count, button, .button")) {
			const s = getComputedStyle(e);
			if (e.checkVisibility() && (s.borderTopStyle === "none" || s.borderTopWidth === "0px")) say("forced colors leave no edge", e);
		}
		for (const e of document.querySelectorAll(".line, .limit, .grid line, .icon")) {
			const s = getComputedStyle(e);
			if (e.checkVisibility() && s.stroke === getComputedStyle(document.documentElement).backgroundColor) say("forced colors hide it", e);
		}
		for (const e of document.querySelectorAll("[aria-current=page]")) {
			const s = getComputedStyle(e), o = e.closest("nav").querySelector("a:not([aria-current])");
			if (o && e.checkVisibility() && s.color === getComputedStyle(o).color && s.borderBottomColor === getComputedStyle(o).borderBottomColor && s.outlineStyle === "none" && s.borderLeftStyle === "none") say("forced colors do not tell it apart", e);
		}

	}
	scrollTo(0, 0);
	document.activeElement.blur();
	return [...new Set(problems)].slice(0, 12);
})()`

// Dark sets whether the system prefers dark.
func (b *Browser) Dark(dark bool) {
	b.t.Helper()
	value := "light"
	if dark {
		value = "dark"
	}
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})
}

// Printed gives what the page shows on paper.
func (b *Browser) Printed() string {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
	defer call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{})
	return b.Text()
}

// Shot saves a picture of the whole page.
func (b *Browser) Shot(file string) {
	b.t.Helper()
	png := value(b, "picture "+file, chromedp.FullScreenshot(100))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// Fits fails the test if the page can be scrolled sideways.
func (b *Browser) Fits() {
	b.t.Helper()
	wide := b.Value(`(() => { const d = document.documentElement; if (d.scrollWidth <= d.clientWidth) return "";
		const e = [...document.querySelectorAll("main *, header *")].find((x) => x.getBoundingClientRect().right > d.clientWidth + 1 && !x.closest(".table, pre"));
		return d.scrollWidth + " of " + d.clientWidth + " pixels: " + (e ? e.outerHTML.slice(0, 200) : ""); })()`)
	if wide != "" {
		b.t.Errorf("%s is wider than the screen: %s", b.Path(), wide)
	}
}

// axe gives the script of axe-core, which npm installs for development; it is not
// part of the project.
func axe() ([]byte, error) {
	dir, err := os.Getwd() // the folder of the test's package
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return os.ReadFile(filepath.Join(dir, "web", "console", "browsertest", "node_modules", "axe-core", "axe.min.js"))
		}
	}
	return nil, fmt.Errorf("the module's folder is not found: %w", err)
}

// Accessible fails the test for each violation that axe-core finds on the page and does not
// call minor.
func (b *Browser) Accessible() {
	b.t.Helper()
	script, err := axe()
	if err != nil {
		b.t.Fatalf("axe-core is not installed: run npm ci in web/console/browsertest: %v", err)
	}
	// What it does to the page, the page's policy would forbid.
	call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})
	value(b, "axe", chromedp.Evaluate[chromedp.Void](string(script)+";undefined"))
	found := value(b, "axe", chromedp.Evaluate[string](axeScript, chromedp.EvalAwaitPromise))
	call(b, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: false})
	if found != "" {
		b.t.Errorf("%s: %s", b.Path(), found)
	}
}

const axeScript = `axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations
	.filter((v) => v.impact !== "minor")
	.map((v) => v.id + " (" + v.impact + "): " + v.help + ": " + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + " " + (n.any[0] ? n.any[0].message : "")).join(" | "))
	.join("\n"))`

func quoted(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of strings alone
	}
	return string(text)
}

// Go runs a script that leads to another page, and waits for that.
func (b *Browser) Go(script string) {
	b.t.Helper()
	b.next(script, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Evaluate[bool]("("+script+", true)")(ctx, t)
		return chromedp.Void{}, err
	})
}

// Tab presses the Tab key through the page, and gives what it should have reached
// and did not, or what did not show that it has the focus; empty if all is well.
func (b *Browser) Tab() string {
	b.t.Helper()
	n := value(b, "count", chromedp.Evaluate[int](`(() => {
		const shown = (e) => e.checkVisibility() && !e.closest("details:not([open]) > :not(summary)");
		window.left = new Set([...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")].filter((e) => shown(e) && !e.disabled));
		window.dull = [];
		document.activeElement.blur();
		addEventListener("focusin", (e) => { left.delete(e.target); const s = getComputedStyle(e.target); if (s.outlineStyle === "none" && e.target.id !== "main") dull.push(e.target.outerHTML.slice(0, 120)); });
		return left.size; })()`))
	for range n + 20 {
		b.do("Tab", chromedp.KeyEvent(kb.Tab))
		if value(b, "left", chromedp.Evaluate[bool](`left.size === 0`)) {
			break
		}
	}
	return b.Value(`[...left].map((e) => "not reached: " + e.outerHTML.slice(0, 120)).concat(dull.map((d) => "no ring: " + d)).slice(0, 5).join(" | ")`)
}
