package xks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// restriction is a change after which a request must not be answered any more.
type restriction struct {
	name string
	make func(*testing.T, *appliance.Appliance, restricted) error
}

// restricted is what a restriction is made on.
type restricted struct{ keyStore, key, grant, credential string }

// restrictions are all changes that take something away from KMS.
var restrictions = []restriction{
	{"block the key", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.Block(ctx, appliance.BlockTarget{KeyStore: r.keyStore, KeyID: r.key}, "test", "alice")
		return err
	}},
	{"block the key store", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.Block(ctx, appliance.BlockTarget{KeyStore: r.keyStore}, "test", "alice")
		return err
	}},
	{"block everything", func(t *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.Block(ctx, appliance.BlockTarget{Everything: true}, "test", "alice")
		t.Cleanup(func() {
			if err := a.Unblock(ctx, appliance.BlockTarget{Everything: true}); err != nil {
				t.Error(err)
			}
		})
		return err
	}},
	{"grant remove", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		return a.RemoveGrant(ctx, r.keyStore, r.grant)
	}},
	{"forbid on the key store", func(_ *testing.T, a *appliance.Appliance, r restricted) error { return forbid(a, r.keyStore, "") }},
	{"forbid on the key", func(_ *testing.T, a *appliance.Appliance, r restricted) error { return forbid(a, r.keyStore, r.key) }},
	{"a policy that forbids", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		return a.SetPolicy(ctx, r.keyStore, appliance.Policies{Cedar: "forbid (principal, action, resource);"})
	}},
	{"key disable", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.SetKeyEnabled(ctx, r.keyStore, r.key, false)
		return err
	}},
	{"schedule the key's deletion", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.ScheduleDeletion(ctx, r.keyStore, r.key, appliance.MinDeletionDays)
		return err
	}},
	{"credential disable", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		_, err := a.SetCredentialActive(ctx, r.keyStore, r.credential, false)
		return err
	}},
	{"credential delete", func(_ *testing.T, a *appliance.Appliance, r restricted) error {
		return a.DeleteCredential(ctx, r.keyStore, r.credential)
	}},
}

var ctx = context.Background()

func forbid(a *appliance.Appliance, keyStore, key string) error {
	_, err := a.AddGrant(ctx, keyStore, appliance.Grant{Effect: appliance.EffectForbid, KeyID: key, Principal: appliance.AnyPrincipal,
		Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}})
	return err
}

// inFlight sends the headers of a request, calls change when the endpoint asks for the
// body, and then sends that.
func inFlight(t *testing.T, k *xkstest.KMS, path string, body xkstest.Body, change func()) xkstest.Answer {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	wanted := make(chan struct{})
	r := k.Request(path, string(text))
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { close(wanted) }}))
	r.Header.Set("Expect", "100-continue")
	in, out := io.Pipe()
	r.Body, r.GetBody = in, nil
	answer := make(chan xkstest.Answer)
	go func() { answer <- k.Do(r) }()
	select {
	case <-wanted:
	case a := <-answer:
		t.Errorf("answered before the body: %d %s", a.Status, a.Text)
		return a
	}
	change()
	if _, err := out.Write(text); err != nil {
		t.Error(err)
	}
	_ = out.Close()
	return <-answer
}

// TestInFlight: a request whose headers came before a change and whose body comes after
// it has returned is decided on the state of then.
func TestInFlight(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	n := 0
	for _, version := range []int{1, 2} {
		client := b.HTTP(version)
		client.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
		for _, restriction := range append(restrictions, restriction{"lock", func(_ *testing.T, a *appliance.Appliance, _ restricted) error {
			a.Lock()
			return nil
		}}) {
			for _, op := range []string{"encrypt", "decrypt", "metadata", "health"} {
				t.Run(fmt.Sprintf("HTTP %d/%s/%s", version, restriction.name, op), func(t *testing.T) {
					b := b
					if restriction.name == "lock" {
						b = xkstest.Start(t, xkstest.Options{})
						client = b.HTTP(version)
						client.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
					}
					n++
					r := restricted{keyStore: fmt.Sprintf("ks-%d", n), key: "k"}
					k := b.NewKeyStore(t, r.keyStore, fmt.Sprintf("/ks-%d", n), xkstest.Principal)
					k.T, k.HTTP, r.credential = t, client, k.AccessKeyID
					b.NewKey(t, r.keyStore, r.key, "encrypt,decrypt", appliance.CustodyCached)
					grants, err := b.Appliance.Grants(ctx, r.keyStore)
					if err != nil {
						t.Fatal(err)
					}
					r.grant = grants[0].ID
					path, body := "/keys/k/"+op, xkstest.Body{"requestMetadata": xkstest.Metadata()}
					switch sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x")); op {
					case "encrypt":
						body = xkstest.EncryptBody("x")
					case "decrypt":
						body = xkstest.DecryptBody(sealed)
					case "health":
						path = "/health"
					}
					if a := inFlight(t, k, path, body, func() {}); a.Status != http.StatusOK || (version == 2) != (a.Proto == "HTTP/2.0") {
						t.Fatalf("without a change: %d %s %s", a.Status, a.Proto, a.Text)
					}
					a := inFlight(t, k, path, body, func() {
						if err := restriction.make(t, b.Appliance, r); err != nil {
							t.Fatal(err)
						}
					})
					if refused, want := refusal(restriction.name, op); (a.Status == http.StatusOK) == refused || (refused && a.ErrorName() != want) {
						t.Errorf("got %d %s, want %q", a.Status, a.Text, want)
					}
				})
			}
		}
	}
}

// refusal says whether an operation is refused after a change, and as what.
func refusal(change, op string) (refused bool, errorName string) {
	switch change {
	case "lock":
		return true, "InternalException"
	case "credential disable", "credential delete":
		return true, "AuthenticationFailedException"
	}
	switch {
	case op == "health": // which no grant is asked for, and which tells of blocks in its answer
		return false, ""
	case change == "grant remove", change == "forbid on the key store", change == "forbid on the key", change == "a policy that forbids":
		return true, "AccessDeniedException"
	case op == "metadata": // which says in its answer that the key is disabled
		return false, ""
	}
	return true, "InvalidStateException"
}

// TestMetadataInFlight: GetKeyMetadata that was under way says what became true meanwhile.
func TestMetadataInFlight(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.HTTP.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	a := inFlight(t, k, "/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()}, func() {
		if _, err := b.Appliance.Block(ctx, appliance.BlockTarget{KeyStore: "demo"}, "test", "alice"); err != nil {
			t.Fatal(err)
		}
	})
	if a.Body["keyStatus"] != "DISABLED" {
		t.Errorf("got %d %s", a.Status, a.Text)
	}
}

// TestExpiryInFlight: a grant that expires holds no longer for a request whose body comes
// after.
func TestExpiryInFlight(t *testing.T) {
	var late atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: now}})
	for _, version := range []int{1, 2} {
		for _, op := range []string{"encrypt", "decrypt", "metadata"} {
			late.Store(0)
			name := fmt.Sprintf("%s-%d", op, version)
			k := b.NewKeyStore(t, name, "/"+name, "")
			k.HTTP, k.Now = b.HTTP(version), now
			k.HTTP.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
			b.NewKey(t, name, "k", "encrypt,decrypt", appliance.CustodyCached)
			if _, err := b.Appliance.AddGrant(ctx, name, appliance.Grant{Principal: appliance.AnyPrincipal, NotAfter: now().Add(30 * time.Second),
				Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}}); err != nil {
				t.Fatal(err)
			}
			body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
			switch sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x")); op {
			case "encrypt":
				body = xkstest.EncryptBody("x")
			case "decrypt":
				body = xkstest.DecryptBody(sealed)
			}
			if a := inFlight(t, k, "/keys/k/"+op, body, func() {}); a.Status != http.StatusOK {
				t.Errorf("%s: while the grant lasts: %d %s", name, a.Status, a.Text)
			}
			if a := inFlight(t, k, "/keys/k/"+op, body, func() { late.Store(int64(time.Minute)) }); a.ErrorName() != "AccessDeniedException" {
				t.Errorf("%s: %d %s", name, a.Status, a.Text)
			}
		}
	}
}
