package console_test

import (
	"cmp"
	"context"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// unversioned are the operations on a thing with a revision whose form sends none, and why.
var unversioned = map[string]string{
	"installCertificate": "each node has a certificate of its own: the revision of one would conflict at the next, which the balancer chooses",
	"installLaunch":      "each node has a launch file of its own",
	"installPolicy":      "each node has a policy of its own",
	"restoreCertificate": "each node has a certificate of its own, and one of before",
	"shareCertificate":   "it begins with the certificate of whichever node is asked",
	"unshareCertificate": "each node says beside the shared certificate whether a signing request of its own waits",
}

// taken are the operations whose form is not there any more once another person was faster, since
// that person has done it, or has taken the thing away.
var taken = map[string]string{
	"activateCredential": "it is active", "deactivateCredential": "it is not active any more", "deleteCredential": "it is active, and has to be deactivated before",
	"removeGrant": "it is removed", "revokeInvitation": "it is revoked", "revokeToken": "it is revoked", "revokeSession": "it has ended", "revokeOwnSession": "it has ended", "removePasskey": "it is removed",
	"approve": "it is decided", "reject": "it is decided", "performApproved": "it is rejected",
	"drainNode": "it is drained, and can be resumed",
}

// firstDoes are the operations by which another person changes a thing, by the operation that
// shows it, or by the one whose form comes too late; the same operation if it is in neither.
var firstDoes = map[string]string{
	"showKey": "block", "showKeyStore": "setQuota", "showUser": "setEmail", "showNode": "drainNode",
	"deleteCredential": "activateCredential", "performApproved": "reject",
}

// pageForm is a form of a page.
type pageForm struct {
	page   string
	op     string
	values url.Values // as they are there
	fields []string   // those that people see
}

var (
	formTags   = regexp.MustCompile(`(?s)<form[^>]* action="/do/(\w+)".*?</form>`)
	inputTags  = regexp.MustCompile(`(?s)<input[^>]*>|<textarea[^>]*>[^<]*</textarea>|<select.*?</select>`)
	nameOf     = regexp.MustCompile(` name="([^"]*)"`)
	valueOf    = regexp.MustCompile(` value="([^"]*)"`)
	textOf     = regexp.MustCompile(`(?s)<textarea[^>]*>(.*)</textarea>`)
	selectedOf = regexp.MustCompile(`<option[^>]* value="([^"]*)"[^>]* selected`)
)

// formsOf gives the forms of an operation on a page, as a browser reads them.
func formsOf(page, body, op string) (found []pageForm) {
	for _, m := range formTags.FindAllStringSubmatch(body, -1) {
		if m[1] != op {
			continue
		}
		f := pageForm{page: page, op: op, values: url.Values{}}
		for _, tag := range inputTags.FindAllString(m[0], -1) {
			name := nameOf.FindStringSubmatch(tag)
			if name == nil {
				continue
			}
			value := valueOf
			switch {
			case strings.HasPrefix(tag, "<textarea"):
				value = textOf
			case strings.HasPrefix(tag, "<select"):
				value = selectedOf
			}
			text := ""
			if v := value.FindStringSubmatch(tag); v != nil {
				text = html.UnescapeString(v[1])
			}
			if !strings.Contains(tag, `type="hidden"`) && !slices.Contains(f.fields, name[1]) {
				f.fields = append(f.fields, name[1])
			}
			if !strings.Contains(tag, `type="checkbox"`) || strings.Contains(tag, " checked") {
				f.values.Add(name[1], text)
			}
		}
		found = append(found, f)
	}
	return found
}

// revision is that of the state that the form was made of; empty if it has none.
func (f *pageForm) revision() string {
	_, revision, _ := strings.Cut(f.values.Get("version"), " ")
	return revision
}

// isOf says whether the form is of a thing, which the path of its operation names, and not of
// another one.
func (f *pageForm) isOf(path string, thing url.Values) bool {
	for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllString(path, -1) {
		if name = strings.Trim(name, "{}"); f.values.Get(name) != thing.Get(name) {
			return false
		}
	}
	return true
}

// fleetOfTwo is a fleet that is only its list of nodes.
type fleetOfTwo struct{ nodes []appliance.NodeStatus }

func (*fleetOfTwo) Settle(context.Context) appliance.Settled {
	return appliance.Settled{Nodes: 2, Of: 2}
}
func (f *fleetOfTwo) FleetStatus() appliance.FleetStatus {
	return appliance.FleetStatus{Node: f.nodes[0].ID, Nodes: slices.Clone(f.nodes)}
}
func (f *fleetOfTwo) Drain(_ context.Context, id string, drained bool) error {
	state := map[bool]appliance.NodeState{true: appliance.NodeDrained, false: appliance.NodeServing}[drained]
	f.nodes[slices.IndexFunc(f.nodes, func(n appliance.NodeStatus) bool { return n.ID == id })].State = state
	return nil
}
func (f *fleetOfTwo) Remove(_ context.Context, id string) error {
	f.nodes = slices.DeleteFunc(f.nodes, func(n appliance.NodeStatus) bool { return n.ID == id })
	return nil
}

// conflicts is two people who have the same forms open.
type conflicts struct {
	*rig
	first, second, third *session
	fleet                *fleetOfTwo
}

// startConflicts starts an appliance with three administrators, in a fleet of two nodes.
func startConflicts(t *testing.T) *conflicts {
	t.Helper()
	r := startUnsealed(t) // tests change rows of users
	c := &conflicts{rig: r, first: r.enrol("first", identity.RoleAdministrator), second: r.enrol("second", identity.RoleAdministrator), third: r.enrol("third", identity.RoleAdministrator), fleet: &fleetOfTwo{}}
	for _, digit := range []string{"1", "2"} {
		c.fleet.nodes = append(c.fleet.nodes, appliance.NodeStatus{Node: appliance.Node{ID: strings.Repeat(digit, 32), State: appliance.NodeServing}, Heard: true, Serves: true})
	}
	for _, p := range r.performers {
		p.Fleet = c.fleet
	}
	return c
}

// prepare makes the thing that an operation is about, in a state in which there is a form of it.
func (c *conflicts) prepare(op string) url.Values {
	c.t.Helper()
	ctx := c.t.Context()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatalf("%s: %v", op, err)
		}
	}
	name := strings.ToLower(op)
	thing := c.thingsOf(name, "-"+name, c.second)
	user := func() identity.User {
		u, err := c.users.User(ctx, c.enrol("user-"+name, identity.RoleKeyAdministrator).principal.UserID)
		must(err)
		thing.Set("user", u.ID)
		thing.Set("user_name", u.Name)
		return *u
	}
	switch op {
	case "enableKey":
		_, err := c.Appliance.SetKeyEnabled(ctx, name, "k", false)
		must(err)
	case "cancelKeyDeletion":
		_, err := c.Appliance.ScheduleDeletion(ctx, name, "k", 7)
		must(err)
	case "activateCredential", "deleteCredential":
		_, err := c.Appliance.SetCredentialActive(ctx, name, thing.Get("credential"), false)
		must(err)
	case "deleteKeyStore":
		_, err := c.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: name + "-empty", URIPathPrefix: "/" + name + "-empty"})
		must(err)
		thing.Set("keystore", name+"-empty")
	case "bindOIDC", "setEmail", "setRole", "disableUser", "signOutUser", "deleteUser":
		user()
	case "enableUser", "unlockUser":
		u := user()
		_, err := c.rows.UpdateAccount(ctx, u.ID, func(a *identity.Account) error {
			a.Disabled = op == "enableUser"
			if op == "unlockUser" {
				a.LockedUntil = c.clock().Add(time.Hour)
			}
			return nil
		}, nil)
		must(err)
	case "revokeSession":
		thing.Set("session", c.enrol("user-"+name, identity.RoleViewer).principal.Session)
	case "revokeOwnSession":
		thing.Set("session", c.signInAgain(c.second).principal.Session)
	case "removePasskey":
		_, err := c.rows.UpdateAccount(ctx, c.second.principal.UserID, func(a *identity.Account) error {
			for _, id := range []string{"laptop", "blue key"} {
				p := identity.StoredPasskey{Name: id, CreatedAt: c.clock()}
				p.Credential.ID = []byte(id)
				a.Passkeys = append(a.Passkeys, p)
			}
			return nil
		}, nil)
		must(err)
		u, err := c.users.User(ctx, c.second.principal.UserID)
		must(err)
		thing.Set("passkey", u.Passkeys[0].ID)
	case "approve", "reject", "performApproved":
		thing.Set("approval", c.asked(op))
	case "restoreCertificate":
		for _, p := range c.performers {
			site := evilSite()
			site.Served.Previous = &operation.PreviousCertificate{Names: []string{}}
			p.Site = site
		}
	case "unshareCertificate":
		for _, p := range c.performers {
			site := evilSite()
			site.Served.Shared = true
			p.Site = site
		}
	case "removeNode", "drainNode":
		c.fleet.nodes[1].State = appliance.NodeServing
		thing.Set("node", c.fleet.nodes[1].ID)
	}
	return thing
}

// asked has a request for approval made, and approved if it is to be done after that. It gives its ID.
func (c *conflicts) asked(op string) string {
	c.t.Helper()
	by, of := c.third, operation.CreateInvitation.ID
	form := url.Values{"name": {"by-approval"}, "role": {"viewer"}}
	if op == operation.PerformApproved.ID {
		by, of = c.second, operation.CreateKey.ID
		form = maps.Clone(entered)
		form.Set("keystore", strings.ToLower(op))
		form.Set("id", "imported")
		form.Set("material", strings.Repeat("ab", appliance.KeyBytes))
	}
	if err := c.Appliance.SetSetting(c.t.Context(), appliance.SettingFourEyes, `{"operations":["`+of+`"]}`); err != nil {
		c.t.Fatal(err)
	}
	c.pass(time.Second) // the newest request is the one that is made now
	form.Set("version", by.version(""))
	form.Set("why", "because")
	if to := by.do(http.MethodPost, "/do/"+of, form, nil).Header().Get("Location"); to != "/approvals" {
		c.t.Fatalf("%s: %s is not asked for: %s", op, of, to)
	}
	list, err := c.api.Approvals.Approvals(c.t.Context(), 1)
	if err != nil || len(list) != 1 {
		c.t.Fatalf("%v %v", list, err)
	}
	if by == c.second {
		c.does(c.first, operation.Approve.ID, url.Values{"approval": {list[0].ID}})
	}
	return list[0].ID
}

// signInAgain is another session of the same user.
func (c *conflicts) signInAgain(s *session) *session {
	c.t.Helper()
	c.pass(time.Second)
	in := s.passkey.SignIn(c.users, identity.Client{Address: "192.0.2.1:1"})
	return &session{r: c.rig, name: s.name, token: in.Token, principal: in.Principal, passkey: s.passkey}
}

// does has a person do an operation.
func (c *conflicts) does(who *session, op string, thing url.Values) {
	c.t.Helper()
	form := confirmed(thing, op, who.version(""))
	form.Set("cedar", "forbid (principal, action, resource);\n// of the first")
	form.Set("requests_per_second", "77")
	form.Set("four_eyes", "")
	form.Set("approval_hours", "48")
	form.Set("drained", "true")
	before := c.done()
	if to := who.do(http.MethodPost, "/do/"+op, form, nil).Header().Get("Location"); c.done() != before+1 {
		c.t.Fatalf("the first person's %s is not done: %s", op, to)
	}
}

// forms gives the forms of an operation on a thing, of all pages.
func (c *conflicts) forms(op string, path string, thing url.Values) (found []pageForm) {
	c.t.Helper()
	names := regexp.MustCompile(`\{(\w+)\}`)
	for _, page := range console.Pages() {
		if strings.HasPrefix(page, "/signin") || strings.HasPrefix(page, "/invitation") || strings.HasPrefix(page, "/audit") || strings.Contains(page, "{id}") || page == "/setup" || page == "/prove" {
			continue
		}
		page = names.ReplaceAllStringFunc(page, func(name string) string { return url.PathEscape(thing.Get(strings.Trim(name, "{}"))) })
		for _, f := range formsOf(page, c.second.do(http.MethodGet, page, nil, nil).Body.String(), op) {
			if f.isOf(path, thing) {
				found = append(found, f)
			}
		}
	}
	return found
}

// typedBySecond are what the second person types.
var typedBySecond = url.Values{"cedar": {"forbid (principal, action, resource);\r\n// of the second"}, "requests_per_second": {"88"}, "role": {"viewer"}, "email": {"second@example.com"},
	"four_eyes": {""}, "approval_hours": {"99"}, "days": {"9"}, "reason": {"of the second"}}

// TestEveryConflict: of two people who have a form of the same thing open, the second is told that
// the first was faster. What they typed is beside what is there now, and they can apply it to that
// on purpose. This holds for each form of the console on a thing that has a revision.
func TestEveryConflict(t *testing.T) {
	c := startConflicts(t)
	tried := 0
	for _, route := range operation.Table() {
		op := route.ID
		if !slices.Contains(console.Operations(), op) || route.Shown() == nil {
			continue
		}
		tried++
		thing := c.prepare(op)
		forms := c.forms(op, route.Path, thing)
		if len(forms) == 0 {
			t.Errorf("%s: no page has a form of it: the test has to prepare its thing", op)
			continue
		}
		for _, f := range forms {
			if (f.revision() == "") != (unversioned[op] != "") {
				t.Errorf("%s, %s: the form is of the revision %q; it needs none: %q", op, f.page, f.revision(), unversioned[op])
			}
		}
		if unversioned[op] == "" {
			first := c.first
			if strings.HasPrefix(route.Path, "/account/") {
				first = c.signInAgain(c.second)
			}
			c.does(first, cmp.Or(firstDoes[op], firstDoes[route.Shown().ID], op), thing)
			for i, f := range forms {
				c.late(t, f, route, thing, i == len(forms)-1)
			}
		}
		if err := c.Appliance.SetSetting(t.Context(), appliance.SettingFourEyes, `{"operations":[]}`); err != nil {
			t.Fatal(err)
		}
	}
	if tried < 28 {
		t.Errorf("only %d forms were tried", tried)
	}
}

// late has the second person send a form of the thing as it was, and, on purpose, the form of what
// is there now.
func (c *conflicts) late(t *testing.T, f pageForm, route *operation.Route, thing url.Values, again bool) {
	t.Helper()
	op := f.op
	var texts []string // that the second person types
	for _, name := range console.Fields()[op] {
		if typed, ok := typedBySecond[name]; ok && slices.Contains(f.fields, name) {
			f.values[name] = typed
			if typed[0] != "" {
				texts = append(texts, name)
			}
		}
	}
	before := c.done()
	w := c.second.submit("/do/"+op, f.values)
	body := w.Body.String()
	if w.Code != http.StatusConflict || !strings.Contains(body, "changed since you looked at it") || !strings.Contains(body, "<title>Error: ") || c.done() != before {
		t.Errorf("%s, %s: %d %s", op, f.page, w.Code, body)
		return
	}
	var now []pageForm
	for _, n := range formsOf(f.page, body, op) {
		if n.isOf(route.Path, thing) {
			now = append(now, n)
		}
	}
	if why := taken[op]; why != "" {
		if len(now) > 0 && now[0].values.Get("drained") == f.values.Get("drained") {
			t.Errorf("%s, %s: the form is there although %s", op, f.page, why)
		}
		for _, name := range texts {
			if !strings.Contains(body, html.EscapeString(f.values.Get(name))) {
				t.Errorf("%s, %s: what was typed as %s is lost: %s", op, f.page, name, body)
			}
		}
		return
	}
	if len(now) != 1 || now[0].revision() == "" || now[0].revision() == f.revision() {
		t.Errorf("%s, %s: there is no form of what is there now: %+v", op, f.page, now)
		return
	}
	if !strings.Contains(body, "then decide. first changed it last") && !strings.Contains(body, "<p>first changed it last") {
		t.Errorf("%s, %s: the page does not say who was faster: %s", op, f.page, body)
	}
	for _, want := range []string{"apply what I typed", "Drop what I typed", "<ins>+ "} {
		if strings.Contains(body, want) != (len(texts) > 0) {
			t.Errorf("%s, %s: the page has %q: %t", op, f.page, want, len(texts) == 0)
		}
	}
	for _, name := range texts {
		got := now[0].values.Get(name)
		if lines := strings.NewReplacer("\r", ""); lines.Replace(got) != lines.Replace(f.values.Get(name)) {
			t.Errorf("%s, %s: %s is %q, and %q was typed", op, f.page, name, got, f.values.Get(name))
		}
	}
	if again {
		if _, to := c.second.ask(t, op, now[0].values); c.done() != before+1 {
			t.Errorf("%s, %s: to apply it on purpose leads to %s", op, f.page, to)
		}
	}
}
