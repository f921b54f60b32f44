package console_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/identity"
)

// maxPage is how long a page may be, whatever there is, in bytes.
const maxPage = 300 << 10

// TestSizeOfPages: with thousands of entries of the longest names, each page with a list is short.
// How long the server takes for it is told, and asked nothing of: machines differ.
func TestSizeOfPages(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	n := 3000
	if testing.Short() {
		n = 300
	}
	r.fill(t, n)
	key := strings.Repeat("k", 110) + "-00000"
	for _, path := range []string{"/", "/keystores", "/keystores/bank", "/keystores/bank/keys", "/keystores/bank/keys/" + key, "/keystores/bank/grants", "/keystores/bank/credentials",
		"/users", "/approvals", "/audit", "/hsms", "/fleet", "/state", "/settings", "/account"} {
		began := time.Now()
		w := admin.do("GET", path, nil, nil)
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
			continue
		}
		t.Logf("%-120.120s %7d bytes in %v", path, w.Body.Len(), time.Since(began).Round(time.Millisecond))
		if w.Body.Len() > maxPage {
			t.Errorf("%s has %d bytes, with %d entries of each kind; %d are the most", path, w.Body.Len(), n, maxPage)
		}
	}
}

// fill makes so many keys, grants on the key store and on one key, credentials, and requests for
// approval, with the longest names.
func (r *rig) fill(t testing.TB, n int) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "bank", URIPathPrefix: "/bank"})
	must(err)
	keys := make([]appliance.NewExternalKey, n)
	grants := make([]appliance.Grant, n)
	role := "arn:aws:iam::123456789012:role/" + strings.Repeat("path/", 30)
	for i := range n {
		keys[i] = appliance.NewExternalKey{ID: fmt.Sprintf("%s-%05d", strings.Repeat("k", 110), i), Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}
		grants[i] = appliance.Grant{Principal: fmt.Sprintf("%s%d", role, i), Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}, Force: true}
		if i%2 == 0 {
			grants[i].KeyID = keys[0].ID
		}
	}
	_, err = r.Appliance.CreateKeys(ctx, "bank", keys)
	must(err)
	// Before the grants: each change of a key store reads all that it has.
	for range min(n, 200) {
		_, _, err := r.Appliance.CreateCredential(ctx, "bank", appliance.NewCredential{})
		must(err)
	}
	_, err = r.Appliance.AddGrants(ctx, "bank", grants)
	must(err)
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range min(n, 200) {
		must(r.api.Approvals.CreateApproval(ctx, &approval.Request{ID: fmt.Sprintf("%032x", i), Operation: "deleteKeyStore", Method: "DELETE", Path: "/api/v1/keystores/bank", UserID: "u",
			RequestedBy: "admin", Reason: strings.Repeat("why ", 60), CreatedAt: now, ExpiresAt: now.Add(approval.DefaultHours * time.Hour), State: approval.Pending}))
	}
}
