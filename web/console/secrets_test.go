package console_test

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/console"
)

// secretFields are the fields of forms that are secret, with what is entered.
var secretFields = map[string]string{"material": strings.Repeat("5e", appliance.KeyBytes), "secret_access_key": strings.Repeat("s3cr", 11), "pin": "pin-4711-0815", "password": "my secret sentence 4711", "code": "918273"}

// TestSecretsAreNotShownAgain: no page that follows a form has a secret of it: the
// one that asks for a proof of presence, the form with what is wrong, and the one
// after it was done.
func TestSecretsAreNotShownAgain(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	things := r.things(admin)
	shows := func(op, when string, w *httptest.ResponseRecorder) {
		t.Helper()
		for name, secret := range secretFields {
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s, %s: the page has %s", op, when, name)
			}
		}
	}
	forms := map[string]url.Values{}
	for op, fields := range console.Fields() {
		for _, name := range fields {
			if secretFields[name] == "" {
				continue
			}
			if forms[op] == nil {
				forms[op] = confirmed(things, op, admin.version(""))
			}
			forms[op].Set(name, secretFields[name])
		}
	}
	if len(forms) < 5 {
		t.Fatalf("only the forms of %v have secrets", forms)
	}
	for op, form := range forms {
		wrong := url.Values{}
		for name, values := range form {
			wrong[name] = append([]string{}, values...)
		}
		wrong.Set("id", "not a name")
		wrong.Set("access_key_id", "short")
		wrong.Set("framing", "nonsense")
		shows(op, "with something wrong", admin.submit("/do/"+op, wrong))
		form.Set("version", "another session")
		shows(op, "of another session", admin.submit("/do/"+op, form))
		form.Set("version", admin.version(""))
	}
	r.pass(6 * time.Minute)
	asked := 0
	for op, form := range forms {
		w := admin.submit("/do/"+op, form)
		if shows(op, "without presence", w); w.Code == http.StatusForbidden {
			asked++
		}
	}
	if asked < 3 {
		t.Errorf("only %d forms asked for a proof", asked)
	}

	// After the proof the form asks for the secret once more, and nothing is done.
	codes, err := r.users.NewRecoveryCodes(t.Context(), admin.principal.UserID)
	if err != nil {
		t.Fatal(err)
	}
	before, err := r.Appliance.Credentials(t.Context(), "bank")
	if err != nil {
		t.Fatal(err)
	}
	asking := forms["createCredential"]
	asking.Set("back", "/keystores/bank/credentials")
	w := admin.submit(proofPath(admin.submit("/do/createCredential", asking)), url.Values{"password": {"a long enough sentence"}, "code": {codes[0]}})
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Enter secret access key once more") || !strings.Contains(w.Body.String(), "ABCDEFGHIJKLMNOPQRST") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if after, err := r.Appliance.Credentials(t.Context(), "bank"); err != nil || len(after) != len(before) {
		t.Errorf("%v %v", after, err)
	}
	form := forms["createCredential"]
	if w := admin.submit("/do/createCredential", form); w.Code != http.StatusOK {
		t.Errorf("with the secret: %d %s", w.Code, w.Body)
	}
}

// TestFormOfAKey: a posted form makes a key of the very material that was entered.
func TestFormOfAKey(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	form := url.Values{"keystore": {"bank"}, "version": {admin.version("")}, "id": {"imported"}, "usage": {"", "encrypt", "decrypt"}, "custody": {"cached"},
		"material": {hex.EncodeToString([]byte("this is the material of one key."))}, "framing": {"plain"}, "reversible": {"reversible"}}
	if w := admin.submit("/do/createKey", form); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/keystores/bank/keys/imported" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	k, err := r.Appliance.ShowKey(t.Context(), "bank", "imported")
	if err != nil || k.Versions[0].Origin != appliance.OriginImported || !k.Usage.Encrypt || !k.Usage.Decrypt || k.Framing != "plain" {
		t.Errorf("%+v: %v", k, err)
	}
}
