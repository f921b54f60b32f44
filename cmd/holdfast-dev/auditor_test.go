package main

import (
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// TestConsoleAuditor: an auditor finds who did what to a key, and from where, on the key's page and
// in the audit log: by name, by what was done, by what it was done to; and is told of a filter that
// nothing can match.
func TestConsoleAuditor(t *testing.T) {
	p := startConsole(t, t.TempDir())
	alice := setUp(t, p)
	p.do(http.MethodPost, "keystores", operation.NewKeyStore{Name: "bank", URIPathPrefix: "/bank"}, nil)
	for _, id := range []string{"payroll", "cards"} {
		p.do(http.MethodPost, "keystores/bank/keys", operation.NewKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}, nil)
	}
	people := map[string]identity.Role{"bob": identity.RoleAdministrator, "carol": identity.RoleAuditor}
	enrolled := func(name string) operation.CreatedInvitation {
		var link operation.CreatedInvitation
		p.do(http.MethodPost, "invitations", operation.NewInvitation{Name: name, Role: people[name]}, &link)
		return link
	}
	bob := enrol(t, alice, "/invitation/"+enrolled("bob").Token, "bob", string(people["bob"]))
	carol := enrol(t, alice, "/invitation/"+enrolled("carol").Token, "carol", string(people["carol"]))

	bob.Open("/keystores/bank/keys/payroll")
	bob.Fill("Block key", "reason", "seen in a public repository")
	bob.Confirm()
	alice.Open("/keystores/bank/keys/cards")
	alice.Fill("Block key", "reason", "an exercise")
	alice.Confirm()

	// On the key's page: all of its life, and nothing of another key's.
	carol.Open("/keystores/bank/keys/payroll")
	carol.Has("Block key", "seen in a public repository", "by bob", "127.0.0.1", "Create key")
	carol.HasNot("an exercise")

	// In the log: by who, by what, and by both.
	for _, tt := range []struct{ query, has, hasNot string }{
		{"?actor=bob", "seen in a public repository", "an exercise"},
		{"?actor=alice&operation=Block+key", "an exercise", "seen in a public repository"},
		{"?object=payroll&operation=Block+key&address=127.0.0.1", "seen in a public repository", "an exercise"},
		{"?actor=bob&key=cards", "The filter leaves none", "an exercise"},
	} {
		carol.Open("/audit" + tt.query)
		carol.Has(tt.has)
		carol.HasNot(tt.hasNot)
	}
	carol.Open("/audit?actor=bob&operation=Blok+key")
	carol.Has("Blok key")
	carol.HasNot("seen in a public repository")
	if title := carol.Value("document.title"); !strings.HasPrefix(title, "Error: ") {
		t.Errorf("nothing can match the filter, and the title is %q", title)
	}

	// The record: who, what, to what, from where, and what has changed.
	carol.Open("/audit?actor=bob&operation=Block+key")
	carol.Go(`document.querySelector("tbody a[href^='/audit/']").click()`)
	carol.Has("Block key", "key payroll", "bob", "127.0.0.1", "seen in a public repository", "Before and after", "Proof")
	if raw := carol.Value(`[...document.querySelectorAll("main .facts dd, main td")].map((e) => e.textContent).find((t) => t.trim().startsWith("{")) || ""`); raw != "" {
		t.Errorf("the record shows %s", raw)
	}
}
