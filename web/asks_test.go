package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// asks is what an operation asks of its caller, and what is recorded, in the words of
// docs/operations-table.md.
type asks struct{ role, scope, presence, fourEyes, record string }

// documentedAsks reads docs/operations-table.md: by the operation's ID.
func documentedAsks(t *testing.T) map[string]asks {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "operations-table.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]asks{}
	for line := range strings.Lines(string(text)) {
		if c := strings.Split(strings.TrimSpace(line), " | "); len(c) == 9 && strings.HasPrefix(c[1], "`") {
			all[strings.Trim(c[1], "`")] = asks{c[2], c[3], c[5], c[6], strings.TrimSuffix(c[8], " |")}
		}
	}
	return all
}

// ofStore are the queries that say of what key store a request is, where the path does not.
var ofStore = map[string]string{"dependents": "?key_store=p", "searchAudit": "?key_store=p", "exportAudit": "?key_store=p"}

// asker finds out by requests what the API asks. No request of it is performed: each that could
// change something has the revision of another thing.
type asker struct {
	*bank
	route *operation.Route
	path  string
}

// try makes the request, and says with what code it is refused; empty if it is not.
func (a *asker) try(who *identity.Principal) (refused string) {
	a.t.Helper()
	w := a.call(who, a.route.Method, a.path, samples[a.route.ID], func(r *http.Request) { r.Header.Set("If-Match", `"0000"`) })
	if w.Code == http.StatusAccepted {
		return "filed"
	}
	if w.Code >= http.StatusBadRequest {
		return code(a.t, w)
	}
	return ""
}

// session is a user in a session with that role, who has proved their presence some time ago.
func session(role identity.Role, ago time.Duration) *identity.Principal {
	return &identity.Principal{Name: "somebody", Role: role, UserID: "u", Session: "s", ProvenAt: time.Now().Add(-ago)}
}

// role gives the least role that is not refused; those above it must not be either.
func (a *asker) role() (least string) {
	a.t.Helper()
	for _, role := range identity.Roles {
		switch may := a.try(session(role, 0)) != "forbidden"; {
		case may && least == "":
			least = string(role)
		case !may && least != "" && !(least == "auditor" && role == identity.RoleKeyAdministrator):
			a.t.Errorf("%s: %s may, and %s may not", a.route.ID, least, role)
		}
	}
	return least
}

// scope tries tokens that are for all operations and the key store of the request; for this
// operation and that key store; and for this operation and another key store.
func (a *asker) scope(own, named, other *identity.Principal) string {
	a.t.Helper()
	admitted := [3]bool{a.try(own) != "forbidden", a.try(named) != "forbidden", a.try(other) != "forbidden"}
	switch admitted {
	case [3]bool{true, true, true}:
		return "lists the key stores of the scope"
	case [3]bool{true, true, false}:
		return "the key store"
	case [3]bool{false, true, true}:
		return "the whole appliance"
	case [3]bool{}:
		return "beyond every scope"
	}
	return fmt.Sprint(admitted)
}

// presence tries an old proof, a fresh one, and a token.
func (a *asker) presence(token *identity.Principal) string {
	a.t.Helper()
	if a.try(session(identity.RoleAdministrator, 0)) == "presence" || a.try(token) == "presence" {
		return "of who has proved it, or is no person"
	}
	if a.try(session(identity.RoleAdministrator, operation.PresenceTime+time.Second)) == "presence" {
		return "yes"
	}
	return "–"
}

// chosen says whether the settings take the operation as one that needs a second person, and
// whether it waits for one where another was chosen. That it waits where it was chosen itself is
// tried for each by TestWhatCanBeDoneIsFiled.
func (a *asker) chosen() string {
	a.t.Helper()
	takes := func(ids ...string) bool {
		body, _ := json.Marshal(operation.Settings{FourEyes: ids})
		return a.call(&root, "PUT", "/settings", string(body)).Code == http.StatusOK
	}
	waits := func() bool {
		return a.call(&a.alice, a.route.Method, a.path, samples[a.route.ID]).Code == http.StatusAccepted
	}
	defer takes([]string{}...)
	switch {
	case a.route.Guards().WithAny && takes("deleteKeyStore") && waits():
		return "with any"
	case !takes(a.route.ID):
		return "–"
	case a.route.Many != nil && takes(a.route.Many.ID) && waits():
		return "can be chosen, and is with `" + a.route.Many.ID + "`"
	}
	return "can be chosen"
}

// TestAPIAsksWhatTheTableSays: for each operation, what docs/operations-table.md says of role,
// scope, presence, four eyes and record is what the API really asks and records. The console's half
// is TestFormsAskWhatTheTableSays. A new operation is among them by itself.
func TestAPIAsksWhatTheTableSays(t *testing.T) {
	b := newBank(t)
	b.enrol(b.api.(*web.API).Identity, "dora")
	b.api.(*web.API).Site = webtest.Site{Served: operation.Certificate{Names: []string{}, Shared: true, Previous: &operation.PreviousCertificate{Names: []string{}}}}
	documented := documentedAsks(t)
	if len(documented) != len(operation.Table()) {
		t.Errorf("the document has %d operations, and there are %d", len(documented), len(operation.Table()))
	}
	everything := b.scoped("everything", *identity.Unlimited())
	own := b.scoped("own", identity.Scope{KeyStores: []string{"p", "q"}, Operations: all, Networks: all})
	for _, route := range operation.Table() {
		a := &asker{b, route, b.names.Replace(route.Path) + ofStore[route.ID]}
		named := b.scoped("named-"+route.ID, identity.Scope{KeyStores: []string{"p", "q"}, Operations: []string{route.ID}, Networks: all})
		other := b.scoped("other-"+route.ID, identity.Scope{KeyStores: []string{"empty"}, Operations: []string{route.ID}, Networks: all})
		if strings.Contains(route.Path, "{seq}") { // of a record about the key store
			i := slices.IndexFunc(b.audit.Records, func(r *audit.Record) bool { return r.KeyStore == "p" })
			a.path = strings.ReplaceAll(route.Path, "{seq}", strconv.Itoa(i))
		}
		state := b.state()
		got := asks{role: a.role(), scope: a.scope(own, named, other), presence: a.presence(everything), record: "refusals"}
		if refused := a.try(everything); refused == "forbidden" {
			t.Errorf("%s: a token without limits is refused", route.ID)
		}
		before := len(b.audit.Records)
		_ = a.try(session(identity.RoleAdministrator, 0))
		if records := b.audit.Records[before:]; slices.ContainsFunc(records, func(r *audit.Record) bool { return r.Operation == route.Operation() }) {
			got.record = "each"
		}
		if b.state() != state {
			t.Errorf("%s: something was done", route.ID)
		}
		got.fourEyes = a.chosen()
		if want := documented[route.ID]; got != want {
			t.Errorf("%s: the API asks %+v, and the document says %+v", route.ID, got, want)
		}
	}
}
