package console_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// silentFleet is one with a node that is silent. It counts how often a change is waited for.
type silentFleet struct {
	operation.Fleet
	waited int
}

func (f *silentFleet) Settle(ctx context.Context) appliance.Settled {
	if _, bounded := ctx.Deadline(); !bounded {
		panic("a person waits without end")
	}
	f.waited++
	return appliance.Settled{Nodes: 1, Of: 2, Late: []appliance.LateNode{{ID: "b", Until: time.Now().Add(time.Minute)}}}
}

// TestSignOutSettles: who is told that they are signed out is so at all nodes of a fleet, and a
// node that is silent does not keep them from it.
func TestSignOutSettles(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	f := &silentFleet{}
	for _, p := range r.performers {
		p.Fleet = f
	}
	if w := admin.do("POST", "/signout", url.Values{}, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/signin" || f.waited != 1 {
		t.Errorf("%d to %q, waited %d times: %s", w.Code, w.Header().Get("Location"), f.waited, w.Body)
	}
	if w := admin.do("GET", "/account", nil, nil); w.Code != http.StatusSeeOther {
		t.Errorf("after they have signed out: %d", w.Code)
	}
}
