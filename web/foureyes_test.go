package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/passkeytest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// decided is the body of a decision.
const decided = `{"reason": "it was checked"}`

// people are users who have enrolled, and call the API.
type people struct {
	*caller
	*xkstest.Bed
	users *identity.Directory
}

func newPeople(t *testing.T, names ...string) *people {
	t.Helper()
	c, b := newCaller(t)
	p := &people{c, b, c.api.(*web.API).Identity}
	for _, name := range names {
		p.enrol(name)
	}
	return p
}

// enrol makes an administrator, whom root has invited.
func (p *people) enrol(name string) {
	p.t.Helper()
	_, token, err := p.users.Invite(p.t.Context(), root, name, identity.RoleAdministrator)
	if err != nil {
		p.t.Fatal(err)
	}
	p.accept(token)
}

// accept enrols by the link of an invitation.
func (p *people) accept(token string) identity.Principal {
	p.t.Helper()
	in, _ := passkeytest.Enrol(p.t, p.users, token, identity.Client{Address: "192.0.2.1:1"})
	return in.Principal
}

// enrolByPassword makes an administrator whose password and recovery codes the test uses.
func (p *people) enrolByPassword(name string) {
	p.t.Helper()
	ctx := p.t.Context()
	_, token, err := p.users.Invite(ctx, root, name, identity.RoleAdministrator)
	if err != nil {
		p.t.Fatal(err)
	}
	secret, err := p.users.BeginEnrolPassword(ctx, token, identity.Client{})
	if err != nil {
		p.t.Fatal(err)
	}
	code, err := totp.GenerateCode(secret.Secret, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.users.FinishEnrolPassword(ctx, token, "a sentence long enough", code, identity.Client{Address: "192.0.2.1:1"}); err != nil {
		p.t.Fatal(err)
	}
}

// user is an administrator in a session, present.
func (p *people) user(name string) *identity.Principal {
	p.t.Helper()
	u := p.account(name)
	return &identity.Principal{UserID: u.ID, Name: u.Name, Role: u.Role, Session: "s of " + name, ProvenAt: time.Now()}
}

func (p *people) account(name string) *identity.User {
	p.t.Helper()
	all, err := p.users.Users(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(u *identity.User) bool { return u.Name == name })
	if i < 0 {
		p.t.Fatalf("there is no %s", name)
	}
	return all[i]
}

func (c *caller) want(w *httptest.ResponseRecorder, status int) *httptest.ResponseRecorder {
	c.t.Helper()
	if w.Code != status {
		c.t.Fatalf("%d %s, want %d", w.Code, w.Body, status)
	}
	return w
}

// fourEyes has operations need two persons; all that can if none is named.
func (p *people) fourEyes(operations ...string) {
	p.t.Helper()
	if operations == nil {
		for _, r := range operation.Table() {
			if r.Guards().FourEyes {
				operations = append(operations, r.ID)
			}
		}
	}
	body, _ := json.Marshal(operation.Settings{FourEyes: operations})
	p.want(p.call(&root, "PUT", "/settings", string(body)), 200)
}

// ask files a request.
func (p *people) ask(who *identity.Principal, method, path, body string) string {
	p.t.Helper()
	return p.read(p.want(p.call(who, method, path, body), 202)).ID
}

func (p *people) read(w *httptest.ResponseRecorder) operation.ApprovalDetail {
	p.t.Helper()
	var a operation.ApprovalDetail
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		p.t.Fatalf("%v: %s", err, w.Body)
	}
	return a
}

func (p *people) approve(who *identity.Principal, id string) *httptest.ResponseRecorder {
	return p.call(who, "POST", "/approvals/"+id+"/approve", decided)
}

func (p *people) perform(who *identity.Principal, id string) *httptest.ResponseRecorder {
	return p.call(who, "POST", "/approvals/"+id+"/perform", "{}")
}

// invite has one administrator ask for an invitation and another one approve, and
// the one who asked enrol by it.
func (p *people) invite(asker, approver, name string) {
	p.t.Helper()
	id := p.ask(p.user(asker), "POST", "/invitations", fmt.Sprintf(`{"name": %q, "role": "administrator"}`, name))
	p.want(p.approve(p.user(approver), id), 200)
	a := p.read(p.want(p.perform(p.user(asker), id), 200))
	var i operation.CreatedInvitation
	if err := json.Unmarshal(a.Result, &i); err != nil || i.Token == "" {
		p.t.Fatalf("%v %s", err, a.Result)
	}
	p.accept(i.Token)
}

// secretRoutes are the operations whose answer shows a secret and that can need two
// persons, with a body for each. A new one must be put here.
var secretRoutes = map[string]string{
	"createCredential": `{}`,
	"createInvitation": `{"name": "carol", "role": "administrator"}`,
	"createToken":      `{"name": "robot", "role": "administrator", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`,
}

// TestSecretGoesToTheAsker: who approves sees no secret, in the answer or later; who
// asked sees it once.
func TestSecretGoesToTheAsker(t *testing.T) {
	tried := 0
	for _, r := range operation.Table() {
		if !r.Guards().FourEyes || !r.ShowsSecret() {
			continue
		}
		tried++
		body, ok := secretRoutes[r.ID]
		if !ok {
			t.Errorf("%s is not tried", r.ID)
			continue
		}
		p := newPeople(t, "alice", "bob", "dave")
		p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
		p.fourEyes()
		id := p.ask(p.user("alice"), r.Method, strings.ReplaceAll(r.Path, "{keystore}", "p"), body)
		p.want(p.perform(p.user("alice"), id), 409) // nobody has approved
		w := p.want(p.approve(p.user("bob"), id), 200)
		if a := p.read(w); a.State != "approved" || a.Result != nil {
			t.Errorf("%s: who approved is told %s", r.ID, w.Body)
		}
		p.want(p.approve(p.user("bob"), id), 409)
		for _, other := range []string{"bob", "dave"} {
			p.want(p.perform(p.user(other), id), 403)
			if w := p.call(p.user(other), "GET", "/approvals/"+id, ""); strings.Contains(w.Body.String(), `"result"`) {
				t.Errorf("%s: %s", r.ID, w.Body)
			}
		}
		p.want(p.perform(&root, id), 403)
		absent := p.user("alice")
		absent.ProvenAt = time.Now().Add(-time.Hour)
		if w := p.perform(absent, id); w.Code != 403 || code(t, w) != "presence" {
			t.Errorf("%s, not present: %d %s", r.ID, w.Code, w.Body)
		}
		a := p.read(p.want(p.perform(p.user("alice"), id), 200))
		if !strings.Contains(string(a.Result), `"token"`) && !strings.Contains(string(a.Result), `"secret"`) && !strings.Contains(string(a.Result), `"secret_access_key"`) {
			t.Errorf("%s: who asked is told %s", r.ID, a.Result)
		}
		p.want(p.perform(p.user("alice"), id), 409) // once
		for _, rec := range p.audit.Records {
			if strings.Contains(string(rec.After), `"secret":`) || strings.Contains(string(rec.After), `"secret_access_key":`) || strings.Contains(string(rec.After), `"token":"`) && rec.Operation == "POST invitations" {
				t.Errorf("%s: the audit log has %s", r.ID, rec.After)
			}
		}
	}
	if tried != len(secretRoutes) {
		t.Errorf("%d operations were tried", tried)
	}
}

// TestTakenBackAfterApproval: what was approved and not done can be taken back, and
// runs out.
func TestTakenBackAfterApproval(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.fourEyes("createToken")
	id := p.ask(p.user("alice"), "POST", "/tokens", secretRoutes["createToken"])
	p.want(p.approve(p.user("bob"), id), 200)
	p.want(p.call(p.user("bob"), "POST", "/approvals/"+id+"/reject", decided), 200)
	p.want(p.perform(p.user("alice"), id), 409)

	id = p.ask(p.user("alice"), "POST", "/tokens", secretRoutes["createToken"])
	p.want(p.approve(p.user("bob"), id), 200)
	p.want(p.call(&root, "POST", "/users/"+p.account("alice").ID+"/role", `{"role": "viewer"}`), 409) // two would not be left
	if tokens, err := p.users.Tokens(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("%v %v", tokens, err)
	}
}

// TestTwoUsersOfOnePerson: a user does not count as the second person for what is
// asked by somebody who helped to make that user, whichever of the two asks, nor for
// another user of the same maker.
func TestTwoUsersOfOnePerson(t *testing.T) {
	p := newPeople(t, "alice", "bob", "erin")
	p.fourEyes("createInvitation", "createToken", "deleteKeyStore", "bindOIDC")
	p.invite("alice", "bob", "alice2")
	p.invite("alice", "bob", "alice3")
	p.invite("alice2", "bob", "alice4") // by the second user of alice
	for i, tt := range []struct {
		asker, approver string
		status          int
	}{
		{"alice", "alice", 403},
		{"alice", "alice2", 403},  // made by who asks
		{"alice2", "alice", 403},  // the other way round
		{"alice2", "alice3", 403}, // by the same person
		{"alice", "alice4", 403},  // by one who was
		{"alice4", "alice", 403},
		{"alice4", "alice3", 403},
		{"bob", "alice2", 403}, // bob helped as well: he approved
		{"alice", "bob", 200},
		{"bob", "alice", 200},
		{"alice2", "bob", 200}, // bob never had the link
		{"alice2", "erin", 200},
		{"erin", "alice2", 200},
	} {
		name := fmt.Sprint("store", i)
		p.want(p.call(&root, "POST", "/keystores", fmt.Sprintf(`{"name": %q, "uri_path_prefix": "/%s"}`, name, name)), 201)
		id := p.ask(p.user(tt.asker), "DELETE", "/keystores/"+name, "")
		if w := p.approve(p.user(tt.approver), id); w.Code != tt.status {
			t.Errorf("%s asks, %s approves: %d %s, want %d", tt.asker, tt.approver, w.Code, w.Body, tt.status)
		}
		if _, err := p.Appliance.ShowKeyStore(t.Context(), name); (err == nil) != (tt.status == 403) {
			t.Errorf("%s asks, %s approves: %v", tt.asker, tt.approver, err)
		}
	}
}

// TestMakersThatWereRemoved: one person stays one when a user in between is removed.
func TestMakersThatWereRemoved(t *testing.T) {
	p := newPeople(t, "alice", "bob", "erin")
	p.fourEyes("deleteKeyStore") // users can be made and removed alone
	invite := func(by, name string) {
		t.Helper()
		var i operation.CreatedInvitation
		if err := json.Unmarshal(p.want(p.call(p.user(by), "POST", "/invitations", fmt.Sprintf(`{"name": %q, "role": "administrator"}`, name)), 201).Body.Bytes(), &i); err != nil {
			t.Fatal(err)
		}
		p.accept(i.Token)
	}
	invite("alice", "m")
	invite("m", "d")
	var made operation.CreatedToken
	if err := json.Unmarshal(p.want(p.call(p.user("m"), "POST", "/tokens", secretRoutes["createToken"]), 201).Body.Bytes(), &made); err != nil {
		t.Fatal(err)
	}
	robot, err := p.users.Bearer(t.Context(), made.Secret, identity.Client{})
	if err != nil {
		t.Fatal(err)
	}
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	byAlice := p.ask(p.user("alice"), "DELETE", "/keystores/p", "")
	byRobot := p.ask(&robot, "DELETE", "/keystores/p", "")
	for _, when := range []string{"before", "after"} {
		for asked, approver := range map[string]string{byAlice: "d", byRobot: "alice"} {
			if w := p.approve(p.user(approver), asked); w.Code != 403 {
				t.Errorf("%s m was removed, %s approves: %d %s", when, approver, w.Code, w.Body)
			}
		}
		if when == "before" {
			p.want(p.call(p.user("alice"), "DELETE", "/users/"+p.account("m").ID, ""), 200)
		}
	}
	off := p.ask(p.user("alice"), "PUT", "/settings", `{"four_eyes": []}`)
	p.want(p.approve(p.user("d"), off), 403)
	p.want(p.approve(p.user("bob"), off), 200)
	// Switched on again, all who are there count.
	p.fourEyes("deleteKeyStore")
	p.want(p.approve(p.user("d"), byAlice), 200)
}

// TestInvitedBeforeEnrolledAfter: a link that was made while four eyes were off, and is
// used while they are on, makes no second person of who made it.
func TestInvitedBeforeEnrolledAfter(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	var i operation.CreatedInvitation
	if err := json.Unmarshal(p.want(p.call(p.user("alice"), "POST", "/invitations", secretRoutes["createInvitation"]), 201).Body.Bytes(), &i); err != nil {
		t.Fatal(err)
	}
	p.fourEyes("deleteKeyStore")
	p.accept(i.Token)
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	p.want(p.approve(p.user("carol"), p.ask(p.user("alice"), "DELETE", "/keystores/p", "")), 403)
}

// TestApproverGone: what was approved is not done when the one who approved may not
// any more.
func TestApproverGone(t *testing.T) {
	p := newPeople(t, "alice", "bob", "erin")
	p.fourEyes("createToken")
	id := p.ask(p.user("alice"), "POST", "/tokens", secretRoutes["createToken"])
	p.want(p.approve(p.user("bob"), id), 200)
	p.want(p.call(&root, "POST", "/users/"+p.account("bob").ID+"/disable", ""), 200)
	p.want(p.perform(p.user("alice"), id), 409)
	p.want(p.call(&root, "POST", "/users/"+p.account("bob").ID+"/enable", ""), 200)
	p.want(p.perform(p.user("alice"), id), 200)
}

// TestTokenOfOnePerson: a token is its maker's, and so is a user that is made with
// it.
func TestTokenOfOnePerson(t *testing.T) {
	p := newPeople(t, "alice", "bob", "erin")
	p.fourEyes("createInvitation", "createToken", "deleteKeyStore")
	id := p.ask(p.user("alice"), "POST", "/tokens", secretRoutes["createToken"])
	p.want(p.approve(p.user("bob"), id), 200)
	a := p.read(p.want(p.perform(p.user("alice"), id), 200))
	var made operation.CreatedToken
	if err := json.Unmarshal(a.Result, &made); err != nil {
		t.Fatal(err)
	}
	robot, err := p.users.Bearer(t.Context(), made.Secret, identity.Client{})
	if err != nil {
		t.Fatal(err)
	}
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	id = p.ask(&robot, "DELETE", "/keystores/p", "")
	p.want(p.approve(&robot, id), 403)          // no person
	p.want(p.approve(p.user("alice"), id), 403) // whose token it is
	// The token invites: its maker has one more user, and still is one person.
	invitation := p.ask(&robot, "POST", "/invitations", `{"name": "alice2", "role": "administrator"}`)
	p.want(p.approve(p.user("bob"), invitation), 200)
	p.want(p.perform(p.user("alice"), invitation), 403) // it was the token that asked
	var i operation.CreatedInvitation
	if err := json.Unmarshal(p.read(p.want(p.perform(&robot, invitation), 200)).Result, &i); err != nil {
		t.Fatal(err)
	}
	p.accept(i.Token)
	p.want(p.approve(p.user("alice2"), id), 403)
	p.want(p.approve(p.user("erin"), id), 200)

	// Who gives a user another way to sign in, helps to make that user.
	p.want(p.call(&root, "POST", "/keystores", `{"name": "q", "uri_path_prefix": "/q"}`), 201)
	p.want(p.call(p.user("alice"), "POST", "/users/"+p.account("erin").ID+"/oidc", `{"email": "alice@example.com"}`), 200)
	id = p.ask(p.user("alice"), "DELETE", "/keystores/q", "")
	p.want(p.approve(p.user("erin"), id), 403)
	p.want(p.approve(p.user("bob"), id), 200)
}

// TestTwoAreLeft: nothing leaves fewer than two administrators who can approve for
// each other, neither settings nor what is done to users.
func TestTwoAreLeft(t *testing.T) {
	every := func() string {
		var all []string
		for _, r := range operation.Table() {
			if r.Guards().FourEyes {
				all = append(all, `"`+r.ID+`"`)
			}
		}
		return `{"four_eyes": [` + strings.Join(all, ", ") + `]}`
	}()
	p := newPeople(t, "alice")
	for _, body := range []string{every, `{"four_eyes": ["setSettings"]}`, `{"four_eyes": ["deleteUser"]}`} {
		if w := p.call(p.user("alice"), "PUT", "/settings", body); w.Code != 409 || !strings.Contains(w.Body.String(), "two administrators") {
			t.Errorf("a lone administrator: %d %s", w.Code, w.Body)
		}
	}
	p.want(p.call(p.user("alice"), "PUT", "/settings", `{"four_eyes": []}`), 200)
	if _, _, err := p.users.Invite(t.Context(), root, "victor", identity.RoleKeyAdministrator); err != nil {
		t.Fatal(err)
	}
	p.enrol("bob")
	p.want(p.call(&root, "POST", "/users/"+p.account("bob").ID+"/disable", ""), 200)
	p.want(p.call(p.user("alice"), "PUT", "/settings", every), 409) // bob is disabled
	p.want(p.call(&root, "POST", "/users/"+p.account("bob").ID+"/enable", ""), 200)
	p.want(p.call(p.user("alice"), "PUT", "/settings", `{"four_eyes": ["createInvitation"]}`), 200)

	bob := "/users/" + p.account("bob").ID
	for _, tt := range []struct{ method, path, body string }{
		{"POST", bob + "/role", `{"role": "key-administrator"}`},
		{"POST", bob + "/disable", ""},
		{"DELETE", bob, ""},
		{"POST", bob + "/oidc", `{"email": "alice@example.com"}`}, // bob would be alice
	} {
		if w := p.call(p.user("alice"), tt.method, tt.path, tt.body); w.Code != 409 || !strings.Contains(w.Body.String(), "two administrators") {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
	}
	if u := p.account("bob"); u.Disabled || u.Role != identity.RoleAdministrator || u.OIDC != "" {
		t.Errorf("it was half done: %+v", u)
	}
	// A second user of alice is no second administrator.
	p.invite("alice", "bob", "alice2")
	p.want(p.call(p.user("alice"), "POST", bob+"/disable", ""), 409)
	p.enrol("carol") // by root
	p.want(p.call(p.user("alice"), "POST", bob+"/disable", ""), 200)
	// What is missing already keeps nobody from mending it.
	p.want(p.call(p.user("alice"), "POST", bob+"/enable", ""), 200)
}

// TestEveryOperationNeedsTwo: if what was chosen is not known, as the database was
// changed by hand, everything that can need a second person does.
func TestEveryOperationNeedsTwo(t *testing.T) {
	p := newPeople(t, "alice")
	var invited operation.CreatedInvitation // as usual: the first invites the second
	if err := json.Unmarshal(p.want(p.call(p.user("alice"), "POST", "/invitations", `{"name": "bob", "role": "administrator"}`), 201).Body.Bytes(), &invited); err != nil {
		t.Fatal(err)
	}
	p.accept(invited.Token)
	p.fourEyes("deleteKeyStore")
	if err := replaceSetting(t.Context(), p.Store, appliance.SettingFourEyes, `{"operations":[]}`); err != nil {
		t.Fatal(err)
	}
	id := p.ask(p.user("alice"), "POST", "/invitations", `{"name": "eve", "role": "administrator"}`)
	if id == "" {
		t.Error("it was done alone")
	}
	id = p.ask(p.user("alice"), "PUT", "/settings", `{"four_eyes": []}`)
	p.want(p.approve(p.user("bob"), id), 200) // two persons mend it
	p.want(p.call(p.user("alice"), "POST", "/invitations", `{"name": "eve", "role": "administrator"}`), 201)
}

// TestRequestsAreSealed: a request that was put into the database, or changed there,
// is decided by nobody.
func TestRequestsAreSealed(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.fourEyes("deleteKeyStore")
	approvals := p.api.(*web.API).Approvals
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	id := p.ask(p.user("alice"), "DELETE", "/keystores/p", "")
	r, err := approvals.Approval(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	rows := p.api.(*web.API).Journal.(*journal).rows // the database itself
	forged := *r
	forged.ID, forged.UserID, forged.RequestedBy = strings.Repeat("e", 32), p.account("bob").ID, "bob"
	if err := rows.CreateApproval(t.Context(), &forged); err != nil {
		t.Fatal(err)
	}
	p.want(p.approve(p.user("alice"), forged.ID), 409)
	p.want(p.call(p.user("alice"), "POST", "/approvals/"+id+"/reject", decided), 200)
	if r, err = rows.Approval(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	was := *r
	r.State = "pending" // opened once more
	if err := rows.DecideApproval(t.Context(), r, &was); err != nil {
		t.Fatal(err)
	}
	p.want(p.approve(p.user("bob"), id), 409)
	if _, err := p.Appliance.ShowKeyStore(t.Context(), "p"); err != nil {
		t.Error(err)
	}
	var list operation.List[operation.ApprovalDetail]
	if err := json.Unmarshal(p.call(&root, "GET", "/approvals", "").Body.Bytes(), &list); err != nil || len(list.Items) != 2 || list.Items[0].State != "invalid" || list.Items[1].State != "invalid" {
		t.Errorf("%v %+v", err, list)
	}
}

// replaceSetting puts a setting without a seal into the database.
func replaceSetting(ctx context.Context, s appliance.SettingRows, name, value string) error {
	was, err := s.Setting(ctx, name)
	if err != nil {
		return err
	}
	return s.SetSetting(ctx, &appliance.SettingRow{Name: name, Value: value}, was)
}

// TestUnverifiedUsers: a user whom nobody can verify, as the appliance is locked, may
// look, give the PIN and block; and no other operation at all, whichever there are.
func TestUnverifiedUsers(t *testing.T) {
	c, _ := newCaller(t)
	var may []string
	for _, route := range operation.Table() {
		if !route.Mutates() {
			continue
		}
		who := &identity.Principal{Name: "somebody", Role: identity.RoleAdministrator, UserID: "u", Session: "s", ProvenAt: time.Now(), Unverified: true}
		w := c.call(who, route.Method, inPath.ReplaceAllString(route.Path, "x"), "")
		if w.Code != 503 || code(t, w) != "locked" || !strings.Contains(w.Body.String(), "your user is valid") {
			may = append(may, route.ID)
		}
	}
	slices.Sort(may)
	want := []string{"beginProvePasskey", "block", "installLaunch", "installPolicy", "probeHSMs", "provePasskey", "provePassword", "revokeOwnSession", "seal", "signOutEverywhere"}
	if !slices.Equal(may, want) {
		t.Errorf("they may %v\nwant %v", may, want)
	}
}

// TestApprovalsWhileTheDiskIsFull: while the disk of the audit log has its reserve alone, what
// restricts is asked for, approved and done. What does not is not approved, and waits on.
func TestApprovalsWhileTheDiskIsFull(t *testing.T) {
	p := newPeople(t, "alice", "bob", "carol")
	p.fourEyes()
	invite := p.ask(p.user("alice"), "POST", "/invitations", `{"name": "dora", "role": "administrator"}`)
	token := p.ask(p.user("alice"), "POST", "/tokens", secretRoutes["createToken"])
	p.want(p.approve(p.user("bob"), token), 200)
	p.audit.NotReady = fault.Errorf(fault.AuditNoSpace, "the disk is full")
	if w := p.approve(p.user("bob"), invite); code(t, w) != string(fault.AuditNoSpace) {
		t.Errorf("approve an invitation: %d %s", w.Code, w.Body)
	}
	if w := p.perform(p.user("alice"), token); code(t, w) != string(fault.AuditNoSpace) {
		t.Errorf("make an approved token: %d %s", w.Code, w.Body)
	}
	id := p.ask(p.user("alice"), "DELETE", "/users/"+p.account("carol").ID, "")
	p.want(p.approve(p.user("bob"), id), 200)
	if _, err := p.users.User(t.Context(), p.account("alice").ID); err != nil {
		t.Error(err)
	}
	p.audit.NotReady = nil
	p.want(p.approve(p.user("bob"), invite), 200)
	p.want(p.perform(p.user("alice"), token), 200)
}

// heldDomain is an appliance whose state is held.
type heldDomain struct{ operation.Domain }

func (heldDomain) Held() error { return fault.Errorf(fault.StateRolledBack, "a test") }

// TestHeldState: while the state is held, people may look, prove who they are, block and
// accept it; and no other operation at all, whichever there are. Root may do all.
func TestHeldState(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	c := &caller{t, web.NewAPI(options(t, heldDomain{b.Appliance}, &webtest.Boot{}, &webtest.Audit{}, slog.New(slog.NewTextHandler(b.Log, nil)))), nil}
	var may []string
	for _, route := range operation.Table() {
		if !route.Mutates() {
			continue
		}
		who := &identity.Principal{Name: "somebody", Role: identity.RoleAdministrator, UserID: "u", Session: "s", ProvenAt: time.Now()}
		path := inPath.ReplaceAllString(route.Path, "x")
		held := func(w *httptest.ResponseRecorder) bool {
			return w.Code == 503 && code(t, w) == "locked" && strings.Contains(w.Body.String(), "the state is held (E_STATE_ROLLED_BACK)")
		}
		if !held(c.call(who, route.Method, path, "")) {
			may = append(may, route.ID)
		}
		if w := c.call(&root, route.Method, path, ""); w.Code == 503 && held(w) {
			t.Errorf("%s: root may not", route.ID)
		}
	}
	slices.Sort(may)
	want := []string{"acceptState", "beginProvePasskey", "block", "installLaunch", "installPolicy", "probeHSMs", "provePasskey", "provePassword", "revokeOwnSession", "seal", "signOutEverywhere"}
	if !slices.Equal(may, want) {
		t.Errorf("they may %v\nwant %v", may, want)
	}
}
