package web_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// allowed counts the records of both nodes that say that an operation was done.
func (p *pair) allowed(operation string) (n int) {
	for _, c := range []*caller{p.caller, p.other} {
		for _, r := range c.audit.Records {
			if r.Operation == operation && r.Result == audit.Allowed {
				n++
			}
		}
	}
	return n
}

// TestApprovalsAtOnce: of two nodes that are asked to decide the same request at once, one does.
// What was asked for is performed once at most, and recorded as often.
func TestApprovalsAtOnce(t *testing.T) {
	const removal, creation = "DELETE keystores/{keystore}/grants/{grant}", "POST tokens"
	p := newPair(t)
	for _, tt := range []struct {
		first, second string // in the log the second one is first
		performs      string
		times         int
	}{
		{"approve", "approve", removal, 1},
		{"reject", "approve", removal, 1},
		{"approve", "reject", removal, 0},
		{"reject", "reject", removal, 0},
		{"perform", "perform", creation, 1},
		{"reject", "perform", creation, 1},
		{"perform", "reject", creation, 0},
	} {
		path := ""
		if tt.performs == creation {
			path = p.approved()
		} else {
			path = p.waits()
		}
		ask := func(what string) request {
			q := request{&p.bob, "POST", path + "/" + what, decided}
			if what == "perform" {
				q.who, q.body = &p.alice, "{}"
			}
			return q
		}
		count := func(what string) int { return p.allowed("POST approvals/{approval}/" + what) }
		performed, decided := p.allowed(tt.performs), count(tt.first)+count(tt.second)
		here, there := p.atOnce(ask(tt.first), ask(tt.second))
		if there.Code != http.StatusOK || here.Code != http.StatusConflict {
			t.Errorf("%s and %s: %d %s, %d %s", tt.first, tt.second, there.Code, there.Body, here.Code, here.Body)
		}
		if n := p.allowed(tt.performs) - performed; n != tt.times {
			t.Errorf("%s and %s: it was performed %d times, want %d", tt.first, tt.second, n, tt.times)
		}
		want := 1
		if tt.first == tt.second {
			want = 2 // both counts are of the same records
		}
		if n := count(tt.first) + count(tt.second) - decided; n != want {
			t.Errorf("%s and %s: recorded as done %d times", tt.first, tt.second, n)
		}
	}
}

// TestChangesAtOnce: what two nodes are asked for at once, without a revision, is done once where
// it can be done once, and both have the same state afterwards.
func TestChangesAtOnce(t *testing.T) {
	p := newPair(t)
	credential := p.names.Replace("/keystores/p/credentials/{credential}")
	for _, tt := range []struct {
		what          string
		first, second request
		code          int    // of the first, which comes second
		shows, has    string // where, and what it has then; "!" for what it has not
	}{
		{"revoke a token", request{&root, "DELETE", p.names.Replace("/tokens/{token}"), ""}, request{}, http.StatusOK, "/tokens", `"revoked_at"`},
		{"create a credential", request{&root, "POST", "/keystores/p/credentials", samples["createCredential"]}, request{}, http.StatusConflict, "/keystores/p/credentials", "ABCDEFGHIJKLMNOPQRST"},
		{"deactivate a credential", request{&root, "POST", credential + "/deactivate", ""}, request{}, http.StatusOK, "/keystores/p/credentials", `"active":false`},
		{"delete a credential", request{&root, "DELETE", credential, ""}, request{}, http.StatusNotFound, "/keystores/p/credentials", "!" + strings.TrimPrefix(credential, "/keystores/p/credentials/")},
		{"create a token", request{&root, "POST", "/tokens", samples["createToken"]}, request{}, http.StatusConflict, "/tokens", `"name":"t"`},
		{"settings", request{&root, "PUT", "/settings", `{"four_eyes": ["deleteKeyStore"]}`}, request{&root, "PUT", "/settings", `{"four_eyes": ["createToken"]}`}, http.StatusOK, "/settings", `"four_eyes":["deleteKeyStore"]`},
	} {
		if tt.second.method == "" {
			tt.second = tt.first
		}
		here, there := p.atOnce(tt.first, tt.second)
		if there.Code != success(tt.first.method, tt.first.path) || here.Code != tt.code {
			t.Errorf("%s: %d %s, %d %s", tt.what, there.Code, there.Body, here.Code, here.Body)
		}
		for _, c := range []*caller{p.caller, p.other} {
			has, not := strings.CutPrefix(tt.has, "!")
			if w := c.call(&root, "GET", tt.shows, ""); w.Code != http.StatusOK || strings.Contains(w.Body.String(), has) == not {
				t.Errorf("%s: %d %s", tt.what, w.Code, w.Body)
			}
		}
	}
}

// overtakenDomain has something done after the revision was compared, and before the operation
// reads what there is.
type overtakenDomain struct {
	operation.Domain
	first func()
}

func (d *overtakenDomain) SetCredentialActive(ctx context.Context, keyStore, accessKeyID string, active bool) (*appliance.Credential, error) {
	d.first()
	return d.Domain.SetCredentialActive(ctx, keyStore, accessKeyID, active)
}

func (d *overtakenDomain) RemoveGrant(ctx context.Context, keyStore, id string) error {
	d.first()
	return d.Domain.RemoveGrant(ctx, keyStore, id)
}

// TestIfMatchNothingLeft: an operation that finds nothing left to do, as another node has done it
// since the revision was compared, is refused by the revision: it did not do it.
func TestIfMatchNothingLeft(t *testing.T) {
	p := newPair(t)
	domain := &overtakenDomain{Domain: p.bed.Appliance}
	o := optionsOn(t, p.bed.Store, p.bed.Appliance, &webtest.Boot{}, p.audit, slog.New(slog.NewTextHandler(p.bed.Log, nil)))
	o.Domain = domain
	api := &caller{t, web.NewAPI(o), p.audit}
	for _, q := range []request{
		{&root, "POST", p.names.Replace("/keystores/p/credentials/{credential}/deactivate"), ""},
		{&root, "POST", p.names.Replace("/keystores/p/credentials/{credential}/activate"), ""},
		{&root, "DELETE", p.names.Replace("/keystores/p/grants/{grant}"), ""},
	} {
		p.same()
		revision := p.revision(q)
		match := func(r *http.Request) { r.Header.Set("If-Match", revision) }
		domain.first = func() {
			domain.first = func() {}
			if w := q.of(p.other, match); w.Code != http.StatusOK {
				t.Errorf("%s %s: %d %s", q.method, q.path, w.Code, w.Body)
			}
			if err := p.bed.Store.CatchUp(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if w := q.of(api, match); w.Code != http.StatusPreconditionFailed || code(t, w) != "stale" {
			t.Errorf("%s %s: both did it, or %d %s", q.method, q.path, w.Code, w.Body)
		}
	}
}
