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

// TestPrincipalsOfThePolicies: the form says which principals of the policies are odd, keeps what was
// typed, and takes them after the box is ticked; so does the API with force.
func TestPrincipalsOfThePolicies(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	form := confirmed(r.things(admin), "setPolicy", admin.version(""))
	const cedar = "forbid (principal, action, resource);\npermit (principal == Principal::\"new-service.amazonaws.com\", action, resource);"
	form.Set("cedar", cedar)
	form.Set("back", "/keystores/bank/grants")
	w := admin.submit("/do/setPolicy", form)
	for _, want := range []string{"line 2, column 1", "new-service.amazonaws.com", "the box below the policies", "I know that KMS sends it: set the policies"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%d: it lacks %s", w.Code, want)
		}
	}
	forced := maps.Clone(form)
	forced["force"] = []string{"", "true"}
	if w := admin.do("POST", "/do/setPolicy", forced, nil); w.Code != http.StatusSeeOther {
		t.Errorf("forced: %d: %s", w.Code, w.Body)
	}
	if text, err := r.Appliance.Policy(t.Context(), "bank"); err != nil || text != cedar {
		t.Errorf("%v %s", err, text)
	}
}

// TestAllowedStays: the answer stands on the page that asked, with what was asked.
func TestAllowedStays(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	r.things(admin)
	for _, path := range []string{"/keystores/bank/grants?ask_key=k&", "/keystores/bank/keys/k?"} {
		w := admin.do("GET", path+"ask_principal=arn:aws:iam::123456789012:role/nobody&ask_operation=Decrypt&ask_via_service=s3", nil, nil)
		for _, want := range []string{"It would be", `value="arn:aws:iam::123456789012:role/nobody"`, `value="Decrypt" selected`, `value="s3"`} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d: it lacks %s", path, w.Code, want)
			}
		}
	}
	if w := admin.do("GET", "/keystores/bank/grants?ask_key=absent&ask_principal=x&ask_operation=Encrypt", nil, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `role="alert"`) {
		t.Errorf("a key that is not there: %d", w.Code)
	}
}
