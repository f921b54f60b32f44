//go:build fleet

package fleettest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
	"holdfast/cmd/internal/sitetest"
	"holdfast/web/operation"
)

// TestNodeRemoved: a node that was removed wipes its keys, and is refused at each start. The
// machine joins as a new node once it has done what the refusal says.
func TestNodeRemoved(t *testing.T) {
	f := start(t, fleettest.Options{Nodes: 2})
	first, gone := f.Nodes[0], f.Nodes[1]
	id := func() string {
		var s appliance.FleetStatus
		gone.Do(http.MethodGet, nil, &s, "fleet")
		return s.Node
	}
	before := id()
	first.Do(http.MethodDelete, nil, nil, "fleet", "nodes", before)
	removed := regexp.MustCompile(`E_FLEET_REMOVED.*start it with an empty state folder.*E_STATE_ROLLED_BACK, run holdfast state accept`)
	gone.Await("says that it was removed", func() bool { return removed.MatchString(gone.Server.Log.String()) })
	if _, ready := gone.Ready(); ready {
		t.Error("it is ready")
	}
	gone.Await("wipes its keys", func() bool { said, _ := gone.Ready(); return strings.Contains(said, "E_FLEET_REMOVED") })
	if err := gone.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	gone.Server = gone.Site.Begin(t, sitetest.ListeningLine)
	gone.Await("is refused", func() bool { return removed.MatchString(gone.Server.Log.String()) })
	if _, err := gone.Ask(cached); err == nil {
		t.Error("it serves when it was started again")
	}
	if err := gone.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(gone.Dir, "state"), filepath.Join(gone.Dir, "state.removed")); err != nil {
		t.Fatal(err)
	}
	gone.Server = gone.Site.Begin(t, sitetest.ListeningLine) // its TPM has known rows of this machine
	gone.Await("is held", func() bool { return strings.Contains(gone.Server.Log.String(), "code=E_STATE_ROLLED_BACK") })
	gone.Do(http.MethodPost, operation.AcceptedState{Reason: "the machine is to join as a new node"}, nil, "state", "accept")
	gone.Await("serves", func() bool { _, err := gone.Ask(cached); return err == nil })
	if err := gone.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	gone.Start()
	if _, err := gone.Ask(cached); err != nil {
		t.Error(err)
	}
	if id() == before {
		t.Error("it has the ID of before")
	}
}
