package console_test

import (
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/web/webtest"
)

// TestPINOfTheOwner: a machine that waits for its PIN has a form for it, unless it has an
// owner: then no page takes it, and the page says what to do instead, whatever PIN was sealed
// there before.
func TestPINOfTheOwner(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	owner := strings.Repeat("a", len(attest.KeyID(nil)))
	for name, c := range map[string]struct {
		status     progress.Status
		form, says bool
	}{
		"without an owner":         {progress.Status{State: progress.Release, Code: string(fault.SealMissing)}, true, false},
		"with an owner":            {progress.Status{State: progress.Release, Code: string(fault.SealMissing), Owner: owner}, false, true},
		"another one's PIN":        {progress.Status{State: progress.Release, Code: string(fault.SealOwner), Owner: owner}, false, true},
		"with an owner, and ended": {progress.Status{State: progress.Locked, Code: string(fault.SealApproval), Owner: owner}, false, false},
		"with an owner, serving":   {progress.Status{State: progress.Serving, Owner: owner}, false, false},
	} {
		for _, p := range r.performers {
			p.Boot = &webtest.Boot{State: c.status, Err: progress.ErrNoPlatform}
		}
		page := admin.do("GET", "/", nil, func(q *http.Request) { q.Host = "another.test" }).Body.String()
		if has := strings.Contains(page, `name="pin"`); has != c.form {
			t.Errorf("%s: the page has a form for the PIN: %v", name, has)
		}
		if has := strings.Contains(page, "holdfast pin give https://console.test --owner FILE --launch FILE --policy FILE --policy-key FILE") && strings.Contains(page, owner); has != c.says {
			t.Errorf("%s: the page says how the owner gives it: %v", name, has)
		}
	}
}
