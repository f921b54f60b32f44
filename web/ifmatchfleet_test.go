package web_test

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/identity"
	"holdfast/appliance/identity/passkeytest"
	"holdfast/appliance/sqlite"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// overtakenLog has something done just before the next change is appended.
type overtakenLog struct {
	appliance.ChangeLog
	first func()
}

func (l *overtakenLog) Append(ctx context.Context, number uint64, body []byte) error {
	if f := l.first; f != nil {
		l.first = nil
		f()
	}
	return l.ChangeLog.Append(ctx, number, body)
}

// pair is two nodes of a fleet: one has a bank, and what the other is to do at the same time is
// done just before the first one's next change is in the log.
type pair struct {
	*bank
	other     *caller
	rows      *sqlite.DB // the other's
	overtaken *overtakenLog
	dave      identity.Principal // the user whom routes name
}

func newPair(t *testing.T) *pair {
	t.Helper()
	log := changelogtest.NewMemory(nil)
	p := &pair{overtaken: &overtakenLog{ChangeLog: log.Peer()}}
	p.bank = newBankOn(t, xkstest.Options{Appliance: appliance.Options{ChangeLog: p.overtaken}})
	other := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(p.bed.Config), Appliance: appliance.Options{ChangeLog: log.Peer()}})
	p.rows = other.Store
	a := &webtest.Audit{}
	p.other = &caller{t, web.NewAPI(optionsOn(t, other.Store, other.Appliance, &webtest.Boot{}, a, slog.New(slog.NewTextHandler(other.Log, nil)))), a}
	p.dave = p.enrol(p.api.(*web.API).Identity, "dave")
	return p
}

// same has the other node take over what this one has done.
func (p *pair) same() {
	p.t.Helper()
	if err := p.rows.CatchUp(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// request is one of somebody.
type request struct {
	who                *identity.Principal
	method, path, body string
}

func (q request) of(c *caller, change ...func(*http.Request)) *httptest.ResponseRecorder {
	return c.call(q.who, q.method, q.path, q.body, change...)
}

// atOnce has both nodes asked at once: the other's change is in the log first. It fails if the
// first one makes none.
func (p *pair) atOnce(first, second request, change ...func(*http.Request)) (here, there *httptest.ResponseRecorder) {
	p.t.Helper()
	p.same()
	p.overtaken.first = func() { there = second.of(p.other, change...) }
	here = first.of(p.caller, change...)
	p.overtaken.first = nil
	if there == nil {
		p.t.Errorf("%s %s changes nothing in the state that it begins with: %d %s", first.method, first.path, here.Code, here.Body)
		there = httptest.NewRecorder()
	}
	p.same()
	return here, there
}

// file has alice ask for something that needs another person.
func (p *pair) file(method, path, body string) (id string) {
	p.t.Helper()
	w := p.call(&p.alice, method, p.names.Replace(path), body)
	var waits operation.ApprovalDetail
	if err := json.Unmarshal(w.Body.Bytes(), &waits); w.Code != http.StatusAccepted || err != nil {
		p.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return waits.ID
}

// waits has alice ask for a grant's removal, and gives the path of the request.
func (p *pair) waits() string {
	p.t.Helper()
	p.fourEyes("removeGrant")
	grant, err := p.bed.Appliance.AddGrant(p.t.Context(), "p", appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpDecrypt}})
	if err != nil {
		p.t.Fatal(err)
	}
	id := p.file("DELETE", "/keystores/p/grants/"+grant.ID, "")
	p.fourEyes()
	return "/approvals/" + id
}

// approved has alice ask for an API token, and bob approve it.
func (p *pair) approved() string {
	p.t.Helper()
	p.fourEyes("createToken")
	path := "/approvals/" + p.file("POST", "/tokens", `{"name": "t`+strconv.Itoa(len(p.audit.Records))+`", "role": "viewer", "days": 30, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`)
	p.fourEyes()
	if w := p.call(&p.bob, "POST", path+"/approve", decided); w.Code != http.StatusOK {
		p.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return path
}

// anotherPasskey adds a passkey to a user, and gives its path.
func (p *pair) anotherPasskey(of *identity.Principal) string {
	p.t.Helper()
	users := p.api.(*web.API).Identity
	c, err := users.BeginAddPasskey(p.t.Context(), of.UserID)
	if err != nil {
		p.t.Fatal(err)
	}
	added, err := users.FinishAddPasskey(p.t.Context(), of.UserID, c.ID, "another", passkeytest.New(p.t, users.URL).Create(c))
	if err != nil {
		p.t.Fatal(err)
	}
	return "/account/passkeys/" + added.ID
}

// starts make the state in which an operation changes something, where that is not the one
// that those before it in the table have left. They give who asks, and the path, where they
// are not root and the bank's.
var starts = map[string]func(p *pair) (*identity.Principal, string){
	"enableKey": func(p *pair) (*identity.Principal, string) {
		p.ok("POST", "/keystores/p/keys/k/disable", "")
		return nil, ""
	},
	"rotateKey": func(p *pair) (*identity.Principal, string) {
		p.ok("POST", "/keystores/p/keys/k/enable", "")
		return nil, ""
	},
	"activateCredential": func(p *pair) (*identity.Principal, string) {
		p.ok("POST", p.names.Replace("/keystores/p/credentials/{credential}/deactivate"), "")
		return nil, ""
	},
	"enableUser": func(p *pair) (*identity.Principal, string) {
		p.ok("POST", "/users/"+p.dave.UserID+"/disable", "")
		return nil, ""
	},
	"unlockUser": func(p *pair) (*identity.Principal, string) {
		_, err := p.bed.Store.UpdateAccount(p.t.Context(), p.dave.UserID, func(a *identity.Account) error {
			a.LockedUntil = time.Now().Add(time.Hour)
			return nil
		}, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		return nil, ""
	},
	"signOutUser": func(p *pair) (*identity.Principal, string) {
		return nil, "/users/" + p.bob.UserID + "/sign-out" // whose session nothing has ended
	},
	"deleteKeyStore": func(*pair) (*identity.Principal, string) { return nil, "/keystores/empty" },
	"approve":        func(p *pair) (*identity.Principal, string) { return &p.bob, p.waits() + "/approve" },
	"performApproved": func(p *pair) (*identity.Principal, string) {
		return &p.alice, p.approved() + "/perform"
	},
	"reject":        func(p *pair) (*identity.Principal, string) { return &p.bob, p.waits() + "/reject" },
	"removePasskey": func(p *pair) (*identity.Principal, string) { return &p.alice, p.anotherPasskey(&p.alice) },
}

// notMatched are operations about a thing which two nodes of this test cannot be asked for, and
// why. What has a path with no thing in it, or is about nothing that can be read, is not looked at.
var notMatched = map[string]string{
	"installCertificate": "it is the node's own",
	"restoreCertificate": "it is the node's own",
	"installLaunch":      "it is the node's own",
	"installPolicy":      "it is the node's own",
	"shareCertificate":   "the site of this test has none",
	"unshareCertificate": "the site of this test has none",
	"drainNode":          "the nodes of this test have no membership",
	"removeNode":         "the nodes of this test have no membership",
	"revokeOwnSession":   "a session of another user is nothing that the caller may see",
}

// TestIfMatchAcrossNodes: of two nodes that are asked with the same revision at once, one does
// it, and the other refuses it: the log's order decides. Each operation that changes a thing is
// asked; a new one is among them by itself, and may need a start.
func TestIfMatchAcrossNodes(t *testing.T) {
	p := newPair(t)
	routes := slices.DeleteFunc(operation.Table(), func(r *operation.Route) bool { return !r.Changes() || notMatched[r.ID] != "" })
	slices.SortStableFunc(routes, func(a, b *operation.Route) int { // what removes a thing comes last
		return cmp.Compare(strings.Count(a.Method, "DELETE"), strings.Count(b.Method, "DELETE"))
	})
	tested := 0
	for _, route := range routes {
		q := request{&root, route.Method, strings.ReplaceAll(route.Path, "{user}", p.dave.UserID), samples[route.ID]}
		q.path = p.names.Replace(q.path)
		if start := starts[route.ID]; start != nil {
			who, path := start(p)
			q.who, q.path = cmp.Or(who, q.who), cmp.Or(path, q.path)
		}
		if route.ID == "performApproved" { // of a request that takes no secret
			q.body = "{}"
		}
		revision := p.revision(q)
		if revision == "" {
			if starts[route.ID] != nil || strings.HasSuffix(route.Path, "}") && !strings.Contains(route.Path, "/discard") {
				t.Errorf("%s: what it is about is not there", route.ID)
			}
			continue
		}
		tested++
		here, there := p.atOnce(q, q, func(r *http.Request) { r.Header.Set("If-Match", revision) })
		if there.Code != http.StatusOK {
			t.Errorf("%s: nobody did it: %d %s", route.ID, there.Code, there.Body)
		}
		switch {
		case route.ID == "signOutUser": // the user stays as they were, and nobody has a session left
			if here.Code != http.StatusOK || !strings.Contains(here.Body.String(), `"sessions":0`) || !strings.Contains(there.Body.String(), `"sessions":1`) {
				t.Errorf("%s: %s, and %s", route.ID, there.Body, here.Body)
			}
		case here.Code == http.StatusConflict && strings.Contains(q.body, "material"): // which is used up
		case here.Code != http.StatusPreconditionFailed || code(t, here) != "stale":
			t.Errorf("%s: both did it, or %d %s", route.ID, here.Code, here.Body)
		}
	}
	if tested < 20 {
		t.Errorf("only %d operations were tested", tested)
	}
}

// revision gives that of what a request is about, as the record of its refusal has it; empty if it
// is about nothing that is there.
func (p *pair) revision(q request) string {
	p.t.Helper()
	w := q.of(p.caller, func(r *http.Request) { r.Header.Set("If-Match", `"0000"`) })
	if w.Code != http.StatusPreconditionFailed {
		p.t.Errorf("%s %s, stale: %d %s", q.method, q.path, w.Code, w.Body)
	}
	before := p.audit.Records[len(p.audit.Records)-1].Before
	if before == nil {
		return ""
	}
	return operation.Revision(before)
}
