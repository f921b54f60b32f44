package daemon_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"holdfast/appliance/config"
	"holdfast/appliance/launch"
)

// withoutLaunch makes a site whose machine has no launch file, and gives the names of its
// module and its token.
func withoutLaunch(t *testing.T) (s *site, module, token string) {
	t.Helper()
	s = newSite(t)
	s.owner = newMachineOwner(t)
	module, token = filepath.Base(s.cfg.HSM.Module), s.cfg.HSM.TokenLabel
	s.cfg.Launch = config.Launch{Required: true, Dir: filepath.Join(t.TempDir(), "launch"), Modules: filepath.Dir(s.cfg.HSM.Module)}
	s.cfg.HSM = config.HSM{}
	return s, module, token
}

// TestFirstLaunchIsWrittenInTheConsole: in a browser, somebody writes the launch file of a
// machine that has none, has its mistakes shown, looks whether the HSM is there, downloads the
// file, signs it elsewhere and gives it; the machine starts with it.
func TestFirstLaunchIsWrittenInTheConsole(t *testing.T) {
	s, module, token := withoutLaunch(t)
	s.alone = "a machine without a launch file is no node of a fleet"
	r := s.begin()
	s.logged(0, `msg=boot state=locked .*code=E_LAUNCH_MISSING`)
	code := <-s.welcomed
	good := "\n" + string(s.launchText(module, token, 1, ownerKey(1))) + "\n# € \n"
	bad := strings.Replace(good, "[hsm]\n", "[hsm]\nmodul = 1\n", 1) + "[state]\ndir = \"/x\"\n[admin]\nidle = \"never\"\n"
	var problems config.Problems
	if _, err := launch.Parse("launch.toml", []byte(bad)); !errors.As(err, &problems) || len(problems) < 3 {
		t.Fatalf("the mistakes: %v", err)
	}

	b := r.browser()
	b.Open("/setup")
	b.Accessible()
	b.Fill("Check", "file", bad)
	for _, p := range problems {
		b.Has(fmt.Sprintf("Line %d: %s", p.Line, p.Message))
	}
	const editor = `document.getElementById("launch-file")`
	if b.Value(editor+`.value`) != bad || b.Value(`document.activeElement.id`) != "launch-file" || b.Value(editor+`.getAttribute("aria-invalid")`) != "true" ||
		b.Value(`document.getElementById("mistakes").closest("[role=alert]") ? "announced" : ""`) != "announced" ||
		b.Value(editor+`.getAttribute("aria-describedby").split(" ").every((id) => document.getElementById(id)) ? "described" : ""`) != "described" {
		t.Errorf("what was typed is gone, or the mistakes are not announced; focus: %s", b.Value(`document.activeElement.id`))
	}
	b.Accessible()
	b.Width(320)
	b.Fits()
	b.Width(1280)

	b.Fill("Check", "file", good)
	b.Has(fmt.Sprintf("%x", sha256.Sum256([]byte(good))))
	b.Accessible()
	name, file := b.Download("#download-launch")
	if name != "launch.toml" || string(file) != good {
		t.Errorf("the file %q is another one: %q", name, file)
	}
	b.Fill("Try the HSM", "setup_code", code)
	b.Has(fmt.Sprintf("token %q of %s is there", token, module), "SoftHSM")
	if b.Value(editor+`.value`) != good {
		t.Error("the look at the HSM has taken what was typed")
	}
	b.Accessible()

	document := bytes.TrimSpace(s.signLaunch(file, 1, ownerKey(1)))
	b.Fill("Install launch file", "setup_code", code, "document", "no document")
	if b.Value(editor+`.value`) != good {
		t.Error("what was refused has taken what was typed")
	}
	b.Fill("Install launch file", "setup_code", code, "document", string(document))
	b.Has("restart the machine")
	r.stop()

	s.owner.document = document
	r = s.start()
	if d := r.launch(); d.InForce == nil || d.InForce.SHA256 != fmt.Sprintf("%x", sha256.Sum256([]byte(good))) {
		t.Errorf("started with it: %+v", d)
	}
}

// TestTryHSM: who has the setup code has the machine look for the token that a launch file
// names: no PIN, no login; what the module answers is said, with what to do. One that does not
// answer holds nothing but the next look.
func TestTryHSM(t *testing.T) {
	s, module, token := withoutLaunch(t)
	r := s.begin()
	s.logged(0, `msg=boot state=locked .*code=E_LAUNCH_MISSING`)
	code := <-s.welcomed
	good := string(s.launchText(module, token, 1, ownerKey(1)))
	try := func(text, code string) (int, string) {
		t.Helper()
		status, page := r.page("/setup/hsm", url.Values{"file": {text}, "setup_code": {code}})
		if page = html.UnescapeString(page); strings.Contains(page, code) || !strings.Contains(page, "token_label") {
			t.Errorf("the setup code is on the page, or the text is gone: %s", page)
		}
		return status, page
	}
	says := func(text string, status int, want ...string) {
		t.Helper()
		got, page := try(text, code)
		for _, w := range want {
			if got != status || !strings.Contains(page, w) {
				t.Errorf("%d, and not %q: %s", got, w, page)
			}
		}
	}
	loaded, logins := s.shim.Calls("C_Initialize"), s.shim.Calls("C_Login")
	if status, page := try(good, code+"X"); status != http.StatusUnauthorized || s.shim.Calls("C_Initialize") > loaded {
		t.Errorf("a wrong code: %d %s", status, page)
	}
	says(good, http.StatusOK, "is there", "SoftHSM", "Serial number")
	says(strings.Replace(good, token, "another", 1), http.StatusOK, `token "another"`, "check its name, and that the HSM is connected")
	says(strings.Replace(good, module, "no-such.so", 1), http.StatusUnprocessableEntity, "the image has no module no-such.so")
	s.shim.Fail("C_GetSlotList", pkcs11.CKR_DEVICE_ERROR, 1)
	says(good, http.StatusOK, "C_GetSlotList: CKR_DEVICE_ERROR", "vendor's manual")
	two := good + "[[hsm.members]]\ntoken_label = \"second\"\n"
	says(two, http.StatusOK, "is there", `token "second"`)

	s.shim.Hang("C_Initialize")
	defer s.shim.Release()
	loaded = s.shim.Calls("C_Initialize")
	var hanging sync.WaitGroup
	hanging.Go(func() { says(good, http.StatusOK, "has not answered within") })
	eventually(t, func() error {
		if s.shim.Calls("C_Initialize") == loaded {
			return errors.New("the module is not asked")
		}
		return nil
	})
	says(good, http.StatusUnprocessableEntity, "another trial of the HSM has not ended")
	hanging.Wait() // and its process has ended
	if status, _ := r.page("/setup", nil); status != http.StatusOK {
		t.Errorf("the page: %d", status)
	}
	s.shim.Release()
	says(good, http.StatusOK, "is there")
	if n := s.shim.Calls("C_Login"); n > logins {
		t.Errorf("%d logins", n-logins)
	}
}
