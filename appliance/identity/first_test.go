package identity_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// TestSetupCodeByHash: the code that somebody else has made admits one
// administrator, and is nowhere but with them.
func TestSetupCodeByHash(t *testing.T) {
	const code = "Correct horse, battery staple"
	d := open(t, nil)
	ctx := t.Context()
	_, err := d.RedeemSetupCode(ctx, code, "alice", from)
	wants(t, "before there is any code", err, fault.Unauthenticated)
	own, err := d.SetupCode(ctx) // of an earlier start
	if err != nil || own == "" {
		t.Fatal(err)
	}
	d.AcceptSetupCode(sha256.Sum256([]byte(code)))
	if got, err := d.SetupCode(ctx); err != nil || got != "" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "setup-code")); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
	for _, wrong := range []string{"", own, strings.ToUpper(code), strings.ToLower(code), code + "x"} {
		_, err := d.RedeemSetupCode(ctx, wrong, "alice", from)
		wants(t, wrong, err, fault.Unauthenticated)
	}
	token, err := d.RedeemSetupCode(ctx, code+"\n", "alice", from)
	if err != nil {
		t.Fatal(err)
	}
	if a := d.accept(token, "alice"); a.Role != identity.RoleAdministrator {
		t.Errorf("the first is %s", a.Role)
	}
	d.AcceptSetupCode(sha256.Sum256([]byte(code))) // as it comes late
	_, err = d.RedeemSetupCode(ctx, code, "eve", from)
	wants(t, "afterwards", err, fault.Unauthenticated)
}

// TestNoPasskeys: with a name that they cannot be bound to there are none, and all
// else works.
func TestNoPasskeys(t *testing.T) {
	for _, url := range []string{"https://holdfast:9443", "https://192.0.2.1:9443", "https://[2001:db8::1]:9443", ""} {
		d := open(t, func(c *identity.Config) { c.URL = url })
		if d.PasskeysEnabled() {
			t.Errorf("%q: there are passkeys", url)
		}
		d.enrol("alice", identity.RoleAdministrator)
	}
}

// TestClosed: nobody comes in by any way, and each says why.
func TestClosed(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	_, invitation, err := d.Invite(ctx, root, "bob", identity.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := d.CreateToken(ctx, root, identity.NewToken{Name: "robot", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	if err != nil {
		t.Fatal(err)
	}
	d.Closed = "E_SEAL_PCRS: the machine is in no state that was authorized"
	for way, err := range map[string]error{
		"setup code": errorOf(d.SetupCode(ctx)),
		"redeem":     errorOf(d.RedeemSetupCode(ctx, "x", "eve", from)),
		"invitation": errorOf(d.OpenInvitation(ctx, invitation, from)),
		"enrol":      errorOf(d.BeginEnrolPassword(ctx, invitation, from)),
		"passkey":    errorOf(d.BeginPasskey(ctx)),
		"password":   errorOf(d.SignInPassword(ctx, "alice", password, d.code(a.secret), from)),
		"API token":  errorOf(d.Bearer(ctx, token, from)),
	} {
		wants(t, way, err, fault.Locked)
		if err == nil || !strings.Contains(err.Error(), d.Closed) {
			t.Errorf("%s: %v does not say why", way, err)
		}
	}
	_, _, err = d.Invite(ctx, root, "eve", identity.RoleViewer)
	wants(t, "invite", err, fault.Locked)
	_, _, err = d.CreateToken(ctx, root, identity.NewToken{Name: "eve", Role: identity.RoleViewer, Lifetime: time.Hour, Scope: identity.Unlimited()})
	wants(t, "make a token", err, fault.Locked)
	_, err = d.Session(ctx, a.token, true)
	wants(t, "session", err, fault.Unauthenticated)
	d.Closed = ""
	if _, err := d.Session(ctx, a.token, true); err != nil {
		t.Error(err)
	}
}

func errorOf[T any](_ T, err error) error { return err }
