package console_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// slowFleet is a fleet in which each change takes some time to be in effect.
type slowFleet struct {
	fleetOfTwo
	r     *rig
	takes time.Duration
}

func (f *slowFleet) Settle(context.Context) appliance.Settled {
	f.r.pass(f.takes)
	return appliance.Settled{Nodes: 2, Of: 2}
}

// TestLongFileAsksForTheProofFirst: a file that is too long for a browser to carry to the page that
// asks for a proof of presence is not lost by it: the page of the check, and that of each step, ask
// for the proof before the file is sent, once the last proof is too old. If it has run out by the
// time that the form is sent, the page says what is missing, and has the file.
func TestLongFileAsksForTheProofFirst(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	f := &slowFleet{r: r, fleetOfTwo: fleetOfTwo{[]appliance.NodeStatus{{Node: appliance.Node{ID: strings.Repeat("1", 32), State: appliance.NodeServing}, Heard: true, Serves: true}}}}
	for _, p := range r.performers {
		p.Fleet = f
	}
	const page = "/keystores/bank/keys"
	link := `href="/prove?back=` + url.QueryEscape(page) + `"`
	var file strings.Builder
	file.WriteString("id,usage,custody\n")
	for range 1500 { // random texts, which cannot be compressed to what a browser carries
		fmt.Fprintf(&file, "%s%s,encrypt,cached\n", strings.ToLower(rand.Text()), strings.ToLower(rand.Text()))
	}
	check := confirmed(things, operation.CheckKeyFile.ID, admin.version(""))
	check.Set("file", file.String())
	check.Set("back", page)
	of := func(body string) url.Values {
		t.Helper()
		forms := formsOf(page, body, operation.CreateKeys.ID)
		if len(forms) != 1 || forms[0].values.Get("file") == "" {
			t.Fatalf("there is no form with the file: %s", body)
		}
		return forms[0].values
	}
	made := func() int {
		t.Helper()
		s, err := r.Appliance.ShowKeyStore(t.Context(), "bank")
		if err != nil {
			t.Fatal(err)
		}
		return s.Keys - 1
	}

	w := admin.do(http.MethodPost, "/do/checkKeyFile", check, nil)
	body := w.Body.String()
	if w.Code != http.StatusOK || strings.Contains(body, "Prove it first") {
		t.Fatalf("checked by who is present: %d %s", w.Code, body)
	}
	form := of(body)
	r.pass(operation.PresenceTime + time.Second)
	w = admin.do(http.MethodPost, "/do/createKeys", form, nil)
	body = w.Body.String()
	if w.Code != http.StatusUnprocessableEntity || made() != 0 || !strings.Contains(body, link) || !strings.Contains(body, "needs a proof") || !strings.Contains(body, html.EscapeString(strings.TrimSpace(file.String()))) {
		t.Errorf("sent when the proof is old: %d, %d keys: %s", w.Code, made(), body)
	}
	w = admin.do(http.MethodPost, "/do/checkKeyFile", check, nil)
	if body = w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, link) {
		t.Errorf("checked when the proof is old: %d, and the proof is not asked for first", w.Code)
	}

	codes, err := r.users.NewRecoveryCodes(t.Context(), admin.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	w = admin.do(http.MethodPost, "/prove", url.Values{"password": {"a long enough sentence"}, "code": {codes[0]}, "back": {page}}, nil)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != page {
		t.Fatalf("proved: %d to %q", w.Code, w.Header().Get("Location"))
	}
	for _, k := range w.Result().Cookies() {
		if k.Name == "__Host-holdfast" {
			admin.token = k.Value
		}
	}
	if admin.principal, err = r.users.Session(t.Context(), admin.token, true); err != nil {
		t.Fatal(err)
	}
	check.Set("version", admin.version(""))
	form = of(admin.do(http.MethodPost, "/do/checkKeyFile", check, nil).Body.String())
	form.Set("version", admin.version(""))
	f.takes = operation.PresenceTime + time.Second
	w = admin.do(http.MethodPost, "/do/createKeys", form, nil)
	body = w.Body.String()
	if w.Code != http.StatusOK || made() != 1000 || !strings.Contains(body, link) || strings.Contains(body, "data-continue") {
		t.Errorf("a step during which the proof has become old: %d, %d keys: %s", w.Code, made(), body[:min(len(body), 3000)])
	}
}
