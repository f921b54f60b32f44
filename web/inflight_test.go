package web_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// arriving is a body during whose arrival something is done.
type arriving struct {
	*strings.Reader
	meanwhile func()
}

func (a *arriving) Read(b []byte) (int, error) {
	if f := a.meanwhile; f != nil {
		a.meanwhile = nil
		f()
	}
	return a.Reader.Read(b)
}

// TestStoppedInFlight: what a user or an API token asked for is not done if they are
// stopped while the body of the request is on its way.
func TestStoppedInFlight(t *testing.T) {
	ctx := t.Context()
	b := xkstest.Start(t, xkstest.Options{})
	records := &webtest.Audit{}
	o := options(t, b.Appliance, &webtest.Boot{}, records, slog.New(slog.NewTextHandler(b.Log, nil)))
	o.Still = nil // the callers are users
	api := web.NewAPI(o)
	users := o.Identity
	p := &people{&caller{t, api, records}, b, users}
	p.enrol("stays1")
	p.enrol("stays2")
	listener := web.NewHandler(web.Public{API: api, Boot: &webtest.Boot{}, Ready: b.Appliance.Ready, Metrics: http.NotFoundHandler(), Identity: users, Log: slog.New(slog.DiscardHandler)})

	// A caller, how requests come from them, and how they are stopped.
	type subject struct {
		who  identity.Principal
		send func(r *http.Request) *httptest.ResponseRecorder
	}
	n := 0
	user := func() subject {
		n++
		_, token, err := users.Invite(ctx, root, fmt.Sprint("user-", n), identity.RoleAdministrator)
		if err != nil {
			t.Fatal(err)
		}
		who := p.accept(token)
		return subject{who, func(r *http.Request) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			as(who, api).ServeHTTP(w, r)
			return w
		}}
	}
	token := func() subject {
		n++
		made, secret, err := users.CreateToken(ctx, root, identity.NewToken{Name: fmt.Sprint("token-", n), Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
		if err != nil {
			t.Fatal(err)
		}
		return subject{identity.Principal{Token: made.ID, Name: "token " + made.Name}, func(r *http.Request) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r.Header.Set("Authorization", "Bearer "+secret)
			listener.ServeHTTP(w, r)
			return w
		}}
	}
	for name, tt := range map[string]struct {
		caller func() subject
		stop   func(ctx context.Context, who identity.Principal) error
		want   fault.Code
	}{
		"session revoked": {user, func(ctx context.Context, who identity.Principal) error { return users.RevokeSession(ctx, who.Session) }, fault.Unauthenticated},
		"signed out": {user, func(ctx context.Context, who identity.Principal) error {
			_, err := users.RevokeSessions(ctx, who.UserID)
			return err
		}, fault.Unauthenticated},
		"user disabled": {user, func(ctx context.Context, who identity.Principal) error {
			_, err := users.SetDisabled(ctx, who.UserID, true)
			return err
		}, fault.Unauthenticated},
		"user deleted": {user, func(ctx context.Context, who identity.Principal) error { return users.DeleteUser(ctx, who.UserID) }, fault.Unauthenticated},
		"role taken": {user, func(ctx context.Context, who identity.Principal) error {
			_, err := users.SetRole(ctx, who.UserID, identity.RoleViewer)
			return err
		}, fault.Unauthenticated}, // which ends the sessions
		"token revoked": {token, func(ctx context.Context, who identity.Principal) error {
			_, err := users.RevokeToken(ctx, who.Token)
			return err
		}, fault.Unauthenticated},
		"nothing, a user":  {user, func(context.Context, identity.Principal) error { return nil }, ""},
		"nothing, a token": {token, func(context.Context, identity.Principal) error { return nil }, ""},
	} {
		for op, request := range map[string][3]string{
			"make a key store": {"POST", "/keystores", `{"name": "ks-%d", "uri_path_prefix": "/ks-%[1]d"}`},
			"invite":           {"POST", "/invitations", `{"name": "invited-%d", "role": "administrator"}`},
			"make a token":     {"POST", "/tokens", `{"name": "made-%d", "role": "administrator", "days": 1, "scope": {"key_stores": ["*"], "operations": ["*"], "networks": ["*"]}}`},
		} {
			s := tt.caller()
			body := &arriving{strings.NewReader(fmt.Sprintf(request[2], n)), func() {
				if err := tt.stop(ctx, s.who); err != nil {
					t.Fatal(err)
				}
			}}
			w := s.send(httptest.NewRequest(request[0], operation.Prefix+request[1], body))
			records.Lock()
			last := records.Records[len(records.Records)-1]
			records.Unlock()
			if tt.want == "" {
				if w.Code != success(request[0], request[1]) || last.Result != audit.Allowed {
					t.Errorf("%s, %s: %d %s", name, op, w.Code, w.Body)
				}
				continue
			}
			if w.Code < 400 || code(t, w) != string(tt.want) || last.Result != audit.Denied || last.Actor != s.who.Name {
				t.Errorf("%s, %s: %d %s; recorded %+v", name, op, w.Code, w.Body, last)
			}
		}
	}
}
