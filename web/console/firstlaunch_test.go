package console_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/launch"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/console"
)

// noLaunch is the boot of a machine that has no launch file.
type noLaunch struct{}

func (noLaunch) Status() progress.Status {
	return progress.Status{State: progress.Locked, Code: string(fault.LaunchMissing), Reason: "there is none"}
}

// usableLaunchFile is a launch file without a mistake.
func usableLaunchFile(t *testing.T) string {
	t.Helper()
	seal, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	policy, _, err2 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	public := func(key any) string {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return launch.Template(public(policy), public(&seal.PublicKey))
}

// TestFirstLaunchFile: on a machine without a launch file anybody may have a text checked. All
// mistakes are shown, what was typed stays, and nothing is kept; a text without one is
// downloaded as it was typed, and no other.
func TestFirstLaunchFile(t *testing.T) {
	r := start(t)
	r.console = console.New(console.Options{Performer: r.api.Performer, Identity: r.users, Boot: noLaunch{}, Version: "test", Log: slog.New(slog.DiscardHandler), Now: r.clock})
	nobody := &session{r: r}
	good := usableLaunchFile(t)
	for name, text := range map[string]string{
		"the template":           launch.Template("", ""),
		"nothing":                "",
		"no TOML":                "<script>alert(1)</script>\n\x00",
		"several":                strings.NewReplacer(`module = "libpkcs11.so"`, `module = "/lib/x.so"`, `format = "`, "formats = 1\nformat = \"").Replace(good) + "[state]\ndir = \"/x\"\n",
		"a private key":          good + "# -----BEGIN PRIVATE KEY-----\n",
		"too much":               good + strings.Repeat("#\n", launch.MaxFile/2),
		"a line break before":    "\n\nformat = 1\n",
		"what closes a textarea": "</textarea><b>x</b>\n",
	} {
		var want config.Problems
		if _, err := launch.Parse("launch.toml", []byte(text)); !errors.As(err, &want) || len(want) == 0 {
			t.Fatalf("%s: the case has no mistake: %v", name, err)
		}
		for _, path := range []string{"/setup/check", "/setup/launch.toml", "/setup/hsm"} {
			w := nobody.do(http.MethodPost, path, url.Values{"file": {strings.ReplaceAll(text, "\n", "\r\n")}, "document": {"a document"}, "setup_code": {"SECRET"}}, nil)
			page := w.Body.String()
			if w.Code != http.StatusUnprocessableEntity || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || strings.Contains(page, "<script>alert") || strings.Contains(page, "SECRET") {
				t.Errorf("%s: %s: %d %s", name, path, w.Code, w.Header())
			}
			if n := strings.Count(page, "<li>"); n < len(want) {
				t.Errorf("%s: %s: %d entries", name, path, n)
			}
			for _, p := range want {
				message, line := html.EscapeString(p.Message), fmt.Sprintf("<strong>Line %d:</strong>", p.Line)
				if _, after, ok := strings.Cut(page, `<ul id="mistakes">`); !ok || !strings.Contains(after, message) || p.Line > 0 && !strings.Contains(after, line) {
					t.Errorf("%s: %s does not say %s", name, path, p)
				}
			}
			shown := text
			if strings.HasPrefix(text, "\n") {
				shown = "\n" + text // of which a browser drops the first line break
			}
			if !strings.Contains(page, `aria-describedby="launch-file-error mistakes launch-file-hint"`) || !strings.Contains(page, ">"+html.EscapeString(shown)+"</textarea>") && !strings.Contains(text, "\x00") || !strings.Contains(page, "a document") {
				t.Errorf("%s: %s: what was typed is gone, or nothing describes it", name, path)
			}
			if len(w.Result().Cookies()) > 0 {
				t.Errorf("%s: %s: something is kept: %v", name, path, w.Result().Cookies())
			}
		}
	}
	if n := len(r.audit.Records); n > 0 {
		t.Errorf("%d records of what nobody may do", n)
	}

	for _, text := range []string{good, "\n\n" + good + "\n# €"} {
		form := url.Values{"file": {strings.ReplaceAll(text, "\n", "\r\n")}}
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		if w := nobody.do(http.MethodPost, "/setup/check", form, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), digest) {
			t.Errorf("without a mistake: %d %s", w.Code, w.Body)
		}
		w := nobody.do(http.MethodPost, "/setup/launch.toml", form, nil)
		h := w.Header()
		if w.Code != http.StatusOK || w.Body.String() != text || !strings.HasPrefix(h.Get("Content-Type"), "text/plain") || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") ||
			!strings.Contains(h.Get("Content-Disposition"), "launch.toml") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("download: %d %v %q", w.Code, h, w.Body)
		}
	}
	// The HSM is for who has the setup code.
	if w := nobody.do(http.MethodPost, "/setup/hsm", url.Values{"file": {good}, "setup_code": {"WRONG"}}, nil); w.Code != http.StatusUnauthorized || strings.Contains(w.Body.String(), "there is none") || !strings.Contains(w.Body.String(), "token_label") {
		t.Errorf("try the HSM: %d %s", w.Code, w.Body)
	}
	if w := nobody.do(http.MethodPost, "/setup/check", url.Values{"file": {strings.Repeat("x", 600<<10)}}, nil); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "at most 12 KiB") {
		t.Errorf("a form that is too long: %d", w.Code)
	}
	// Where there is a launch file, none of it is there.
	r.console = console.New(console.Options{Performer: r.api.Performer, Identity: r.users, Boot: serving(), Version: "test", Log: slog.New(slog.DiscardHandler), Now: r.clock})
	for _, path := range []string{"/setup/check", "/setup/launch.toml", "/setup/hsm"} {
		if w := nobody.do(http.MethodPost, path, url.Values{"file": {good}}, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/setup" {
			t.Errorf("%s where there is a launch file: %d", path, w.Code)
		}
	}
}
