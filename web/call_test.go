package web_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// remote serves the API over HTTPS, and gives a client with a token.
func remote(t *testing.T, a *api) *web.Client {
	t.Helper()
	users := a.api.Identity
	_, token, err := users.CreateToken(t.Context(), root, identity.NewToken{Name: "program", Role: identity.RoleAdministrator, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(web.NewHandler(web.Public{API: a.api, Boot: &webtest.Boot{}, Ready: a.Appliance.Ready, Metrics: http.NotFoundHandler(), Identity: users, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := web.NewRemoteClient(server.URL, token, roots)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clientOf serves a handler on a socket, and gives a client of it.
func clientOf(t *testing.T, h http.Handler) *web.Client {
	t.Helper()
	server, socket := httptest.NewUnstartedServer(h), filepath.Join(t.TempDir(), "s")
	server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("unix", socket); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	return web.NewClient(socket)
}

// TestCall: a program performs operations of a server by their values, over the
// socket and over HTTPS: with parameters, bodies and files, both ways.
func TestCall(t *testing.T) {
	for name, client := range map[string]func(*api) *web.Client{
		"socket": func(a *api) *web.Client { return web.NewClient(a.socket) },
		"https":  func(a *api) *web.Client { return remote(t, a) },
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, nil)
			c, ctx := client(a), t.Context()
			made, err := operation.CreateKeyStore.Call(ctx, c, operation.NewKeyStore{Name: "p", URIPathPrefix: "/p"})
			if err != nil || made.Out.Name != "p" || made.Out.ID == "" || made.Effect == nil || made.Effect.Nodes != 1 || made.Effect.Until.IsZero() {
				t.Fatalf("%+v: %v", made, err)
			}
			p := operation.KeyStoreName{KeyStore: "p"}
			material := operation.Secret(bytes.Repeat([]byte{7}, appliance.KeyBytes))
			for _, id := range []string{"a", "b", "c"} {
				k, err := operation.CreateKey.Call(ctx, c, operation.NewKey{KeyStoreName: p, ID: id, Usage: appliance.Usage{Encrypt: true}, Custody: appliance.CustodyCached, Material: bytes.Clone(material)})
				if err != nil || k.Out.ID != id || k.Out.Versions[0].Origin != appliance.OriginImported {
					t.Fatalf("%+v: %v", k.Out, err)
				}
			}
			if _, err := operation.RotateKey.Call(ctx, c, operation.Rotation{KeyName: operation.KeyName{KeyStoreName: p, Key: "a"}, Material: material}); err != nil || !bytes.Equal(material, make([]byte, appliance.KeyBytes)) {
				t.Errorf("rotate: %v; the material is %x", err, []byte(material))
			}
			page, err := operation.ListKeys.Call(ctx, c, operation.KeyPage{KeyStoreName: p, Paging: operation.Paging{Limit: 1}, Standing: appliance.StandingNoCredential})
			if err != nil || len(page.Out.Items) != 1 || page.Out.Items[0].ID != "a" || page.Out.Next == "" || page.Effect != nil {
				t.Errorf("%+v: %v", page, err)
			}
			page, err = operation.ListKeys.Call(ctx, c, operation.KeyPage{KeyStoreName: p, Paging: operation.Paging{Limit: 1, After: page.Out.Next}, Standing: appliance.StandingNoCredential})
			if err != nil || len(page.Out.Items) != 1 || page.Out.Items[0].ID != "b" || page.Out.Next == "" {
				t.Errorf("behind a: %+v: %v", page, err)
			}
			if none, err := operation.ListGrants.Call(ctx, c, operation.GrantPage{KeyStoreName: p}); err != nil || none.Out.Items == nil || len(none.Out.Items) != 0 {
				t.Errorf("%+v: %v", none, err)
			}
			grant, err := operation.CreateGrant.Call(ctx, c, operation.NewGrant{KeyStoreName: p, Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}, Effect: appliance.EffectForbid})
			if err != nil || grant.Out.Effect != appliance.EffectForbid || grant.Effect == nil || grant.Effect.Nodes != 1 {
				t.Errorf("%+v %+v: %v", grant.Out, grant.Effect, err)
			}
			if _, err := operation.RemoveGrant.Call(ctx, c, operation.GrantName{KeyStoreName: p, Grant: grant.Out.ID}); err != nil {
				t.Error(err)
			}

			// A stale change, a refusal, and a name that would lead elsewhere.
			b := operation.KeyName{KeyStoreName: p, Key: "b"}
			k, err := operation.ShowKey.Call(ctx, c, b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := operation.DisableKey.CallIfMatch(ctx, c, operation.Revision(k.Out), b); err != nil {
				t.Error(err)
			}
			if _, err := operation.EnableKey.CallIfMatch(ctx, c, operation.Revision(k.Out), b); fault.CodeOf(err) != fault.Stale {
				t.Errorf("stale: %v", err)
			}
			for _, name := range []string{"no/body?", "..", "%2e", "keys"} {
				if _, err := operation.ShowKeyStore.Call(ctx, c, operation.KeyStoreName{KeyStore: name}); fault.CodeOf(err) != fault.NotFound {
					t.Errorf("%q: %v", name, err)
				}
			}
			if _, err := operation.ShowKeyStore.Call(ctx, c, operation.KeyStoreName{}); fault.CodeOf(err) != fault.Invalid {
				t.Errorf("no name: %v", err)
			}

			// Files, both ways.
			var backup bytes.Buffer
			if err := operation.Backup.Download(ctx, c, operation.BackupRequest{}, &backup); err != nil || backup.Len() == 0 {
				t.Fatalf("%d bytes: %v", backup.Len(), err)
			}
			if _, err := operation.Backup.Call(ctx, c, operation.BackupRequest{}); err == nil || !strings.Contains(err.Error(), "Download") {
				t.Errorf("a stream as an answer: %v", err)
			}
			report, err := operation.Restore.Call(ctx, c, operation.BackupUpload{Verify: true, Backup: &backup})
			if err != nil || report.Out.Keys != 3 {
				t.Errorf("%+v: %v", report.Out, err)
			}
			status, err := operation.ShowStatus.Call(ctx, c, operation.Nothing{})
			if err != nil || status.Out.Locked || status.Out.Version != "test" {
				t.Errorf("%+v: %v", status.Out, err)
			}
		})
	}
}

// TestCallWaits: an operation that needs a second person gives the request that
// waits.
func TestCallWaits(t *testing.T) {
	p := newPeople(t, "alice", "bob")
	p.fourEyes("deleteKeyStore")
	p.want(p.call(&root, "POST", "/keystores", `{"name": "p", "uri_path_prefix": "/p"}`), 201)
	client := clientOf(t, as(*p.user("alice"), p.api))
	if _, err := operation.DeleteKeyStore.Call(t.Context(), client, operation.KeyStoreName{KeyStore: "p"}); fault.CodeOf(err) != fault.ReasonMissing {
		t.Fatalf("without a reason: %v", err)
	}
	client.Reason = "it is 100% unused: é"
	_, err := operation.DeleteKeyStore.Call(t.Context(), client, operation.KeyStoreName{KeyStore: "p"})
	var waits *operation.Pending
	if !errors.As(err, &waits) || waits.Request.Operation != "deleteKeyStore" || waits.Request.Reason != client.Reason {
		t.Fatalf("%v", err)
	}
	p.want(p.approve(p.user("bob"), waits.Request.ID), 200)
	if _, err := p.Appliance.ShowKeyStore(t.Context(), "p"); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
}
