package console_test

import (
	"database/sql"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/xks/xkstest"
)

var referenceForm = regexp.MustCompile(`reference=([a-z2-7]{10})\b`)

// TestReference: a page that says that the appliance failed has a reference, which
// finds one line of the log: of what the API answers, and of what the console does
// itself.
func TestReference(t *testing.T) {
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	r.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	r.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	db, err := sql.Open("sqlite", "file:"+r.DB+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE external_keys SET can_decrypt = 1 - can_decrypt`); err != nil {
		t.Fatal(err)
	}
	find := func(what, page, cause string) {
		t.Helper()
		m := referenceForm.FindStringSubmatch(page)
		if m == nil {
			t.Fatalf("%s: there is no reference on the page", what)
		}
		var found []string
		for line := range strings.Lines(r.Log.String()) {
			if strings.Contains(line, "reference="+m[1]) {
				found = append(found, line)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0], cause) {
			t.Errorf("%s: the lines of %s are %q, want one with %q", what, m[1], found, cause)
		}
	}
	w := admin.do("GET", "/keystores/demo/keys/k", nil, nil)
	if w.Code != 500 {
		t.Errorf("the page of a damaged key: %d", w.Code)
	}
	find("a page", w.Body.String(), "tampered: ")

	if err := r.rows.Close(); err != nil { // where the users are
		t.Fatal(err)
	}
	w = admin.do("GET", "/keystores", nil, nil)
	find("a session", w.Body.String(), "database is closed")
	w = (&session{r: r}).do("POST", "/signin", url.Values{"name": {"admin"}, "password": {"a long enough sentence"}, "code": {"123456"}}, nil)
	find("signing in", w.Body.String(), "database is closed")
}
