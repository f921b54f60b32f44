package console_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/appliance/witness"
	"holdfast/xks/xkstest"
)

// TestConfirmTimeInTheConsole: while what is due waits for the time, the page of the state
// says why, and has the form by which a person confirms it; and not otherwise.
func TestConfirmTimeInTheConsole(t *testing.T) {
	wall := time.Now()
	clock := witness.New(func() time.Time { return wall }, witness.Running())
	clock.Begin(wall)
	r := startSealed(t, xkstest.Options{Appliance: appliance.Options{Witness: clock}}, sealed)
	admin, viewer := r.enrol("admin", identity.RoleAdministrator), r.enrol("viewer", identity.RoleViewer)
	shows := func(s *session) bool {
		t.Helper()
		return strings.Contains(s.do("GET", "/state", nil, nil).Body.String(), "Confirm time")
	}
	if shows(admin) {
		t.Error("it asks for the time though nothing waits")
	}
	wall = wall.Add(40 * 24 * time.Hour) // as after the machine was off for so long
	if !shows(admin) || shows(viewer) {
		t.Error("the form is not shown to administrators alone")
	}
	for _, bad := range []string{"", "soon", "2026-13-01T00:00"} {
		if w := admin.submit("/do/confirmTime", url.Values{"time": {bad}, "reason": {"r"}, "back": {"/state"}, "version": {admin.version("")}}); w.Code != 422 && w.Code != 400 {
			t.Errorf("%q: %d", bad, w.Code)
		}
	}
}
