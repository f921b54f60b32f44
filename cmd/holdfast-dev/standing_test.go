package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/console/browsertest"
	"holdfast/web/operation"
)

// shows waits until an open page shows the text by itself: nobody loads it again.
func shows(t *testing.T, b *browsertest.Browser, text string) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for patience := time.After(time.Minute); !strings.Contains(b.Text(), text); {
		select {
		case <-again.C:
		case <-patience:
			t.Fatalf("%s never shows %q by itself: %s", b.Path(), text, b.Text())
		}
	}
}

// TestConsoleLearns: an open page learns what somebody else has done in another browser, keeps what
// was typed into it, says that its session has ended, and that nobody answers any more.
func TestConsoleLearns(t *testing.T) {
	p := startConsole(t, t.TempDir())
	alice := setUp(t, p)
	p.do(http.MethodPost, "keystores", operation.NewKeyStore{Name: "bank", URIPathPrefix: "/bank"}, nil)
	p.do(http.MethodPost, "keystores/bank/keys", operation.NewKey{ID: "payroll", Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}, nil)
	p.do(http.MethodPost, "keystores/bank/credentials", operation.NewCredential{}, nil)
	var link operation.CreatedInvitation
	p.do(http.MethodPost, "invitations", operation.NewInvitation{Name: "bob", Role: identity.RoleAdministrator}, &link)
	bob := enrol(t, alice, "/invitation/"+link.Token, "bob", "administrator")

	alice.Open("/keystores/bank/keys")
	alice.Has("Serving", "Enabled")
	bob.Open("/")
	bob.Fill("Block everything", "reason", "a leak")
	bob.Confirm()
	shows(t, alice, "Blocked: everything")
	if badge := shown(t, alice, "tbody .badge"); badge != "Blocked: everything" {
		t.Errorf("everything is blocked, and the open list says of a key %q", badge)
	}

	p.do(http.MethodPost, "unblock", appliance.BlockTarget{Everything: true}, nil)
	for _, form := range []string{"form[method=post] input[name=name]", "form[method=get] input[name=name]"} { // to make one, and to filter
		alice.Open("/keystores")
		alice.Value(fmt.Sprintf(`(() => { const f = document.querySelector(%q); f.closest("details")?.setAttribute("open", ""); f.value = "half a name"; f.dispatchEvent(new Event("input", {bubbles: true})); document.getElementById("standing").focus(); return ""; })()`, form))
		p.do(http.MethodPost, "block", operation.NewBlock{BlockTarget: appliance.BlockTarget{Everything: true}, Reason: "another leak"}, nil)
		shows(t, alice, "This page has changed")
		if focus := alice.Value("document.activeElement.id"); focus != "standing" {
			t.Errorf("the header was renewed, and the focus went from it to %q", focus)
		}
		if typed := alice.Value(fmt.Sprintf(`document.querySelector(%q).value`, form)); typed != "half a name" {
			t.Errorf("%s: what was typed is now %q", form, typed)
		}
		p.do(http.MethodPost, "unblock", appliance.BlockTarget{Everything: true}, nil)
	}

	var sessions operation.List[identity.Session]
	p.do(http.MethodGet, "sessions", nil, &sessions)
	for _, s := range sessions.Items {
		if s.UserName == "alice" {
			p.do(http.MethodDelete, "sessions/"+s.ID, nil, nil)
		}
	}
	shows(t, alice, "You are signed out")
	alice.Accessible()
	alice.Follow("Sign in")
	if at := alice.Path(); at != "/signin?next=%2Fkeystores" {
		t.Errorf("the way back is lost: %s", at)
	}

	bob.Open("/keystores")
	shows(t, bob, "Serving")
	p.stop()
	shows(t, bob, "No answer since ")
	if badge := shown(t, bob, "#standing .badge"); strings.Contains(badge, "Serving") {
		t.Errorf("nobody answers, and the header says %q", badge)
	}
}
