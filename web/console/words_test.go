package console_test

import (
	"html"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

var (
	aForm   = regexp.MustCompile(`(?s)(<details[^>]*class="folded"[^>]*>\s*<summary[^>]*>([^<]*)</summary>\s*)?<form\s[^>]*action="/do/(\w+)".*?</form>`)
	aButton = regexp.MustCompile(`(?s)<button[^>]*>(.*?)</button>`)
	aHidden = regexp.MustCompile(`(?s)<span class="hidden">.*?</span>`)
)

// TestButtonsSayTheWords: each button of the console says the words of the operation that it
// posts, and so does what opens its form.
func TestButtonsSayTheWords(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	things := r.things(admin)
	seen := map[string][]string{}
	look := func() {
		t.Helper()
		for _, pattern := range console.Pages() {
			path := pattern
			for name := range things {
				path = strings.ReplaceAll(path, "{"+name+"}", things.Get(name))
			}
			w := admin.do("GET", path, nil, nil)
			if w.Code != http.StatusOK {
				continue
			}
			for _, f := range aForm.FindAllStringSubmatch(w.Body.String(), -1) {
				button := aButton.FindStringSubmatch(f[0])
				if button == nil {
					t.Errorf("%s: the form of %s has no button", path, f[3])
					continue
				}
				said := []string{aHidden.ReplaceAllString(button[1], "")}
				if f[1] != "" {
					said = append(said, f[2])
				}
				i := slices.IndexFunc(operation.Table(), func(o *operation.Route) bool { return o.ID == f[3] })
				if i < 0 {
					t.Errorf("%s: there is no operation %s", path, f[3])
					continue
				}
				for _, text := range said {
					text = html.UnescapeString(strings.TrimSpace(text))
					if !slices.Contains(operation.Table()[i].AllWords(), text) {
						t.Errorf("%s: the button of %s says %q, and the operation is called %q", path, f[3], text, operation.Table()[i].AllWords())
					}
					seen[f[3]] = append(seen[f[3]], text)
				}
			}
		}
	}
	look()
	for _, target := range []appliance.BlockTarget{{KeyStore: "bank", KeyID: "k"}, {KeyStore: "bank"}, {Everything: true}} {
		if _, err := r.Appliance.Block(t.Context(), target, "why", "alice"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Appliance.SetKeyEnabled(t.Context(), "bank", "k", false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Appliance.SetCredentialActive(t.Context(), "bank", things.Get("credential"), false); err != nil {
		t.Fatal(err)
	}
	look()
	for id, want := range map[string][]string{"block": {"Block everything", "Block key store", "Block key"}, "unblock": {"Unblock everything", "Unblock key store", "Unblock key"},
		"disableKey": {"Disable key"}, "enableKey": {"Enable key"}, "scheduleKeyDeletion": {"Schedule key deletion"}, "createCredential": {"Create credential", "Import credential"}, "deleteCredential": {"Delete credential"}} {
		for _, text := range want {
			if !slices.Contains(seen[id], text) {
				t.Errorf("no button of %s says %q: %q", id, text, seen[id])
			}
		}
	}
	if len(seen) < 30 {
		t.Errorf("buttons of %d operations were seen", len(seen))
	}
}

// TestDoneSaysTheVerb: what the console says after an operation has the verb of its button.
func TestDoneSaysTheVerb(t *testing.T) {
	for _, r := range operation.Table() {
		done, ok := console.Done(r.ID)
		if !ok || done == "" {
			continue
		}
		said := strings.ToLower(done)
		if !slices.ContainsFunc(r.AllWords(), func(words string) bool {
			verb, _, _ := strings.Cut(strings.ToLower(words), " ")
			switch verb {
			case "take":
				verb = "taken"
			case "begin":
				verb = "begun"
			}
			return strings.Contains(said, verb[:min(len(verb), 4)])
		}) {
			t.Errorf("%s: the button says %q, and then the console says %q", r.ID, r.Words, done)
		}
	}
}
