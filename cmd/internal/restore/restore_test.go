package restore

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"holdfast/appliance"
)

// TestShowReport: a restore says which keys are gone, what is suspended, what was
// left out, and as of when everything else is.
func TestShowReport(t *testing.T) {
	r := &appliance.BackupReport{Created: time.Date(2026, 11, 23, 4, 5, 6, 0, time.UTC), KeyStores: 1, Keys: 2, Versions: 3, InToken: 2, PendingDeletion: 1,
		Gone: []appliance.GoneVersion{{KeyStore: "bank", KeyID: "one", Version: 2}, {KeyStore: "mint", KeyID: "two", Version: 1}}}
	show := func() string {
		var out bytes.Buffer
		w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		showReport(w, r)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := func(when string, wanted, unwanted []string) {
		t.Helper()
		text := show()
		for _, s := range wanted {
			if !strings.Contains(text, s) {
				t.Errorf("%s, it lacks %q:\n%s", when, s, text)
			}
		}
		for _, s := range unwanted {
			if strings.Contains(text, s) {
				t.Errorf("%s, it has %q:\n%s", when, s, text)
			}
		}
	}
	gone := []string{"key one of key store bank, version 2: the HSM has no key object for it any more", "key two of key store mint, version 1", "1 of the keys; a restore suspends"}
	restored := []string{"users, credentials and grants are those of 2026-11-23", "what was revoked since then is valid again", "API tokens, sessions, invitations and pending requests for approval"}
	want("verified", append(gone, "everything opens but what is gone"), restored)
	r.Restored = true
	want("restored", append(gone, restored...), []string{"verified"})
	r.Gone, r.PendingDeletion = nil, 0
	want("with nothing gone", restored, []string{"gone", "suspends"})
}
