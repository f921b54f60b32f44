package web_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// TestAdminIsAudited: each operation that changes something, with what it was
// about before and after, and never a secret.
func TestAdminIsAudited(t *testing.T) {
	a := start(t, nil)
	do := func(method, route, body string) string {
		t.Helper()
		return a.ok(method, "/api/v1/"+route, body)
	}
	do(post, "keystores", `{"name": "p", "uri_path_prefix": "/p"}`)
	var c struct {
		ID     string `json:"access_key_id"`
		Secret string `json:"secret_access_key"`
	}
	if err := json.Unmarshal([]byte(do(post, "keystores/p/credentials", "{}")), &c); err != nil {
		t.Fatal(err)
	}
	do(post, "keystores/p/credentials/"+c.ID+"/deactivate", "")
	do(post, "keystores/p/keys", `{"id": "k", "usage": {"encrypt": true, "decrypt": true}, "custody": "cached", "material": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}`)
	do(post, "keystores/p/keys/k/disable", "")
	var g struct{ ID string }
	if err := json.Unmarshal([]byte(do(post, "keystores/p/grants", `{"principal": "*", "operations": ["Encrypt"]}`)), &g); err != nil {
		t.Fatal(err)
	}
	do("DELETE", "keystores/p/grants/"+g.ID, "")
	do("DELETE", "keystores/p/credentials/"+c.ID, "")
	a.fails(post, "/api/v1/keystores/p/keys/nobody/enable", "", 404, fault.NotFound)
	a.ok("GET", "/api/v1/keystores/p/keys", "") // reading is not recorded

	want := []struct {
		operation, before, after string
		result                   audit.Result
	}{
		{"POST keystores", "", `"name":"p"`, audit.Allowed},
		{"POST keystores/{keystore}/credentials", "", `"active":true`, audit.Allowed},
		{"POST keystores/{keystore}/credentials/{credential}/deactivate", `"active":true`, `"active":false`, audit.Allowed},
		{"POST keystores/{keystore}/keys", "", `"origin":"imported"`, audit.Allowed},
		{"POST keystores/{keystore}/keys/{key}/disable", `"state":"enabled"`, `"state":"disabled"`, audit.Allowed},
		{"POST keystores/{keystore}/grants", "", `"principal":"*"`, audit.Allowed},
		{"DELETE keystores/{keystore}/grants/{grant}", `"principal":"*"`, "", audit.Allowed},
		{"DELETE keystores/{keystore}/credentials/{credential}", `"active":false`, "", audit.Allowed},
		{"POST keystores/{keystore}/keys/{key}/enable", "", "", audit.Failed},
	}
	a.audit.Lock()
	defer a.audit.Unlock()
	if len(a.audit.Records) != len(want) {
		t.Fatalf("%d records, want %d", len(a.audit.Records), len(want))
	}
	for i, w := range want {
		r := a.audit.Records[i]
		if r.Operation != w.operation || r.Result != w.result || !strings.Contains(string(r.Before), w.before) || !strings.Contains(string(r.After), w.after) ||
			(w.before == "") != (r.Before == nil) || (w.after == "") != (r.After == nil) {
			t.Errorf("record %d is %+v\nbefore %s\nafter %s\nwant %+v", i, r, r.Before, r.After, w)
		}
		line, err := r.AppendJSON(nil)
		if err != nil || strings.Contains(string(line), c.Secret) || strings.Contains(string(line), "MDEyMzQ1Njc4") {
			t.Errorf("a secret is in %s: %v", line, err)
		}
	}
	if last := a.audit.Records[len(want)-1]; last.Error != string(fault.NotFound) || last.Key != "nobody" {
		t.Errorf("the failure is recorded as %+v", last)
	}
}

// TestNothingUnaudited: what cannot be recorded is not done; what was done and
// could not be recorded is no success.
func TestNothingUnaudited(t *testing.T) {
	a := start(t, nil)
	a.audit.NotReady = fault.Errorf(fault.Internal, "the disk of the audit log is full")
	if message := a.fails(post, "/api/v1/keystores", `{"name": "p", "uri_path_prefix": "/p"}`, 500, fault.Internal); !strings.Contains(message, "is full") {
		t.Errorf("it says %q", message)
	}
	if list := a.ok("GET", "/api/v1/keystores", ""); strings.TrimSpace(list) != `{"items":[]}` {
		t.Errorf("there are key stores: %s", list)
	}
	a.audit.NotReady, a.audit.Failing = nil, errors.New("a broken disk")
	if message := a.fails(post, "/api/v1/keystores", `{"name": "p", "uri_path_prefix": "/p"}`, 500, fault.Internal); !strings.Contains(message, "it was done, but could not be recorded") {
		t.Errorf("it says %q", message)
	}
}
