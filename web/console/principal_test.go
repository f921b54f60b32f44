package console_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// TestPrincipalOfTheForm: a principal of a form that IAM does not have is refused, and the
// form says where to say that one knows it.
func TestPrincipalOfTheForm(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	form := confirmed(r.things(admin), "createGrant", admin.version(""))
	form.Set("principal", "new-service.amazonaws.com")
	if w := admin.submit("/do/createGrant", form); !strings.Contains(w.Body.String(), "the box below the principal") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	forced := maps.Clone(form)
	forced["force"] = []string{"", "true"}
	if w := admin.do("POST", "/do/createGrant", forced, nil); w.Code != http.StatusSeeOther {
		t.Errorf("forced: %d: %s", w.Code, w.Body)
	}
	if g, err := r.Appliance.Grants(t.Context(), "bank"); err != nil || !slices.ContainsFunc(g, func(g *appliance.Grant) bool { return g.Principal == "new-service.amazonaws.com" }) {
		t.Errorf("%v %+v", err, g)
	}
}
