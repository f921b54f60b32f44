package web_test

import (
	"encoding/json"
	"testing"
	"time"

	"holdfast/web/operation"
)

// TestExpiryIsChosen: a request waits as long as the settings say, and keeps the time that it
// was made with.
func TestExpiryIsChosen(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	ask := func() operation.ApprovalDetail {
		t.Helper()
		return p.read(p.want(p.call(p.user("alice"), "POST", "/keystores/p/policy", `{"cedar": ""}`), 202))
	}
	waits := func(a operation.ApprovalDetail) time.Duration { return a.ExpiresAt.Sub(a.CreatedAt) }
	p.fourEyes("setPolicy")
	first := ask()
	if waits(first) != 72*time.Hour {
		t.Errorf("by default it waits %s", waits(first))
	}
	for _, wrong := range []string{"-1", "721", "1.5", `"24"`, "null"} {
		p.want(p.call(&root, "PUT", "/settings", `{"four_eyes": ["setPolicy"], "approval_hours": `+wrong+`}`), 400)
	}
	p.want(p.call(&root, "PUT", "/settings", `{"four_eyes": ["setPolicy"], "approval_hours": 1}`), 200)
	p.want(p.call(&root, "PUT", "/settings", `{"four_eyes": ["setPolicy", "block"]}`), 200) // which leaves it as it is
	var s operation.SettingsDetail
	if err := json.Unmarshal(p.call(&root, "GET", "/settings", "").Body.Bytes(), &s); err != nil || s.ApprovalHours != 1 {
		t.Errorf("the settings have %d hours: %v", s.ApprovalHours, err)
	}
	if got := waits(ask()); got != time.Hour {
		t.Errorf("it waits %s, and an hour was chosen", got)
	}
	kept := p.read(p.call(p.user("bob"), "GET", "/approvals/"+first.ID, ""))
	if waits(kept) != 72*time.Hour {
		t.Errorf("the request of before waits %s", waits(kept))
	}
	p.want(p.approve(p.user("bob"), first.ID), 200)
}
