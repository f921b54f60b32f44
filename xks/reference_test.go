package xks_test

import (
	"database/sql"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

var referenceForm = regexp.MustCompile(`reference=([a-z2-7]{10})\b`)

// TestReference: the errorMessage of an InternalException has a reference, which
// finds one line of the log, with the cause; and the body is the specification's.
func TestReference(t *testing.T) {
	find := func(b *xkstest.Bed, what string, a xkstest.Answer, cause string) {
		t.Helper()
		var body map[string]string
		if err := json.Unmarshal([]byte(a.Text), &body); err != nil || len(body) != 2 || body["errorName"] != "InternalException" || a.Status != 500 {
			t.Fatalf("%s: %d %s", what, a.Status, a.Text)
		}
		m := referenceForm.FindStringSubmatch(body["errorMessage"])
		if m == nil || strings.Contains(a.Text, cause) {
			t.Fatalf("%s: there is no reference in %s, or it tells the cause", what, a.Text)
		}
		var found []string
		for line := range strings.Lines(b.Log.String()) {
			if strings.Contains(line, "reference="+m[1]) {
				found = append(found, line)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0], cause) || !strings.Contains(found[0], "level=ERROR") {
			t.Errorf("%s: the lines of %s are %q, want one with %q", what, m[1], found, cause)
		}
	}
	b, k := newDemo(t, xkstest.Options{})
	db, err := sql.Open("sqlite", "file:"+b.DB+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b.NewKey(t, "demo", "damaged", "encrypt", appliance.CustodyCached)
	if _, err := db.Exec(`UPDATE external_keys SET can_decrypt = 1 WHERE id = 'damaged'`); err != nil {
		t.Fatal(err)
	}
	find(b, "a damaged row", k.Call("/keys/damaged/encrypt", xkstest.EncryptBody("x")), "tampered: ")

	b, k = newDemo(t, xkstest.Options{KeyStores: func(a *appliance.Appliance) xks.KeyStores { return panicking{a} }})
	find(b, "a bug", k.Call("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}), "a bug with a secret")
}
