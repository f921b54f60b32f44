package web_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/web"
)

// filed puts a request for approval into the store, as an earlier release did.
func (p *people) filed(id, operation, method, path, body string) *approval.Request {
	p.t.Helper()
	now := time.Now().UTC()
	r := &approval.Request{ID: strings.Repeat(id, 32), Operation: operation, Method: method, Path: path, UserID: p.account("alice").ID, RequestedBy: "alice",
		CreatedAt: now, ExpiresAt: now.Add(time.Hour), State: approval.Pending}
	if body != "" {
		r.Body = []byte(body)
	}
	if err := p.api.(*web.API).Approvals.CreateApproval(p.t.Context(), r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// TestFiledByAnEarlierRelease: requests that were filed with method, path and body
// before an update are performed after it, and one that this release would perform in
// another way is refused with the reason, and can be rejected.
func TestFiledByAnEarlierRelease(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.fourEyes("deleteKeyStore")
	for _, name := range []string{"p", "q"} {
		p.want(p.call(&root, "POST", "/keystores", `{"name": "`+name+`", "uri_path_prefix": "/`+name+`"}`), 201)
	}
	p.want(p.call(&root, "POST", "/keystores/q/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": false}, "custody": "cached"}`), 201)

	for id, r := range map[string]struct{ operation, method, path, body string }{
		"1": {"deleteKeyStore", "DELETE", "/api/v1/keystores/p", ""},
		"2": {"createGrant", "POST", "/api/v1/keystores/q/grants", "{ \"principal\": \"*\",\n \"operations\": [\"Encrypt\"] }\n"},
		"3": {"scheduleKeyDeletion", "POST", "/api/v1/keystores/q/keys/k/delete", `{"days":7}`},
	} {
		filed := p.filed(id, r.operation, r.method, r.path, r.body)
		if a := p.read(p.want(p.approve(p.user("bob"), filed.ID), 200)); a.State != approval.Done || !strings.Contains(string(a.Result), `"effect"`) {
			t.Errorf("%s: %s %s: %s", r.operation, a.State, a.Outcome, a.Result)
		}
	}
	if _, err := p.Appliance.ShowKeyStore(t.Context(), "p"); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
	if grants, err := p.Appliance.Grants(t.Context(), "q"); err != nil || len(grants) != 1 {
		t.Errorf("%v %v", grants, err)
	}

	for id, r := range map[string]struct{ operation, method, path, body, says string }{
		"4": {"deleteKeyStore", "POST", "/api/v1/keystores/q", "", "an earlier release filed this as POST /api/v1/keystores/q"},
		"5": {"deleteKeyStore", "DELETE", "/api/v1/stores/q", "", "an earlier release filed this as DELETE /api/v1/stores/q"},
		"6": {"deleteKeyStore", "DELETE", "/api/v2/keystores/q", "", "an earlier release filed this as"},
		"7": {"meltKey", "POST", "/api/v1/keystores/q/melt", "", "no operation meltKey"},
		"8": {"createKeyStore", "POST", "/api/v1/keystores", `{"name": "x"}`, "no operation createKeyStore that can be approved"},
	} {
		filed := p.filed(id, r.operation, r.method, r.path, r.body)
		if w := p.approve(p.user("bob"), filed.ID); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), r.says) || !strings.Contains(w.Body.String(), "reject") {
			t.Errorf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
		}
		p.want(p.call(p.user("bob"), "POST", "/approvals/"+filed.ID+"/reject", decided), 200)
	}
	// A body that this release cannot read fails, and says so.
	filed := p.filed("9", "scheduleKeyDeletion", "POST", "/api/v1/keystores/q/keys/k/delete", `{"weeks":7}`)
	if a := p.read(p.want(p.approve(p.user("bob"), filed.ID), 200)); a.State != approval.Failed || !strings.Contains(a.Outcome, "weeks") {
		t.Errorf("%s %s", a.State, a.Outcome)
	}
	if _, err := p.Appliance.ShowKeyStore(t.Context(), "q"); err != nil {
		t.Error(err)
	}
}

// TestFiledAsBefore: what is filed now is stored as before, method, path and body, so
// that nothing has to be converted by an update.
func TestFiledAsBefore(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.fourEyes("createGrant")
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	id := p.ask(p.user("alice"), "POST", "/keystores/p/grants", `{"principal": "*", "operations": ["Encrypt"]}`)
	r, err := p.api.(*web.API).Approvals.Approval(t.Context(), id)
	if err != nil || r.Operation != "createGrant" || r.Method != "POST" || r.Path != "/api/v1/keystores/p/grants" || string(r.Body) != `{"principal":"*","operations":["Encrypt"]}` {
		t.Errorf("%+v %s: %v", r, r.Body, err)
	}
}
