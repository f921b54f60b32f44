package console_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/console"
)

// arriving is a body during whose arrival something is done.
type arriving struct {
	io.Reader
	meanwhile func()
}

func (a *arriving) Read(b []byte) (int, error) {
	if f := a.meanwhile; f != nil {
		a.meanwhile = nil
		f()
	}
	return a.Reader.Read(b)
}

// TestSessionEndedInFlight: what a form asks for is not done if the session has ended, or the
// user lost the role, while the form was on its way.
func TestSessionEndedInFlight(t *testing.T) {
	r := start(t)
	stays := r.enrol("stays", identity.RoleAdministrator)
	r.enrol("stays-too", identity.RoleAdministrator)
	things := r.things(stays)
	operations := console.Operations()
	n := 0
	for name, stop := range map[string]func(who identity.Principal) error{
		"session revoked": func(who identity.Principal) error { return r.users.RevokeSession(t.Context(), who.Session) },
		"role taken": func(who identity.Principal) error {
			_, err := r.users.SetRole(t.Context(), who.UserID, identity.RoleViewer)
			return err
		},
		"user deleted": func(who identity.Principal) error { return r.users.DeleteUser(t.Context(), who.UserID) },
	} {
		for i := n % 7; i < len(operations); i += 7 { // a proof of each new user takes its time
			n++
			s := r.enrol(fmt.Sprint("user-", n), identity.RoleAdministrator)
			recorded := len(r.audit.Records)
			w := s.do(http.MethodPost, "/do/"+operations[i], confirmed(things, operations[i], s.version("")), func(q *http.Request) {
				q.Body = io.NopCloser(&arriving{q.Body, func() {
					if err := stop(s.principal); err != nil {
						t.Fatal(err)
					}
				}})
			})
			for _, rec := range r.audit.Records[recorded:] {
				if rec.Actor == s.name && rec.Result == audit.Allowed {
					t.Errorf("%s, %s: it was done: %d", name, operations[i], w.Code)
				}
			}
			if to := w.Header().Get("Location"); w.Code != http.StatusSeeOther || !strings.Contains(to, "kept=") {
				t.Errorf("%s, %s: the form is not kept: %d %s", name, operations[i], w.Code, to)
			}
		}
	}
}
