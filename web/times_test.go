package web_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestNoEndAfterTheYear9999: a grant whose end no answer could have is refused, alone and in a
// file, and what is there can still be read.
func TestNoEndAfterTheYear9999(t *testing.T) {
	b := newBank(t)
	const late = "9999-12-31T23:59:59-05:00"
	for path, body := range map[string]string{
		"/keystores/p/grants":      `{"principal": "*", "operations": ["Decrypt"], "not_after": "` + late + `"}`,
		"/keystores/p/grant-files": fileBody(t, "principal,operations,not_after\n*,Decrypt,"+late+"\n", 1, 0),
	} {
		if w := b.call(&root, "POST", path, body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "1970 to 9999") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	b.readable("/keystores", "/keystores/p", "/keystores/p/grants")
	for _, r := range b.audit.Records {
		if text, err := json.Marshal(r); err != nil || strings.Contains(string(text), "unreadable") {
			t.Errorf("the record of %s: %s, %v", r.Operation, text, err)
		}
	}
}

// TestOneTimeThatCannotBeWritten: a row that was edited so that no answer could have its time makes
// no list unreadable.
func TestOneTimeThatCannotBeWritten(t *testing.T) {
	for _, at := range []string{"253402318799000", "-62199999999999", "9223372036854775807"} {
		b := newBank(t)
		b.edit(`UPDATE grants SET not_after = ` + at)
		b.readable("/keystores", "/keystores/p/grants", "/keystores/p/keys", "/keystores/p/credentials")
	}
}

// readable wants the paths to be readable.
func (b *bank) readable(paths ...string) {
	b.t.Helper()
	for _, path := range paths {
		if w := b.call(&root, "GET", path, ""); w.Code != http.StatusOK {
			b.t.Errorf("GET %s: %d %.300s", path, w.Code, w.Body)
		}
	}
}
