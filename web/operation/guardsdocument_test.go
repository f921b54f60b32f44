package operation_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/web/operation"
)

// TestGuardsDocument: docs/operations-table.md is what the table says, with every operation once.
func TestGuardsDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations-table.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != operation.GuardsDocument() {
		t.Error("docs/operations-table.md is not what the table says: run make generate, and commit it")
	}
	for _, r := range operation.Table() {
		if n := strings.Count(string(text), "| `"+r.ID+"` |"); n != 1 {
			t.Errorf("%s is in docs/operations-table.md %d times", r.ID, n)
		}
	}
}

// TestGuardsFollow: what each effect asks for.
func TestGuardsFollow(t *testing.T) {
	for _, r := range operation.Table() {
		e, g := r.Can(), r.Guards()
		if g.Presence != (e != 0) {
			t.Errorf("%s: it %s, and presence is asked for: %t", r.ID, e, g.Presence)
		}
		if e.Can(operation.StopsService|operation.EndsBlock|operation.Destroys) && !g.Confirmed {
			t.Errorf("%s: it %s, and nothing is typed", r.ID, e)
		}
		if !r.Changes() && !r.Recorded && e != 0 {
			t.Errorf("%s: it changes nothing, and it %s", r.ID, e)
		}
	}
	// The cases of the issue, by name.
	for _, o := range []operation.Entry{operation.CreateGrant, operation.RemoveGrant, operation.CreateKey, operation.RotateKey, operation.DisableKey, operation.DeactivateCredential, operation.SetQuota,
		operation.CreateCredential, operation.InstallCertificate, operation.Backup, operation.DisableUser, operation.Block} {
		if g := o.Entry().Guards(); !g.Presence || !g.FourEyes {
			t.Errorf("%s: presence %t, four eyes %t", o.Entry().ID, g.Presence, g.FourEyes)
		}
	}
	for _, o := range []operation.Entry{operation.DisableKey, operation.Unblock, operation.RemoveGrant, operation.DisableUser, operation.DeactivateCredential, operation.DeleteUser} {
		if !o.Entry().Guards().Confirmed {
			t.Errorf("%s: nothing is typed", o.Entry().ID)
		}
	}
}
