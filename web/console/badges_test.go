package console

import (
	"os"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/web/console/ui"
)

// TestBadgesOfAllStandings: each standing, whatever decides it, has a badge of its own, which
// docs/console.md explains; and none that does not serve looks as if it did.
func TestBadgesOfAllStandings(t *testing.T) {
	doc, err := os.ReadFile("../../docs/console.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]appliance.StandingState{}
	for _, state := range appliance.StandingStates() {
		for _, by := range []appliance.Decider{appliance.DecidesNode, appliance.DecidesEverything, appliance.DecidesKeyStore, appliance.DecidesKey, appliance.DecidesCredential} {
			b := standingBadge(appliance.Standing{State: state, Decides: by})
			if b.Text == "" {
				t.Errorf("%s, decided by %s, has no badge", state, by)
			}
			if other, there := seen[b.Text]; there && other != state {
				t.Errorf("%s and %s have the same badge %q", state, other, b.Text)
			}
			seen[b.Text] = state
			if good := b.Kind == ui.OK; good != (state == appliance.StandingServing) {
				t.Errorf("%s, decided by %s, looks good: %v", state, by, good)
			}
		}
		if word := standingWords[state].Text; !strings.Contains(string(doc), word) {
			t.Errorf("docs/console.md does not explain %q", word)
		}
	}
}
