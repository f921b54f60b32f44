package web_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
)

// scoped gives who has an API token with the scope; root has made it.
func (b *bank) scoped(name string, s identity.Scope) *identity.Principal {
	b.t.Helper()
	_, secret, err := b.api.(*web.API).Identity.CreateToken(b.t.Context(), root, identity.NewToken{Name: name, Role: identity.RoleAdministrator, Scope: &s, Lifetime: time.Hour})
	if err != nil {
		b.t.Fatal(err)
	}
	who, err := b.api.(*web.API).Identity.Bearer(b.t.Context(), secret, identity.Client{Address: "192.0.2.1:1234"})
	if err != nil {
		b.t.Fatal(err)
	}
	return &who
}

var all = []string{identity.Everything}

// TestEveryOperationAsksForTheScope: a token that is for another key store, another operation or
// another network is refused each operation, nothing is done, and the refusal is on record.
func TestEveryOperationAsksForTheScope(t *testing.T) {
	b := newBank(t)
	b.fourEyes()
	another := map[string]*identity.Principal{
		"key store": b.scoped("store", identity.Scope{KeyStores: []string{"empty"}, Operations: all, Networks: all}),
		"network":   b.scoped("network", identity.Scope{KeyStores: all, Operations: all, Networks: []string{"198.51.100.0/24", "2001:db8::/32"}}),
	}
	for _, route := range operation.Table() {
		other := "status"
		if route.ID == other {
			other = "listKeys"
		}
		another["operation"] = b.scoped("not-"+route.ID, identity.Scope{KeyStores: all, Operations: []string{other}, Networks: all})
		for what, who := range another {
			if what == "key store" && route.KeyStoreScope() == operation.ListedKeyStores {
				continue // what it shows: TestListsShowTheScope
			}
			state, before := b.state(), len(b.audit.Records)
			w := b.call(who, route.Method, b.names.Replace(route.Path), samples[route.ID], func(r *http.Request) {
				r.Header.Set("X-Forwarded-For", "198.51.100.1") // the address is that of the connection
			})
			if w.Code != http.StatusForbidden || code(t, w) != "forbidden" {
				t.Errorf("%s with a token for another %s: %d %s", route.ID, what, w.Code, w.Body)
			}
			if b.state() != state {
				t.Errorf("%s with a token for another %s changed something", route.ID, what)
			}
			if n := len(b.audit.Records); n != before+1 || b.audit.Records[before].Result != audit.Denied || b.audit.Records[before].Actor != who.Name {
				t.Errorf("%s with a token for another %s: the refusal is not on record", route.ID, what)
			}
		}
	}
}

// TestListsShowTheScope: a token does what its scope has, and lists show no more.
func TestListsShowTheScope(t *testing.T) {
	b := newBank(t)
	who := b.scoped("p", identity.Scope{KeyStores: []string{"p"}, Operations: all, Networks: []string{"192.0.2.0/24"}})
	var stores []appliance.KeyStore
	w := b.call(who, "GET", "/keystores", "")
	if err := json.Unmarshal(items(t, w.Body.Bytes()), &stores); err != nil || len(stores) != 1 || stores[0].Name != "p" {
		t.Errorf("%v %s", err, w.Body)
	}
	for path, status := range map[string]int{"/keystores/p/keys": 200, "/keystores/p/keys/k": 200, "/keystores/empty/keys": 403, "/status": 403,
		"/audit/records": 403, "/audit/records?key_store=p": 200, "/audit/records?key_store=empty": 403, "/audit/records/0": 403} {
		if w := b.call(who, "GET", path, ""); w.Code != status {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for body, status := range map[string]int{`{"everything": true, "reason": "why"}`: 403, `{"key_store": "empty", "reason": "why"}`: 403, `{"reason": "why"}`: 403, `{"key_store": "p", "reason": "why"}`: 200} {
		if w := b.call(who, "POST", "/block", body); w.Code != status {
			t.Errorf("block %s: %d %s", body, w.Code, w.Body)
		}
	}
	named := b.scoped("status", identity.Scope{KeyStores: []string{"p"}, Operations: []string{"status", "block"}, Networks: all})
	if w := b.call(named, "GET", "/status", ""); w.Code != 200 {
		t.Errorf("an operation on the whole appliance that the scope names: %d %s", w.Code, w.Body)
	}
	if w := b.call(named, "POST", "/block", `{"everything": true, "reason": "why"}`); w.Code != 403 {
		t.Errorf("a token for a key store blocked everything: %d %s", w.Code, w.Body)
	}

	// Requests for approval are of the key store that is asked for.
	b.fourEyes("deleteKeyStore")
	asks := b.scoped("asks", *identity.Unlimited())
	var asked [2]operation.ApprovalDetail
	for i, name := range []string{"p", "empty"} {
		if err := json.Unmarshal(b.call(asks, "DELETE", "/keystores/"+name, "").Body.Bytes(), &asked[i]); err != nil || asked[i].Request == nil {
			if name == "p" {
				continue // it has keys, so it is not filed
			}
			t.Fatal(err)
		}
	}
	w = b.call(who, "GET", "/approvals", "")
	if strings.Contains(w.Body.String(), asked[1].ID) || w.Code != 200 {
		t.Errorf("the list shows a request about another key store: %s", w.Body)
	}
	for method, of := range map[string][2]string{"GET": {"", ""}, "POST": {"/reject", `{"reason": "not needed"}`}} {
		if w := b.call(who, method, "/approvals/"+asked[1].ID+of[0], of[1]); w.Code != 403 {
			t.Errorf("%s a request about another key store: %d %s", method, w.Code, w.Body)
		}
	}
}

// items gives the items of a list, whichever form it has.
func items(t *testing.T, text []byte) []byte {
	t.Helper()
	var page struct{ Items json.RawMessage }
	if json.Unmarshal(text, &page) == nil && page.Items != nil {
		return page.Items
	}
	return text
}

// TestScopeIsWithinThatOfItsMaker: a token cannot make a token beyond its own scope, nor a user,
// who has none.
func TestScopeIsWithinThatOfItsMaker(t *testing.T) {
	b := newBank(t)
	b.fourEyes()
	maker := b.scoped("maker", identity.Scope{KeyStores: []string{"p"}, Operations: []string{"createToken", "createInvitation", "setRole", "bindOIDC", "listKeys"}, Networks: []string{"192.0.2.0/24"}})
	scope := func(keyStores, operations, networks string) string {
		return `{"name": "made", "role": "viewer", "days": 1, "scope": {"key_stores": ` + keyStores + `, "operations": ` + operations + `, "networks": ` + networks + `}}`
	}
	for _, c := range []struct {
		body   string
		status int
	}{
		{scope(`["*"]`, `["listKeys"]`, `["192.0.2.0/24"]`), 403},
		{scope(`["empty"]`, `["listKeys"]`, `["192.0.2.0/24"]`), 403},
		{scope(`["p"]`, `["*"]`, `["192.0.2.0/24"]`), 403},
		{scope(`["p"]`, `["status"]`, `["192.0.2.0/24"]`), 403},
		{scope(`["p"]`, `["listKeys"]`, `["*"]`), 403},
		{scope(`["p"]`, `["listKeys"]`, `["192.0.0.0/16"]`), 403},
		{scope(`["p"]`, `["listKeys"]`, `["198.51.100.0/24"]`), 403},
		{scope(`[]`, `["listKeys"]`, `["192.0.2.0/24"]`), 400},
		{scope(`null`, `["listKeys"]`, `["192.0.2.0/24"]`), 400},
		{scope(`["p"]`, `[]`, `["192.0.2.0/24"]`), 400},
		{scope(`["p"]`, `["listKeys"]`, `[]`), 400},
		{scope(`["p", "*"]`, `["listKeys"]`, `["192.0.2.0/24"]`), 400},
		{scope(`["p"]`, `["listKeys", "listKeys"]`, `["192.0.2.0/24"]`), 400},
		{scope(`["p"]`, `["listKeys"]`, `["192.0.2.7/24"]`), 400},
		{scope(`["p"]`, `["listKeys"]`, `["192.0.2.7"]`), 400},
		{scope(`["p"]`, `["listKeys"]`, `[""]`), 400},
		{`{"name": "made", "role": "viewer", "days": 1}`, 400},
		{scope(`["p"]`, `["listKeys"]`, `["192.0.2.128/25"]`), 201},
	} {
		if w := b.call(maker, "POST", "/tokens", c.body); w.Code != c.status {
			t.Errorf("%s: %d %s", c.body, w.Code, w.Body)
		}
	}
	for _, c := range []string{scope(`["nowhere"]`, `["listKeys"]`, `["*"]`), scope(`["p"]`, `["listkeys"]`, `["*"]`)} {
		if w := b.call(&root, "POST", "/tokens", strings.Replace(c, `"made"`, `"other"`, 1)); w.Code != 400 {
			t.Errorf("what there is not, %s: %d %s", c, w.Code, w.Body)
		}
	}
	for _, id := range []string{"createInvitation", "setRole", "bindOIDC"} {
		i := slices.IndexFunc(operation.Table(), func(r *operation.Route) bool { return r.ID == id })
		route := operation.Table()[i]
		if w := b.call(maker, route.Method, b.names.Replace(route.Path), samples[id]); w.Code != 403 {
			t.Errorf("%s by a token with a scope: %d %s", id, w.Code, w.Body)
		}
	}
}

// TestApprovalKeepsTheScope: what a token asked for is performed with its scope, wherever the
// approver is.
func TestApprovalKeepsTheScope(t *testing.T) {
	b := newBank(t)
	b.fourEyes("deleteKeyStore")
	asks := b.scoped("asks", identity.Scope{KeyStores: []string{"empty"}, Operations: []string{"deleteKeyStore"}, Networks: []string{"192.0.2.0/24"}})
	var asked operation.ApprovalDetail
	w := b.call(asks, "DELETE", "/keystores/empty", "")
	if err := json.Unmarshal(w.Body.Bytes(), &asked); err != nil || w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	elsewhere := func(r *http.Request) { r.RemoteAddr = "203.0.113.9:1" }
	if w := b.call(asks, "DELETE", "/keystores/empty", "", elsewhere); w.Code != 403 {
		t.Errorf("from elsewhere: %d %s", w.Code, w.Body)
	}
	w = b.call(&b.bob, "POST", "/approvals/"+asked.ID+"/approve", `{"reason": "agreed"}`, elsewhere)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"done"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
