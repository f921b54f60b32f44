package console_test

import (
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console"
	"holdfast/web/operation"
)

// done counts what was done, by the audit log.
func (r *rig) done() (n int) {
	r.audit.Lock()
	defer r.audit.Unlock()
	for _, rec := range r.audit.Records {
		if rec.Result == audit.Allowed {
			n++
		}
	}
	return n
}

// told is what a post says on the next page; empty if it was refused, or waits for a proof or a confirmation.
func (s *session) told(path string, form url.Values) (said string, refused bool) {
	s.r.t.Helper()
	w := s.do(http.MethodPost, path, maps.Clone(form), nil)
	to := w.Header().Get("Location")
	if w.Code != http.StatusSeeOther {
		s.r.t.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
	for _, k := range w.Result().Cookies() {
		if strings.HasSuffix(k.Name, "flash") {
			text, _ := base64.RawURLEncoding.DecodeString(k.Value)
			said = string(text)
		}
	}
	return said, strings.Contains(to, "kept=") || strings.HasPrefix(to, "/prove/") || strings.HasPrefix(to, "/confirm/")
}

// TestRefusedAndSentAgain: a form that was refused is done when it is sent again as it was, from
// the page that Back shows, once nothing is in its way any more; and then once, for each form of
// the table that changes something. Its two nodes take turns.
func TestRefusedAndSentAgain(t *testing.T) {
	changes := map[string]*operation.Route{}
	for _, route := range operation.Table() {
		if route.Changes() {
			changes[route.ID] = route
		}
	}
	r := start(t)
	admin, other := r.enrol("admin", identity.RoleAdministrator), r.enrol("other", identity.RoleAdministrator)
	asked := 0
	t.Run("", func(t *testing.T) {
		for _, op := range console.Operations() {
			route := changes[op]
			if route == nil || op == operation.SignOutEverywhere.ID { // it ends the session that would send it again
				continue
			}
			t.Run(op, func(t *testing.T) {
				name := strings.ToLower(op)
				other := other
				if strings.Contains(route.Path, "{user}") || strings.Contains(route.Path, "{session}") {
					other = r.enrol("other-"+name, identity.RoleAdministrator) // it may be gone after this
				}
				form := confirmed(r.thingsOf(name, "-"+name, other), op, admin.version(""))
				form.Set("generate", "true")
				form.Set("once", "the form of "+op)
				before := r.done()
				full := fault.Errorf(fault.Conflict, "the audit log is full")
				r.audit.NotReady, r.audit.NotReadyUrgent = full, full
				for range 2 {
					if said, refused := admin.told("/do/"+op, form); !refused || r.done() != before {
						t.Fatalf("it was not refused: %q", said)
					}
				}
				r.audit.NotReady, r.audit.NotReadyUrgent = nil, nil
				said, refused := admin.told("/do/"+op, form)
				if strings.Contains(said, "sent before") || refused == (r.done() > before) {
					t.Fatalf("sent again: %q, refused %t, done %d", said, refused, r.done()-before)
				}
				if refused || route.Urgency == operation.Urgent {
					return // there is no such node, approval or PIN here; and to restrict twice does no harm
				}
				asked++
				for range 2 {
					said, refused = admin.told("/do/"+op, form) // refused if its confirmation was of the thing as it was
					if !refused && !strings.Contains(said, "sent before") || r.done() != before+1 {
						t.Errorf("sent when it is done: %q, done %d", said, r.done()-before)
					}
				}
			})
		}
	})
	if asked < 15 {
		t.Errorf("only %d forms were sent again", asked)
	}
}

// TestSentAtOnce: of a form that many tabs send at the same time to two nodes, one is done, and
// the others say that it was sent.
func TestSentAtOnce(t *testing.T) {
	r := start(t)
	admin := r.enrol("admin", identity.RoleAdministrator)
	form := confirmed(r.things(admin), "rotateKey", admin.version(""))
	form.Set("once", "a form")
	before := r.done()
	tabs := make([]*session, 6)
	var sent sync.WaitGroup
	for i := range tabs {
		tabs[i] = &session{r: r, name: "admin", token: admin.token, principal: admin.principal}
		sent.Go(func() { tabs[i].do(http.MethodPost, "/do/rotateKey", maps.Clone(form), nil) })
	}
	sent.Wait()
	if n := r.done() - before; n != 1 {
		t.Errorf("sent at once, it was done %d times", n)
	}
	if said, _ := admin.told("/do/rotateKey", form); !strings.Contains(said, "sent before") {
		t.Errorf("sent after that: %q", said)
	}
}
