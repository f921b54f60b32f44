package web_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"

	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// made has somebody make something by the API, and reads the answer.
func made[T any](b *bank, by *identity.Principal, path, body string) (out T) {
	b.t.Helper()
	w := b.call(by, "POST", path, body)
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != http.StatusCreated {
		b.t.Fatalf("%s: %d %s: %v", path, w.Code, w.Body, err)
	}
	return out
}

// bearer gives who has an API token that somebody makes.
func (b *bank) bearer(by *identity.Principal, name string, role identity.Role) *identity.Principal {
	b.t.Helper()
	t := made[operation.CreatedToken](b, by, "/tokens", `{"name": "`+name+`", "role": "`+string(role)+`", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`)
	who, err := b.api.(*web.API).Identity.Bearer(b.t.Context(), t.Secret, identity.Client{Address: "192.0.2.1:1"})
	if err != nil {
		b.t.Fatal(err)
	}
	return &who
}

// userOf gives a new administrator, whom somebody invites.
func (b *bank) userOf(by *identity.Principal, name string) *identity.Principal {
	b.t.Helper()
	i := made[operation.CreatedInvitation](b, by, "/invitations", `{"name": "`+name+`", "role": "administrator"}`)
	who := (&people{b.caller, b.bed, b.api.(*web.API).Identity}).accept(i.Token)
	return &who
}

// personsAsk are operations that a token may not even ask for.
var personsAsk = map[string]bool{"confirmTime": true}

// TestTwoPersonsThatAreOne: no operation that may need a second person is approved by the one who
// asked: in another session, by their API token, or by a user that they or their token made; nor the
// other way round. It stays undecided, and the refusal is on record. A new operation is among them by
// itself.
func TestTwoPersonsThatAreOne(t *testing.T) {
	b := newBank(t)
	b.enrol(b.api.(*web.API).Identity, "dora") // somebody could approve
	b.api.(*web.API).Site = webtest.Site{Served: operation.Certificate{Names: []string{}, Shared: true, Previous: &operation.PreviousCertificate{Names: []string{}}}}
	b.fourEyes("deleteKeyStore") // from now on it counts who makes whom
	again := b.alice
	again.Session = "another session of alice"
	robot := b.bearer(&b.alice, "robot-of-alice", identity.RoleAdministrator)
	one := map[string]*identity.Principal{"alice": &b.alice, "alice in another session": &again, "a token of alice": robot,
		"a user that alice made": b.userOf(&b.alice, "alice2"), "a user that a token of alice made": b.userOf(robot, "alice3")}
	names := slices.Sorted(maps.Keys(one))
	for _, route := range approvable() {
		path := b.ready(route)
		b.fourEyes(route.ID)
		for _, asks := range names {
			if asks == "alice in another session" {
				continue // it is alice who asks
			}
			filed := b.call(one[asks], route.Method, path, samples[route.ID])
			if personsAsk[route.ID] && asks == "a token of alice" {
				if filed.Code != http.StatusForbidden || code(t, filed) != "forbidden" {
					t.Errorf("%s, %s asks: %d %s", route.ID, asks, filed.Code, filed.Body)
				}
				continue
			}
			var waits operation.ApprovalDetail
			if err := json.Unmarshal(filed.Body.Bytes(), &waits); err != nil || filed.Code != http.StatusAccepted {
				t.Errorf("%s, %s asks: %d %s: %v", route.ID, asks, filed.Code, filed.Body, err)
				continue
			}
			for _, approves := range names {
				before := len(b.audit.Records)
				if w := b.call(one[approves], "POST", "/approvals/"+waits.ID+"/approve", decided); w.Code != http.StatusForbidden || code(t, w) != "forbidden" {
					t.Errorf("%s, %s asks, %s approves: %d %s", route.ID, asks, approves, w.Code, w.Body)
				}
				if records := b.audit.Records[before:]; len(records) != 1 || records[0].Operation != "POST approvals/{approval}/approve" ||
					records[0].Result != audit.Failed || records[0].Error != "forbidden" || records[0].Actor != one[approves].Name {
					t.Errorf("%s, %s asks, %s approves: the refusal is recorded as %+v", route.ID, asks, approves, records)
				}
			}
			var still operation.ApprovalDetail
			if w := b.call(&root, "GET", "/approvals/"+waits.ID, ""); json.Unmarshal(w.Body.Bytes(), &still) != nil || still.State != approval.Pending {
				t.Errorf("%s, %s asks: %d %s", route.ID, asks, w.Code, w.Body)
			}
			if w := b.call(one[asks], "POST", "/approvals/"+waits.ID+"/reject", decided); w.Code != http.StatusOK {
				t.Errorf("%s, %s takes it back: %d %s", route.ID, asks, w.Code, w.Body)
			}
		}
	}
}
